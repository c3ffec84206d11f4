"""Curves, histograms and plots for TensorBoard, on every backend.

Keras's callback of this name writes through TensorFlow, whatever the backend; this one
writes the same files with tensorboardX, which needs neither TensorFlow nor PyTorch.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from kerasdl.absent import absent
from kerasdl.callbacks.meter import Meter
from kerasdl.data.pixels import read_image
from kerasdl.errors import InputError

EXTRA = "pip install 'kerasdl[tensorboard]'"
# What tensorboardX imports, if it can, for kinds of data that are not written here.
UNUSED = ("tensorflow", "torch", "matplotlib", "boto3", "moviepy")
TRAINING, VALIDATION = "training", "validation"


class TensorBoard(keras.callbacks.Callback):
    """Write curves after each epoch, and histograms of the weights.

    A metric has one chart with a curve for training and one for validation. Show them
    with `tensorboard --logdir FOLDER`. A resumed training adds to the same curves.

    Args:
        folder: Where the files go; made if it is not there.
        histograms_every: Epochs between histograms of the weights; 0 for none.
        meter: A meter before it whose figures are drawn, though the logs lack them.

    Raises:
        InputError: If the extra `tensorboard` is not installed.

    Example:
        >>> board = TensorBoard("runs/mine/tensorboard")  # doctest: +SKIP
        >>> model.fit(x, y, callbacks=[board])  # doctest: +SKIP
        >>> board.add_plots("runs/mine/plots")  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        histograms_every: int = 1,
        meter: Meter | None = None,
    ):
        super().__init__()
        self.meter = meter
        self.folder = Path(folder)
        self.histograms_every = histograms_every
        self._make = _summary_writer()
        self._writers = {}

    def on_epoch_end(self, epoch, logs=None):
        measured = self.meter.figures if self.meter else {}
        for name, value in {**(logs or {}), **measured}.items():
            part = VALIDATION if name.startswith("val_") else TRAINING
            title = f"epoch/{name.removeprefix('val_')}"
            self._writer(part).add_scalar(title, float(value), epoch + 1)
        if self.histograms_every and (epoch + 1) % self.histograms_every == 0:
            self._add_histograms(epoch + 1)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        self.close()

    def add_plots(self, folder: str | Path, *, epoch: int = 0) -> None:
        """Add the plots of a finished run.

        Args:
            folder: Folder of PNG files, `plots/` of a run.
            epoch: Epoch under which they stand.
        """
        for path in sorted(Path(folder).glob("*.png")):
            pixels = read_image(path)
            self._writer(TRAINING).add_image(
                f"plots/{path.stem}", pixels, epoch, dataformats="HWC"
            )
        self.close()

    def close(self) -> None:
        """Write what is left, and close the files."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _add_histograms(self, epoch: int) -> None:
        for name, values in _finite(self.model).items():
            self._writer(TRAINING).add_histogram(f"weights/{name}", values, epoch)

    def _writer(self, part: str):
        if part not in self._writers:
            # tensorboardX names a file by the second, and would write over it.
            suffix = f".{secrets.token_hex(4)}"
            with absent(*UNUSED):
                self._writers[part] = self._make(
                    str(self.folder / part), filename_suffix=suffix
                )
        return self._writers[part]


def _finite(model: keras.Model) -> Mapping[str, np.ndarray]:
    """Return the numbers of each weight; those that are none have no histogram."""
    arrays = {
        weight.path: keras.ops.convert_to_numpy(weight.value).astype("float32")
        for weight in model.trainable_weights
    }
    arrays = {name: array[np.isfinite(array)] for name, array in arrays.items()}
    return {name: array for name, array in arrays.items() if array.size}


def _summary_writer() -> type:
    try:
        with absent(*UNUSED):
            from tensorboardX import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InputError(f"TensorBoard needs tensorboardX; run {EXTRA}") from error
    return SummaryWriter
