"""What saving costs: the same trainings with checkpoints and without, in turn.

    python benchmarks/checkpoint_cost.py [--models cnn sentiment] [--backends torch …]

The recipes are those of `kerasdl images train` and `kerasdl sentiment train`, on the
data that come with the package. In one process one model is trained again and again,
by turns with a `Checkpoint` of default settings and without, for the same number of
epochs. As a machine that others use is not quiet enough for a difference of 3 %, the
time within saves is measured, too: on the training thread, which copies the state, and
in the thread that writes it, by wall clock and by processor time.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from common import RESULTS, in_own_process, machine, report

from kerasdl.installed import BACKENDS

PATH = RESULTS / "checkpoint_cost.json"
MODELS = ("cnn", "sentiment")


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few examples")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    arguments = ["--pairs", str(options.pairs), "--epochs", str(options.epochs)]
    arguments += ["--quick"] * options.quick
    for backend in options.backends:
        for model in options.models:
            line = in_own_process(
                __file__, "--one", model, *arguments, KERAS_BACKEND=backend
            )
            row = json.loads(line)
            report(PATH, row, ("model", "backend"), quick=options.quick)


def measure(model: str, options) -> dict:
    """Train by turns with and without checkpoints; return what was measured."""
    import keras

    trained, source = _prepared(model, quick=options.quick)
    _train(trained, source, 1, None)  # compiles
    saves = Saves()
    times = {"with": [], "without": []}
    for pair in range(options.pairs):
        # Turned round each time, so that a machine that gets slower favours neither.
        for side in sorted(times, reverse=bool(pair % 2)):
            folder = tempfile.mkdtemp() if side == "with" else None
            times[side].append(_train(trained, source, options.epochs, folder))
    ratios = [
        {kind: have[kind] / lack[kind] for kind in have}
        for have, lack in zip(times["with"], times["without"], strict=True)
    ]
    wall = sum(found["wall"] for found in times["with"])
    cpu = sum(found["cpu"] for found in times["with"])
    return {
        "model": model,
        "backend": keras.backend.backend(),
        "keras": keras.version(),
        "machine": machine(),
        "pairs": options.pairs,
        "examples": len(source.targets),
        "seconds_of_a_training": round(wall / options.pairs, 1),
        "ratio_wall": _spread([ratio["wall"] for ratio in ratios]),
        "ratio_cpu": _spread([ratio["cpu"] for ratio in ratios]),
        "saves_of_a_training": len(saves.written) / options.pairs,
        "megabytes_of_a_save": round(saves.bytes / 1e6, 1),
        "copy_milliseconds": _spread([1e3 * x for x in saves.copied]),
        "write_milliseconds": _spread([1e3 * x for x in saves.written]),
        "writes_on_training_thread": saves.on_main,
        "share_of_wall_on_training_thread": round(sum(saves.waited) / wall, 5),
        "share_of_cpu": round(saves.cpu / cpu, 5),
    }


def _prepared(model: str, *, quick: bool):
    """Return the compiled model of a recipe, and its training batches."""
    import kerasdl
    from kerasdl import training
    from kerasdl.data.encoders import ENCODERS
    from kerasdl.data.labelled import hold_out
    from kerasdl.fit import prepare
    from kerasdl_apps import images, sentiment

    app = {"cnn": images, "sentiment": sentiment}[model]
    recipe = replace(app.recipe(model), data="sample", patience=10**6)
    data = training.LOADERS[recipe.kind]("sample", notify=lambda _: None).train
    if quick:
        data = data.subset(range(0, len(data), 10))
    kept, held = hold_out(data, recipe.validation_fraction, seed=recipe.seed)
    encoder, inputs = ENCODERS[recipe.kind].fit_encode(kept.examples, **recipe.encoder)
    builder = kerasdl.BUILDERS[recipe.build]
    found = prepare(recipe, builder, encoder, inputs, kept.labels, (kept, held))
    return found.trained, found.training


def _train(model, source, epochs: int, folder: str | None) -> dict[str, float]:
    from rich.console import Console

    from kerasdl.callbacks import Checkpoint

    callbacks = []
    if folder:
        quiet = Console(file=io.StringIO())
        callbacks = [Checkpoint(folder, source=source, console=quiet)]
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(source, epochs=epochs, callbacks=callbacks, verbose=0)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


class Saves:
    """Times of all saves from now on, by the thread that they take."""

    def __init__(self):
        from kerasdl.callbacks import checkpoint
        from kerasdl.checkpoint import Store

        self.waited, self.copied, self.written = [], [], []
        self.cpu, self.bytes, self.on_main = 0.0, 0, 0
        self._wrap(checkpoint.Checkpoint, "_save", self._saved)
        self._wrap(checkpoint, "captured", self._captured)
        self._wrap(Store, "write", self._wrote)

    def _wrap(self, owner, name: str, note) -> None:
        original = getattr(owner, name)

        def timed(*arguments, **options):
            wall, cpu = time.perf_counter(), time.thread_time()
            result = original(*arguments, **options)
            seconds = time.perf_counter() - wall, time.thread_time() - cpu
            note(*seconds, arguments)
            return result

        setattr(owner, name, timed)

    def _saved(self, wall: float, cpu: float, arguments) -> None:  # noqa: ARG002
        self.waited.append(wall)
        self.cpu += cpu

    def _captured(self, wall: float, cpu: float, arguments) -> None:  # noqa: ARG002
        self.copied.append(wall)

    def _wrote(self, wall: float, cpu: float, arguments) -> None:
        self.written.append(wall)
        self.on_main += threading.current_thread() is threading.main_thread()
        self.cpu += cpu
        newest = max(Path(arguments[0].folder).glob("step-*"))
        self.bytes = sum(path.stat().st_size for path in newest.iterdir())


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
