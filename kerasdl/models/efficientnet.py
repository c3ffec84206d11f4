"""EfficientNet image classifiers (Tan and Le 2019)."""

import functools
import itertools
import math

import keras
from keras import layers

from kerasdl.blocks import batch_norm, classify, conv, image_input
from kerasdl.checks import (
    check_choice,
    check_classes,
    check_image,
    check_rates,
    is_number,
)
from kerasdl.layers import DepthwiseConv2D, StochasticDepth
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# The authors' batch norm, which torchvision keeps for the large variants only.
AUTHORS_NORM = {"epsilon": 1e-3, "momentum": 0.99}
# variant: (width, depth, drop rate before the logits, batch norm); sections 3.3 and 5.2
# of the paper, the numbers of the authors' code.
VARIANTS = {
    "efficientnet_b0": (1.0, 1.0, 0.2, {}),
    "efficientnet_b1": (1.0, 1.1, 0.2, {}),
    "efficientnet_b2": (1.1, 1.2, 0.3, {}),
    "efficientnet_b3": (1.2, 1.4, 0.3, {}),
    "efficientnet_b4": (1.4, 1.8, 0.4, {}),
    "efficientnet_b5": (1.6, 2.2, 0.4, AUTHORS_NORM),
    "efficientnet_b6": (1.8, 2.6, 0.5, AUTHORS_NORM),
    "efficientnet_b7": (2.0, 3.1, 0.5, AUTHORS_NORM),
}
# Stages of B0: (channels, units, kernel size, strides, expansion); table 1.
STAGES = (
    (16, 1, 3, 1, 1),
    (24, 2, 3, 2, 6),
    (40, 2, 5, 2, 6),
    (80, 3, 3, 2, 6),
    (112, 3, 5, 1, 6),
    (192, 4, 5, 2, 6),
    (320, 1, 3, 1, 6),
)
STEM_WIDTH, HEAD_WIDTH = 32, 1280
WIDTH_MULTIPLE = 8
SQUEEZE = 4


def efficientnet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    variant: str = "efficientnet_b0",
    width: float | None = None,
    depth: float | None = None,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "efficientnet",
) -> keras.Model:
    """Build a compiled EfficientNet classifier.

    The stem and four of the seven stages halve height and width, rounded up, so the
    last feature map is `(batch, ceil(height / 32), ceil(width / 32), channels)`.

    A variant sets width, depth and regularisation; the image size is free. The paper's
    sizes are 224, 240, 260, 300, 380, 456, 528 and 600 pixels for B0 to B7.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels.
        num_classes: Number of classes, i.e. logits per image.
        variant: Scaling preset, a key of `VARIANTS`.
        width: Multiplies B0's channels, then rounded to a multiple of 8, instead of
            the variant's.
        depth: Multiplies B0's units per stage, rounded up, instead of the variant's.
        dropout: Drop rate before the logits, instead of the variant's.
        stochastic_depth: Drop rate of whole residual branches; grows linearly from 0 at
            the first unit to this after the last.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> efficientnet((32, 32, 1), 10, variant="efficientnet_b1").output_shape
        (None, 10)

    Reference:
        [EfficientNet](https://arxiv.org/abs/1905.11946), sections 3 and 4. Differs:
        symmetric padding, as in torchvision. Batch norm has an epsilon of 1e-5 up to
        B4, and of 1e-3 with a momentum of 0.99 from B5 on, as there.
    """
    check_image(input_shape)
    check_classes(num_classes)
    check_choice("variant", variant, VARIANTS)
    row_width, row_depth, row_dropout, norm_options = VARIANTS[variant]
    width = row_width if width is None else width
    depth = row_depth if depth is None else depth
    dropout = row_dropout if dropout is None else dropout
    _check_multipliers(width=width, depth=depth)
    check_rates(dropout=dropout, stochastic_depth=stochastic_depth)

    norm = functools.partial(batch_norm, **norm_options)
    counts = [math.ceil(depth * count) for _, count, *_ in STAGES]
    # Grows with the depth, so it is no list: a stranger's bundle may want 10^18 units.
    rates = (stochastic_depth * i / sum(counts) for i in itertools.count())
    image = image_input(input_shape)
    x = conv(image, _scaled(STEM_WIDTH, width), 3, strides=2, name="stem_conv")
    x = _norm_swish(x, norm, name="stem")
    for i, (row, count) in enumerate(zip(STAGES, counts, strict=True), start=1):
        channels, _, kernel_size, strides, expansion = row
        for j in range(1, count + 1):
            x = _unit(
                x,
                _scaled(channels, width),
                kernel_size,
                strides=strides if j == 1 else 1,
                expansion=expansion,
                rate=next(rates),
                norm=norm,
                name=f"stage{i}_unit{j}",
            )
    x = conv(x, _scaled(HEAD_WIDTH, width), 1, name="head_conv")
    x = _norm_swish(x, norm, name="head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = classify(x, num_classes, dropout=dropout)

    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _check_multipliers(**multipliers):
    for name, value in multipliers.items():
        if not is_number(value) or not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r}; expected a number above 0")


def _scaled(channels, width):
    """Round to the nearest multiple of 8 that loses at most a tenth."""
    wanted = channels * width
    half = WIDTH_MULTIPLE // 2
    rounded = int(wanted + half) // WIDTH_MULTIPLE * WIDTH_MULTIPLE
    rounded = max(WIDTH_MULTIPLE, rounded)
    return rounded + WIDTH_MULTIPLE if rounded < 0.9 * wanted else rounded


def _unit(x, filters, kernel_size, *, strides, expansion, rate, norm, name):
    """Widen, convolve each channel by itself, weigh the channels, narrow."""
    y = x
    if expansion > 1:
        y = conv(y, expansion * x.shape[-1], 1, name=f"{name}_expand_conv")
        y = _norm_swish(y, norm, name=f"{name}_expand")
    y = _depthwise_conv(y, kernel_size, strides=strides, name=f"{name}_depthwise")
    y = _norm_swish(y, norm, name=f"{name}_depthwise")
    y = _squeeze_excite(y, x.shape[-1] // SQUEEZE, name=f"{name}_squeeze")
    y = norm(
        conv(y, filters, 1, name=f"{name}_project_conv"), name=f"{name}_project_norm"
    )
    if strides > 1 or x.shape[-1] != filters:
        return y
    y = StochasticDepth(rate, name=f"{name}_drop")(y)
    return layers.Add(name=f"{name}_add")([x, y])


def _norm_swish(x, norm, *, name):
    return layers.Activation("swish", name=f"{name}_swish")(
        norm(x, name=f"{name}_norm")
    )


def _depthwise_conv(x, kernel_size, *, strides, name):
    if strides > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return DepthwiseConv2D(
        kernel_size,
        strides,
        "same" if strides == 1 else "valid",
        use_bias=False,
        depthwise_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "normal"
        ),
        name=f"{name}_conv",
    )(x)


def _squeeze_excite(x, filters, *, name):
    """Multiply each channel by a gate that sees the whole image (Hu et al. 2018)."""
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    y = conv(y, filters, 1, bias=True, name=f"{name}_conv1")
    y = layers.Activation("swish", name=f"{name}_swish")(y)
    y = conv(y, x.shape[-1], 1, bias=True, name=f"{name}_conv2")
    y = layers.Activation("sigmoid", name=f"{name}_gate")(y)
    return layers.Multiply(name=f"{name}_scale")([x, y])
