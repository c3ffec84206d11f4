"""Weights that are trained from a later epoch on."""

from collections.abc import Mapping

import keras
import numpy as np

from kerasdl.errors import InputError
from kerasdl.optimizers import innermost


class Unfreeze(keras.callbacks.Callback):
    """Keep some weights as they are until an epoch of their own.

    Their gradients are computed and the optimizer learns their size, but their learning
    rate is 0, and so is their decay: nothing is compiled anew, and a checkpoint needs
    nothing more. Batch norms go on with their statistics.

    Args:
        first_epochs: How a weight's path begins, to the first epoch, from 0, in which
            it is trained; the longest beginning counts. Others are trained from the
            start.

    Example:
        >>> from kerasdl.optimizers import make_optimizer
        >>> inputs = keras.Input((2,))
        >>> hidden = keras.layers.Dense(3, name="body")(inputs)
        >>> model = keras.Model(inputs, keras.layers.Dense(1, name="head")(hidden))
        >>> model.compile(make_optimizer("adam", 0.1, factors={}), "mse")
        >>> before = model.get_layer("body").get_weights()[0]
        >>> x, y = np.ones((4, 2)), np.ones(4)
        >>> callback = Unfreeze({"body": 5})
        >>> history = model.fit(x, y, callbacks=[callback], verbose=0)
        >>> bool((model.get_layer("body").get_weights()[0] == before).all())
        True
    """

    def __init__(self, first_epochs: Mapping[str, int]):
        super().__init__()
        self.first_epochs = dict(first_epochs)

    def on_train_begin(self, logs=None):
        optimizer = innermost(self.model.optimizer)
        if not hasattr(optimizer, "first_factors"):
            raise InputError(
                "Unfreeze needs an optimizer with a rate for each weight; make it with"
                " kerasdl.optimizers.make_optimizer(..., factors={})"
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        for start in self.first_epochs:
            if not any(path.startswith(start) for path in optimizer.paths):
                raise InputError(
                    f"no weight's path begins with {start!r}; one of them is"
                    f" {optimizer.paths[0]!r}"
                )

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = innermost(self.model.optimizer)
        factors = dict(optimizer.first_factors)
        values = [
            factors.get(path, 1.0) * (epoch >= self._first_epoch(path))
            for path in optimizer.paths
        ]
        optimizer.rate_factors.assign(np.array(values, "float32"))

    def _first_epoch(self, path: str) -> int:
        starts = [start for start in self.first_epochs if path.startswith(start)]
        return self.first_epochs[max(starts, key=len)] if starts else 0
