"""Operations on batches of images, each image with a strength of its own.

Images are `(batch, height, width, channels)` float32 from 0 to 255, with any number of
channels; a strength is `(batch,)`. Shapes are fixed and nothing is drawn at random.
"""

import numpy as np
from keras import ops

LEVELS = 256
# Weights of red, green and blue in brightness: ITU-R 601-2, as in PIL.
LUMA = 0.299, 0.587, 0.114


def per_image(values):
    """Shape one value per image `(batch,)` to go with images."""
    return ops.reshape(values, (-1, 1, 1, 1))


def grid(images):
    """Return the rows `(height, 1)` and the columns `(1, width)` of all pixels."""
    rows, columns = (ops.arange(size, dtype="float32") for size in images.shape[1:3])
    return rows[:, None], columns[None]


def pick(images, rows, columns):
    """Take pixels of each image by their place; outside of it they are black.

    Args:
        images: Images.
        rows: Whole rows, broadcastable to `(batch, rows, columns)`, any float.
        columns: Whole columns, like `rows`.

    Returns:
        Images `(batch, rows, columns, channels)`.
    """
    (height, width, channels), count = images.shape[1:], ops.shape(images)[0]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    row = ops.cast(ops.clip(rows, 0, height - 1), "int32")
    column = ops.cast(ops.clip(columns, 0, width - 1), "int32")
    first = ops.reshape(ops.arange(count, dtype="int32") * (height * width), (-1, 1, 1))
    places = first + row * width + column
    pixels = ops.take(ops.reshape(images, (-1, channels)), places, axis=0)
    return ops.where(inside[..., None], pixels, 0.0)


def pick_between(images, rows, columns):
    """Take pixels at places between whole ones, bilinearly; outside it is black.

    Args:
        images: Images.
        rows: Rows, 0 being the centre of the first, as for `pick`.
        columns: Columns, like `rows`.

    Returns:
        Images `(batch, rows, columns, channels)`.
    """
    top, left = ops.floor(rows), ops.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]

    def across(row):
        near, far = pick(images, row, left), pick(images, row, left + 1)
        return near + right * (far - near)

    upper = across(top)
    return upper + down * (across(top + 1) - upper)


def turned(images, degrees):
    """Return where each pixel comes from when an image is turned about its middle.

    Args:
        images: Images.
        degrees: Counter-clockwise angle of each.

    Returns:
        Rows and columns, `(batch, height, width)` each.
    """
    rows, columns = grid(images)
    middle_row, middle_column = ((size - 1) / 2 for size in images.shape[1:3])
    angle = ops.reshape(degrees, (-1, 1, 1)) * (np.pi / 180)
    sine, cosine = ops.sin(angle), ops.cos(angle)
    rows, columns = rows - middle_row, columns - middle_column
    return (
        sine * columns + cosine * rows + middle_row,
        cosine * columns - sine * rows + middle_column,
    )


def blend(images, others, factor):
    """Go from `others` (factor 0) to the images (1) and beyond, within 0 to 255."""
    mixed = others + per_image(factor) * (images - others)
    return ops.clip(mixed, 0.0, 255.0)


def grey(images):
    """Return the brightness `(batch, height, width, 1)`.

    Red, green and blue have their weights; of any other number of channels it is the
    mean, so that a grey image is its own brightness.
    """
    if images.shape[-1] == 3:
        parts = ops.split(images, 3, axis=-1)
        return sum(part * weight for part, weight in zip(parts, LUMA, strict=True))
    return ops.mean(images, axis=-1, keepdims=True)


def mean_grey(images):
    """Return the mean brightness `(batch, 1, 1, 1)`, a whole level as in PIL."""
    return ops.floor(ops.mean(grey(images), axis=(1, 2), keepdims=True) + 0.5)


def smooth(images):
    """Smooth as PIL's `SMOOTH` does; the outermost pixels stay."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    nine = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = (nine + 4 * images[:, 1:-1, 1:-1]) / 13
    inside = np.pad(np.ones(inner.shape[1:3], bool), 1)[..., None]
    return ops.where(inside, ops.pad(inner, ((0, 0), (1, 1), (1, 1), (0, 0))), images)


def posterize(images, bits):
    """Keep the highest `bits` bits of whole levels."""
    step = per_image(2 ** (8 - bits))
    return ops.floor(images / step) * step


def solarize(images, threshold):
    """Invert the levels from the threshold on."""
    return ops.where(images >= per_image(threshold), 255.0 - images, images)


def stretch(images):
    """Stretch each channel of each image to the whole of 0 to 255."""
    low = ops.min(images, axis=(1, 2), keepdims=True)
    span = ops.max(images, axis=(1, 2), keepdims=True) - low
    stretched = (images - low) * (255.0 / ops.maximum(span, 1.0))
    return ops.where(span > 0, stretched, images)


def equalize(images):
    """Make the histogram of each channel of each image flat, whole levels as in PIL."""
    (height, width, channels), count = images.shape[1:], ops.shape(images)[0]
    slots = ops.reshape(ops.arange(count * channels), (-1, 1, 1, channels)) * LEVELS
    places = ops.cast(images, "int32") + slots
    counts = ops.segment_sum(
        ops.ones_like(ops.reshape(places, (-1,))),
        ops.reshape(places, (-1,)),
        num_segments=count * channels * LEVELS,
    )
    counts = ops.reshape(counts, (-1, LEVELS))
    after = ops.cumsum(counts, axis=1)
    # The brightest level that occurs has no level above it to be spread over.
    last = ops.max(ops.where(after == height * width, counts, 0), axis=1, keepdims=True)
    step = (height * width - last) // (LEVELS - 1)
    spread = ((after - counts) + step // 2) // ops.maximum(step, 1)
    table = ops.where(step > 0, ops.minimum(spread, 255), ops.arange(LEVELS))
    found = ops.take(ops.reshape(table, (-1,)), places, axis=0)
    return ops.cast(found, images.dtype)
