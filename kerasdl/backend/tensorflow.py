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


def random_state() -> dict[str, np.ndarray]:
    """Return nothing: all that Keras draws on TensorFlow goes by variables."""
    return {}


def set_random_state(state: dict[str, np.ndarray]) -> None:
    """Go on drawing from what `random_state` has returned: nothing."""


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


def input_gradients(
    model: keras.Model,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Make a quick function of how a model's output changes with its input.

    In inference mode; the model's state stays as it is. The weights are read at each
    call: training the model further is seen.

    Args:
        model: A built functional model with one float input and one output.

    Returns:
        Function from an input and an array like the output, both NumPy arrays, to the
        gradient of the sum of their products, output times array, with respect to the
        input: float32 like the input.
    """
    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype)
        for tensor in (model.inputs[0], model.outputs[0])
    ]

    @tf.function(input_signature=specs, autograph=False)
    def apply(inputs, weights):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            outputs = model(inputs, training=False)
        return tape.gradient(
            outputs,
            inputs,
            output_gradients=weights,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def call(inputs, weights):
        return np.asarray(apply(inputs, weights), dtype="float32")

    return call


def check_attention(dtype: str) -> None:
    """Refuse nothing: TensorFlow computes attention in every floating-point type."""


def recurrent(layer, sequences, initial_state, mask, training) -> None:
    """Return None: on TensorFlow Keras's own loop is a compiled `while_loop`."""
