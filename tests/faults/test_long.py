"""Row 14 of the table of faults: many epochs, and many resumes, in one process."""

import gc
import io
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from recording import EPOCHS, RESUMES, record
from rich.console import Console

from kerasdl import backend
from kerasdl.callbacks import Checkpoint, standard_callbacks
from kerasdl.data.batches import BatchSource, Dense

pytestmark = pytest.mark.faults

# Of these, the history that `fit` returns takes about 1,400 bytes.
BYTES_PER_EPOCH = 4_000
BYTES_PER_RESUME = 100_000
READINGS = 50


def resident() -> int:
    """Return the memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Memory(keras.callbacks.Callback):
    """Read the memory now and then."""

    def __init__(self, every):
        super().__init__()
        self.every = every
        self.readings = []

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self.every == 0:
            self.read(epoch)

    def read(self, count):
        gc.collect()
        self.readings.append((count, resident()))

    def slope(self) -> float:
        """Return bytes for each more, once everything is warm."""
        counts, sizes = np.array(self.readings[len(self.readings) // 5 :]).T
        return float(np.polyfit(counts, sizes, 1)[0])


def train(folder, epochs, memory=None):
    """Train a model of one layer on two batches, or go on."""
    keras.utils.clear_session(free_memory=False)
    backend.set_seed(0)
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.layers.Dense(1)(x))
    model.compile("sgd", "mean_squared_error")
    data = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    source = BatchSource({"x": Dense(data)}, data[:, 0], batch_size=8, seed=0)
    others = standard_callbacks(folder, patience=epochs)
    checkpoint = Checkpoint(
        folder / "checkpoints",
        callbacks=others,
        source=source,
        console=Console(file=io.StringIO()),
    )
    history = model.fit(
        source,
        validation_data=(data, data[:, 1]),
        initial_epoch=checkpoint.initial_epoch,
        epochs=epochs,
        callbacks=[*others, checkpoint, *([memory] if memory else [])],
        verbose=0,
    )
    assert len(history.history["loss"]) == epochs


def check_folder(folder, epochs):
    """Check that no more lies there than four checkpoints and their history need."""
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(names) <= 5  # the last three, the best, and its weights
    assert len((folder / "history.csv").read_text().splitlines()) == epochs + 1
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_ten_thousand_epochs(tmp_path):
    memory = Memory(max(EPOCHS // READINGS, 1))
    train(tmp_path, EPOCHS, memory)
    size = check_folder(tmp_path, EPOCHS)
    # Each checkpoint holds the history twice, as numbers of eight bytes.
    assert size < 50_000 + 1_000 * EPOCHS
    slope = memory.slope()
    record(
        "14 epochs",
        EPOCHS,
        bytes_per_epoch=round(slope),
        bound=BYTES_PER_EPOCH,
        folder_bytes=size,
    )
    assert slope < BYTES_PER_EPOCH


def test_a_thousand_resumes(tmp_path):
    memory = Memory(0)
    for number in range(1, RESUMES + 1):
        train(tmp_path, number)
        if number % max(RESUMES // READINGS, 1) == 0:
            memory.read(number)
    size = check_folder(tmp_path, RESUMES)
    assert size < 50_000 + 1_000 * RESUMES
    slope = memory.slope()
    record(
        "14 resumes",
        RESUMES,
        bytes_per_resume=round(slope),
        bound=BYTES_PER_RESUME,
        folder_bytes=size,
    )
    assert slope < BYTES_PER_RESUME
