"""Train a small model on some devices, for tests that start it as a process.

    python tests/replicas.py MODEL DEVICES OUT

On torch it is one of the processes of `kerasdl launch`. The chief writes the loss of
every step, the history and the sum of the weights to OUT as JSON.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasdl
from kerasdl import backend
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.steps import set_training_step

# Five batches an epoch: the last one, of 5 examples or of 1, divides among none.
COUNTS = {"even": 40, "uneven": 37, "one": 33}


def images(count: int):
    """Return images with labels."""
    random = np.random.default_rng(0)
    x = random.normal(size=(count, 8, 8, 3)).astype("float32")
    return {"image": Dense(x)}, random.integers(0, 3, count)


def tokens(count: int):
    """Return texts as tokens, with labels; 0 is padding."""
    random = np.random.default_rng(0)
    x = random.integers(1, 50, (count, 12)).astype("int32")
    x[np.arange(12) >= random.integers(4, 13, (count, 1))] = 0
    return {"tokens": Dense(x)}, random.integers(0, 2, count)


def mlp(**options):
    """Build a network without anything that looks at a whole batch."""
    return kerasdl.mlp((8, 8, 3), 3, hidden=(16,), **options)


def resnet(**options):
    """Build a network with batch norms."""
    return kerasdl.resnet((8, 8, 3), 3, variant="resnet20", **options)


def transformer(**options):
    """Build a network with attention, masks and a table."""
    options = {**options, "optimizer": "adam", "learning_rate": 1e-3}
    return kerasdl.transformer_classifier(
        50, 2, width=16, depth=1, dropout=0.0, **options
    )


def clipped(**options):
    """Build a network whose gradients are clipped."""
    optimizer = keras.optimizers.SGD(0.05, global_clipnorm=0.1)
    return mlp(**{**options, "optimizer": optimizer})


def accumulated(**options):
    """Build a network that is trained in micro-batches."""
    model = mlp(**options)
    set_training_step(model, micro_batches=2)
    return model


MODELS = {
    "mlp": (mlp, images),
    "clipped": (clipped, images),
    "accumulated": (accumulated, images),
    "resnet": (resnet, images),
    "transformer": (transformer, tokens),
}


def main(model: str, devices: str, count: str, out: str, strategy: str = "auto"):
    """Train, and write what happened."""
    build, data = MODELS[model]
    number = None if "RANK" in os.environ else int(devices)
    with kerasdl.distribute(strategy, devices=number) as distribution:
        backend.set_seed(0)
        inputs, labels = data(COUNTS[count])
        training = BatchSource(inputs, labels, batch_size=8, seed=0)
        validation = BatchSource(inputs, labels, batch_size=8)
        network = build(optimizer="sgd", learning_rate=0.02)
        distribution.share(network, training, validation)
        losses = []
        history = network.fit(
            training,
            validation_data=validation,
            epochs=2,
            verbose=0,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_train_batch_end=lambda batch, logs: losses.append(  # noqa: ARG005
                        logs["loss"]
                    )
                )
            ],
        )
        weights = [float(np.abs(w).sum()) for w in network.get_weights()]
    if distribution.is_chief:
        result = {
            "devices": distribution.devices,
            "losses": losses,
            "history": history.history,
            "weights": weights,
        }
        Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
    backend.replicas.close()
