"""DenseNet image classifiers (Huang et al. 2017)."""

import keras
from keras import layers

from kerasdl.blocks import batch_norm, conv, image_input
from kerasdl.checks import (
    check_choice,
    check_classes,
    check_image,
    check_rates,
    check_sequences,
    check_sizes,
)
from kerasdl.layers import Dense, MaxPooling2D
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# variant: (units per stage, growth rate, bottlenecks and compression, large stem);
# tables 1 and 2 of the paper, densenet161 of the authors' code.
VARIANTS = {
    "densenet121": ((6, 12, 24, 16), 32, True, True),
    "densenet161": ((6, 12, 36, 24), 48, True, True),
    "densenet169": ((6, 12, 32, 32), 32, True, True),
    "densenet201": ((6, 12, 48, 32), 32, True, True),
    "densenet40": ((12, 12, 12), 12, False, False),
    "densenet100": ((32, 32, 32), 12, False, False),
    "densenet_bc100": ((16, 16, 16), 12, True, False),
}
PLAIN_STEM_WIDTH = 16
BOTTLENECK_RATIO = 4
COMPRESSION = 2


def densenet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    variant: str = "densenet121",
    depths: tuple[int, ...] | None = None,
    growth_rate: int | None = None,
    dropout: float = 0.0,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "densenet",
) -> keras.Model:
    """Build a compiled DenseNet classifier.

    Every unit reads the features of all units before it in its stage and puts
    `growth_rate` channels beside them. The stem of the ImageNet variants divides height
    and width by 4, that of the CIFAR variants (`densenet40`, `densenet100`,
    `densenet_bc100`) leaves them; between two stages both are halved.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels.
        num_classes: Number of classes, i.e. logits per image.
        variant: A key of `VARIANTS`; `densenet_bc100` and the ImageNet variants have
            bottlenecks and halve the channels between stages.
        depths: Units of each stage, instead of the variant's.
        growth_rate: Channels that each unit adds, instead of the variant's.
        dropout: Drop rate after every convolution but the first.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range, or the image too small for the
            number of stages.

    Example:
        >>> densenet((32, 32, 3), 10, variant="densenet_bc100").output_shape
        (None, 10)

    Reference:
        [Densely Connected Convolutional Networks](https://arxiv.org/abs/1608.06993),
        section 3 and tables 1 and 2.
    """
    check_choice("variant", variant, VARIANTS)
    row_depths, row_growth_rate, bottleneck, large_stem = VARIANTS[variant]
    depths = row_depths if depths is None else depths
    growth_rate = row_growth_rate if growth_rate is None else growth_rate
    check_sequences(depths=depths)
    check_sizes(growth_rate=growth_rate)
    check_image(input_shape, smallest=_smallest_image(len(depths), large_stem))
    check_classes(num_classes)
    check_rates(dropout=dropout)

    image = image_input(input_shape)
    width = 2 * growth_rate if bottleneck else PLAIN_STEM_WIDTH
    stem = _large_stem if large_stem else _small_stem
    x = stem(image, width)
    for i, depth in enumerate(depths, start=1):
        if i > 1:
            width = x.shape[-1] // (COMPRESSION if bottleneck else 1)
            x = _norm_relu_conv(x, width, 1, dropout=dropout, name=f"transition{i - 1}")
            x = layers.AveragePooling2D(2, name=f"transition{i - 1}_pool")(x)
        for j in range(1, depth + 1):
            x = _unit(
                x,
                growth_rate,
                bottleneck=bottleneck,
                dropout=dropout,
                name=f"stage{i}_unit{j}",
            )
    x = layers.ReLU(name="final_relu")(batch_norm(x, name="final_norm"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = Dense(int(num_classes), dtype="float32", name="logits")(x)

    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _smallest_image(num_stages, large_stem):
    """Return the size that leaves one pixel: pooling rounds down, the stem up."""
    last = 2 ** (num_stages - 1)
    return 4 * (last - 1) + 1 if large_stem else last


def _small_stem(image, width):
    return conv(image, width, 3, name="stem_conv")


def _large_stem(image, width):
    x = batch_norm(conv(image, width, 7, strides=2, name="stem_conv"), name="stem_norm")
    x = layers.ReLU(name="stem_relu")(x)
    # Zeros never win: nothing is below them after ReLU.
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return MaxPooling2D(3, strides=2, name="stem_pool")(x)


def _unit(x, growth_rate, *, bottleneck, dropout, name):
    """Put new channels beside those that are there."""
    y = x
    if bottleneck:
        y = _norm_relu_conv(
            y, BOTTLENECK_RATIO * growth_rate, 1, dropout=dropout, name=name, index=1
        )
    y = _norm_relu_conv(
        y, growth_rate, 3, dropout=dropout, name=name, index=2 if bottleneck else 1
    )
    return layers.Concatenate(name=f"{name}_concat")([x, y])


def _norm_relu_conv(x, filters, kernel_size, *, dropout, name, index=""):
    x = batch_norm(x, name=f"{name}_norm{index}")
    x = layers.ReLU(name=f"{name}_relu{index}")(x)
    x = conv(x, filters, kernel_size, name=f"{name}_conv{index}")
    return layers.Dropout(dropout, name=f"{name}_dropout{index}")(x) if dropout else x
