"""The plain convolutional network: convolve, normalise, rectify, pool, repeat."""

import keras
from keras import layers

from kerasdl.blocks import batch_norm, classify, conv, image_input
from kerasdl.checks import (
    check_classes,
    check_image,
    check_rates,
    check_sequences,
    check_sizes,
)
from kerasdl.initializers import HeNormal
from kerasdl.layers import AdaptiveAveragePooling, Dense, MaxPooling2D
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# Fields along each axis of what the hidden layers see; smaller maps stay as they are.
GRID = 4


def cnn(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    filters: tuple[int, ...] = (32, 64, 128),
    depths: tuple[int, ...] | None = None,
    early_pools: int = 0,
    kernel_size: int = 3,
    hidden_units: tuple[int, ...] = (),
    dropout: float = 0.0,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "cnn",
) -> keras.Model:
    """Build a compiled plain convolutional classifier.

    Every stage is a convolution, batch norm and ReLU, once or more often, and a maximum
    that halves height and width, rounded down. The last map is averaged over all
    pixels, or, with hidden layers, over the fields of a grid, so that these know where
    on the image a feature was.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels,
            height and width at least 2 to the number of stages.
        num_classes: Number of classes, i.e. logits per image.
        filters: Channels of each stage, from the first to the last.
        depths: Convolutions of each stage; one if omitted.
        early_pools: Stages, from the first, whose maximum is taken right after their
            last convolution: norm and ReLU have a quarter of the pixels then, which
            saves more time than the accuracy it costs. Heatmaps are as fine as the last
            ReLU, so that the last stage had better keep its order.
        kernel_size: Height and width of every kernel, in pixels.
        hidden_units: Units of dense layers, with batch norm and ReLU, before the
            logits.
        dropout: Drop rate before each hidden layer and the logits, in `[0, 1)`.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range, there are not as many depths as
            stages, or more early pools, or the image is too small to be halved in
            every stage.

    Example:
        >>> cnn((28, 28, 1), filters=(8, 16)).output_shape
        (None, 10)

    Reference:
        [Batch Normalization](https://arxiv.org/abs/1502.03167), section 3.2, for the
        order within a stage. Differs: the convolutions keep their bias. The order of
        early pools: [94% on CIFAR-10 in 3.29 Seconds](https://arxiv.org/abs/2404.00498),
        section 3.1.
    """
    check_sequences(filters=filters)
    depths = (1,) * len(filters) if depths is None else depths
    _check_stages(len(filters), depths, early_pools)
    if hidden_units != ():
        check_sequences(hidden_units=hidden_units)
    check_sizes(kernel_size=kernel_size)
    check_image(input_shape, smallest=2 ** len(filters))
    check_classes(num_classes)
    check_rates(dropout=dropout)

    image = x = image_input(input_shape)
    for i, (size, depth) in enumerate(zip(filters, depths, strict=True), start=1):
        x = _stage(x, f"stage{i}", size, depth, kernel_size, early=i <= early_pools)
    if not hidden_units:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    else:
        x = AdaptiveAveragePooling(min(GRID, *x.shape[1:3]), name="pool")(x)
        x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(hidden_units, start=1):
        x = layers.Dropout(dropout, name=f"hidden{i}_dropout")(x)
        x = Dense(
            units,
            use_bias=False,
            kernel_initializer=HeNormal(),
            name=f"hidden{i}_dense",
        )(x)
        x = batch_norm(x, name=f"hidden{i}_norm")
        x = layers.ReLU(name=f"hidden{i}_relu")(x)
    logits = classify(x, num_classes, dropout=dropout)

    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _check_stages(count, depths, early_pools):
    check_sequences(depths=depths)
    if len(depths) != count:
        raise ValueError(
            f"depths={depths} for {count} stages; give one number for each"
        )
    if early_pools != 0:
        check_sizes(early_pools=early_pools)
    if early_pools > count:
        raise ValueError(f"early_pools={early_pools} for {count} stages")


def _stage(x, name, filters, depth, kernel_size, *, early):
    for j in range(1, depth + 1):
        x = conv(x, filters, kernel_size, bias=True, name=f"{name}_conv{j}")
        if early and j == depth:
            x = MaxPooling2D(2, name=f"{name}_pool")(x)
        x = batch_norm(x, name=f"{name}_norm{j}")
        x = layers.ReLU(name=f"{name}_relu{j}")(x)
    return x if early else MaxPooling2D(2, name=f"{name}_pool")(x)
