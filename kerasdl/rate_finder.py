"""A learning rate to start with, found by training a moment at rising rates."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import keras
import numpy as np
from keras import ops

from kerasdl import backend
from kerasdl.checkpoint import training_variables
from kerasdl.checks import check_choice
from kerasdl.data.batches import BatchSource
from kerasdl.errors import InputError
from kerasdl.optimizers import innermost, schedule_of
from kerasdl.schedules import ExponentialRise

# Highest rate suggested for Adam and its like. The loss of the first steps falls at
# rates that a whole training does not bear, most of all with attention and where
# pretrained weights are lost: Vaswani et al. 2017, section 5.3, reach 7e-4; Devlin et
# al. 2019, appendix A.3, fine-tune at 2e-5 to 5e-5. On 1,200 examples (two seeds,
# `benchmarks/rate_caps.py`) an MLP, a text CNN and an LSTM are best between 3e-3 and
# 1e-2 and lose half of what they learn at 1e-1, which n-grams and, thanks to its batch
# norms, an image CNN still bear; a ViT is best between 1e-3 and 1e-2.
CAPS = {
    "dense": 1e-2,
    "convolutional": 1e-2,
    "recurrent": 1e-2,
    "transformer": 1e-3,
    "pretrained": 5e-5,
}
# SGD with momentum takes rates so many times as high: 0.1 where Adam has 1e-3.
SGD_TIMES = 100
# A loss so many times the least one ends the search.
TOO_MUCH = 4
SMOOTHING = 0.9


@dataclass(frozen=True)
class FoundRate:
    """What `lr_find` has found.

    Attributes:
        suggestion: The learning rate to train with, at its highest.
        uncapped: What the curve alone suggests: where the loss has fallen half-way, and
            no more than a tenth of where it is least.
        cap: Highest suggestion for such a model and optimizer.
        family: A key of `CAPS`.
        rates: Learning rate of each step.
        losses: Loss of each step's batch, before the step.
        smoothed: Moving averages of the losses.
    """

    suggestion: float
    uncapped: float
    cap: float
    family: str
    rates: list[float]
    losses: list[float]
    smoothed: list[float]

    def to_json(self) -> dict:
        """Return all of it as JSON."""
        return asdict(self)


def lr_find(
    model: keras.Model,
    data,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    family: str | None = None,
) -> FoundRate:
    """Train at rising learning rates, suggest one, and leave no trace.

    Weights, optimizer, metrics and random seeds are afterwards what they were, whatever
    happens. The suggestion is where the smoothed loss has fallen half-way, capped by
    the family of the model.

    Args:
        model: Compiled model.
        data: Arrays `(x, y)` or `(x, y, weights)`, a `BatchSource`, or batches like
            that; they are used again and again.
        lowest: Learning rate of the first step.
        highest: Learning rate of the last step, unless the loss grows too high before.
        steps: Steps at most.
        family: A key of `CAPS`; by default what the layers of the model say, which
            cannot say whether they are pretrained.

    Returns:
        The suggestion, and the curve.

    Raises:
        InputError: If the loss falls at no rate.
        ValueError: If the range is empty, or the family unknown.

    Reference:
        [Cyclical Learning Rates](https://arxiv.org/abs/1506.01186), section 3.3.
    """
    if not 0 < lowest < highest or steps < 10:
        raise ValueError(
            f"lowest={lowest!r}, highest={highest!r}, steps={steps!r}; expected"
            " 0 < lowest < highest and at least 10 steps"
        )
    family = family or family_of(model)
    check_choice("family", family, CAPS)
    rates = lowest * (highest / lowest) ** (np.arange(steps) / (steps - 1))
    with _untouched(model), _rising(model, lowest, highest, steps) as set_rate:
        losses = _losses(model, itertools.cycle(_batches(data)), rates, set_rate)
    smoothed = _smoothed(losses)
    rates = rates[: len(losses)]
    found = _halfway(rates, smoothed)
    is_sgd = isinstance(innermost(model.optimizer), keras.optimizers.SGD)
    cap = CAPS[family] * (SGD_TIMES if is_sgd else 1)
    return FoundRate(
        float(min(found, cap)),
        float(found),
        cap,
        family,
        rates.tolist(),
        losses,
        smoothed.tolist(),
    )


def family_of(model: keras.Model) -> str:
    """Return what a model is made of, a key of `CAPS`.

    Args:
        model: Any model.
    """
    kinds = " ".join(type(layer).__name__ for layer in _layers(model))
    if "Attention" in kinds or "Transformer" in kinds:
        return "transformer"
    if any(name in kinds for name in ("LSTM", "GRU", "RNN", "Bidirectional")):
        return "recurrent"
    return "convolutional" if "Conv" in kinds else "dense"


def _layers(model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


@contextmanager
def _untouched(model: keras.Model) -> Iterator[None]:
    """Bring back all that training changes, however the block ends."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    before = [
        (variable, np.array(ops.convert_to_numpy(variable)))
        for group in training_variables(model).values()
        for variable in group
    ]
    generators = random.getstate(), np.random.get_state()  # noqa: NPY002
    others = backend.random_state()
    try:
        yield
    finally:
        model.reset_metrics()  # some may have been made by the first step
        for variable, value in before:
            variable.assign(value)
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        backend.set_random_state(others)


