"""The TensorFlow side of `kerasdl.backend`."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def set_seed(seed: int) -> None:
    """Seed everything that new layers, NumPy and TensorFlow draw from.

    Args:
        seed: Any integer from 0 to 2**32 - 1.
    """
    keras.utils.set_random_seed(seed)


def forward(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """Make a quick inference function of a model.

    It is traced once, for the shapes of the model's own inputs, and serves all batch
    sizes and lengths. The weights are read at each call: training the model further is
    seen.

    Args:
        model: A built functional model with one output.

    Returns:
        Function from the model's inputs (an array, or a dict or tuple of arrays) to its
        float32 output as a NumPy array.
    """
    specs = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), model.input
    )

    @tf.function(input_signature=[specs], autograph=False)
    def apply(inputs):
        return model(inputs, training=False)

    def call(inputs):
        return np.asarray(apply(inputs), dtype="float32")

    return call


def check_attention(dtype: str) -> None:
    """Refuse nothing: TensorFlow computes attention in every floating-point type."""


def recurrent(layer, sequences, initial_state, mask, training) -> None:
    """Return None: on TensorFlow Keras's own loop is a compiled `while_loop`."""
