"""Attention over sequences, and the positions it needs."""

import keras
import numpy as np
from keras import ops

from kerasdl import backend
from kerasdl.layers.fused import Dense


@keras.saving.register_keras_serializable(package="kerasdl")
class PositionEmbedding(keras.layers.Layer):
    """Add sinusoidal or learned positions to a sequence.

    Args:
        kind: `"sinusoidal"` (Vaswani et al. 2017, section 3.5) or `"learned"`.
        max_length: Number of learned positions; later ones share the last.
    """

    def __init__(self, kind: str = "sinusoidal", *, max_length: int = 512, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.max_length = max_length

    def build(self, input_shape):
        if self.kind == "learned":
            self.table = self.add_weight(
                name="table",
                shape=(self.max_length, input_shape[-1]),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )

    def call(self, x):
        length, width = ops.shape(x)[1], x.shape[-1]
        if self.kind == "learned":
            places = ops.minimum(ops.arange(length), self.max_length - 1)
            return x + ops.take(self.table, places, axis=0)
        return x + ops.cast(sinusoids(length, width), x.dtype)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def get_config(self):
        config = {"kind": self.kind, "max_length": self.max_length}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="kerasdl")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention, through the backend's fused kernels.

    Input `(batch, length, width)`, and where there is padding the mask of the real
    positions `(batch, length)`; output like the input.

    Args:
        num_heads: Heads; must divide the width.
        rotary: Rotate queries and keys by position (Su et al. 2021, section 3.4.2).
        qkv_bias: Whether queries, keys and values have a bias.
        kernel_initializer: Keras initializer of both kernels, or its name.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        rotary: bool = False,
        qkv_bias: bool = True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.rotary = rotary
        self.qkv_bias = qkv_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        backend.check_attention(self.compute_dtype)
        width = input_shape[-1]
        self.qkv = self._dense(3 * width, use_bias=self.qkv_bias, name="qkv")
        self.qkv.build(input_shape)
        self.out = self._dense(width, name="out")
        self.out.build(input_shape)

    def call(self, x, padding_mask=None):
        # B batch, L length, H heads, D width of a head.
        batch, length, width = ops.shape(x)[0], ops.shape(x)[1], x.shape[-1]
        heads = (batch, length, self.num_heads, width // self.num_heads)
        query, key, value = (
            ops.reshape(part, heads)  # BLHD
            for part in ops.split(self.qkv(x), 3, axis=-1)
        )
        if self.rotary:
            query, key = _rotate(query), _rotate(key)
        if padding_mask is not None:
            # A text without tokens would attend to nothing at all, which is NaN.
            visible = ops.logical_or(padding_mask, ops.arange(length) == 0)
            padding_mask = visible[:, None, None, :]
        mixed = backend.attention(query, key, value, padding_mask)
        return self.out(ops.reshape(mixed, (batch, length, width)))

    def compute_output_spec(self, x, padding_mask=None):  # noqa: ARG002
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self):
        config = {
            "num_heads": self.num_heads,
            "rotary": self.rotary,
            "qkv_bias": self.qkv_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **config}

    def _dense(self, units, **options):
        return Dense(
            units,
            # A copy draws numbers of its own.
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            **options,
        )


def sinusoids(length, width):
    """Return the sinusoidal positions `(length, width)`, sines before cosines."""
    angles = _position_angles(length, width)
    waves = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
    return waves[:, :width]


def _position_angles(length, width):
    """Angles `(length, ceil(width / 2))` of wavelengths from 2π to 10000·2π."""
    pairs = (width + 1) // 2
    frequency = ops.exp(ops.arange(pairs, dtype="float32") * (-np.log(1e4) / pairs))
    return ops.arange(length, dtype="float32")[:, None] * frequency


def _rotate(x):
    """Rotate the two halves of each head's vector by the angle of its position."""
    first, second = ops.split(x, 2, axis=-1)  # BLHD/2
    angles = _position_angles(ops.shape(x)[1], x.shape[-1])[:, None, :]
    cos, sin = ops.cast(ops.cos(angles), x.dtype), ops.cast(ops.sin(angles), x.dtype)
    return ops.concatenate(
        [first * cos - second * sin, first * sin + second * cos], axis=-1
    )
