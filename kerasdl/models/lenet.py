"""LeNet-5 (LeCun et al. 1998)."""

import keras
from keras import layers, ops

from kerasdl.blocks import image_input
from kerasdl.checks import check_activation, check_classes, check_image
from kerasdl.layers import Conv2D, Dense
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# Two 5x5 convolutions and two halvings leave nothing of a smaller image.
SMALLEST = 16
# Maps of the first stage that each map of the second one sees; Table I of the paper.
CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5)),
    *((0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


def lenet5(
    input_shape: tuple[int, int, int] = (32, 32, 1),
    num_classes: int = 10,
    *,
    partial: bool = False,
    activation: str = "tanh",
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "lenet5",
) -> keras.Model:
    """Build a compiled LeNet-5 classifier.

    Two unpadded 5x5 convolutions, each halved by an average, turn 32x32 pixels into 16
    maps of 5x5; two dense layers follow.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels,
            height and width at least 16. The paper pads 28x28 digits to 32x32.
        num_classes: Number of classes, i.e. logits per image.
        partial: Connect the maps of the second convolution to the maps of the paper's
            Table I only, instead of to all.
        activation: Name of a Keras activation.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> lenet5((28, 28, 1)).output_shape
        (None, 10)

    Reference:
        [Gradient-Based Learning Applied to Document Recognition](
        https://doi.org/10.1109/5.726791), section II.B. Differs: averages without
        weights or activation of their own, tanh without scale, a dense layer in place
        of the radial basis functions; the third convolution, over all that is left of
        a 32x32 image, is a dense layer, so that other sizes fit.
    """
    check_image(input_shape, smallest=SMALLEST)
    check_classes(num_classes)
    check_activation(activation)

    image = image_input(input_shape)
    x = Conv2D(6, 5, activation=activation, name="stage1_conv")(image)
    x = layers.AveragePooling2D(2, name="stage1_pool")(x)
    if partial:
        x = _partial_conv(x, activation, name="stage2_conv")
    else:
        x = Conv2D(16, 5, activation=activation, name="stage2_conv")(x)
    x = layers.AveragePooling2D(2, name="stage2_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = Dense(120, activation=activation, name="dense1")(x)
    x = Dense(84, activation=activation, name="dense2")(x)
    logits = Dense(int(num_classes), dtype="float32", name="logits")(x)

    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _partial_conv(x, activation, *, name):
    """Compute each map by a convolution of its own, of the maps it is connected to."""
    maps = [
        Conv2D(1, 5, activation=activation, name=f"{name}_map{i}")(
            ops.take(x, list(seen), axis=-1)
        )
        for i, seen in enumerate(CONNECTIONS, start=1)
    ]
    return layers.Concatenate(name=f"{name}_maps")(maps)
