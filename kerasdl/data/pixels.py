"""One image, from whatever it is stored in, as pixels."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from kerasdl.errors import InputError

# An image is refused from its header above this: a quarter of a gigabyte as RGB.
MOST_PIXELS = 89_478_485
# What is read; of Pillow's other formats some start programs, others are no pictures.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
ORIENTATION = 0x0112  # the EXIF tag
TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
CHANNELS = (1, 3, 4)
SIXTEEN_BITS = 65_535


class EncodedImage(bytes):
    """The content of an image file that lies in memory, with a name for messages."""

    def __new__(cls, content: bytes, name: str):
        """Keep the content, and call it `name`."""
        image = super().__new__(cls, content)
        image.name = name
        return image

    def __str__(self) -> str:
        return self.name


def read_image(source, *, channels: int = 3) -> np.ndarray:
    """Read one image as people see it.

    EXIF orientation is applied, what is transparent shows white, 16 bits become 8, and
    of an animation the first frame is taken.

    Args:
        source: Path, content of a file, Pillow image, or array `(h, w)` or `(h, w, c)`
            of whole numbers from 0 to 255 with 1, 3 or 4 channels.
        channels: 1 for grey or 3 for colour.

    Returns:
        Pixels `(height, width, channels)`, uint8.

    Raises:
        InputError: If this is no image, or a damaged or too large one; names the file.
    """
    return _array(_load(source, channels))


def fitted_image(
    source,
    size: tuple[int, int],
    *,
    channels: int = 3,
    crop: float = 1.0,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Read one image as `read_image`, its middle resized to fit.

    Args:
        source: As for `read_image`.
        size: Height and width of the result.
        channels: 1 for grey or 3 for colour.
        crop: Share of the largest middle part of this shape that is kept.
        interpolation: `bilinear` or `bicubic`, both antialiased.

    Returns:
        Pixels `(*size, channels)`, uint8.

    Raises:
        InputError: If this is no image, or a damaged or too large one; names the file.
    """
    # JPEG files can be decoded at a fraction of their size, in less time.
    image = _load(source, channels, at_least=max(size) / crop)
    scale = crop * min(image.height / size[0], image.width / size[1])
    # Rounding must not push the box over an edge.
    height = min(size[0] * scale, image.height)
    width = min(size[1] * scale, image.width)
    if (height, width) == (image.height, image.width) == size:
        return _array(image)
    top, left = (image.height - height) / 2, (image.width - width) / 2
    box = (left, top, left + width, top + height)
    return _array(image.resize(size[::-1], INTERPOLATIONS[interpolation], box))


def in_threads(function: Callable, items: Sequence) -> list:
    """Return `[function(item) for item in items]`, computed by a thread per core.

    Pillow decodes and resizes without Python's lock.
    """
    threads = min(len(items), num_cores())
    if threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def named(source) -> Iterator[None]:
    """Turn whatever goes wrong with an image into a sentence that names it."""
    try:
        yield
    except InputError:
        raise
    # What a decoder raises for broken bytes is not documented.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(
                f"{error.filename or _name(source)} cannot be read ({error.strerror}); "
                "check the path and its permissions"
            ) from error
        # Pillow's own words are for people; those of its slips are not.
        is_told = isinstance(error, OSError | SyntaxError | ValueError)
        reason = " ".join(str(error).split())[:200] if is_told else "broken header"
        raise InputError(
            f"{_name(source)} is damaged or of an unusual kind ({reason}); replace or "
            "remove it"
        ) from error


def check_header(path: Path) -> None:
    """Refuse a file that does not begin as an image, or one of too many pixels.

    Raises:
        InputError: Names the file.
    """
    with named(path), _opened(path):
        pass


def image_stack(array: np.ndarray) -> np.ndarray:
    """Return one or more images as one array `(count, height, width, channels)`, uint8.

    Args:
        array: Whole numbers from 0 to 255: `(h, w)`, `(h, w, c)`, `(count, h, w)` or
            `(count, h, w, c)`, with 1, 3 or 4 channels.

    Raises:
        InputError: If these are other numbers, or of another shape.
    """
    pixels = _bytes(array)
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in CHANNELS):
        pixels = pixels[None]
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if (
        pixels.ndim != 4
        or pixels.shape[-1] not in CHANNELS
        or not all(pixels.shape[1:])
    ):
        raise InputError(
            f"the images have the shape {array.shape}; give (count, height, width, "
            "channels) with 1, 3 or 4 channels"
        )
    return pixels


def _bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    whole = array.dtype.kind in "iu"
    if not whole or (array.size and not 0 <= array.min() <= array.max() <= 255):
        found = "are out of this range" if whole else f"are {array.dtype}"
        raise InputError(
            f"pixels must be whole numbers from 0 to 255 (uint8), but these {found}; "
            "scale and convert them"
        )
    return array.astype(np.uint8)


def _name(source) -> str:
    known = isinstance(source, str | os.PathLike | EncodedImage)
    return str(source) if known else "the image"


def _load(source, channels: int, at_least: float | None = None) -> Image.Image:
    """Return an upright image in mode L or RGB."""
    with named(source):
        if isinstance(source, np.ndarray):
            (pixels,) = image_stack(source)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            return _flat(image, channels)
        if isinstance(source, Image.Image):
            return _upright(source, channels)
        with _opened(source) as image:
            if at_least:
                _draft(image, channels, at_least)
            return _upright(image, channels)


@contextmanager
def _opened(source) -> Iterator[Image.Image]:
    """Open an image whose header is read and whose size is bearable."""
    in_memory = isinstance(source, bytes)
    with io.BytesIO(source) if in_memory else open(source, "rb") as file:
        image = _header(file)
        if image is None:
            is_empty = not file.seek(0, os.SEEK_END)
            what = "is empty" if is_empty else f"is none of {', '.join(FORMATS)}"
            raise InputError(f"{_name(source)} {what}; replace or remove it")
        if image.width * image.height > MOST_PIXELS:
            raise InputError(
                f"{_name(source)} has {image.width:,} x {image.height:,} pixels, and "
                f"{MOST_PIXELS:,} are the most; shrink or remove it"
            )
        yield image


def _header(file: IO[bytes]) -> Image.Image | None:
    """Open an image as `Image.open` does, without its warning of many pixels.

    The warning cannot be caught where threads read images.
    """
    Image.init()
    prefix = file.read(16)
    for name in FORMATS:
        opener, accepts = Image.OPEN.get(name, (None, None))
        if opener and accepts(prefix) is True:
            file.seek(0)
            return opener(file, "")
    return None


def _draft(image: Image.Image, channels: int, at_least: float) -> None:
    """Let a JPEG decoder leave out what would be scaled away."""
    scale = at_least / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    image.draft("L" if channels == 1 else "RGB", size)


def _upright(image: Image.Image, channels: int) -> Image.Image:
    image.load()
    turn = TURNS.get(_orientation(image))
    flat = _flat(image, channels)
    return flat if turn is None else flat.transpose(turn)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION)
    # Broken notes beside whole pixels; what Pillow raises then is not documented.
    except Exception:
        return None


def _flat(image: Image.Image, channels: int) -> Image.Image:
    """Return an image in mode L or RGB, over white where it is transparent."""
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are fractions")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale pixels of 16 bits; what should be transparent becomes white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > SIXTEEN_BITS:
        raise ValueError("its pixels have more than 16 bits")
    scaled = np.rint(values * (255 / SIXTEEN_BITS)).astype(np.uint8)
    scaled[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(scaled)


def _array(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]
