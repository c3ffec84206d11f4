"""Layers on a processor, in forms whose gradients XLA is quick at.

It computes a convolution well, but the gradient of its kernel as one whose window is
the whole image, the gradient of a maximum over windows by looking for it again, and
convolutions of single channels one number after the other.
"""

import functools
import math

import jax
import jax.numpy as jnp
import keras

# What a processor core keeps near itself, of images and of gradients together.
NEAR_BYTES = 2e6
CONVOLUTIONS = keras.layers.Conv2D, keras.layers.DepthwiseConv2D
# Pixels of a kernel; every one is a piece of the program that is compiled.
MOST_SHIFTS = 49


def fused(layer, inputs, training=None) -> jax.Array | None:  # noqa: ARG001
    """Compute what a layer returns before its activation.

    Args:
        layer: A built layer of Keras that a backend may be quicker at.
        inputs: Its inputs.
        training: Whether they are trained on.

    Returns:
        The outputs; `None` where Keras must compute them: JAX fuses what it calls.
    """
    if isinstance(layer, keras.layers.MaxPooling2D):
        return _max_pooling(layer, inputs)
    if not isinstance(layer, CONVOLUTIONS) or not _is_plain(layer, inputs):
        return None
    kernel, strides = keras.ops.convert_to_tensor(layer.kernel), tuple(layer.strides)
    padding = jax.lax.padtype_to_pads(
        inputs.shape[1:3], layer.kernel_size, strides, layer.padding.upper()
    )
    if min(_sides(inputs, kernel, strides, padding)) < 1:
        return None
    convolve = _convolution
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        convolve = _depthwise_convolution
    outputs = convolve(inputs, kernel, strides, tuple(padding))
    bias = layer.bias
    return outputs if bias is None else outputs + keras.ops.convert_to_tensor(bias)


def lay_out(kernel: keras.Variable) -> None:
    """Leave the kernel of a convolution as it lies: XLA lays arrays out itself."""


def _is_plain(layer, inputs) -> bool:
    """Say whether a convolution is computed here.

    In bfloat16 the sums would be rounded on the way, and over several devices a group
    of images would have to be gathered.
    """
    is_one = jax.default_backend() == "cpu" and jax.device_count() == 1
    is_last = layer.data_format == "channels_last"
    is_dense = tuple(layer.dilation_rate) == (1, 1)
    is_whole = getattr(layer, "groups", 1) == getattr(layer, "depth_multiplier", 1) == 1
    is_small = math.prod(layer.kernel_size) <= MOST_SHIFTS
    is_known = all(isinstance(side, int) for side in inputs.shape[1:3])
    is_float32 = inputs.dtype == jnp.float32
    return all((is_one, is_last, is_dense, is_whole, is_small, is_known, is_float32))