@contextmanager
def _rising(model, lowest: float, highest: float, steps: int):
    """Let the rate of the model's optimizer rise; yield what sets it at each step."""
    optimizer = innermost(model.optimizer)
    schedule = schedule_of(optimizer)

    def set_rate(rate: float) -> None:
        if schedule is None:
            optimizer.learning_rate = rate

    if schedule is not None:
        # A schedule can only give way to another one, which what is compiled holds.
        first = int(ops.convert_to_numpy(optimizer.iterations))
        optimizer.learning_rate = ExponentialRise(lowest, highest, steps, first)
        model.make_train_function(force=True)
    try:
        yield set_rate
    finally:
        if schedule is not None:
            optimizer.learning_rate = schedule
            model.make_train_function(force=True)


def _batches(data) -> Iterable[tuple]:
    """Yield batches, without moving a source on."""
    if isinstance(data, BatchSource):
        return map(data.batch, data.order)
    if isinstance(data, tuple):
        size = 32
        starts = range(0, len(keras.tree.flatten(data)[0]), size)
        return (
            keras.tree.map_structure(lambda x, i=i: x[i : i + size], data)
            for i in starts
        )
    return data


def _losses(model, batches, rates, set_rate) -> list[float]:
    losses = []
    for rate, batch in zip(rates, batches, strict=False):
        set_rate(float(rate))
        model.reset_metrics()
        loss = float(model.train_on_batch(*batch, return_dict=True)["loss"])
        if not math.isfinite(loss):
            break
        losses.append(loss)
        smoothed = _smoothed(losses)
        if len(losses) > 10 and smoothed[-1] > TOO_MUCH * smoothed.min():
            break
    return losses


def _smoothed(losses: list[float]) -> np.ndarray:
    """Return moving averages that do not lean towards zero at the start."""
    average, found = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        found.append(average / (1 - SMOOTHING**count))
    return np.array(found)


def _halfway(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """Return where the loss has fallen half-way, well below where it is least.

    That is near the steepest place, which noise would put anywhere.
    """
    # The first averages are those of few batches, perhaps easy ones.
    first = min(max(3, len(smoothed) // 10), len(smoothed))
    rates, smoothed = rates[first:], smoothed[first:]
    least = int(np.argmin(smoothed)) if len(smoothed) else 0
    if least < 2:
        raise InputError(
            "the loss falls at no learning rate of the search; look at the data, or"
            " begin lower"
        )
    middle = (np.median(smoothed[: least // 2 + 1]) + smoothed[least]) / 2
    above = np.flatnonzero(smoothed[:least] > middle)
    return min(rates[above[-1] if len(above) else 0], rates[least] / 10)
