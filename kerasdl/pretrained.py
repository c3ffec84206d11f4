"""Pretrained models to start from: presets, folders of other libraries, bundles."""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import safetensors
import safetensors.numpy

from kerasdl import BUILDERS
from kerasdl.bundle import find_bundle, load, read_bundle, shipped_bundles
from kerasdl.data.images import ImageEncoder
from kerasdl.errors import InputError
from kerasdl.foreign import check_files
from kerasdl.layers import GridPositions, resize_positions
from kerasdl.manifest import MANIFEST
from kerasdl.models.pretrained import (
    BACKBONES,
    build_backbone,
    keras_hub,
    settings_of,
)
from kerasdl.torch_weights import load_torch_weights
from kerasdl.untrusted import brief, read_json

HEAD = "logits"
CONFIG = "config.json"
CONVERTER = "image_converter.json"
HUB_WEIGHTS = "model.weights.h5"
TORCH_WEIGHTS = "model.safetensors"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
DEFAULT_SIZE = 224
# Share of an image that is left where its border was cut off in the usual evaluation on
# ImageNet (256 pixels, of which 224 in the middle); KerasHub does not store it. With it
# the log loss of MobileNetV2's features on ants and bees, cross-validated on the
# training photos, is 0.104 instead of 0.157.
USUAL_CROP = 0.875
# Architecture in timm, a regular expression: builder and variant here.
TIMM: dict[str, tuple[str, Callable[..., str]]] = {
    r"resnet(18|34|50|101|152)": ("resnet", "resnet{}".format),
    r"densenet(121|161|169|201)": ("densenet", "densenet{}".format),
    r"(vit|deit)_(ti)ny_patch(16|32)_\d+": ("vit", "{}_{}{}".format),
    r"(vit|deit)_([sbl])[a-z]+_patch(16|32)_\d+": ("vit", "{}_{}{}".format),
}


@dataclass(frozen=True)
class Pretrained:
    """A network trained on other images, ready to be given other classes.

    Attributes:
        builder: Name of the builder in `kerasdl.BUILDERS`.
        arguments: Its arguments besides `num_classes`.
        weights: Arrays by path of the weight, without those of the logits.
        encoder: Prepares images as those were that it was trained on.
    """

    builder: str
    arguments: dict
    weights: Mapping[str, np.ndarray]
    encoder: ImageEncoder

    def build(self, num_classes: int) -> keras.Model:
        """Build the network with its weights and new, random logits, uncompiled.

        Args:
            num_classes: Number of classes.

        Raises:
            InputError: If the weights do not fit the network.
        """
        builder = BUILDERS[self.builder]
        model = builder(**self.arguments, num_classes=num_classes, optimizer=None)
        put_weights(model, self.weights)
        return model

    def resized(self, size: int | tuple[int, int]) -> "Pretrained":
        """Return the same for images of another size.

        Args:
            size: Side, or height and width, in pixels.
        """
        height, width = (size, size) if isinstance(size, int) else size
        encoder = replace(self.encoder, size=(height, width))
        return replace(
            self,
            encoder=encoder,
            arguments={**self.arguments, **_shape(encoder)},
        )


def open_pretrained(source: str | Path) -> Pretrained:
    """Find and read a pretrained image model.

    Args:
        source: Run folder, bundle folder or name of a shipped bundle; a folder in the
            format of KerasHub, timm or Hugging Face; or the name of a KerasHub preset,
            which is downloaded.

    Returns:
        The network with its weights and the preparation of its images.

    Raises:
        InputError: If there is no such model, it is damaged, or of a kind that is not
            supported.
    """
    folder = Path(source)
    is_bundle = (folder / "bundle" / MANIFEST).exists() or (folder / MANIFEST).exists()
    if is_bundle or str(source) in shipped_bundles():
        return _from_bundle(source)
    if (folder / CONFIG).is_file():
        return _from_folder(folder)
    if folder.exists():
        raise InputError(f"{folder} holds no pretrained model: {CONFIG} is missing")
    return _from_preset(str(source))


