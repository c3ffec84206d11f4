"""For `model.fit`: the usual set, progress, and a stop that keeps the best."""

import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kerasdl.checkpoint import write_weights
from kerasdl.runs import CHECKPOINT_FILE


def standard_callbacks(
    folder: str | Path | None, *, monitor: str = "val_loss", patience: int = 3
) -> list[keras.callbacks.Callback]:
    """Return the usual callbacks of a training that writes into `folder`.

    The best weights are kept in `checkpoints/best.safetensors` and restored at the end;
    every epoch adds a line to `history.csv`.

    Args:
        folder: Existing folder of the run; `None` writes nothing.
        monitor: Logged quantity that names the best epoch.
        patience: Epochs without improvement before the training stops.

    Returns:
        Callbacks for `model.fit(..., callbacks=...)`.
    """
    callbacks = [
        EpochFacts(),
        keras.callbacks.EarlyStopping(
            monitor, patience=patience, restore_best_weights=True
        ),
    ]
    if folder is None:
        return callbacks
    folder = Path(folder)
    return [
        *callbacks,
        BestCheckpoint(folder / CHECKPOINT_FILE, monitor=monitor),
        keras.callbacks.CSVLogger(str(folder / "history.csv")),
    ]


class EpochFacts(keras.callbacks.Callback):
    """Add the learning rate and the seconds of each epoch to its logs."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            logs["learning_rate"] = float(rate)
            logs["seconds"] = time.perf_counter() - self._start


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


class StopOnSignal(keras.callbacks.Callback):
    """Turn the first Ctrl-C or SIGTERM of a training into a stop after its batch.

    Keras then validates, keeps the best weights, and `fit` returns as usual. A second
    signal does what it did before. Signals are caught from the beginning of the
    training to the end of the `with` block, so that it can still write its results.

    Attributes:
        received: Number of the signal that came, or `None`.

    Example:
        >>> with StopOnSignal() as stop:
        ...     pass  # model.fit(..., callbacks=[stop]), then save the model
    """

    def __init__(self):
        super().__init__()
        self.received: int | None = None
        self._previous = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_train_begin(self, logs=None):
        # Once: a run may call `fit` several times.
        main = threading.current_thread() is threading.main_thread()
        if main and not self._previous:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)

    def _stop(self, number, frame):
        if self.received is not None:
            self.__exit__()
            signal.raise_signal(number)
        self.received = number

    def on_train_batch_end(self, batch, logs=None):
        if self.received is not None:
            self.model.stop_training = True


class ProgressDisplay(keras.callbacks.Callback):
    """Show a line per epoch and, on a terminal, a live bar with the time left.

    As a context manager around `fit` it also clears the bar of a training that fails.

    Args:
        console: Where to print.
        epochs: Epochs of the training.
        steps: Batches of one epoch.
        batch_size: Examples of one batch, for the speed.
    """

    def __init__(self, console: Console, *, epochs: int, steps: int, batch_size: int):
        super().__init__()
        self.console = console
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self._bar = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.on_train_end()

    def on_train_begin(self, logs=None):
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            total = self.epochs * self.steps
            self._task = self._bar.add_task("training", total=total, loss="…")
            self._bar.start()

    def on_train_batch_end(self, batch, logs=None):
        if self._bar:
            loss = float((logs or {}).get("loss", np.nan))
            self._bar.update(self._task, advance=1, loss=f"{loss:.3f}")

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self._start
        speed = self.steps * self.batch_size / seconds
        figures = " · ".join(
            f"{name} {logs[name]:.4f}"
            for name in ("loss", "accuracy", "val_loss", "val_accuracy")
            if name in (logs or {})
        )
        self.console.print(
            f"epoch {epoch + 1}/{self.epochs} · {figures} · {seconds:.0f} s"
            f" · {speed:,.0f} examples/s",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs=None):
        if self._bar:
            self._bar.stop()
            self._bar = None
