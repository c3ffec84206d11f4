"""Examples per second of kerasdl's training beside loops in the raw frameworks.

    python benchmarks/throughput.py --workloads mlp resnet20 --rounds 7
    python benchmarks/throughput.py --quick
    python benchmarks/throughput.py --table

A workload on a backend is one process. In it the epochs of `run_epochs`, which is what
`kerasdl.train` runs, with its callbacks, progress and saves, take turns with those of
the loops in `benchmarks/twins/`: same network, batch, optimizer and data; each has one
epoch before that is not counted, in which it compiles. Validation counts on neither
side. `ratio` is kerasdl's speed over that of the first loop, the median of the rounds;
`peak_fraction` counts three times the forward pass's matrix products and convolutions,
against the peak of `kerasdl.precision.peak`, measured anew in each round. The workload
`jpegs` reads its photos from files again in each epoch, on both sides. Results go to
`benchmarks/results/throughput.json`.
"""

import argparse
import importlib
import io
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from common import RESULTS, in_own_process, machine, markdown, report
from photos import MEAN, PHOTO_SIDE, STD
from workloads import RATE, WORKLOADS

from kerasdl.installed import BACKENDS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "throughput.json"
KEY = ("workload", "backend", "precision", "machine")
FEWEST_STEPS = 4
# Of the training that the rounds stand for: whether compiling pays depends on it.
STEPS = 10_000


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seconds", type=float, default=5.0, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--operations", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(PATH.read_text())))
        return
    for workload in options.workloads:
        if options.count:
            print(WORKLOADS[workload].operations())
            continue
        only = "--workloads", workload
        if not options.one:
            work = in_own_process(__file__, "--count", *only, KERAS_BACKEND="jax")
        for backend in options.backends:
            if options.one:
                print(json.dumps(measure(workload, options)))
                continue
            line = in_own_process(
                __file__, "--one", *(["--quick"] if options.quick else []),
                *only, *("--backends", backend, "--operations", work),
                *("--seconds", str(options.seconds), "--rounds", str(options.rounds)),
                *("--precision", options.precision),
                KERAS_BACKEND=backend,
            )  # fmt: skip
            report(PATH, json.loads(line), KEY, quick=options.quick)


