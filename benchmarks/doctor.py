"""How many near duplicates the doctor finds among photos, and how many it invents.

    python benchmarks/doctor.py FOLDER

Each photo of a folder is resized, compressed, brightened or cropped, or all of it, and
set beside all the originals. Every pair that is no photo with its copy, and is not
found among the originals alone, counts as invented.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from kerasdl.data.pixels import in_threads, read_image
from kerasdl.doctor.alike import SIDE, alike_pairs

SUFFIXES = (".jpg", ".jpeg", ".png")
random = np.random.default_rng(0)


def _resized(image):
    scale = random.uniform(0.5, 0.8)
    size = [max(1, int(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)


def _compressed(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def _brightened(image):
    return ImageEnhance.Brightness(image).enhance(random.choice([0.9, 1.1]))


def _cropped(image, kept=0.95):
    width, height = (int(side * kept) for side in image.size)
    left = random.integers(image.width - width + 1)
    top = random.integers(image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def _all_of_it(image):
    return _compressed(_brightened(_cropped(_resized(image))))


def _thumbnail(image):
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _pairs(pictures):
    return {tuple(sorted(pair)) for pair in alike_pairs(np.stack(pictures))[0].tolist()}


def _main(folder):
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    images = [Image.fromarray(pixels) for pixels in in_threads(read_image, paths)]
    originals = [_thumbnail(image) for image in images]
    before = _pairs(originals)
    count = len(images)
    print(f"{count:,} photos, {len(before):,} pairs alike among themselves")
    for distort in (_resized, _compressed, _brightened, _cropped, _all_of_it):
        copies = [_thumbnail(distort(image)) for image in images]
        found = _pairs(originals + copies)
        right = sum((row, row + count) in found for row in range(count))
        known = {tuple(row % count for row in pair) for pair in before}
        invented = [
            pair
            for pair in found
            if pair[0] != pair[1] - count
            and tuple(sorted(row % count for row in pair)) not in known
        ]
        print(
            f"{distort.__name__[1:]:10} found {right / count:.1%}, "
            f"of {len(found):,} pairs {len(invented):,} invented"
        )


if __name__ == "__main__":
    _main(sys.argv[1])
