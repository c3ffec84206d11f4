"""Layers through PyTorch's own kernels, in the layout that Keras has.

Keras adds a bias in a pass of its own, copies images twice at each convolution and
pooling, from channels last to first and back, and composes batch norms from a dozen
operations. PyTorch reads channels last as it is, and has one kernel for a norm.
"""

import keras
import torch
from torch.nn import functional

# So many save more in three products of matrices than a copy of one of them costs.
MANY_ROWS = 4096
HALVES = torch.bfloat16, torch.float16
CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def fused(layer, inputs, training=None) -> torch.Tensor | None:
    """Compute what a layer returns before its activation.

    Args:
        layer: A built layer of Keras; `DepthwiseConv2D` is left to Keras, which is as
            quick.
        inputs: Tensor with the channels in its last axis.
        training: Whether a norm has its statistics from the batch.

    Returns:
        The outputs; `None` where Keras must compute them.
    """
    if isinstance(layer, keras.layers.Dense):
        weight = _weight(_tensor(layer.kernel), inputs)
        return functional.linear(inputs, weight, _tensor(layer.bias))
    if isinstance(layer, keras.layers.BatchNormalization):
        return _batch_norm(layer, inputs, training)
    if isinstance(layer, keras.layers.MaxPooling2D):
        return _max_pooling(layer, inputs)
    if isinstance(layer, keras.layers.Conv2D):
        return _convolution(layer, inputs)
    return None


def attention(query, key, value, mask=None) -> torch.Tensor:
    """Attend by PyTorch's kernel on the tensors as they lie; Keras copies them first.

    Args:
        query: Queries `(batch, length, heads, width)`.
        key: Keys, likewise.
        value: Values, likewise.
        mask: Boolean, True where a query may look; `(batch, heads, length, length)`, or
            1 for what it does not hang on. Each query must see something.

    Returns:
        The mixed values, shaped like the queries.
    """
    parts = [part.transpose(1, 2) for part in (query, key, value)]
    if query.device.type == "cpu" and query.dtype in HALVES:
        # On processors the kernel's gradient is several times as slow in 16 bits.
        parts = [part.float() for part in parts]
    mixed = functional.scaled_dot_product_attention(*parts, attn_mask=mask)
    return mixed.transpose(1, 2).to(query.dtype)


def lay_out(kernel: keras.Variable) -> None:
    """Let the kernel of a convolution lie in memory as PyTorch reads it.

    Each step would otherwise copy it, and its gradient back. The shape stays.

    Args:
        kernel: Variable `(height, width, channels, filters)`, just made.
    """
    value = kernel._value  # whatever precision its layer computes in
    if value is not None:  # as it is where only shapes are asked for
        value.data = _as_read(value.data).permute(2, 3, 1, 0)


def _as_read(kernel):
    """Return a kernel as `(filters, channels, height, width)`, channels last."""
    return kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)


def _tensor(variable) -> torch.Tensor | None:
    """Return the value of a variable, in the precision that the layer computes in."""
    return None if variable is None else keras.ops.convert_to_tensor(variable)


def _weight(kernel, inputs):
    """Return the kernel of a dense layer as PyTorch's own lies, where a copy pays.

    Of many rows the products are quicker so. The gradient is quicker with the larger of
    both sizes first, which it has without a copy where a layer narrows.
    """
    weight = kernel.T
    units, width = weight.shape
    is_worth_a_copy = units >= width and inputs.shape[:-1].numel() >= MANY_ROWS
    return weight.contiguous() if is_worth_a_copy else weight


def _convolution(layer, inputs):
    padding = _padding(layer, inputs, layer.kernel_size, layer.dilation_rate)
    if padding is None:
        return None
    kernel = _tensor(layer.kernel)
    if tuple(layer.kernel_size) == (1, 1) and max(layer.strides) > 1:
        if layer.groups > 1:
            return None
        # For some sizes the gradient of PyTorch 2.13's own writes past the end of its
        # memory; in layers of Keras's own, as those of KerasHub, it still does.
        pixels = inputs[:, :: layer.strides[0], :: layer.strides[1]]
        return functional.linear(pixels, kernel[0, 0].T, _tensor(layer.bias))
    outputs = functional.conv2d(
        inputs.permute(CHANNELS_FIRST),
        _as_read(kernel),
        _tensor(layer.bias),
        layer.strides,
        padding,
        layer.dilation_rate,
        layer.groups,
    )
    return outputs.permute(CHANNELS_LAST)


def _max_pooling(layer, inputs):
    padding = _padding(layer, inputs, layer.pool_size)
    if padding is None or inputs.is_meta:
        return None
    outputs = functional.max_pool2d(
        inputs.permute(CHANNELS_FIRST), layer.pool_size, layer.strides, padding
    )
    return outputs.permute(CHANNELS_LAST)


def _padding(layer, inputs, sizes, dilations=(1, 1)) -> list[int] | None:
    """Return what a layer adds on each side of height and width, if it is the same."""
    if layer.data_format != "channels_last":
        return None
    if layer.padding == "valid":
        return [0, 0]
    totals = []
    for axis in range(2):
        length, stride = inputs.shape[1 + axis], layer.strides[axis]
        reach = (sizes[axis] - 1) * dilations[axis] + 1
        totals.append(max((-(-length // stride) - 1) * stride + reach - length, 0))
    return None if any(total % 2 for total in totals) else [t // 2 for t in totals]


def _batch_norm(layer, inputs, training):
    is_last = layer.axis in (-1, inputs.ndim - 1)
    is_float16 = inputs.dtype == torch.float16
    is_shared = "_moments" in vars(layer)  # by several processes
    if not is_last or layer.renorm or is_float16 or is_shared:
        return None
    scale = layer.gamma.value if layer.scale else None
    offset = layer.beta.value if layer.center else None
    channels_first = inputs.movedim(-1, 1)
    if not (training and layer.trainable):
        statistics = layer.moving_mean.value, layer.moving_variance.value
        outputs = functional.batch_norm(
            channels_first, *statistics, scale, offset, eps=layer.epsilon
        )
        return outputs.movedim(1, -1)
    # Not of PyTorch the moving statistics: their variance is that of n - 1.
    outputs, mean, deviation = torch.native_batch_norm(
        channels_first, scale, offset, None, None,
        training=True, momentum=0.0, eps=layer.epsilon,
    )  # fmt: skip
    with torch.no_grad():
        variance = deviation.pow(-2) - layer.epsilon
        for moving, now in (
            (layer.moving_mean, mean),
            (layer.moving_variance, variance),
        ):
            moving.assign(moving * layer.momentum + now * (1.0 - layer.momentum))
    return outputs.movedim(1, -1)
