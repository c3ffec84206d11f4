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
from kerasdl.data.batches import BatchSource

# A loss may have to be waited for.
SECONDS_BETWEEN = 0.1


class ProgressDisplay(keras.callbacks.Callback):
    """Show a line per epoch and, on a terminal, a live bar with the time left.

    As a context manager around `fit` it also clears the bar of a training that fails.

    Args:
        console: Where to print.
        epochs: Epochs of the training.
        steps: Batches of one epoch.
        meter: What measures speed and memory, before it among the callbacks.
        source: The `BatchSource` of the training, if it is one: it knows where within
            an epoch a training is resumed.
    """

    def __init__(
        self,
        console: Console,
        *,
        epochs: int,
        steps: int,
        meter: Meter,
        source: BatchSource | None = None,
    ):
        super().__init__()
        self.console = console
        self.epochs = epochs
        self.steps = steps
        self.meter = meter
        self.source = source
        self._bar = None
        self._shown = 0.0

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
            self._bar.start()

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:  # not at the epoch's begin, when it may still be positioned
            self._before = self._epoch * self.steps + self._left_out()
        if self._bar and not self._bar.tasks:
            # Begun where a resume begins: a jump would count as speed.
            self._task = self._bar.add_task(
                "training",
                total=self.epochs * self.steps,
                completed=self._before,
                loss="…",
            )

    def on_train_batch_end(self, batch, logs=None):
        if self._bar:
            self._bar.update(self._task, completed=self._before + batch + 1)
            if time.perf_counter() - self._shown > SECONDS_BETWEEN:
                self._show_loss(logs)

    def _show_loss(self, logs) -> None:
        loss = float((logs or {}).get("loss", np.nan))
        self._bar.update(self._task, loss=f"{loss:.3f}")
        self._shown = time.perf_counter()

    def _left_out(self) -> int:
        """Return how many batches of this epoch were seen before a resume."""
        return 0 if self.source is None else self.steps - len(self.source.order)

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()
        self._epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if self._bar:
            self._show_loss(logs)
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
