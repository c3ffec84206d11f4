"""Layers of the image models."""

import keras
import numpy as np
from keras import ops

from kerasdl.initializers import TruncatedNormal
from kerasdl.layers.attention import sinusoids


@keras.saving.register_keras_serializable(package="kerasdl")
class AdaptiveAveragePooling(keras.layers.Layer):
    """Average an image of any size over a fixed number of windows.

    Input `(batch, height, width, channels)`, output `(batch, size, size, channels)`.
    Window `i` of an axis reaches from pixel `floor(i * length / size)` up to, but not
    including, `ceil((i + 1) * length / size)`, as in PyTorch: windows may overlap, and
    an image may be smaller than `size`.

    Keras 3.15 has a layer of this kind too, which returns NaN for some sizes on JAX.

    Args:
        size: Windows along each of the two axes.
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.built = True

    def call(self, image):
        height, width = image.shape[1:3]
        if height == width == self.size:
            return image
        rows, columns = (
            ops.cast(self._windows(length), image.dtype) for length in (height, width)
        )
        pooled = ops.einsum("ih,nhwc->niwc", rows, image)
        return ops.einsum("jw,niwc->nijc", columns, pooled)

    def _windows(self, length):
        """Return the weight of each pixel in each window, `(size, length)`."""
        window, pixel = np.ogrid[: self.size, :length]
        first = window * length // self.size
        end = -(-(window + 1) * length // self.size)
        inside = (first <= pixel) & (pixel < end)
        return inside / inside.sum(axis=1, keepdims=True)

    def compute_output_spec(self, image):
        shape = (image.shape[0], self.size, self.size, image.shape[-1])
        return keras.KerasTensor(shape, image.dtype)

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="kerasdl")
class StochasticDepth(keras.layers.Layer):
    """Drop a residual branch of random examples in training, and scale up the rest.

    Input and output have the same shape, batch first. Also known as DropPath.

    Args:
        rate: Share of the examples that lose the branch, in `[0, 1)`.

    Reference:
        [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382),
        section 3. Differs: scaled in training, so that inference stays as it is.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, branch, training=False):
        if not training or self.rate == 0:
            return branch
        shape = (ops.shape(branch)[0], *[1] * (len(branch.shape) - 1))
        drawn = keras.random.uniform(shape, seed=self.seed_generator)
        kept = ops.cast(drawn >= self.rate, branch.dtype)
        return branch * kept / (1 - self.rate)

    def compute_output_spec(self, branch, training=False):  # noqa: ARG002
        return keras.KerasTensor(branch.shape, branch.dtype)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="kerasdl")
class GridPositions(keras.layers.Layer):
    """Add to each patch of an image the position it has in the grid.

    Input and output are `(batch, height, width, channels)`. The positions are one
    weight `grid` `(height, width, channels)`, fixed ones too, so that
    `resize_positions` fits either kind to another image size.

    Args:
        kind: `"learned"`, or `"sinusoidal"`: fixed, half of the channels waves over the
            rows and half over the columns; the channels must be a multiple of 4.
    """

    def __init__(self, kind: str = "learned", **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def build(self, input_shape):
        learned = self.kind == "learned"
        self.grid = self.add_weight(
            name="grid",
            shape=input_shape[1:],
            initializer=TruncatedNormal(0.02) if learned else _sinusoidal_grid,
            trainable=learned,
        )

    def call(self, x):
        return x + ops.cast(self.grid, x.dtype)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@keras.saving.register_keras_serializable(package="kerasdl")
class ClassToken(keras.layers.Layer):
    """Put a trained vector before a sequence, to gather what the classifier needs.

    Input `(batch, length, width)`, output `(batch, 1 + length, width)`.

    Args:
        has_position: Whether a second vector, its position, is added to it. It adds
            nothing a trained vector could not be by itself; published weights have it.
    """

    def __init__(self, *, has_position: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.has_position = has_position

    def build(self, input_shape):
        shape = (1, 1, input_shape[-1])
        self.token = self._add_vector("token", shape)
        self.position = self._add_vector("position", shape) if self.has_position else 0

    def call(self, x):
        token = ops.cast(self.token + self.position, x.dtype)
        token = ops.broadcast_to(token, (ops.shape(x)[0], *token.shape[1:]))
        return ops.concatenate([token, x], axis=1)

    def compute_output_spec(self, x):
        batch, length, width = x.shape
        return keras.KerasTensor((batch, length + 1, width), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "has_position": self.has_position}

    def _add_vector(self, name, shape):
        return self.add_weight(
            name=name, shape=shape, initializer=TruncatedNormal(0.02)
        )


def resize_positions(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate the weight of `GridPositions` for images of another size.

    Cubic splines through the values, the centre of a patch being its place: of an image
    enlarged twice, two patches share the place of one.

    Args:
        grid: Positions `(height, width, channels)`.
        size: New height and width, in patches.

    Returns:
        Positions `(*size, channels)` float32, the same on every backend.
    """
    # Here, because most models need no SciPy to be loaded.
    from scipy import ndimage  # noqa: PLC0415

    zoom = (size[0] / grid.shape[0], size[1] / grid.shape[1], 1)
    return ndimage.zoom(
        np.asarray(grid, "float32"), zoom, order=3, mode="nearest", grid_mode=True
    )


def _sinusoidal_grid(shape, dtype=None):
    height, width, channels = shape
    rows = sinusoids(height, channels // 2)[:, None]
    columns = sinusoids(width, channels // 2)[None]
    half = (height, width, channels // 2)
    grid = [ops.broadcast_to(part, half) for part in (rows, columns)]
    return ops.cast(ops.concatenate(grid, axis=-1), dtype)
