"""What callbacks, progress and saves of `kerasdl.train` cost beside a bare `model.fit`.

    python benchmarks/fixed_cost.py [--workloads mlp resnet20] [--seconds 60]
    python benchmarks/fixed_cost.py --table

In each process two models of the same network train epoch by epoch in turn: one by
`run_epochs`, which is what `kerasdl.train` runs, the other by `model.fit` without any
callback, from batches like those of the first and by the same steps (`quick_steps`).
Validation counts on neither side. `cost` is what the first takes longer, as a share of
the second: the median of the rounds. What an epoch costs apart from its steps weighs
less, the longer epochs are.
"""

import argparse
import json
import os
import statistics
import time

from common import RESULTS, in_own_process, machine, markdown, report
from throughput import batches, train, turns_of
from workloads import RATE, WORKLOADS

from kerasdl.installed import BACKENDS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "fixed_cost.json"
FEWEST_STEPS = 16
COLUMNS = (
    "workload",
    "backend",
    "seconds of an epoch",
    "cost, % (least to most)",
)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["mlp"])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.precision = "float32"
    if options.quick:
        options.seconds, options.rounds = 0.0, 1
    if options.table:
        print(table(json.loads(PATH.read_text())))
    elif options.one:
        print(json.dumps(measure(options.workloads[0], options)))
    else:
        _all(options)


def _all(options) -> None:
    for workload in options.workloads:
        for backend in options.backends:
            line = in_own_process(
                __file__, "--one", *(["--quick"] if options.quick else []),
                *("--workloads", workload, "--seconds", str(options.seconds)),
                *("--rounds", str(options.rounds)),
                KERAS_BACKEND=backend,
            )  # fmt: skip
            row = json.loads(line)
            report(PATH, row, ("workload", "backend"), quick=options.quick)


def measure(name: str, options) -> dict:
    """Time both on the present backend, in turn."""
    import keras

    import kerasdl
    from kerasdl.optimizers import make_optimizer
    from kerasdl.steps import quick_steps

    workload = WORKLOADS[name]
    x, y = workload.data(workload.batch * FEWEST_STEPS)
    model = workload.build(optimizer=make_optimizer("adamw", RATE))
    source = batches(model, x, y, workload.batch)
    with quick_steps(model):
        if (more := _enough(model, source, workload, options.seconds)) > len(x):
            x, y = workload.data(more)
            source = batches(model, x, y, workload.batch)
        loops = {"fit": lambda _: model.fit(source, verbose=0)}
        turns = turns_of(loops, x, workload.batch, None)
        train(workload, turns, x, y, options)
    # The first epochs compile.
    own, bare = (turns.seconds[key][1:] for key in ("kerasdl", "fit"))
    costs = [one / other - 1 for one, other in zip(own, bare, strict=True)]
    return {
        "workload": name,
        "backend": keras.backend.backend(),
        "cost": round(statistics.median(costs), 4),
        "cost_spread": [round(min(costs), 4), round(max(costs), 4)],
        "seconds": round(statistics.median(bare), 2),
        "examples": len(x),
        "rounds": options.rounds,
        "machine": machine(),
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


def _enough(model, source, workload, seconds: float) -> int:
    """Return the examples that `fit` takes so many seconds for, or what memory has."""
    model.fit(source, verbose=0)
    start = time.perf_counter()
    model.fit(source, verbose=0)
    growth = seconds / (time.perf_counter() - start)
    return min(workload.most, workload.batch * round(FEWEST_STEPS * growth))


def table(rows: list[dict]) -> str:
    """Return a Markdown table of the results."""
    lines = []
    for row in rows:
        least, most = (100 * cost for cost in row["cost_spread"])
        cost = f"{100 * row['cost']:.1f} ({least:.1f} to {most:.1f})"
        lines.append((row["workload"], row["backend"], f"{row['seconds']:g}", cost))
    return markdown(COLUMNS, lines)


if __name__ == "__main__":
    main()
