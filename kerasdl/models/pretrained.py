"""Classifiers on top of a backbone from KerasHub, by its name and its settings."""

import importlib
import inspect
import math
import warnings
from collections.abc import Mapping

import keras
from keras import layers, ops

from kerasdl.blocks import classify, image_input
from kerasdl.checks import check_choice, check_classes, check_image, check_rates
from kerasdl.quiet import quiet_stderr
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# The classes of KerasHub that may be built, and which argument is the image's shape.
# The weights of each have the same paths every time, which a bundle relies on.
BACKBONES = {
    "CSPNetBackbone": "image_shape",
    "DeiTBackbone": "image_shape",
    "DenseNetBackbone": "image_shape",
    "EfficientNetBackbone": "input_shape",
    "MobileNetBackbone": "image_shape",
    "ResNetBackbone": "image_shape",
    "ViTBackbone": "image_shape",
    "VGGBackbone": "image_shape",
    "XceptionBackbone": "image_shape",
}
POOLINGS = ("avg", "max", "token")
# Arguments that belong to Keras and not to the architecture.
NOT_SETTINGS = {"self", "dtype", "kwargs", "name", "trainable"}


def pretrained_classifier(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    backbone: str,
    config: Mapping,
    pooling: str = "avg",
    dropout: float = 0.0,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "pretrained_classifier",
) -> keras.Model:
    """Build a compiled classifier from a backbone of KerasHub, with random weights.

    The backbone turns images into feature maps `(batch, height, width, channels)` or
    tokens `(batch, tokens, channels)`; pooling makes one vector of them.

    Args:
        input_shape: Image shape `(height, width, channels)`, pixels normalised as the
            backbone was trained.
        num_classes: Number of classes, i.e. logits per image.
        backbone: A key of `BACKBONES`.
        config: Arguments of that class besides the image's shape: numbers, strings and
            lists of them.
        pooling: `"avg"` or `"max"` over all places, or `"token"`, the first one.
        dropout: Drop rate before the logits.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range, or the class takes no such setting.

    Reference:
        [How transferable are features in deep neural
        networks?](https://arxiv.org/abs/1411.1792).
    """
    check_image(input_shape)
    check_classes(num_classes)
    check_choice("pooling", pooling, POOLINGS)
    check_rates(dropout=dropout)
    layer = build_backbone(backbone, config, input_shape)
    image = image_input(input_shape)
    x = _pool(layer(image), pooling)
    logits = classify(x, num_classes, dropout=dropout)
    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def build_backbone(
    backbone: str, config: Mapping, input_shape: tuple[int, int, int]
) -> keras.Model:
    """Build a backbone of KerasHub, with random weights.

    Args:
        backbone: A key of `BACKBONES`.
        config: Arguments of that class besides the image's shape.
        input_shape: Image shape `(height, width, channels)`.

    Raises:
        ValueError: If the class is not on the list or takes no such setting.
    """
    check_choice("backbone", backbone, BACKBONES)
    shape = BACKBONES[backbone]
    make = getattr(keras_hub().models, backbone)
    known = inspect.signature(make.__init__).parameters
    names = set(known) - NOT_SETTINGS - {shape}
    if not isinstance(config, Mapping):
        raise ValueError(f"config={config!r}; expected settings by name")
    for name, value in config.items():
        check_choice("config", name, names)
        if not _is_plain(value):
            raise ValueError(
                f"config[{name!r}]={value!r}; expected a number, a string or a list"
            )
    for name in names - set(config):
        if known[name].default is inspect.Parameter.empty:
            raise ValueError(f"config={dict(config)!r}; {name!r} is missing")
    return make(**config, **{shape: tuple(input_shape)}, name="backbone")


def settings_of(backbone: str, config: Mapping) -> dict:
    """Return those entries of a KerasHub configuration that `build_backbone` takes."""
    dropped = {*NOT_SETTINGS, BACKBONES[backbone]}
    return {name: value for name, value in config.items() if name not in dropped}


def keras_hub():
    """Import KerasHub, which takes seconds and imports TensorFlow on every backend."""
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that it imports
        return importlib.import_module("keras_hub")


def _is_plain(value) -> bool:
    """Say whether a value is JSON without objects, which Keras might deserialise."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def _pool(x, pooling):
    if pooling == "token":
        if len(x.shape) != 3:
            raise ValueError("pooling='token'; this backbone makes maps, not tokens")
        return layers.Identity(name="pool")(x[:, 0])
    if len(x.shape) == 3:
        # A sequence is an image one place high.
        x = ops.expand_dims(x, 1)
    pool = {
        "avg": layers.GlobalAveragePooling2D,
        "max": layers.GlobalMaxPooling2D,
    }
    return pool[pooling](name="pool")(x)
