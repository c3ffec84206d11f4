"""Photos for the benchmarks, and how a loop over files reads one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Height and width of what is trained on.
PHOTO_SIDE = 64


def write_photos(folder: Path, count: int) -> None:
    """Write JPEGs with the detail of photos: noise of every scale."""
    folder.mkdir()

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        photo = np.full((375, 500, 3), 127.0)
        for cells in (3, 12, 50, 200):
            noise = random.normal(0, 40 * cells**-0.25, (cells, cells, 3))
            coarse = Image.fromarray(np.clip(127 + noise, 0, 255).astype(np.uint8))
            photo += np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
            photo -= 127
        pixels = np.clip(photo, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


def pillow_photo(path: Path, side: int) -> np.ndarray:
    """Read, crop, resize and normalise one photo."""
    image = Image.open(path).convert("RGB")
    middle = min(image.size)
    left, top = (image.width - middle) / 2, (image.height - middle) / 2
    box = (left, top, left + middle, top + middle)
    image = image.resize((side, side), Image.Resampling.BILINEAR, box)
    scaled = np.asarray(image, np.float32) / 255
    return (scaled - np.float32(MEAN)) / np.float32(STD)


def tensorflow_photo(path, side: int):
    """Do the same in a graph of TensorFlow."""
    import tensorflow as tf

    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    shape = tf.shape(image)
    middle = tf.reduce_min(shape[:2])
    top, left = (shape[0] - middle) // 2, (shape[1] - middle) // 2
    image = tf.image.crop_to_bounding_box(image, top, left, middle, middle)
    image = tf.image.resize(image, (side, side), antialias=True)
    return (image / 255 - MEAN) / STD
