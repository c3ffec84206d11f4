"""Examples per second on one and on two replicas, each with a batch of its own.

    python benchmarks/weak_scaling.py
    python benchmarks/weak_scaling.py --table

Weak scaling: the batch of a replica stays, the global batch grows with their number. A
number of replicas is one run, in a process of its own: virtual devices of the processor
on TensorFlow and JAX, which share the threads of their process, and processes of one
thread each on PyTorch. The efficiency is the speed over that of one replica and their
number; with as many cores as replicas it says what communication costs, and no more.
Results go to `benchmarks/results/weak_scaling.json`.
"""

import argparse
import json
import statistics
import sys
import time

import numpy as np
from common import RESULTS, in_own_process, machine, markdown, record
from workloads import RATE, WORKLOADS

from kerasdl.installed import BACKENDS

PATH = RESULTS / "weak_scaling.json"
KEY = ("workload", "backend", "replicas", "machine")
NUMBERS = (1, 2)
STEPS, EPOCHS = 12, 6
COLUMNS = ("network", "backend", "replicas", "global batch", "examples/s", "efficiency")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, default="resnet20")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(PATH.read_text())))
    elif options.one:
        measure(options.workload, options.one)
    else:
        for backend in options.backends:
            for replicas in NUMBERS:
                row = json.loads(_run(options.workload, backend, replicas))
                print(row, flush=True)
                record(PATH, row, KEY)


def _run(workload: str, backend: str, replicas: int) -> str:
    """Return what the first of the processes prints."""
    command = [__file__, "--one", str(replicas), "--workload", workload]
    if backend != "torch":
        return in_own_process(*command, KERAS_BACKEND=backend)
    threads = {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"}
    launch = ["launch", "--nproc", str(replicas), "--", sys.executable, *command]
    return in_own_process("-m", "kerasdl_apps", *launch, **threads)


def measure(name: str, replicas: int) -> None:
    """Train for a while; the first process says how fast."""
    import keras

    from kerasdl.data.batches import BatchSource, Dense
    from kerasdl.distribution import distribute
    from kerasdl.optimizers import make_optimizer

    workload, backend = WORKLOADS[name], keras.backend.backend()
    with distribute(devices=None if backend == "torch" else replicas) as here:
        batch = workload.batch * here.replicas
        x, y = workload.data(STEPS * batch)
        model = workload.build(optimizer=make_optimizer("adamw", RATE))
        source = BatchSource({model.inputs[0].name: Dense(x)}, y, batch_size=batch)
        here.share(model, source)
        times = [time.perf_counter()]
        clock = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: times.append(time.perf_counter())
        )
        model.fit(source, epochs=EPOCHS, verbose=0, callbacks=[clock])
    rates = (len(x) / np.diff(times[1:])).tolist()  # the first epoch compiles
    if here.is_chief:
        row = {
            "workload": name,
            "backend": backend,
            "replicas": replicas,
            "global_batch": batch,
            "per_second": round(statistics.median(rates), 1),
            "per_second_spread": [round(min(rates), 1), round(max(rates), 1)],
            "epochs": EPOCHS - 1,
            "machine": machine(),
            "versions": {"keras": keras.version()},
        }
        print(json.dumps(row))


def table(rows: list[dict]) -> str:
    """Return a Markdown table of the results."""
    alone = {
        (row["workload"], row["backend"]): row["per_second"]
        for row in rows
        if row["replicas"] == 1
    }
    lines = []
    for row in rows:
        least, most = row["per_second_spread"]
        one = alone[row["workload"], row["backend"]]
        share = row["per_second"] / (row["replicas"] * one)
        rate = f"{row['per_second']:g} ({least:g} to {most:g})"
        names = row["workload"], row["backend"], str(row["replicas"])
        lines.append((*names, str(row["global_batch"]), rate, f"{share:.2f}"))
    return markdown(COLUMNS, lines)


if __name__ == "__main__":
    main()
