"""One look at each image: what is wrong with it, and a thumbnail to compare."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from kerasdl.data.pixels import FORMATS, read_image

THUMBNAIL = 64
# Pillow's names for what is a plain JPEG file to everybody else.
SAME_FORMAT = {"MPO": "JPEG", "DIB": "BMP"}
# Beginnings of files that were images once; all else never was.
BEGINNINGS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
SMALLEST_DEVIATION = 3.0  # of the pixels of a picture that shows something


class Look(NamedTuple):
    """What an image file holds.

    Attributes:
        content: Digest of the file.
        pixels: Digest of the decoded pixels.
        format: Format of the content, by Pillow's name.
        size: Width and height in pixels.
        frames: Number of pictures in the file.
        thumbnail: The picture in `THUMBNAIL` x `THUMBNAIL` x 3 pixels, uint8.
    """

    content: bytes
    pixels: bytes
    format: str
    size: tuple[int, int]
    frames: int
    thumbnail: np.ndarray


class Unusable(NamedTuple):
    """Why an image file cannot be used: a kind of finding and the details."""

    what: str
    detail: str


@contextmanager
def only_bombs_warn() -> Iterator[None]:
    """Let Pillow refuse images of too many pixels, and be quiet about all else.

    Filters are shared by all threads, so this stands around them.
    """
    with warnings.catch_warnings():
        # Damage that does not stop a decoder, in metadata most of all.
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def look_at(path: Path) -> Look | Unusable:
    """Read and decode an image file once, within `only_bombs_warn`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Unusable("unreadable", str(error.strerror))
    if not content:
        return Unusable("empty_file", "0 bytes")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _look(image, content)
    except Image.UnidentifiedImageError:
        if content.startswith(BEGINNINGS):
            return Unusable("corrupt", "its header cannot be read")
        return Unusable("not_image", f"none of {', '.join(FORMATS)}")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Unusable("bomb", str(error).split(",")[0])
    # What a decoder raises for broken bytes is not documented.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return Unusable("corrupt", reason or type(error).__name__)


def _look(image: Image.Image, content: bytes) -> Look:
    size = image.size
    kind = SAME_FORMAT.get(image.format, image.format)
    # A camera's JPEG may hold a preview of itself, which is no second picture.
    frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
    # A JPEG file is decoded at the scale that is needed: all of it, in half the time.
    image.draft("RGB", (THUMBNAIL, THUMBNAIL))
    image.load()
    pixels = read_image(image)
    digest = hashlib.blake2b(repr((size, pixels.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    thumbnail = Image.fromarray(pixels).resize(
        (THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    return Look(
        hashlib.blake2b(content, digest_size=16).digest(),
        digest.digest(),
        kind,
        size,
        frames,
        np.asarray(thumbnail),
    )


def oddities(path: Path, look: Look) -> list[tuple[str, str]]:
    """Say what is odd about an image by itself: kinds of finding and details."""
    odd = []
    suffix = os.path.splitext(path.name)[1].lower()
    named = Image.registered_extensions().get(suffix)
    if SAME_FORMAT.get(named, named) != look.format:
        odd.append(("wrong_extension", f"{look.format} inside"))
    if look.frames > 1:
        odd.append(("animation", f"{look.format} of {look.frames:,} pictures"))
    if is_blank(look):
        odd.append(("blank", f"{look.size[0]:,} x {look.size[1]:,} pixels"))
    return odd


def is_blank(look: Look) -> bool:
    """Tell whether a picture shows next to nothing."""
    return bool(look.thumbnail.std(axis=(0, 1)).max() < SMALLEST_DEVIATION)
