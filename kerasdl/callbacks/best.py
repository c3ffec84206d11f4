"""The best weights, on disk as soon as they are known, or in memory."""

from pathlib import Path

import keras
import numpy as np

from kerasdl.checkpoint import write_weights


class BestCheckpoint(keras.callbacks.Callback):
    """Write the weights to disk, atomically, whenever the monitored loss improves.

    An epoch that is cut short adds the first weights, but replaces none: a training
    that is resumed there knows nothing of it.

    Args:
        path: File to write, `.safetensors`.
        monitor: Logged quantity; smaller is better unless it ends in `accuracy`.
    """

    def __init__(self, path: str | Path, *, monitor: str = "val_loss"):
        super().__init__()
        self.path = Path(path)
        self.monitor = monitor
        self._sign = -1.0 if monitor.endswith("accuracy") else 1.0

    def state_dict(self) -> dict:
        """Return the best value so far."""
        return {"best": float(self._best)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned, after `on_train_begin`."""
        self._best = state["best"]

    def on_train_begin(self, logs=None):
        self._best = np.inf
        self._is_cut = False

    def on_epoch_begin(self, epoch, logs=None):
        self._is_cut = False

    def on_test_begin(self, logs=None):
        self._is_cut = self.model.stop_training

    def on_epoch_end(self, epoch, logs=None):
        value = self._sign * (logs or {}).get(self.monitor, np.nan)
        if value < self._best and not (self._is_cut and self.path.exists()):
            self._best = value
            self.path.parent.mkdir(exist_ok=True)
            write_weights(self.path, self.model)


class KeepBest(keras.callbacks.Callback):
    """Remember the weights of the epoch with the least validation loss.

    Args:
        kept: The model whose weights are remembered.
    """

    def __init__(self, kept: keras.Model):
        super().__init__()
        self.kept = kept
        self.loss = np.inf
        self.weights = kept.get_weights()

    def state_dict(self) -> dict:
        """Return the best loss and weights."""
        return {"loss": float(self.loss), "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned."""
        self.loss, self.weights = state["loss"], state["weights"]

    def on_epoch_end(self, epoch, logs=None):
        if logs["val_loss"] < self.loss:
            self.loss, self.weights = logs["val_loss"], self.kept.get_weights()

    def restore(self) -> None:
        """Give the model the best weights."""
        self.kept.set_weights(self.weights)
