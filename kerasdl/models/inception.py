"""GoogLeNet (Szegedy et al. 2014), with and without its auxiliary classifiers."""

import keras
from keras import layers

from kerasdl.blocks import classify, conv, image_input
from kerasdl.checks import check_classes, check_image, check_rates
from kerasdl.layers import AdaptiveAveragePooling, Dense, MaxPooling2D
from kerasdl.tasks import AuxiliaryModel, Optimizer, Rate, compile_classifier

# Of each module: channels of the 1x1 convolution; of the 3x3 one, reduced and in full;
# of the 5x5 one, likewise; after the pooling. Table 1 of the paper, rows 3a to 5b.
STAGES = {
    3: ((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)),
    4: (
        (192, (96, 208), (16, 48), 64),
        (160, (112, 224), (24, 64), 64),
        (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64),
        (256, (160, 320), (32, 128), 128),
    ),
    5: ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)),
}
# Modules that an auxiliary classifier reads, 4a and 4d; section 5.
AUXILIARY = {"stage4_unit1": "aux1", "stage4_unit4": "aux2"}
AUXILIARY_SIZE, AUXILIARY_FILTERS, AUXILIARY_UNITS = 4, 128, 1024


def inception(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    aux_heads: bool = False,
    dropout: float = 0.4,
    aux_dropout: float = 0.7,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-4,
    name: str = "inception",
) -> keras.Model:
    """Build a compiled GoogLeNet classifier.

    The stem divides height and width by 8, two more maxima halve them, rounded up; the
    last map, 7x7 pixels at 224x224, is averaged.

    With auxiliary heads the model learns from its middle as well. Its layers have the
    names they have without: to drop the heads after training, take
    `keras.Model(model.input, model.output["logits"])`, or copy the weights by layer
    name.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels,
            of any height and width.
        num_classes: Number of classes, i.e. logits per image.
        aux_heads: Return a dictionary of the outputs `logits`, `aux1` and `aux2`. Their
            losses are weighted as in `kerasdl.tasks.AuxiliaryModel`.
        dropout: Drop rate before the logits, in `[0, 1)`.
        aux_dropout: Drop rate before the logits of the auxiliary heads.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`, or to a dictionary of three such outputs.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> inception((64, 64, 3), 10).output_shape
        (None, 10)

    Reference:
        [Going Deeper with Convolutions](https://arxiv.org/abs/1409.4842), table 1.
        Differs: no local response normalisation; the auxiliary heads average to 4x4
        whatever the image's size, so that at 224x224 their windows are 4x4 pixels
        instead of 5x5.
    """
    check_image(input_shape)
    check_classes(num_classes)
    check_rates(dropout=dropout, aux_dropout=aux_dropout)

    image = image_input(input_shape)
    outputs = {}
    x = _stem(image)
    for stage, units in STAGES.items():
        for i, unit in enumerate(units, start=1):
            x = _module(x, *unit, name=f"stage{stage}_unit{i}")
            head = AUXILIARY.get(f"stage{stage}_unit{i}")
            if aux_heads and head:
                outputs[head] = _auxiliary(
                    x, num_classes, dropout=aux_dropout, name=head
                )
        if stage < max(STAGES):
            x = _halve(x, name=f"stage{stage}_pool")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = classify(x, num_classes, dropout=dropout)

    if aux_heads:
        model = AuxiliaryModel(image, {"logits": logits, **outputs}, name=name)
    else:
        model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _stem(image):
    x = _halve(_conv(image, 64, 7, strides=2, name="stem_conv1"), name="stem_pool1")
    x = _conv(x, 64, 1, name="stem_reduce2")
    return _halve(_conv(x, 192, 3, name="stem_conv2"), name="stem_pool2")


def _module(x, single, triple, quintuple, pooled, *, name):
    """Look at 1x1, 3x3 and 5x5 pixels and at their maximum, side by side; figure 2b."""
    branches = [_conv(x, single, 1, name=f"{name}_conv1x1")]
    for kernel_size, (reduced, filters) in ((3, triple), (5, quintuple)):
        scale = f"{kernel_size}x{kernel_size}"
        y = _conv(x, reduced, 1, name=f"{name}_reduce{scale}")
        branches.append(_conv(y, filters, kernel_size, name=f"{name}_conv{scale}"))
    y = MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
    branches.append(_conv(y, pooled, 1, name=f"{name}_project"))
    return layers.Concatenate(name=f"{name}_concat")(branches)


def _auxiliary(x, num_classes, *, dropout, name):
    x = AdaptiveAveragePooling(AUXILIARY_SIZE, name=f"{name}_pool")(x)
    x = _conv(x, AUXILIARY_FILTERS, 1, name=f"{name}_conv")
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = Dense(
        AUXILIARY_UNITS,
        activation="relu",
        kernel_initializer="he_normal",
        name=f"{name}_dense",
    )(x)
    x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    return Dense(int(num_classes), dtype="float32", name=f"{name}_logits")(x)


def _conv(x, filters, kernel_size, *, strides=1, name):
    x = conv(
        x,
        filters,
        kernel_size,
        strides=strides,
        bias=True,
        mode="fan_in",
        name=name,
    )
    return layers.ReLU(name=f"{name}_relu")(x)


def _halve(x, *, name):
    """Take the maximum of 3x3 pixels at every second one, half a window at the end.

    Features are never negative here, so that zeros beyond the edge never win.
    """
    missing = tuple(max(3 - size, (3 - size) % 2) for size in x.shape[1:3])
    if any(missing):
        x = layers.ZeroPadding2D(tuple((0, n) for n in missing), name=f"{name}_pad")(x)
    return MaxPooling2D(3, 2, name=name)(x)
