"""What tests of many devices do, in processes of their own.

    python tests/replicas.py ACTION DEVICES OUT [ARGUMENT...]

STRATEGY in the environment is that of `distribute`. On torch, and where several
processes are tested, this is one of the processes of `kerasdl launch`. The chief writes
what happened to OUT as JSON.
"""

import io
import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console

import kerasdl
from kerasdl import backend
from kerasdl.callbacks import Checkpoint
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.epochs import run_epochs
from kerasdl.phases import Phases
from kerasdl.recipe import Recipe
from kerasdl.steps import set_training_step

# Batches of 8, of which the last one holds 5, or 1.
UNEVEN, ONE = 21, 17


def images(count: int):
    """Return images with labels."""
    random = np.random.default_rng(0)
    x = random.normal(size=(count, 4, 4, 3)).astype("float32")
    return {"image": Dense(x)}, random.integers(0, 3, count)


def tokens(count: int):
    """Return texts as tokens, with labels; 0 is padding."""
    random = np.random.default_rng(0)
    x = random.integers(1, 50, (count, 12)).astype("int32")
    x[np.arange(12) >= random.integers(4, 13, (count, 1))] = 0
    return {"tokens": Dense(x)}, random.integers(0, 2, count)


def mlp(**options):
    """Build a small network."""
    options = {"optimizer": "sgd", "learning_rate": 0.02, **options}
    return kerasdl.mlp((4, 4, 3), 3, hidden=(16,), **options)


def normed():
    """Build a network that looks at the whole batch."""
    return mlp(norm="batch")


def clipped():
    """Build a network that is trained in micro-batches, and its gradients clipped."""
    model = mlp(optimizer=keras.optimizers.SGD(0.05, global_clipnorm=0.1))
    set_training_step(model, micro_batches=2)
    return model


def transformer():
    """Build a network with attention, masks and a table."""
    options = {"dropout": 0.0, "optimizer": "sgd", "learning_rate": 0.05}
    return kerasdl.transformer_classifier(50, 2, width=8, depth=1, **options)


CASES = {
    "normed": (normed, images, UNEVEN),
    "normed-one": (normed, images, ONE),
    "clipped": (clipped, images, UNEVEN),
    "transformer": (transformer, tokens, UNEVEN),
}


class Losses(keras.callbacks.Callback):
    """Keeps the loss after each step; ends the process of a rank after some."""

    def __init__(self, dying: int | None = None):
        super().__init__()
        self.losses = []
        self.dying = dying

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))
        if len(self.losses) == 4 and os.environ.get("RANK") == str(self.dying):
            os.kill(os.getpid(), signal.SIGKILL)


def fit(distribution, build, data, count: int, *, epochs=2, folder=None, dying=None):
    """Train, perhaps from where another process has ended; return what happened."""
    backend.set_seed(0)
    inputs, labels = data(count)
    training = BatchSource(inputs, labels, batch_size=8, seed=0)
    validation = BatchSource(inputs, labels, batch_size=8)
    model = build()
    distribution.share(model, training, validation)
    callbacks, start = [Losses(dying)], 0
    if folder:
        reads = not distribution.is_chief
        checkpoint = Checkpoint(folder, source=training, is_read_only=reads)
        callbacks, start = [*callbacks, checkpoint], checkpoint.initial_epoch
    history = model.fit(
        training,
        validation_data=validation,
        initial_epoch=start,
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
    )
    return {
        "losses": callbacks[0].losses,
        **history.history,
        "weights": [float(np.abs(w).sum()) for w in model.get_weights()],
    }


def losses(distribution, *names):
    """Train some of the models, each of them by default."""
    return {name: fit(distribution, *CASES[name]) for name in names or CASES}


def resume(distribution, folder, epochs):
    """Go on with a training."""
    case = CASES["normed"]
    return fit(distribution, *case, epochs=int(epochs), folder=folder)


def die(distribution):
    """Train until one of the processes is killed."""
    return fit(distribution, *CASES["normed"], dying=1)


def spoil(distribution, folder):  # noqa: ARG001 - what all actions get
    """Train over a batch whose loss is no number, the chief saving after each step."""
    backend.set_seed(0)
    inputs, labels = images(32)
    validation = BatchSource(inputs, labels, batch_size=8)
    spoilt = inputs["image"].values.copy()
    spoilt[13] *= 1e38
    training = BatchSource({"image": Dense(spoilt)}, labels, batch_size=8, seed=0)
    said = io.StringIO()
    phases = Phases(Path(folder), Console(file=said), saving={"every_steps": 1})
    recipe = Recipe(build="mlp", epochs=2, patience=2)
    phase = phases.phase("training")
    history = run_epochs(mlp(), recipe, training, validation, phase)
    return {"said": said.getvalue(), **history}


def differ(distribution):
    """Ask for another recipe in each process."""
    distribution.agree({"version": "1", "recipe": {"epochs": distribution.rank}})


def main(action: str, devices: str, out: str, *arguments: str):
    """Do something, and write what happened."""
    number = None if "RANK" in os.environ else int(devices)
    strategy = os.environ.get("STRATEGY", "auto")
    with kerasdl.distribute(strategy, devices=number, timeout=60) as distribution:
        result = globals()[action](distribution, *arguments)
    if distribution.is_chief:
        Path(out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (kerasdl.InputError, ConnectionError) as error:
        sys.exit(str(error))
    finally:
        backend.replicas.close()
