"""The JAX side of `kerasdl.backend`."""

import random
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np


def set_seed(seed: int) -> None:
    """Seed everything that new layers and NumPy draw from.

    Keras seeds initializers and dropout layers from Python's `random`; JAX itself
    holds no generator. Unlike `keras.utils.set_random_seed` this leaves TensorFlow
    unimported. The generator behind unseeded `keras.random` calls has no public
    reset: give those a seed or a `keras.random.SeedGenerator`.

    Args:
        seed: Any integer from 0 to 2**32 - 1.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global one is what must be seeded


def random_state() -> dict[str, np.ndarray]:
    """Return nothing: all that Keras draws on JAX goes by variables."""
    return {}


def set_random_state(state: dict[str, np.ndarray]) -> None:
    """Go on drawing from what `random_state` has returned: nothing."""


def forward(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """Make a quick inference function of a model.

    Every new input shape compiles once, so keep the shapes few. The weights are read
    at each call: training the model further is seen.

    Args:
        model: A built model with one output.

    Returns:
        Function from the model's inputs (an array, or a dict or tuple of arrays) to its
        float32 output as a NumPy array.
    """

    @jax.jit
    def apply(trainable, non_trainable, inputs):
        outputs, _ = model.stateless_call(
            trainable, non_trainable, inputs, training=False
        )
        return outputs

    def call(inputs):
        trainable = [variable.value for variable in model.trainable_variables]
        fixed = [variable.value for variable in model.non_trainable_variables]
        return np.asarray(apply(trainable, fixed, inputs), dtype="float32")

    return call


def input_gradients(
    model: keras.Model,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Make a quick function of how a model's output changes with its input.

    In inference mode; the model's state stays as it is. Every new input shape compiles
    once. The weights are read at each call: training the model further is seen.

    Args:
        model: A built functional model with one float input and one output.

    Returns:
        Function from an input and an array like the output, both NumPy arrays, to the
        gradient of the sum of their products, output times array, with respect to the
        input: float32 like the input.
    """

    @jax.jit
    def apply(trainable, fixed, inputs, weights):
        def outputs_of(inputs):
            return model.stateless_call(trainable, fixed, inputs, training=False)[0]

        outputs, pull_back = jax.vjp(outputs_of, inputs)
        (gradient,) = pull_back(weights.astype(outputs.dtype))
        return gradient

    def call(inputs, weights):
        trainable = [variable.value for variable in model.trainable_variables]
        fixed = [variable.value for variable in model.non_trainable_variables]
        return np.asarray(apply(trainable, fixed, inputs, weights), dtype="float32")

    return call


def check_attention(dtype: str) -> None:
    """Refuse attention that JAX cannot compute where it runs.

    Raises:
        ValueError: If the numbers are float16 and there is no accelerator.
    """
    if dtype == "float16" and jax.default_backend() == "cpu":
        raise ValueError(
            "dtype='float16': JAX computes no attention in float16 on a CPU; use the "
            "policy mixed_bfloat16, or TensorFlow or torch"
        )


def recurrent(layer, sequences, initial_state, mask, training) -> None:
    """Return None: on JAX Keras's own loop is a compiled `scan`."""
