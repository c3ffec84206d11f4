"""AlexNet (Krizhevsky et al. 2012), in one tower or two."""

import keras
from keras import layers

from kerasdl.blocks import classify_flat, conv, image_input
from kerasdl.checks import (
    check_choice,
    check_classes,
    check_image,
    check_rates,
    check_sequences,
)
from kerasdl.layers import AdaptiveAveragePooling, Conv2D, MaxPooling2D
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# variant: channels of the five convolutions, groups of those in GROUPED; Krizhevsky
# 2014, section 5, and Krizhevsky et al. 2012, figure 2.
VARIANTS = {
    "one_tower": ((64, 192, 384, 256, 256), 1),
    "two_towers": ((96, 256, 384, 384, 256), 2),
}
KERNEL_SIZES = (11, 5, 3, 3, 3)
GROUPED = (2, 4, 5)
POOLED = (1, 2, 5)
POOLED_SIZE = 6
# The last pooling needs three pixels, after a stem that divides by 4 and two halvings.
SMALLEST = 63


def alexnet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    variant: str = "one_tower",
    hidden_units: tuple[int, ...] = (4096, 4096),
    dropout: float = 0.5,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-4,
    name: str = "alexnet",
) -> keras.Model:
    """Build a compiled AlexNet classifier.

    Five convolutions, the first of which divides height and width by 4, and three
    maxima that each halve them; the last map is averaged to 6x6 pixels, which it has at
    224x224, and read by dense layers.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels,
            height and width at least 63.
        num_classes: Number of classes, i.e. logits per image.
        variant: A key of `VARIANTS`: one tower as in torchvision, or the first paper's
            two towers, which meet in the third convolution and the dense layers only.
        hidden_units: Size of each dense layer before the logits.
        dropout: Drop rate after each of them, in `[0, 1)`.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range or the variant unknown.

    Example:
        >>> alexnet((64, 64, 3), 10, hidden_units=(64, 64)).output_shape
        (None, 10)

    Reference:
        [ImageNet Classification with Deep Convolutional Neural Networks](
        https://papers.nips.cc/paper/4824) and
        [One weird trick](https://arxiv.org/abs/1404.5997). Differs: no local response
        normalisation, and any image size through the average.
    """
    check_choice("variant", variant, VARIANTS)
    check_image(input_shape, smallest=SMALLEST)
    check_classes(num_classes)
    check_sequences(hidden_units=hidden_units)
    check_rates(dropout=dropout)

    filters, groups = VARIANTS[variant]
    image = x = image_input(input_shape)
    for i, (size, kernel_size) in enumerate(
        zip(filters, KERNEL_SIZES, strict=True), start=1
    ):
        stage = f"stage{i}"
        if i == 1:
            x = _stem(x, size, kernel_size, name=f"{stage}_conv")
        else:
            x = conv(
                x,
                size,
                kernel_size,
                groups=groups if i in GROUPED else 1,
                bias=True,
                mode="fan_in",
                name=f"{stage}_conv",
            )
        x = layers.ReLU(name=f"{stage}_relu")(x)
        if i in POOLED:
            x = MaxPooling2D(3, 2, name=f"{stage}_pool")(x)
    x = AdaptiveAveragePooling(POOLED_SIZE, name="pool")(x)
    logits = classify_flat(x, num_classes, hidden_units=hidden_units, dropout=dropout)

    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _stem(x, filters, kernel_size, *, name):
    """Convolve with stride 4; two pixels of padding make 55 positions out of 224."""
    x = layers.ZeroPadding2D(2, name=f"{name}_pad")(x)
    return Conv2D(filters, kernel_size, 4, kernel_initializer="he_normal", name=name)(x)