def measure(name: str, options) -> dict:
    """Time kerasdl on the present backend, and its twins, in turn."""
    import keras

    import kerasdl
    from kerasdl.precision import peak

    workload, backend = WORKLOADS[name], keras.backend.backend()
    if options.quick:
        options.seconds, options.rounds = 0.0, 1
    count = workload.batch * (2 if options.quick else 16)
    count = max(count, workload.batch * FEWEST_STEPS)
    twins = importlib.import_module(f"twins.{backend}")
    x, y = workload.data(min(workload.most, count))
    first = np.arange(workload.batch)
    loops, weights = twins.make(workload.network, x, y, batch=first, rate=RATE)
    if options.quick:
        loops = dict([next(iter(loops.items()))])
    else:
        enough = _enough(loops, workload, len(x), options.seconds)
        if enough > len(x):
            x, y = workload.data(enough)
            loops, weights = twins.make(workload.network, x, y, batch=first, rate=RATE)
        x, y = x[:enough], y[:enough]
    turns = turns_of(loops, x, workload.batch, None if options.quick else peak)
    model = train(workload, turns, x, y, options)
    trained = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    if trained != weights:
        raise ValueError(f"{name}: {trained} weights, but the twin has {weights}")
    return {
        "workload": name,
        "backend": backend,
        "precision": options.precision,
        **_figures(turns, 3 * options.operations, len(x)),
        "examples": len(x),
        "rounds": options.rounds,
        "machine": machine(),
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


def _enough(loops, workload, count: int, seconds: float) -> int:
    """Return the examples that the first loop takes so many seconds for."""
    loop = next(iter(loops.values()))
    order = _order(count, workload.batch, 0)[:FEWEST_STEPS]
    loop(order)
    if (spent := _timed(loop, order)) < seconds / 4:  # too short to tell
        order = _order(count, workload.batch, 0)
        spent = _timed(loop, order)
    steps = seconds * len(order) / spent
    return min(workload.most, workload.batch * max(FEWEST_STEPS, round(steps)))


def _timed(loop, order) -> float:
    start = time.perf_counter()
    loop(order)
    return time.perf_counter() - start


def _order(count: int, batch: int, seed: int) -> list[np.ndarray]:
    rows = np.random.default_rng(seed).permutation(count)
    return [rows[start : start + batch] for start in range(0, count, batch)]


def turns_of(loops, x, batch: int, peak):
    """Return what lets the twins run between the epochs, in the place of a stop.

    Args:
        loops: Name of each twin to what trains it for an epoch, in a given order.
        x: The examples.
        batch: Examples of a step.
        peak: Measures the peak of products of matrices; `None` does not.
    """
    from kerasdl.callbacks import StopOnSignal

    class Turns(StopOnSignal):
        """Time kerasdl's epochs; after each run one of every twin."""

        def __init__(self):
            super().__init__()
            self.seconds = {name: [] for name in ("kerasdl", *loops)}
            self.peaks = []

        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self._aside, self._start = 0.0, time.perf_counter()

        def on_test_begin(self, logs=None):  # noqa: ARG002
            self._test = time.perf_counter()

        def on_test_end(self, logs=None):  # noqa: ARG002
            self._aside += time.perf_counter() - self._test

        def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002
            spent = time.perf_counter() - self._start - self._aside
            self.seconds["kerasdl"].append(spent)
            for name, loop in loops.items():
                spent = _timed(loop, _order(len(x), batch, epoch))
                self.seconds[name].append(spent)
            if peak:
                self.peaks.append(peak("float32"))
            self._aside, self._start = 0.0, time.perf_counter()

    return Turns()


def train(workload, turns, x, y, options):
    """Train as `kerasdl.train` does once the data are read; return the model."""
    from rich.console import Console

    from kerasdl.epochs import run_epochs
    from kerasdl.optimizers import make_optimizer
    from kerasdl.phases import Phases
    from kerasdl.precision import precision
    from kerasdl.recipe import Recipe
    from kerasdl.schedules import learning_rate_schedule

    epochs = 1 + options.rounds
    recipe = Recipe(build=workload.builder, epochs=epochs, patience=epochs)
    rate = learning_rate_schedule("cosine", RATE, epochs * len(x) // workload.batch)
    with precision(options.precision):
        model = workload.build(optimizer=make_optimizer("adamw", rate))
    size = workload.batch
    source = batches(model, x, y, size)
    validation = batches(model, x[:size], y[:size], size, seed=None)
    with tempfile.TemporaryDirectory() as folder:
        phases = Phases(Path(folder), Console(file=io.StringIO()), turns)
        phase = phases.phase("training")
        run_epochs(model, recipe, source, validation, phase, steps=STEPS)
    turns.release()
    return model


def batches(model, x, y, size: int, seed: int | None = 0):
    """Return batches for a model of one input, as kerasdl takes them."""
    from kerasdl.data.batches import BatchSource, Dense
    from kerasdl.data.images import ImageEncoder, Photos

    if isinstance(x, list):  # no memory for decoded ones: the loops have none, either
        inputs = ImageEncoder((PHOTO_SIDE,) * 2, 3, MEAN, STD).encode(Photos(tuple(x)))
    else:
        inputs = {model.inputs[0].name: Dense(x)}
    return BatchSource(inputs, y, batch_size=size, seed=seed)


def _figures(turns, work: int, count: int) -> dict:
    """Return speeds, ratios and fractions of the peak, the first round left out.

    Args:
        turns: What has been timed.
        work: Operations of an example.
        count: Examples of an epoch.
    """
    rates = {
        name: [count / seconds for seconds in found[1:]]
        for name, found in turns.seconds.items()
    }
    first = next(name for name in rates if name != "kerasdl")
    own = rates["kerasdl"]
    medians = {name: statistics.median(found) for name, found in rates.items()}
    figures = {
        "per_second": {
            name: round(rate) if rate >= 20 else round(rate, 1)
            for name, rate in medians.items()
        }
    }
    for name in rates:
        if name != "kerasdl":
            ratios = [a / b for a, b in zip(own, rates[name], strict=True)]
            spread = [round(min(ratios), 3), round(max(ratios), 3)]
            key = "ratio" if name == first else f"ratio_{name}"
            figures[key] = round(statistics.median(ratios), 3)
            figures[f"{key}_spread"] = spread
    if turns.peaks:
        fractions = {
            name: [work * a / b for a, b in zip(found, turns.peaks[1:], strict=True)]
            for name, found in rates.items()
        }
        figures["peak"] = float(f"{statistics.median(turns.peaks[1:]):.4g}")
        figures["peak_fraction"] = {
            name: round(statistics.median(found), 3)
            for name, found in fractions.items()
        }
    return figures


def table(rows: list[dict]) -> str:
    """Return a Markdown table of the results."""
    head = (
        "workload", "backend", "precision", "kerasdl, examples/s", "raw loop",
        "ratio (least to most)", "compiled raw loop", "ratio", "of the peak: kerasdl",
        "raw loop",
    )  # fmt: skip
    lines = []
    for row in sorted(rows, key=lambda row: list(WORKLOADS).index(row["workload"])):
        own, first, *others = row["per_second"]
        rates, fractions = row["per_second"], row["peak_fraction"]
        least, most = row["ratio_spread"]
        other = others[0] if others else None
        cells = (
            row["workload"], row["backend"], row["precision"], f"{rates[own]:,}",
            f"{rates[first]:,}", f"{row['ratio']:.2f} ({least:.2f} to {most:.2f})",
            f"{rates[other]:,}" if other else "",
            f"{row[f'ratio_{other}']:.2f}" if other else "",
            f"{fractions[own]:.0%}", f"{fractions[first]:.0%}",
        )  # fmt: skip
        lines.append(cells)
    return markdown(head, lines)


if __name__ == "__main__":
    main()
