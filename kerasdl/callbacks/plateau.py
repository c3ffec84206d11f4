"""A lower learning rate when training no longer helps, along with any schedule."""

import keras
import numpy as np

from kerasdl.optimizers import make_scalable, scale_rate


class LowerRateOnPlateau(keras.callbacks.Callback):
    """Multiply the learning rate when the monitored value has stopped to improve.

    Unlike Keras's `ReduceLROnPlateau` it works together with a schedule, whose values
    are scaled from then on.

    Args:
        monitor: Logged quantity; smaller is better unless it ends in `accuracy`.
        factor: What the rate is multiplied by, between 0 and 1.
        patience: Epochs without improvement before the rate is lowered.
        min_delta: Smallest change that counts as an improvement.

    Raises:
        ValueError: If `factor` is not between 0 and 1.

    Example:
        >>> schedule = keras.optimizers.schedules.CosineDecay(0.1, 1000)
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(schedule), "mse")
        >>> plateau = LowerRateOnPlateau("loss", patience=3)
        >>> history = model.fit(
        ...     np.ones((4, 1)), np.ones(4), callbacks=[plateau], verbose=0
        ... )
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        factor: float = 0.3,
        patience: int = 2,
        min_delta: float = 1e-4,
    ):
        super().__init__()
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor!r}; expected a number between 0 and 1")
        self.monitor = monitor
        self.factor = factor
        self.patience = patience
        self.min_delta = min_delta
        self._sign = -1.0 if monitor.endswith("accuracy") else 1.0

    def state_dict(self) -> dict:
        """Return what the epochs so far have left; the scale is the optimizer's."""
        return {"best": self._best, "wait": self._wait}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned, after `on_train_begin`."""
        self._best, self._wait = float(state["best"]), int(state["wait"])

    def on_train_begin(self, logs=None):
        self._best, self._wait = np.inf, 0
        if make_scalable(self.model.optimizer):
            self.model.make_train_function(force=True)

    def on_epoch_end(self, epoch, logs=None):
        value = self._sign * float((logs or {}).get(self.monitor, np.nan))
        if value < self._best - self.min_delta:
            self._best, self._wait = value, 0
            return
        self._wait += 1
        if self._wait >= self.patience:
            scale_rate(self.model.optimizer, self.factor)
            self._wait = 0
