"""VGG (Simonyan and Zisserman 2014), with and without batch norm."""

import keras
from keras import layers

from kerasdl.blocks import batch_norm, classify_flat, conv, image_input
from kerasdl.checks import (
    check_choice,
    check_classes,
    check_image,
    check_rates,
    check_sequences,
    check_sizes,
)
from kerasdl.layers import AdaptiveAveragePooling, MaxPooling2D
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# variant: convolutions in each stage; Table 1 of the paper, columns A, B, D and E.
VARIANTS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
# Channels of each stage, as multiples of the first one's.
MULTIPLES = (1, 2, 4, 8, 8)
POOLED_SIZE = 7


def vgg(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    variant: str = "vgg16",
    width: int = 64,
    hidden_units: tuple[int, ...] = (4096, 4096),
    normalize: bool = False,
    dropout: float = 0.5,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-4,
    name: str = "vgg",
) -> keras.Model:
    """Build a compiled VGG classifier.

    Five stages of 3x3 convolutions, each halved by a maximum, rounded down; the last
    map is averaged to 7x7 pixels, which it has at 224x224, and read by dense layers.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels,
            height and width at least 32.
        num_classes: Number of classes, i.e. logits per image.
        variant: Depth preset, a key of `VARIANTS`.
        width: Channels of the first stage; the later ones have 2, 4, 8 and 8 times as
            many.
        hidden_units: Size of each dense layer before the logits.
        normalize: Normalise over the batch after every convolution.
        dropout: Drop rate after each of the dense layers, in `[0, 1)`.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range or the variant unknown.

    Example:
        >>> vgg((32, 32, 3), 10, variant="vgg11", hidden_units=(64,)).output_shape
        (None, 10)

    Reference:
        [Very Deep Convolutional Networks](https://arxiv.org/abs/1409.1556), section
        2.1. Differs: batch norm by argument, and any image size through the average.
    """
    check_choice("variant", variant, VARIANTS)
    check_image(input_shape, smallest=2 ** len(MULTIPLES))
    check_classes(num_classes)
    check_sizes(width=width)
    check_sequences(hidden_units=hidden_units)
    check_rates(dropout=dropout)

    image = x = image_input(input_shape)
    stages = zip(VARIANTS[variant], MULTIPLES, strict=True)
    for i, (depth, multiple) in enumerate(stages, start=1):
        for j in range(1, depth + 1):
            x = conv(
                x,
                multiple * width,
                3,
                bias=True,
                mode="fan_in",
                name=f"stage{i}_conv{j}",
            )
            if normalize:
                x = batch_norm(x, name=f"stage{i}_norm{j}")
            x = layers.ReLU(name=f"stage{i}_relu{j}")(x)
        x = MaxPooling2D(2, name=f"stage{i}_pool")(x)
    x = AdaptiveAveragePooling(POOLED_SIZE, name="pool")(x)
    logits = classify_flat(x, num_classes, hidden_units=hidden_units, dropout=dropout)

    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)
