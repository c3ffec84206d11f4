"""Multilayer perceptrons (Rumelhart et al. 1986) for rows of numbers."""

import math

import keras
import numpy as np
from keras import layers

from kerasdl.blocks import batch_norm
from kerasdl.checks import (
    check_activation,
    check_choice,
    check_outputs,
    check_rates,
    check_sequences,
    check_shape,
    is_number,
)
from kerasdl.layers import Dense, Standardize
from kerasdl.tasks import Optimizer, Rate, compile_classifier, compile_regressor

NORMS = ("batch", "layer")
# Activations whose negative half (nearly) vanishes want twice the variance (He et al.
# 2015, section 2.2), SELU exactly one (Klambauer et al. 2017); tanh, sigmoid and the
# rest take Glorot's compromise.
INITIALIZERS = {
    **dict.fromkeys(
        ("celu", "elu", "gelu", "leaky_relu", "mish", "relu", "relu6", "silu", "swish"),
        "he_normal",
    ),
    "selu": "lecun_normal",
}


def mlp(
    input_shape: tuple[int, ...] = (16,),
    num_classes: int = 2,
    *,
    num_outputs: int | None = None,
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "relu",
    norm: str | None = None,
    dropout: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    standardize: bool = False,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "mlp",
) -> keras.Model:
    """Build a compiled multilayer perceptron, a classifier or a regressor.

    Each hidden layer is Dense → norm → activation → dropout. Inputs of more than one
    axis are flattened.

    Args:
        input_shape: Shape of one example, features last.
        num_classes: Number of classes, i.e. logits, of a classifier.
        num_outputs: Number of predicted values; makes the model a regressor.
        hidden: Units of each hidden layer, from the first to the last.
        activation: Keras activation; the kernels start as suits it (He, LeCun, Glorot).
        norm: `None`, `"batch"` or `"layer"`.
        dropout: Drop rate after each hidden layer, in `[0, 1)`.
        l1: Weight in the loss of the sum of the kernels' absolute values.
        l2: Weight in the loss of the sum of the kernels' squares.
        standardize: Start with the layer `standardize`, whose `adapt(array)` takes mean
            and deviation of each feature from training data.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `features` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`, or to float32 values `(batch, num_outputs)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> mlp((30,), 3, activation="gelu", norm="layer").output_shape
        (None, 3)
        >>> mlp((30,), num_outputs=1).output_shape
        (None, 1)

    Reference:
        [Learning representations by back-propagating
        errors](https://doi.org/10.1038/323533a0).
    """
    check_shape(input_shape, ["features"] * max(1, np.size(input_shape)))
    check_outputs(num_classes, num_outputs)
    check_sequences(hidden=hidden)
    check_activation(activation)
    if norm is not None:
        check_choice("norm", norm, NORMS)
    check_rates(dropout=dropout)
    _check_penalties(l1=l1, l2=l2)

    features = keras.Input(tuple(input_shape), name="features")
    x = features
    if standardize:
        # Before any rounding to half precision.
        x = Standardize(dtype="float32", name="standardize")(x)
    if len(input_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(hidden, start=1):
        x = Dense(
            units,
            use_bias=norm != "batch",  # which has a bias of its own
            kernel_initializer=INITIALIZERS.get(activation, "glorot_uniform"),
            kernel_regularizer=_penalty(l1, l2),
            name=f"hidden{i}_dense",
        )(x)
        x = _normalise(x, norm, name=f"hidden{i}_norm")
        x = layers.Activation(activation, name=f"hidden{i}_activation")(x)
        x = layers.Dropout(dropout, name=f"hidden{i}_dropout")(x)
    outputs = Dense(
        int(num_outputs or num_classes),
        kernel_regularizer=_penalty(l1, l2),
        dtype="float32",
        name="outputs" if num_outputs else "logits",
    )(x)

    model = keras.Model(features, outputs, name=name)
    compile_model = compile_regressor if num_outputs else compile_classifier
    return compile_model(model, optimizer=optimizer, learning_rate=learning_rate)


def _normalise(x, norm, *, name):
    if norm == "batch":
        return batch_norm(x, name=name)
    if norm == "layer":
        return layers.LayerNormalization(epsilon=1e-6, name=name)(x)
    return x


def _penalty(l1, l2):
    return keras.regularizers.L1L2(float(l1), float(l2)) if l1 or l2 else None


def _check_penalties(**penalties) -> None:
    for name, value in penalties.items():
        if not is_number(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r}; expected a number of at least 0")
