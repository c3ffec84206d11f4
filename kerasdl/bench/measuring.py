"""Time the training of a recipe on random examples, as `kerasdl.train` runs it."""

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import kerasdl
from kerasdl import backend
from kerasdl.bench.examples import random_examples
from kerasdl.callbacks import StopOnSignal
from kerasdl.data.batches import BatchSource
from kerasdl.epochs import run_epochs
from kerasdl.errors import InputError
from kerasdl.fit import prepare
from kerasdl.phases import Phases
from kerasdl.precision import has_bfloat16, precision
from kerasdl.recipe import Recipe

# Epochs that count; of a slow model, once the time is over, these at least.
ROUNDS, FEWEST_ROUNDS = 5, 3
# Steps of the first epochs, in which the model compiles, and of every epoch at least.
# Epochs then grow at most so many times over until they are long enough: how long an
# epoch takes besides its steps is not known.
FEWEST_STEPS, GROWTH = 4, 8
# Whether compiling pays is decided as for a training on so many examples.
EXAMPLES = 20_000
# Bytes that the examples of an epoch may take.
MOST_BYTES = 2**29


class Clock(StopOnSignal):
    """Note how long each epoch's steps take; end the training when time is over."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit
        self.seconds: list[float] = []
        self.ends: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):  # noqa: ARG002, D102
        self._start = time.perf_counter()

    def on_test_begin(self, logs=None):  # noqa: ARG002, D102
        self.ends.append(time.perf_counter())
        self.seconds.append(self.ends[-1] - self._start)

    def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002, D102
        counted = self.seconds[1:]
        if len(counted) >= FEWEST_ROUNDS and sum(counted) > self.limit:
            self.model.stop_training = True


def measure(recipe: Recipe, *, seconds: float, began: float) -> dict:
    """Measure a recipe on the present backend, in its precision.

    The epochs of `run_epochs` are timed, with all callbacks and saves; validation and
    what else happens between epochs does not count, nor does the first epoch of those
    that are long enough.

    Args:
        recipe: What to train.
        seconds: How long to measure, in all rounds together.
        began: When this process was started, as `time.time` tells it.

    Returns:
        `per_second` of each round, `start_up`, `device` and `kind`, as of `Speed`.

    Raises:
        InputError: If the device has no instructions for the precision.
    """
    device = backend.devices()[0]
    if recipe.precision == "mixed_bfloat16" and not has_bfloat16(device):
        raise InputError(f"{device['name']} has no instructions for bfloat16")
    imported = time.time() - began
    # Of what random examples may be too few for, a step shows nothing.
    recipe = replace(recipe, class_weights=False, word_vectors=0.0, patience=10**6)
    count = FEWEST_STEPS * recipe.batch_size
    encoder, inputs, data = random_examples(recipe, count)
    validation = data.subset(np.arange(min(count, 64)))
    build = kerasdl.BUILDERS[recipe.build]
    start = time.perf_counter()
    with precision(recipe.precision):
        ready = prepare(recipe, build, encoder, inputs, data.labels, (data, validation))
        pilot = _run(ready, recipe, ready.training, epochs=2, limit=seconds)
        source = _long_enough(ready, recipe, pilot, seconds / ROUNDS)
        clock = _run(ready, recipe, source, epochs=1 + ROUNDS, limit=seconds)
    per_step = min(clock.seconds) / source.batches_per_epoch
    compiled = pilot.ends[0] - start - FEWEST_STEPS * per_step
    examples = len(source.targets)
    return {
        "per_second": [round(examples / spent, 2) for spent in clock.seconds[1:]],
        "start_up": round(imported + max(compiled, 0), 2),
        "device": device["name"],
    }


def _long_enough(ready, recipe: Recipe, clock: Clock, seconds: float) -> BatchSource:
    """Return batches of which an epoch takes at least half of so many seconds."""
    source = ready.training
    while (spent := clock.seconds[-1]) < seconds / 2:
        growth = min(seconds / spent, GROWTH)
        longer = _longer(ready.training, math.ceil(source.batches_per_epoch * growth))
        if len(longer.targets) <= len(source.targets):
            break
        source = longer
        clock = _run(ready, recipe, source, epochs=2, limit=seconds)
    return source


def _run(
    ready, recipe: Recipe, source: BatchSource, *, epochs: int, limit: float
) -> Clock:
    """Train epochs on batches, and return how long they took."""
    clock = Clock(limit)
    steps = recipe.epochs * EXAMPLES // recipe.batch_size
    with tempfile.TemporaryDirectory() as folder, clock:
        phase = Phases(Path(folder), stop=clock).phase("training")
        run_epochs(
            ready.trained,
            replace(recipe, epochs=epochs),
            source,
            ready.validation,
            phase,
            steps=steps,
        )
    return clock


def _longer(source: BatchSource, steps: int) -> BatchSource:
    """Return a source of so many steps, or what memory allows, of the same examples."""
    here = len(source.targets)
    size = sum(_bytes(values) for values in source.inputs.values()) / here
    most = int(MOST_BYTES / size / source.batch_size)
    rows = np.arange(min(steps, most) * source.batch_size) % here
    return BatchSource(
        {name: values.take(rows) for name, values in source.inputs.items()},
        source.targets[rows],
        weights=None if source.weights is None else source.weights[rows],
        batch_size=source.batch_size,
        seed=source.seed,
    )


def _bytes(values) -> int:
    """Return the size of encoded examples."""
    return getattr(values, "values", getattr(values, "examples", None)).nbytes
