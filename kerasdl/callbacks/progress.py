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

from kerasdl.callbacks.meter import Meter


class ProgressDisplay(keras.callbacks.Callback):
    """Show a line per epoch and, on a terminal, a live bar with the time left.

    As a context manager around `fit` it also clears the bar of a training that fails.

    Args:
        console: Where to print.
        epochs: Epochs of the training.
        steps: Batches of one epoch.
        meter: What measures speed and memory, before it among the callbacks.
    """

    def __init__(self, console: Console, *, epochs: int, steps: int, meter: Meter):
        super().__init__()
        self.console = console
        self.epochs = epochs
        self.steps = steps
        self.meter = meter
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
        figures = " · ".join(
            f"{name} {logs[name]:.4f}"
            for name in ("loss", "accuracy", "val_loss", "val_accuracy")
            if name in (logs or {})
        )
        self.console.print(
            f"epoch {epoch + 1}/{self.epochs} · {figures} · {seconds:.0f} s"
            f"{self._measured()}",
            highlight=False,
            soft_wrap=True,
        )

    def _measured(self) -> str:
        measured = self.meter.figures
        shown = {
            "examples_per_second": "{:,.0f} examples/s",
            "memory_mb": "{:,.0f} MB",
            "device_memory_mb": "{:,.0f} MB on the device",
        }
        return "".join(
            f" · {text.format(measured[name])}"
            for name, text in shown.items()
            if name in measured
        )

    def on_train_end(self, logs=None):
        if self._bar:
            self._bar.stop()
            self._bar = None
