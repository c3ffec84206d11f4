"""ResNet (He et al. 2015), with pre-activation (2016), for ImageNet and for CIFAR."""

import keras
from keras import layers, ops

from kerasdl.blocks import batch_norm, conv, image_input
from kerasdl.checks import (
    check_choice,
    check_classes,
    check_image,
    check_rates,
    check_sizes,
)
from kerasdl.layers import Dense, MaxPooling2D, StochasticDepth
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# Units of each stage, and whether they are bottlenecks: Table 1 of the paper.
IMAGENET = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
# Section 4.2: 6n + 2 layers.
CIFAR = {f"resnet{6 * n + 2}": ((n, n, n), False) for n in (3, 5, 7, 9, 18)}
VARIANTS = IMAGENET | CIFAR
STEMS = {"imagenet": 64, "cifar": 16}  # and the width that goes with it
VERSIONS = ("v1", "v1.5", "v2")
SHORTCUTS = ("padding", "projection", "none")
EXPANSION = 4  # of a bottleneck's last convolution


def resnet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    variant: str = "resnet50",
    version: str = "v1.5",
    stem: str | None = None,
    width: int | None = None,
    shortcut: str | None = None,
    zero_init: bool = False,
    stochastic_depth: float = 0.0,
    optimizer: Optimizer = "adamw",
    learning_rate: Rate = 1e-3,
    name: str = "resnet",
) -> keras.Model:
    """Build a compiled residual network.

    The ImageNet stem divides height and width by 4, the CIFAR stem keeps them; each
    stage after the first halves them. The variants up to 110 layers whose number is
    6n + 2 are those for CIFAR. What the shortcuts bring is measured in
    `docs/builders.md`, with the picture `docs/resnet-depth.png`.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels.
        num_classes: Number of classes, i.e. logits per image.
        variant: Depth preset, a key of `VARIANTS`.
        version: Of the bottleneck, `"v1"` has the stride in its first convolution, as
            the paper, `"v1.5"` in its 3×3 convolution, as torchvision; `"v2"` is the
            pre-activation unit.
        stem: `"imagenet"`, a 7×7 convolution and pooling, or `"cifar"`, a 3×3
            convolution; by default the variant's.
        width: Channels of the first stage, doubled in each later one; by default the
            64 or 16 of the variant.
        shortcut: Where channels grow: `"padding"` subsamples and pads with zero
            channels (option A), the default for CIFAR; `"projection"` is a 1×1
            convolution (option B), the default for ImageNet. `"none"` leaves out every
            shortcut, which makes the plain network of the paper's figure 6.
        zero_init: Start each unit's last norm at zero, so that the unit starts as its
            shortcut.
        stochastic_depth: Share of the images that skip the last unit in training, in
            `[0, 1)`; it grows linearly with depth from zero.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range, `zero_init` is asked of a unit that
            does not end in a norm, or it or `stochastic_depth` of a plain network.

    Example:
        >>> resnet((32, 32, 3), 10, variant="resnet20").output_shape
        (None, 10)

    Reference:
        [Deep Residual Learning](https://arxiv.org/abs/1512.03385), table 1 and section
        4.2; `"v2"` after [Identity Mappings](https://arxiv.org/abs/1603.05027), section
        3, with the stride in the 3×3 convolution; `zero_init` after
        [Goyal et al.](https://arxiv.org/abs/1706.02677), section 5.1.
    """
    check_image(input_shape)
    check_classes(num_classes)
    check_choice("variant", variant, VARIANTS)
    units, bottleneck = VARIANTS[variant]
    family = "imagenet" if variant in IMAGENET else "cifar"
    stem = family if stem is None else stem
    width = STEMS[family] if width is None else width
    if shortcut is None:
        shortcut = "projection" if variant in IMAGENET else "padding"
    check_choice("version", version, VERSIONS)
    check_choice("stem", stem, STEMS)
    check_choice("shortcut", shortcut, SHORTCUTS)
    check_sizes(width=width)
    check_rates(stochastic_depth=stochastic_depth)
    _check_together(version, shortcut, zero_init, stochastic_depth)

    image = image_input(input_shape)
    x = _stem(image, width, stem)
    place = 0
    for i, count in enumerate(units, start=1):
        for j in range(1, count + 1):
            place += 1
            strides = 2 if i > 1 and j == 1 else 1
            convolutions = _convolutions(
                width * 2 ** (i - 1), strides, bottleneck, early=version == "v1"
            )
            options = {
                "shortcut": shortcut,
                "strides": strides,
                "drop": stochastic_depth * place / sum(units),
                "name": f"stage{i}_unit{j}",
            }
            if version == "v2":
                x = _preactivated_unit(x, convolutions, first=place == 1, **options)
            else:
                x = _unit(x, convolutions, zero_init=zero_init, **options)
    if version == "v2":
        x = batch_norm(x, name="final_norm")
        x = layers.ReLU(name="final_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = Dense(int(num_classes), dtype="float32", name="logits")(x)

    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _check_together(version, shortcut, zero_init, stochastic_depth):
    if zero_init and (version == "v2" or shortcut == "none"):
        raise ValueError(
            f"zero_init=True with version={version!r}, shortcut={shortcut!r}; expected "
            "units that end in a norm and have a shortcut"
        )
    if stochastic_depth and shortcut == "none":
        raise ValueError(
            f"stochastic_depth={stochastic_depth!r} with shortcut='none'; expected 0"
        )


def _stem(image, width, stem):
    size, strides = (7, 2) if stem == "imagenet" else (3, 1)
    x = conv(image, width, size, strides=strides, name="stem_conv")
    x = batch_norm(x, name="stem_norm")
    x = layers.ReLU(name="stem_relu")(x)
    if stem == "cifar":
        return x
    # After ReLU a padding of zeros is never above the maximum.
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return MaxPooling2D(3, 2, name="stem_pool")(x)


def _convolutions(width, strides, bottleneck, *, early):
    """Return `(filters, kernel size, strides)` of each convolution of a unit."""
    if not bottleneck:
        return [(width, 3, strides), (width, 3, 1)]
    first, second = (strides, 1) if early else (1, strides)
    return [(width, 1, first), (width, 3, second), (EXPANSION * width, 1, 1)]


def _unit(x, convolutions, *, zero_init, name, **joint):
    y = x
    count = len(convolutions)
    for i, (filters, size, strides) in enumerate(convolutions, start=1):
        y = conv(y, filters, size, strides=strides, name=f"{name}_conv{i}")
        y = batch_norm(y, zero=zero_init and i == count, name=f"{name}_norm{i}")
        if i < count:
            y = layers.ReLU(name=f"{name}_relu{i}")(y)
    y = _join(x, y, norm=True, name=name, **joint)
    return layers.ReLU(name=f"{name}_relu{count}")(y)


def _preactivated_unit(x, convolutions, *, first, name, **joint):
    y = x
    for i, (filters, size, strides) in enumerate(convolutions, start=1):
        if i > 1 or not first:  # the stem has activated the first unit's input
            y = batch_norm(y, name=f"{name}_norm{i}")
            y = layers.ReLU(name=f"{name}_relu{i}")(y)
        if i == 1 and x.shape[-1] != convolutions[-1][0]:
            x = y  # where channels grow, the shortcut starts after the activation
        y = conv(y, filters, size, strides=strides, name=f"{name}_conv{i}")
    return _join(x, y, norm=False, name=name, **joint)


def _join(x, y, *, shortcut, strides, drop, norm, name):
    """Add the shortcut of `x` to the branch `y`."""
    if shortcut == "none":
        return y
    added = y.shape[-1] - x.shape[-1]
    if added and shortcut == "padding":
        x = x[:, ::strides, ::strides]
        half = added // 2
        x = ops.pad(x, ((0, 0), (0, 0), (0, 0), (half, added - half)))
    elif added:
        x = conv(x, y.shape[-1], 1, strides=strides, name=f"{name}_shortcut_conv")
        x = batch_norm(x, name=f"{name}_shortcut_norm") if norm else x
    if drop:
        y = StochasticDepth(drop, name=f"{name}_drop")(y)
    return layers.Add(name=f"{name}_add")([x, y])
