"""For `model.fit`: the usual set, progress, and a stop that keeps the best."""

from pathlib import Path

import keras

from kerasdl.callbacks.averaging import (
    AveragedWeights,
    StochasticAverage,
    averaging,
)
from kerasdl.callbacks.best import BestCheckpoint, KeepBest
from kerasdl.callbacks.checkpoint import Checkpoint
from kerasdl.callbacks.early_stopping import EarlyStopping
from kerasdl.callbacks.history import EpochFacts, HistoryFile, write_history
from kerasdl.callbacks.meter import Meter
from kerasdl.callbacks.nan_guard import NanGuard
from kerasdl.callbacks.pending import PendingLogs, PromptCallbacks
from kerasdl.callbacks.plateau import LowerRateOnPlateau
from kerasdl.callbacks.progress import ProgressDisplay
from kerasdl.callbacks.signals import StopOnSignal
from kerasdl.callbacks.tensorboard import TensorBoard
from kerasdl.callbacks.unfreezing import Unfreeze
from kerasdl.runs import CHECKPOINT_FILE, HISTORY_FILE

__all__ = [
    "AveragedWeights",
    "BestCheckpoint",
    "Checkpoint",
    "EarlyStopping",
    "EpochFacts",
    "HistoryFile",
    "KeepBest",
    "LowerRateOnPlateau",
    "Meter",
    "NanGuard",
    "PendingLogs",
    "ProgressDisplay",
    "PromptCallbacks",
    "StochasticAverage",
    "StopOnSignal",
    "TensorBoard",
    "Unfreeze",
    "averaging",
    "standard_callbacks",
    "write_history",
]


def standard_callbacks(
    folder: str | Path | None,
    *,
    monitor: str = "val_loss",
    patience: int = 3,
    examples: int | None = None,
    tensorboard: bool = False,
    averages: bool = True,
) -> list[keras.callbacks.Callback]:
    """Return the usual callbacks of a training that writes into `folder`.

    The best weights are kept in `checkpoints/best.safetensors` and restored at the end;
    every epoch adds a line to `history.csv`. Where the optimizer averages the weights
    (`use_ema=True`, or schedule-free AdamW), the averages are validated and kept.

    Left out are `NanGuard`, which belongs before these callbacks, and `ProgressDisplay`
    and `Checkpoint`, which belong after them: they have to know the data, too.

    Args:
        folder: Existing folder of the run; `None` writes nothing.
        monitor: Logged quantity that names the best epoch.
        patience: Epochs without improvement before the training stops.
        examples: Examples of one epoch; speed and memory are then measured, too.
        tensorboard: Write curves and histograms into `folder/tensorboard` (the extra
            `tensorboard`).
        averages: Validate and keep the averages of the optimizer, if it has some;
            `False` where a callback before these does so (or two would).

    Returns:
        Callbacks for `model.fit(..., callbacks=...)`.
    """
    callbacks = [
        *([AveragedWeights()] if averages else []),
        EpochFacts(),
        EarlyStopping(monitor, patience=patience, restore_best_weights=True),
    ]
    if examples is not None:
        callbacks.append(Meter(examples))
    if folder is None:
        return callbacks
    folder = Path(folder)
    if tensorboard:
        callbacks.append(TensorBoard(folder / "tensorboard"))
    return [
        *callbacks,
        BestCheckpoint(folder / CHECKPOINT_FILE, monitor=monitor),
        HistoryFile(folder / HISTORY_FILE),
    ]
