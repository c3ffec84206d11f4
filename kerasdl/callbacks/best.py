"""The best weights, on disk as soon as they are known."""

from pathlib import Path

import keras
import numpy as np

from kerasdl.checkpoint import write_weights


class BestCheckpoint(keras.callbacks.Callback):
    """Write the weights to disk, atomically, whenever the monitored loss improves.

    Args:
        path: File to write, `.safetensors`.
        monitor: Logged quantity; smaller is better unless it ends in `accuracy`.
    """

    def __init__(self, path: str | Path, *, monitor: str = "val_loss"):
        super().__init__()
        self.path = Path(path)
        self.monitor = monitor
        self._sign = -1.0 if monitor.endswith("accuracy") else 1.0

    def on_train_begin(self, logs=None):
        self._best = np.inf

    def on_epoch_end(self, epoch, logs=None):
        value = self._sign * (logs or {}).get(self.monitor, np.nan)
        if value < self._best:
            self._best = value
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_weights(self.path, self.model)