def _from_folder(folder: Path) -> Pretrained:
    """Read a folder that KerasHub, timm or Hugging Face's libraries have written."""
    bounded = check_files(folder)
    config = read_json(folder / CONFIG)
    if READERS.keys().isdisjoint(config):
        raise InputError(
            f"{folder / CONFIG} is not of KerasHub, timm or Hugging Face; give another"
        )
    # KerasHub would hand such a folder to Keras's deserialisation, which can run code.
    if "class_name" not in config and "registered_name" in config:
        raise InputError(f"{folder / CONFIG} is of two libraries at once; give another")
    read = next(read for key, read in READERS.items() if key in config)
    try:
        with bounded, np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return read(folder, config)
    except InputError:
        raise
    except Exception as error:  # settings from a file can make anything fail
        reason = brief(str(error).partition("\n")[0])
        raise InputError(f"{folder} cannot be read: {reason}") from error


def put_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Give a model the weights of their paths, all but the logits.

    Positions in a grid are interpolated where the image has another size.

    Raises:
        InputError: If a weight is missing or has another shape; the model is then left
            as it was.
    """
    grids = [layer for layer in model.layers if isinstance(layer, GridPositions)]
    grids = {layer.grid.path for layer in grids}
    values = {}
    for variable in _body(model):
        path, shape = variable.path, tuple(variable.shape)
        value = weights.get(path)
        if value is None:
            raise InputError(f"the pretrained model has no weight {path!r}")
        if path in grids and value.shape != shape:
            value = resize_positions(value, shape[:2])
        if value.shape != shape:
            raise InputError(
                f"the pretrained weight {path!r} is {value.shape}, but this model "
                f"needs {shape}; leave the image size as it was"
            )
        values[path] = value
    for variable in _body(model):
        variable.assign(values[variable.path])


def _body(model: keras.Model) -> list[keras.Variable]:
    head = {weight.path for weight in model.get_layer(HEAD).weights}
    return [weight for weight in model.weights if weight.path not in head]


def _arrays(weights) -> dict[str, np.ndarray]:
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in weights}


def _shape(encoder: ImageEncoder) -> dict[str, list[int]]:
    """Return the argument that the encoder decides, ready for JSON."""
    return {"input_shape": list(encoder.sizes["input_shape"])}


def _from_bundle(source: str | Path) -> Pretrained:
    spec = read_bundle(find_bundle(source))
    predictor = load(source)
    if not isinstance(predictor.encoder, ImageEncoder):
        raise InputError(f"{source} takes no images: it does {spec.task}")
    arguments = {n: v for n, v in spec.arguments.items() if n != "num_classes"}
    return Pretrained(
        spec.builder,
        arguments,
        _arrays(_body(predictor.model)),
        predictor.encoder,
    )


def _from_timm(folder: Path, config: dict) -> Pretrained:
    """Read a network of timm: one of ours, or one that KerasHub can convert."""
    architecture = str(config["architecture"])
    known = [pattern for pattern in TIMM if re.fullmatch(pattern, architecture)]
    if not known:
        return _from_hub(folder)
    builder, variant = TIMM[known[0]]
    groups = re.fullmatch(known[0], architecture).groups()
    encoder = _timm_encoder(folder, config)
    arguments = {"variant": variant(*groups), **_shape(encoder)}
    try:
        state = safetensors.numpy.load_file(folder / TORCH_WEIGHTS)
        model = BUILDERS[builder](
            **arguments, num_classes=config.get("num_classes", 1000), optimizer=None
        )
        load_torch_weights(model, state)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{folder / TORCH_WEIGHTS} cannot be read as {architecture}: {brief(error)}"
        ) from error
    return Pretrained(builder, arguments, _arrays(_body(model)), encoder)


def _timm_encoder(folder: Path, config: dict) -> ImageEncoder:
    settings = config.get("pretrained_cfg", {})
    _, *size = settings.get("input_size", (3, DEFAULT_SIZE, DEFAULT_SIZE))
    interpolation = settings.get("interpolation", "bicubic")
    stored = {
        "size": size,
        "channels": 3,
        **{name: list(settings.get(name, IMAGENET[name])) for name in IMAGENET},
        "crop": settings.get("crop_pct", USUAL_CROP),
        "interpolation": interpolation if interpolation == "bilinear" else "bicubic",
    }
    return ImageEncoder.from_folder(stored, folder)


def _from_hub_folder(folder: Path, config: dict) -> Pretrained:
    """Read a folder that KerasHub has written, without its deserialisation."""
    settings = config.get("config")
    if not isinstance(settings, dict):
        raise InputError(f"{folder / CONFIG} holds no settings")
    converter = {}
    if (folder / CONVERTER).is_file():
        converter = read_json(folder / CONVERTER).get("config") or {}
    name = str(config["class_name"])
    encoder = _hub_encoder(folder, converter, settings.get(BACKBONES.get(name)))
    try:
        shape = encoder.sizes["input_shape"]
        # A class that is not on the list is refused by `build_backbone`.
        config = settings_of(name, settings) if name in BACKBONES else {}
        backbone = build_backbone(name, config, shape)
        backbone.load_weights(folder / HUB_WEIGHTS)
    except Exception as error:  # settings from a file can make anything fail
        reason = brief(str(error).partition("\n")[0])
        raise InputError(
            f"{folder} cannot be read as {brief(name)}: {reason}"
        ) from error
    return _of_hub(backbone, name, config, encoder)


def _from_hub(source: Path | str, _config: dict | None = None) -> Pretrained:
    """Let KerasHub download, or convert from another library."""
    try:
        hub = keras_hub()
        backbone = hub.models.Backbone.from_preset(str(source))
        converter = hub.layers.ImageConverter.from_preset(str(source))
    except Exception as error:  # the network, the disk, the converters
        reason = brief(str(error).partition("\n")[0])
        raise InputError(
            f"KerasHub cannot open {str(source)!r}: {reason}; give a local folder"
        ) from error
    name = type(backbone).__name__
    if name not in BACKBONES:
        raise InputError(f"{str(source)!r} is a {name}, which is no listed image model")
    settings = backbone.get_config()
    encoder = _hub_encoder(
        Path(source), converter.get_config(), settings[BACKBONES[name]]
    )
    return _of_hub(backbone, name, settings_of(name, settings), encoder)


def _of_hub(
    backbone: keras.Model, name: str, config: dict, encoder: ImageEncoder
) -> Pretrained:
    has_token = config.get("use_class_token", name == "DeiTBackbone")
    arguments = {
        "backbone": name,
        "config": json.loads(json.dumps(config)),
        "pooling": "token" if has_token else "avg",
        **_shape(encoder),
    }
    return Pretrained(
        "pretrained_classifier", arguments, _arrays(backbone.weights), encoder
    )


def _hub_encoder(folder: Path, converter: dict, shape) -> ImageEncoder:
    """Return what KerasHub's `pixels * scale + offset` does, from 0 to 1."""
    size = converter.get("image_size") or (shape or ())[:2]
    if len(size) != 2 or None in size:
        size = (DEFAULT_SIZE, DEFAULT_SIZE)
    scale = np.broadcast_to(converter.get("scale") or 1.0, 3).astype(float)
    offset = np.broadcast_to(converter.get("offset") or 0.0, 3).astype(float)
    std = 1 / (255 * scale)
    stored = {
        "size": list(size),
        "channels": 3,
        "mean": (-offset * std).tolist(),
        "std": std.tolist(),
        "crop": USUAL_CROP,
        "interpolation": converter.get("interpolation", "bilinear"),
    }
    return ImageEncoder.from_folder(stored, folder)


def _from_preset(name: str) -> Pretrained:
    models = keras_hub().models
    known = set().union(*(getattr(models, backbone).presets for backbone in BACKBONES))
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *shipped_bundles()], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"there is no folder {name!r} and no preset of that name{hint}"
        )
    return _from_hub(name)


# The field of `config.json` that tells whose folder it is.
READERS = {
    "class_name": _from_hub_folder,
    "architecture": _from_timm,
    "model_type": _from_hub,
}
