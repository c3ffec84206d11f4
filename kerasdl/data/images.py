"""Photos and pixel arrays as the input of an image model."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from kerasdl.data.image_files import Photos
from kerasdl.data.pixels import (
    INTERPOLATIONS,
    fitted_image,
    image_stack,
    in_threads,
    read_image,
)
from kerasdl.errors import InputError
from kerasdl.untrusted import LARGEST_EXAMPLE

__all__ = ["ImageEncoder", "Photos", "Pictures", "read_image"]

PHOTO_SIZE = 224
# Mean and deviation are measured on so many images at most.
MEASURED_IMAGES = 1000


@dataclass(frozen=True)
class ImageEncoder:
    """Decode images, fit them to one size and normalise their pixels.

    Attributes:
        size: Height and width of the model's input.
        channels: 1 for grey or 3 for colour.
        mean: Mean of each channel, of pixels from 0 to 1.
        std: Standard deviation of each channel, of pixels from 0 to 1.
        crop: Share of the shorter side that is kept of an image's middle.
        interpolation: `bilinear` or `bicubic`.
        cache_mb: Megabytes that decoded images may take; beyond, they are decoded
            again each time. No property of the model, so not in `config`.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bilinear"
    cache_mb: float = field(default=0, compare=False, repr=False)
    files: ClassVar = ()

    @classmethod
    def fit_encode(
        cls,
        examples: np.ndarray | Photos,
        *,
        image_size: int | tuple[int, int] | None = None,
        smallest: int = 1,
        channels: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        crop: float = 1.0,
        interpolation: str = "bilinear",
        cache_mb: float = 2048,
    ) -> tuple["ImageEncoder", dict[str, "Pictures"]]:
        """Measure the pixels of training images, and encode them.

        Args:
            examples: Pixel arrays `(count, h, w, c)`, or image files.
            image_size: Side, or height and width, of the model's input; the arrays' own
                or 224 for files if omitted.
            smallest: Where `image_size` is omitted, arrays of a shorter side are
                enlarged until it is so long.
            channels: 1 for grey or 3 for colour; the arrays' own or 3 if omitted.
            mean: Mean of each channel, measured if omitted.
            std: Standard deviation of each channel, measured if omitted.
            crop: Share of the shorter side that is kept of an image's middle.
            interpolation: `bilinear` or `bicubic`.
            cache_mb: Megabytes that the decoded images may take.

        Raises:
            InputError: If an image cannot be read; names it.
        """
        examples = _examples(examples)
        size, channels = _shape(examples, image_size, smallest, channels)
        unscaled = (0.0,) * channels, (1.0,) * channels
        encoder = cls(size, channels, *unscaled, crop, interpolation, cache_mb)
        pictures = encoder._prepared(examples)
        if mean is None or std is None:
            measured = _measure(pictures)
            mean, std = mean or measured[0], std or measured[1]
        if pictures.examples is not examples:
            cache_mb -= pictures.examples.nbytes / 1e6
        encoder = replace(encoder, mean=tuple(mean), std=tuple(std), cache_mb=cache_mb)
        return encoder, {"image": replace(pictures, encoder=encoder)}

    @classmethod
    def from_folder(cls, config: Mapping, folder: Path) -> "ImageEncoder":
        """Rebuild an encoder from its settings; it needs no files.

        Raises:
            InputError: If the settings do not make an encoder.
        """
        if not _is_config(config):
            raise InputError(f"{folder}: the preparation of the images is not valid")
        lists = {name: tuple(config[name]) for name in ("size", "mean", "std")}
        return cls(**{**config, **lists})

    def resized(self, shape: Sequence[int]) -> "ImageEncoder":
        """Return the encoder for a model that takes another size.

        Args:
            shape: `(height, width, channels)`.

        Raises:
            InputError: If the channels are others: mean and deviation would not fit.
        """
        if len(shape) != 3 or shape[2] != self.channels:
            raise InputError(
                f"input_shape={tuple(shape)}; give (height, width, {self.channels})"
            )
        return replace(self, size=tuple(shape[:2]))

    def contents(self) -> dict[str, bytes]:
        """Return no files: everything stands in `config`."""
        return {}

    @property
    def config(self) -> dict:
        """The settings, ready for JSON."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "crop": self.crop,
            "interpolation": self.interpolation,
        }

    @property
    def sizes(self) -> dict[str, tuple]:
        """The argument of a builder that the images decide."""
        return {"input_shape": (*self.size, self.channels)}

    @property
    def no_examples(self) -> np.ndarray:
        """An array of no image."""
        return np.zeros((0, *self.size, self.channels), np.uint8)

    def check(self, examples) -> np.ndarray | Photos:
        """Return images as pixels `(count, h, w, c)` or as files.

        Args:
            examples: One path, Pillow image or pixel array, or several.

        Raises:
            InputError: If they are nothing of the kind.
        """
        found = _examples(examples)
        return self._fitted(found) if isinstance(found, list) else found

    def pixels(self, examples: np.ndarray | Photos) -> np.ndarray:
        """Return decoded and fitted images, uint8 `(count, *size, channels)`.

        Raises:
            InputError: If an image cannot be read; names it.
        """
        return examples if self._is_ready(examples) else self._fitted(examples)

    def _is_ready(self, examples: np.ndarray | Photos) -> bool:
        """Say whether these are such pixels as `pixels` returns."""
        shape = (*self.size, self.channels)
        is_array = isinstance(examples, np.ndarray)
        return is_array and examples.shape[1:] == shape and self.crop == 1

    def _fitted(self, examples: Sequence) -> np.ndarray:
        fitted = np.empty((len(examples), *self.size, self.channels), np.uint8)
        sources = list(examples)

        def fit(row: int) -> None:
            fitted[row] = fitted_image(
                sources[row],
                self.size,
                channels=self.channels,
                crop=self.crop,
                interpolation=self.interpolation,
            )

        in_threads(fit, range(len(sources)))
        return fitted

    def encode(self, examples: np.ndarray | Photos) -> dict[str, "Pictures"]:
        """Return the model's input by name."""
        return {"image": self._prepared(examples)}

    def _prepared(self, examples: np.ndarray | Photos) -> "Pictures":
        """Return the images decoded where they fit into the cache."""
        megabytes = len(examples) * math.prod((*self.size, self.channels)) / 1e6
        if self._is_ready(examples) or megabytes <= self.cache_mb:
            return Pictures(self.pixels(examples), self, is_streamed=False)
        return Pictures(examples, self, is_streamed=True)


