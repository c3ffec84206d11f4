"""Averages of the weights, which are validated and kept while training goes on."""

import keras
import numpy as np
from keras import ops

from kerasdl.data.batches import BatchSource
from kerasdl.optimizers import Optimizer, innermost


class AveragedWeights(keras.callbacks.Callback):
    """Put an average into the model for validation and for what is kept of an epoch.

    The next epoch goes on from the weights that the training had reached; at the end
    the average stays. Put it first. Keras's `SwapEMAWeights` does as much for moving
    averages, but cannot tell a checkpoint whose weights the model holds.

    The averages are those that the optimizer keeps: a moving one (`use_ema=True`), or
    that of `ScheduleFreeAdamW`, recovered from its slots: the model itself is left
    between the average and the fastest point, and no good. With another optimizer
    nothing is done.

    Reference:
        [The Road Less Scheduled](https://arxiv.org/abs/2405.15682), equation 5.
    """

    def state_dict(self) -> dict:
        """Return the weights that the training goes on from, if the model has others.

        They are a list of arrays.
        """
        return {"held": self._held}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned, after `on_train_begin`."""
        self._held = state["held"]

    def averages(self) -> list[np.ndarray] | None:
        """Return the average of each trainable weight, if there are such yet."""
        optimizer = innermost(self.model.optimizer)
        if not _has_averages(optimizer):
            return None
        if _array(optimizer.iterations) == 0:
            return None  # every step was undone: the slots of moving averages are zeros
        slots = {variable.name: variable for variable in optimizer.variables}
        kind = "average" if optimizer.use_ema else "momentum"
        found = [
            _array(slots[f"{variable.path.replace('/', '_')}_{kind}"])
            for variable in self.model.trainable_variables
        ]
        if optimizer.use_ema:
            return found
        beta = np.float32(optimizer.beta_1)
        weights = map(_array, self.model.trainable_variables)
        return [
            ((weight - (1 - beta) * fast) / beta).astype(weight.dtype)
            for weight, fast in zip(weights, found, strict=True)
        ]

    def on_train_begin(self, logs=None):
        self._held = None

    def on_test_begin(self, logs=None):
        self._swap_in()

    def on_epoch_end(self, epoch, logs=None):
        self._swap_in()  # where there is no validation

    def on_epoch_begin(self, epoch, logs=None):
        if self._held is not None:
            _assign(self._all(), self._held)
            self._held = None

    def _all(self) -> list[keras.Variable]:
        return [*self.model.trainable_variables, *self.model.non_trainable_variables]

    def _swap_in(self) -> None:
        if self._held is None and (averages := self.averages()) is not None:
            self._held = [_array(variable) for variable in self._all()]
            _assign(self.model.trainable_variables, averages)


class StochasticAverage(AveragedWeights):
    """Average the weights of the last epochs, one by one, and validate the average.

    The statistics of batch norms are those of the average: its batches are seen once
    more, at most `MOST_BATCHES`, unless training leaves them as they are. Batch norms
    within layers that are no models of their own keep the statistics that they have.
    Weights that are not finite do not count.

    Args:
        source: Training data.
        start: First epoch whose weights count.

    Reference:
        [Averaging Weights Leads to Wider Optima](https://arxiv.org/abs/1803.05407),
        algorithm 1.
    """

    MOST_BATCHES = 100

    def __init__(self, source: BatchSource, *, start: int):
        super().__init__()
        self.source = source
        self.start = start

    def state_dict(self) -> dict:
        """Return the average, its count of epochs, and what `AveragedWeights` does."""
        return {**super().state_dict(), "count": self._count, "mean": self._mean}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned, after `on_train_begin`."""
        super().load_state_dict(state)
        self._count, self._mean = int(state["count"]), state["mean"]

    def averages(self) -> list[np.ndarray] | None:
        """Return the mean of the weights after each epoch that counts."""
        return self._mean

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._count, self._mean = 0, None
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch

    def _swap_in(self) -> None:
        if self._held is not None or self._epoch < self.start:
            return
        self._take_weights()
        if self._mean is None:
            return
        super()._swap_in()
        estimate_statistics(self.model, self._batches())

    def _take_weights(self) -> None:
        """Let the weights count, unless the mean would not be finite: for ever."""
        weights = [_array(variable) for variable in self.model.trainable_variables]
        count = self._count + 1
        with np.errstate(over="ignore", invalid="ignore"):
            mean = [
                mean + (weight - mean) / np.float32(count)
                for mean, weight in zip(self._mean or weights, weights, strict=True)
            ]
        if all(np.isfinite(values).all() for values in mean):
            self._count, self._mean = count, mean

    def _batches(self):
        # Not `source.order`, which lacks what was seen before a resume.
        for rows in self.source.plan(self._epoch)[: self.MOST_BATCHES]:
            inputs = self.source.pad(rows)
            yield inputs if len(inputs) > 1 else inputs.popitem()[1]


def averaging(optimizer: Optimizer) -> list[AveragedWeights]:
    """Return the callback that validates the averages of an optimizer, if it has some.

    Args:
        optimizer: Any optimizer of Keras.
    """
    return [AveragedWeights()] if _has_averages(innermost(optimizer)) else []


def _has_averages(optimizer: Optimizer) -> bool:
    is_free = isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW)
    return optimizer.use_ema or is_free


def estimate_statistics(model: keras.Model, batches) -> None:
    """Give batch norms the mean of the statistics of some batches.

    Everything else, random seeds included, stays as it is.

    Args:
        model: Model whose weights have been changed otherwise than by training.
        batches: Inputs of the model.
    """
    norms = list(_batch_norms(model))
    if not norms:
        return
    statistics = [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
    others = [
        v for v in model.non_trainable_variables if id(v) not in map(id, statistics)
    ]
    before = [_array(variable) for variable in others]
    first = [_array(variable) for variable in statistics]
    momenta = [norm.momentum for norm in norms]
    sums, count = [0.0] * len(statistics), 0
    for norm in norms:
        norm.momentum = 0.0  # the statistics are those of the batch
    try:
        for inputs in batches:
            model(inputs, training=True)
            seen = [_array(variable) for variable in statistics]
            if count == 0 and all(map(np.array_equal, seen, first)):
                return  # frozen: a mean of equal numbers may differ in the last digit
            sums = [a + b for a, b in zip(sums, seen, strict=True)]
            count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        _assign(others, before)
    _assign(statistics, [total / count for total in sums])


def _batch_norms(model):
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
        elif hasattr(layer, "layers"):
            yield from _batch_norms(layer)


def _array(variable) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable))


def _assign(variables, values) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
