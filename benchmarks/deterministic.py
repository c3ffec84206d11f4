"""What `--deterministic` costs, and whether equal seeds give equal weights without it.

    python benchmarks/deterministic.py [--quick] [--backends torch jax]

A small convolutional network with dropout learns from augmented, streamed images. Every
training is a process of its own, with another hash seed and 1 or 3 threads that prepare
images; the flag is on and off in turn, so that what else the machine does meets both.
`ratio` is the time of an epoch with the flag over that without, pair by pair: on a CPU
that of one core which computes, so that what other processes take does not count.
`different_weights` counts the outcomes of all trainings on a side: 1 says that all are
equal.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from common import RESULTS, in_own_process, machine, report

from kerasdl.installed import BACKENDS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "deterministic.json"
EPOCHS = 4


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(train(*options.one)))
        return
    for backend in options.backends:
        row = measure(backend, 1 if options.quick else options.pairs)
        report(PATH, row, ("backend", "device"), quick=options.quick)


def measure(backend: str, pairs: int) -> dict:
    """Train with the flag and without it, in turn."""
    found = {0: [], 1: []}
    for pair in range(pairs):
        for is_deterministic in (pair % 2, 1 - pair % 2):
            line = in_own_process(
                __file__,
                *("--one", str(is_deterministic), str((1, 3)[pair % 2])),
                KERAS_BACKEND=backend,
                PYTHONHASHSEED=str(pair),
            )
            found[is_deterministic].append(json.loads(line))
    ratios = [
        on["seconds"] / off["seconds"]
        for off, on in zip(found[0], found[1], strict=True)
    ]
    return {
        "backend": backend,
        "device": found[0][0]["device"],
        "pairs": pairs,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "seconds_without": round(statistics.median(x["seconds"] for x in found[0]), 3),
        "different_weights": {
            name: len({x["weights"] for x in found[side]})
            for side, name in enumerate(("without", "deterministic"))
        },
    }


def train(is_deterministic: int, workers: int) -> dict:
    """Train once; return the median time of an epoch, and what the weights are."""
    is_on_cpu = not shutil.which("nvidia-smi")
    if is_on_cpu:
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    import keras

    import kerasdl
    from kerasdl.callbacks import history
    from kerasdl.data import pixels

    if is_on_cpu:
        history.time = SimpleNamespace(perf_counter=time.process_time)
    pixels.num_cores = lambda: workers
    recipe = kerasdl.Recipe(
        build="cnn",
        kind="image",
        data="sample",
        max_examples=600,
        encoder={"image_size": 32, "cache_mb": 0},
        arguments={"filters": (16, 32), "hidden_units": (64,), "dropout": 0.4},
        augment="light",
        epochs=EPOCHS,
        patience=EPOCHS,
        batch_size=64,
        deterministic=bool(is_deterministic),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = kerasdl.train(recipe, out=Path(folder) / "run")
    digest = hashlib.sha256(str(run.history["loss"]).encode())
    for weight in run.predictor.model.weights:
        digest.update(keras.ops.convert_to_numpy(weight.value).tobytes())
    return {
        "seconds": statistics.median(run.history["seconds"][1:]),
        "weights": digest.hexdigest(),
        "device": "one CPU core" if is_on_cpu else f"{machine()} and a GPU",
    }


if __name__ == "__main__":
    main()
