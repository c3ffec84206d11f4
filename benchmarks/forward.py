"""Milliseconds of a forward pass: kerasdl's on each backend beside raw PyTorch's.

    python benchmarks/forward.py
    python benchmarks/forward.py --quick
    python benchmarks/forward.py --table

What a loaded bundle computes with is `kerasdl.backend.forward`: NumPy arrays in, NumPy
arrays out. In one process for each backend it takes turns with the same network written
in PyTorch (`benchmarks/twins/torch.py`, in inference mode). A round calls each for a
while; `ratio` is the time of PyTorch over that of kerasdl, the median of the rounds.
Results go to `benchmarks/results/forward.json`.
"""

import argparse
import json
import statistics
import time

from common import RESULTS, in_own_process, machine, markdown, record
from workloads import WORKLOADS

from kerasdl.installed import BACKENDS

PATH = RESULTS / "forward.json"
KEY = ("workload", "batch", "backend", "machine")
CASES = (("mlp", 1), ("mlp", 256), ("resnet20", 1), ("resnet20", 64), ("encoder", 64))
COLUMNS = (
    *("network", "batch", "backend", "kerasdl, ms", "raw PyTorch, ms"),
    "ratio (least to most)",
)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(PATH.read_text())))
        return
    if options.quick:
        options.seconds, options.rounds = 0.0, 1
    if options.one:
        print(json.dumps([measure(*case, options) for case in CASES]))
        return
    for backend in options.backends:
        rows = in_own_process(
            __file__, "--one", "--seconds", str(options.seconds),
            *("--rounds", str(options.rounds)), KERAS_BACKEND=backend,
        )  # fmt: skip
        print(rows, flush=True)
        for row in [] if options.quick else json.loads(rows):
            record(PATH, row, KEY)


def measure(name: str, batch: int, options) -> dict:
    """Time a forward pass of a workload on the present backend and on PyTorch."""
    import keras
    import twins.torch

    from kerasdl.backend import forward

    workload = WORKLOADS[name]
    x, _ = workload.data(batch)
    calls = {
        "kerasdl": forward(workload.build(optimizer=None)),
        "torch": twins.torch.make_forward(workload.network, x),
    }
    times = {name: [] for name in calls}
    for _ in range(1 + options.rounds):  # in the first they compile
        for kind, call in calls.items():
            times[kind].append(_seconds(call, x, options.seconds))
    own, other = (times[kind][1:] for kind in calls)
    ratios = [b / a for a, b in zip(own, other, strict=True)]
    return {
        "workload": name,
        "batch": batch,
        "backend": keras.backend.backend(),
        "ms": round(1e3 * statistics.median(own), 3),
        "ms_torch": round(1e3 * statistics.median(other), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "rounds": options.rounds,
        "machine": machine(),
        "versions": {"keras": keras.version()},
    }


def _seconds(call, x, least: float) -> float:
    """Return the mean time of a call, called again until so many seconds are over."""
    start, count = time.perf_counter(), 0
    while not count or time.perf_counter() - start < least:
        call(x)
        count += 1
    return (time.perf_counter() - start) / count


def table(rows: list[dict]) -> str:
    """Return a Markdown table of the results."""
    lines = []
    for row in sorted(rows, key=_place):
        least, most = row["ratio_spread"]
        names = row["workload"], str(row["batch"]), row["backend"]
        ratio = f"{row['ratio']:.2f} ({least:.2f} to {most:.2f})"
        lines.append((*names, f"{row['ms']:g}", f"{row['ms_torch']:g}", ratio))
    return markdown(COLUMNS, lines)


def _place(row: dict) -> int:
    return CASES.index((row["workload"], row["batch"]))


if __name__ == "__main__":
    main()
