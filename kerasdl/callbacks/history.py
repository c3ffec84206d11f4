"""What each epoch leaves in the logs, and the file of it."""

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from kerasdl.files import whole_file


class EpochFacts(keras.callbacks.Callback):
    """Add the learning rate and the seconds of each epoch to its logs."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            logs["learning_rate"] = float(rate)
            logs["seconds"] = time.perf_counter() - self._start


class HistoryFile(keras.callbacks.Callback):
    """Write the logs of every epoch to a CSV file, a line each, as they come.

    Unlike Keras's `CSVLogger` it writes a resumed training's file anew from its state,
    so that no line is missing or doubled where one was killed.

    Args:
        path: File to write.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)

    def state_dict(self) -> dict:
        """Return the logs of the epochs so far."""
        return {name: np.array(values) for name, values in self._columns.items()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned, after `on_train_begin`."""
        self._columns = {name: values.tolist() for name, values in state.items()}
        if self._columns:
            write_history(self.path, self._columns)

    def on_train_begin(self, logs=None):
        self._columns: dict[str, list] = {}

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch, **dict(sorted((logs or {}).items()))}
        is_first = not self._columns
        for name in row if is_first else self._columns:
            self._columns.setdefault(name, []).append(row.get(name, np.nan))
        if is_first:
            write_history(self.path, self._columns)
            return
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(values[-1] for values in self._columns.values())


def write_history(path: Path, columns: Mapping[str, Sequence]) -> None:
    """Write logs as CSV, a line per epoch.

    Args:
        path: File to write.
        columns: Name to its value after each epoch.
    """
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
