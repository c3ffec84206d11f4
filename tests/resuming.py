"""A tiny training that can be killed and resumed, and what it leaves."""

import csv
import io

import keras
import numpy as np
from rich.console import Console

from kerasdl import backend
from kerasdl.callbacks import Checkpoint, standard_callbacks
from kerasdl.data.batches import BatchSource, Dense

COUNT, BATCH_SIZE = 50, 8
STEPS = -(-COUNT // BATCH_SIZE)


class Killed(BaseException):
    """The end, as if by `kill -9`: nothing more is written."""


class Kill(keras.callbacks.Callback):
    """Fail after a number of steps, once the save before is on disk."""

    def __init__(self, step, checkpoint):
        super().__init__()
        self.step = step
        self.checkpoint = checkpoint
        self.seen = 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.step:
            self.checkpoint._writer.flush()
            raise Killed


def tiny_model(dropout=0.3):
    x = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    hidden = keras.layers.Dropout(dropout, name="dropout")(hidden)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    model = keras.Model(x, keras.layers.Dense(3, name="logits")(hidden), name="tiny")
    rate = keras.optimizers.schedules.CosineDecay(0.1, 40)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def tiny_data():
    x = np.random.default_rng(0).normal(size=(COUNT, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32") + (x[:, 1] > 1)


def sources():
    x, y = tiny_data()
    return (
        BatchSource({"x": Dense(x)}, y, batch_size=BATCH_SIZE, seed=1),
        BatchSource({"x": Dense(x)}, y, batch_size=16),
    )


def run(
    folder,
    *,
    kill=None,
    epochs=3,
    every_steps=1,
    before=(),
    out=None,
    initial_epoch=None,
    **options,
):
    """Train, or go on; return what was left, or `None` if it was killed."""
    keras.utils.clear_session(free_memory=False)
    backend.set_seed(0)
    model, (training, validation) = tiny_model(), sources()
    folder.mkdir(exist_ok=True)
    others = [*before, *standard_callbacks(folder, patience=options.pop("patience", 9))]
    checkpoint = Checkpoint(
        folder / "checkpoints",
        callbacks=others,
        source=training,
        every_steps=every_steps,
        console=Console(file=out or io.StringIO(), width=999),
        **options,
    )
    callbacks = [*others, checkpoint]
    if kill is not None:
        callbacks.append(Kill(kill, checkpoint))
    try:
        history = model.fit(
            training,
            validation_data=validation,
            epochs=epochs,
            initial_epoch=initial_epoch
            if initial_epoch is not None
            else checkpoint.initial_epoch,
            callbacks=callbacks,
            verbose=0,
        )
    except Killed:
        return None
    finally:
        checkpoint._stop.release()
    return left(folder, model, history)


def left(folder, model, history) -> dict:
    """Return all that a training leaves, times apart."""
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    logs = {name: v for name, v in history.history.items() if name != "seconds"}
    variables = [*model.variables, *model.optimizer.variables]
    return {
        "variables": [keras.ops.convert_to_numpy(v.value).tobytes() for v in variables],
        "history": logs,
        "file": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        "best": (folder / "checkpoints" / "best.safetensors").read_bytes(),
    }
