"""Progress on the console: a line per epoch, a live bar on a terminal."""

import time

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