@dataclass(frozen=True)
class Pictures:
    """Images behind the methods of `Ragged`, normalised a batch at a time.

    Attributes:
        examples: The images.
        encoder: Says how to prepare them.
        is_streamed: Whether they are still to be decoded, cropped or resized.
        is_mirrored: Whether left and right are swapped.
    """

    examples: np.ndarray | Photos
    encoder: ImageEncoder
    is_streamed: bool
    is_mirrored: bool = False

    @property
    def lengths(self) -> np.ndarray:
        """Zeros `(count,)`: no image is longer than another."""
        return np.zeros(len(self), np.int64)

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, rows: np.ndarray) -> "Pictures":
        """Select images by index, in the given order."""
        return replace(self, examples=self.examples[rows])

    def mirrored(self) -> "Pictures":
        """Swap left and right."""
        return replace(self, is_mirrored=not self.is_mirrored)

    def pixels(self) -> np.ndarray:
        """Return the images `(count, *size, channels)`, uint8.

        Raises:
            InputError: If an image cannot be read; names it.
        """
        streamed = self.is_streamed
        pixels = self.encoder.pixels(self.examples) if streamed else self.examples
        return pixels[:, :, ::-1] if self.is_mirrored else pixels

    def pad(self, width: int) -> np.ndarray:  # noqa: ARG002 - the signature of Ragged
        """Return the normalised images `(count, *size, channels)`, float32."""
        pixels = self.pixels()
        # A whole row of an image at a time: channels alone make slow inner loops.
        repeats = pixels.shape[2]
        mean = np.tile(np.array(self.encoder.mean, np.float32), repeats)
        std = np.tile(np.array(self.encoder.std, np.float32), repeats)
        rows = pixels.reshape(-1, len(mean)) * (1 / (255 * std))
        rows -= mean / std
        return rows.reshape(pixels.shape)


def _measure(pictures: Pictures) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each channel, of images evenly spread."""
    count = min(len(pictures), MEASURED_IMAGES)
    rows = np.linspace(0, len(pictures) - 1, count).astype(int)
    pixels = pictures.take(rows).pixels()
    scaled = pixels.reshape(-1, pixels.shape[-1]) / 255
    # A channel that never changes must not be divided by zero.
    deviations = np.maximum(scaled.std(0), 1 / 255)
    return [[round(float(v), 6) for v in vs] for vs in (scaled.mean(0), deviations)]


def _examples(examples) -> np.ndarray | Photos | list:
    """Return images as one array or as files; as a list where they are mixed."""
    if isinstance(examples, Photos):
        return examples
    if isinstance(examples, np.ndarray) and examples.dtype != object:
        return image_stack(examples)
    if isinstance(examples, str | os.PathLike | bytes | Image.Image):
        examples = [examples]
    examples = list(examples)
    if all(isinstance(example, str | os.PathLike) for example in examples):
        return Photos(tuple(map(Path, examples)))
    for example in examples:
        if not isinstance(
            example, str | os.PathLike | bytes | Image.Image | np.ndarray
        ):
            raise InputError(
                f"an example is a {type(example).__name__}; give paths of image files, "
                "Pillow images or arrays of pixels"
            )
    return examples


def _shape(examples, image_size, smallest, channels) -> tuple[tuple[int, int], int]:
    """Return size and channels, as asked for or as the images have them."""
    is_array = isinstance(examples, np.ndarray)
    if image_size is None:
        image_size = (
            _enlarged(examples.shape[1:3], smallest) if is_array else PHOTO_SIZE
        )
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    if channels is None:
        channels = 1 if is_array and examples.shape[-1] == 1 else 3
    size = tuple(map(int, image_size))
    if len(size) != 2 or min(size) < 1:
        raise InputError(
            f"image_size {image_size} is no size; give the side, or height and width, "
            "in pixels"
        )
    return size, channels


def _enlarged(sides: tuple[int, int], smallest: int) -> tuple[int, ...]:
    growth = max(1, smallest / max(1, min(sides)))
    return tuple(round(growth * side) for side in sides)


def _is_config(config: Mapping) -> bool:
    """Say whether these are settings such as `ImageEncoder.config` returns."""
    names = {"size", "channels", "mean", "std", "crop", "interpolation"}
    if set(config) != names or config["channels"] not in (1, 3):
        return False
    size, crop = config["size"], config["crop"]
    numbers = [config["mean"], config["std"], size]
    if not all(isinstance(values, list) for values in numbers):
        return False
    if not all(_is_number(value) for value in (*itertools.chain(*numbers), crop)):
        return False
    return (
        all(isinstance(side, int) and side > 0 for side in size)
        and math.prod(size) * config["channels"] <= LARGEST_EXAMPLE
        and [len(values) for values in numbers] == [*[config["channels"]] * 2, 2]
        and min(config["std"]) > 0
        and 0 < crop <= 1
        and isinstance(config["interpolation"], str)
        and config["interpolation"] in INTERPOLATIONS
    )


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
