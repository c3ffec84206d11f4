"""Images of a run as bytes, small enough for its page."""

import base64
import html
import io

import numpy as np
from PIL import Image

# Up to this side an image is kept pixel by pixel, as PNG; a larger one becomes a JPEG.
LARGEST_EXACT = 64
LARGEST_PICTURE = 224
LARGEST_TILE = 112
GAP = 2
# Of the gaps between tiles: seen on a dark page and on a light one.
GAP_GREY = 128
JPEG_QUALITY = 85
PNG_START = b"\x89PNG"


def picture_bytes(image: np.ndarray) -> bytes:
    """Encode an image for the page.

    Args:
        image: Pixels `(height, width, channels)` uint8, one channel or three.

    Returns:
        A PNG where the image is small; a JPEG of at most 224 pixels a side where not.
    """
    picture = _picture(image)
    is_exact = max(picture.size) <= LARGEST_EXACT
    picture.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    return _encoded(picture, is_exact=is_exact)


def mosaic(images: np.ndarray, columns: int) -> bytes:
    """Lay images out in rows, as one picture for the page.

    Args:
        images: Pixels `(count, height, width, channels)` uint8, one channel or three.
        columns: Images in each row.

    Returns:
        A PNG where the images are small, a JPEG where they are not.
    """
    tiles = [_picture(image) for image in images]
    is_exact = max(tiles[0].size) <= LARGEST_EXACT
    for tile in tiles:
        tile.thumbnail((LARGEST_TILE, LARGEST_TILE))
    width, height = (side + GAP for side in tiles[0].size)
    columns = min(columns, len(tiles))
    size = columns * width - GAP, -(-len(tiles) // columns) * height - GAP
    sheet = Image.new(tiles[0].mode, size, (GAP_GREY,) * len(tiles[0].getbands()))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        sheet.paste(tile, (column * width, row * height))
    return _encoded(sheet, is_exact=is_exact)


def picture_tag(picture: bytes, alt: str) -> str:
    """Return a picture as an HTML image that holds its bytes."""
    is_exact = picture.startswith(PNG_START)
    kind = "png" if is_exact else "jpeg"
    coded = base64.b64encode(picture).decode()
    smooth = ' class="exact"' if is_exact else ""
    return (
        f'<img{smooth} alt="{html.escape(alt)}" src="data:image/{kind};base64,{coded}">'
    )


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _encoded(picture: Image.Image, *, is_exact: bool) -> bytes:
    buffer = io.BytesIO()
    if is_exact:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
