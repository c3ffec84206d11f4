"""Make the embedded sample of Fashion-MNIST.

Run from the project's root, with Fashion-MNIST prepared in TFDS_DATA_DIR:

    python benchmarks/make_fashion_sample.py

The training images come from the training split and the test images from the test
split, the same number of each class, chosen by their hashes; copies are left out. The
images form one picture, a lossless WebP, in which the classes take turns.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from kerasdl.data.image_sets import (
    SAMPLE_CLASSES,
    SAMPLE_COLUMNS,
    SAMPLE_TEST,
    SAMPLE_TRAIN,
    tfds_images,
)
from kerasdl.data.labelled import Labelled

SAMPLES = Path(__file__).parents[1] / "kerasdl" / "data" / "samples"
SEED = b"kerasdl"
LICENCE = """\
fashion.webp: 12,000 of the 70,000 images of Fashion-MNIST (Han Xiao, Kashif Rasul and
Roland Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms, 2017), https://github.com/zalandoresearch/fashion-mnist. Made by
benchmarks/make_fashion_sample.py; the set comes under this licence:

The MIT License (MIT)

Copyright © 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this
software and associated documentation files (the “Software”), to deal in the Software
without restriction, including without limitation the rights to use, copy, modify,
merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies
or substantial portions of the Software.

THE SOFTWARE IS PROVIDED “AS IS”, WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED,
INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR
PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT
OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR
OTHER DEALINGS IN THE SOFTWARE.
"""


def choose(data: Labelled, count: int, seen: set[bytes]) -> np.ndarray:
    """Return images of which each class in turn has one, none of them in `seen`."""
    per_class = count // len(SAMPLE_CLASSES)
    chosen = {label: [] for label in range(len(SAMPLE_CLASSES))}
    digests = [
        hashlib.sha256(SEED + image.tobytes()).digest() for image in data.examples
    ]
    for row in np.argsort(digests, kind="stable"):
        rows = chosen[int(data.labels[row])]
        if len(rows) < per_class and digests[row] not in seen:
            seen.add(digests[row])
            rows.append(row)
    return data.examples[np.stack(list(chosen.values()), axis=1).ravel()]


def make_sample() -> bytes:
    """Return the sample as one lossless WebP picture."""
    splits, seen = tfds_images("fashion_mnist"), set()
    # Test images first: should a training image be a copy of one, it is left out.
    test = choose(splits.test, SAMPLE_TEST, seen)
    images = np.concatenate([choose(splits.train, SAMPLE_TRAIN, seen), test])
    side = images.shape[1]
    rows = images.reshape(-1, SAMPLE_COLUMNS, side, side).swapaxes(1, 2)
    packed = io.BytesIO()
    mosaic = Image.fromarray(rows.reshape(-1, SAMPLE_COLUMNS * side))
    mosaic.convert("RGB").save(packed, "WEBP", lossless=True, quality=100, method=6)
    return packed.getvalue()


def main() -> None:
    """Write the sample and its licence into the package."""
    (SAMPLES / "fashion.webp").write_bytes(make_sample())
    (SAMPLES / "LICENSE-fashion-mnist.txt").write_text(LICENCE, encoding="utf-8")


if __name__ == "__main__":
    main()