def _sides(inputs, kernel, strides, padding) -> list[int]:
    """Return height and width of the outputs."""
    sides = zip(inputs.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    return [
        (side + sum(added) - length) // stride + 1
        for side, length, stride, added in sides
    ]


def _shifted_sum(inputs, kernel, strides, padding):
    """Convolve each channel by itself: a sum of shifted images."""
    rows, columns = _sides(inputs, kernel, strides, padding)
    images = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    height, width = kernel.shape[:2]
    return sum(
        images[:, _steps(i, rows, strides[0]), _steps(j, columns, strides[1])]
        * kernel[i, j, :, 0]
        for i in range(height)
        for j in range(width)
    )


def _depthwise_kernel_gradient(inputs, gradient, shape, strides, padding):
    """Take one row of the kernel at a time, or all shifted images would be in memory.

    Arguments are those of `_kernel_gradient`.
    """
    images = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    (down, across), (rows, columns) = strides, gradient.shape[1:3]

    def of_row(_, first):
        lines = jax.lax.dynamic_slice_in_dim(
            images, first, down * (rows - 1) + 1, axis=1
        )[:, ::down]
        parts = [
            jnp.sum(lines[:, :, _steps(j, columns, across)] * gradient, axis=(0, 1, 2))
            for j in range(shape[1])
        ]
        return None, jnp.stack(parts)

    _, rows_of_kernel = jax.lax.scan(of_row, None, jnp.arange(shape[0]))
    return rows_of_kernel.reshape(shape)


def _steps(first: int, count: int, stride: int) -> slice:
    return slice(first, first + stride * (count - 1) + 1, stride)


def _convolution(inputs, kernel, strides, padding):
    """Convolve, with a gradient of the kernel by products of matrices."""
    if kernel.shape[:2] == (1, 1):
        pixels = inputs[:, :: strides[0], :: strides[1]]
        return jnp.tensordot(pixels, kernel[0, 0], axes=1)
    return _convolved(inputs, kernel, strides, padding)


def _plainly_convolved(inputs, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _kernel_gradient(inputs, gradient, shape, strides, padding):
    """Add up the gradient over groups of images that the processor keeps near.

    Args:
        inputs: Images `(batch, height, width, channels)`.
        gradient: That of the outputs `(batch, rows, columns, filters)`.
        shape: Shape of the kernel.
        strides: Pixels from one output to the next, down and across.
        padding: Pixels before and after, down and across.
    """
    height, width, channels, filters = shape
    count, rows, columns, _ = gradient.shape
    down, across = strides

    def of_group(images, gradient):
        images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
        # Each pixel beside those that the kernel sees together with it.
        lines = jnp.concatenate(
            [images[:, :, _steps(i, columns, across)] for i in range(width)], axis=-1
        )
        gradient = gradient.reshape(-1, filters)
        parts = [
            lines[:, _steps(i, rows, down)].reshape(-1, width * channels).T @ gradient
            for i in range(height)
        ]
        return jnp.stack(parts).reshape(shape)

    size = _group_size(count, (inputs.nbytes + gradient.nbytes) // max(count, 1))
    if size == count:
        return of_group(inputs, gradient)
    groups = [x.reshape(-1, size, *x.shape[1:]) for x in (inputs, gradient)]
    total, _ = jax.lax.scan(
        lambda total, group: (total + of_group(*group), None),
        jnp.zeros(shape, gradient.dtype),
        groups,
    )
    return total


def _group_size(count: int, image_bytes: int) -> int:
    """Return how many images make a group; all groups are equal."""
    most = max(NEAR_BYTES // max(image_bytes, 1), 1)
    if count <= most:
        return count
    return max(size for size in range(1, count) if count % size == 0 and size <= most)


def _with_kernel_gradient(convolve, kernel_gradient):
    """Return a convolution whose gradient of the kernel is computed as given.

    Args:
        convolve: Function of inputs, kernel, strides and padding.
        kernel_gradient: Function with the arguments of `_kernel_gradient`.
    """

    def forward(inputs, kernel, strides, padding):
        return convolve(inputs, kernel, strides, padding), (inputs, kernel)

    def backward(strides, padding, given, gradient):
        inputs, kernel = given
        _, pull_back = jax.vjp(
            lambda inputs: convolve(inputs, kernel, strides, padding), inputs
        )
        return *pull_back(gradient), kernel_gradient(
            inputs, gradient, kernel.shape, strides, padding
        )

    convolution = jax.custom_vjp(convolve, nondiff_argnums=(2, 3))
    convolution.defvjp(forward, backward)
    return convolution


_convolved = _with_kernel_gradient(_plainly_convolved, _kernel_gradient)
_depthwise_convolution = _with_kernel_gradient(_shifted_sum, _depthwise_kernel_gradient)


def _max_pooling(layer, inputs):
    """Compute the maxima of windows one axis after the other.

    Where places of a window are equal, they share the gradient.
    """
    if layer.data_format != "channels_last":
        return None
    windows = zip((1, 2), layer.pool_size, layer.strides, strict=True)
    for axis, size, stride in windows:
        inputs = _windows_maximum(inputs, axis, size, stride, padding=layer.padding)
    return inputs


def _windows_maximum(inputs, axis: int, size: int, stride: int, *, padding: str):
    length = inputs.shape[axis]
    if padding == "same":
        missing = max((-(-length // stride) - 1) * stride + size - length, 0)
        widths = [(0, 0)] * inputs.ndim
        widths[axis] = missing // 2, missing - missing // 2
        inputs = jnp.pad(inputs, widths, constant_values=-jnp.inf)
        length += missing
    last = (length - size) // stride * stride + 1
    places = (
        jax.lax.slice_in_dim(inputs, first, first + last, stride, axis)
        for first in range(size)
    )
    return functools.reduce(jnp.maximum, places)
