"""Named sets of images: those of TFDS and the embedded sample."""

import math
from importlib import resources

import numpy as np

from kerasdl.data import tfds
from kerasdl.data.image_files import Photos
from kerasdl.data.labelled import Labelled, Splits, splits_of
from kerasdl.data.pixels import EncodedImage, image_stack, read_image
from kerasdl.errors import InputError

TFDS_SETS = {
    "cifar10": tfds.Source(
        "cifar10", "CIFAR-10", "cifar10", "https://www.cs.toronto.edu/~kriz/cifar.html"
    ),
    "fashion_mnist": tfds.Source(
        "fashion_mnist",
        "Fashion-MNIST",
        "fashion_mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    "mnist": tfds.Source(
        "mnist", "MNIST", "mnist", "https://storage.googleapis.com/cvdf-datasets/mnist/"
    ),
}
# Whether there is a connection at all; other sets come from many sites.
TFDS_SITE = "https://storage.googleapis.com/tfds-data/"
# Sets of smaller images are decoded at once: 100,000 of them fit into memory.
MOST_SMALL_PIXELS = 96 * 96 * 3
# The sample is one picture of so many images in a row; the classes take turns.
SAMPLE_COLUMNS = 100
SAMPLE_SIDE = 28
SAMPLE_TRAIN, SAMPLE_TEST = 10_000, 2_000
SAMPLE_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def tfds_images(name: str) -> Splits:
    """Return an image-classification set that `tensorflow_datasets` knows.

    It is downloaded, if need be. Reading imports no TensorFlow and takes 3 s for 60,000
    small images.

    Args:
        name: Its name there, such as `cifar10` or `mnist`; `name/config` where it has
            several configurations.

    Raises:
        InputError: If there is no such set, it has no images with one class each, or it
            can neither be found nor downloaded.
    """
    source = TFDS_SETS.get(name) or tfds.Source(name, name, f"tfds:{name}", TFDS_SITE)
    builder = tfds.open_set(source)
    image, label = _features(source, builder)
    names = tuple(builder.info.features[label].names)
    splits = {}
    for split in ("train", "validation", "test"):
        if split in builder.info.splits:
            examples = tfds.examples(source, builder, split, (image, label))
            title = f"{source.title} {split}"
            images = _decoded(
                [example[image] for example in examples],
                builder.info.features[image].shape,
                title,
            )
            labels = np.array([example[label] for example in examples], np.int64)
            splits[split] = Labelled(title, images, labels, names)
    if "train" not in splits:
        found = ", ".join(builder.info.splits)
        raise InputError(f"{source.title} has no split called train (it has {found})")
    return splits_of(splits)


def _features(source: tfds.Source, builder) -> tuple[str, str]:
    """Return the names of the image and of its class among a set's features."""
    features = builder.info.features
    kinds = {
        kind: [name for name in features if type(features[name]).__name__ == kind]
        for kind in ("Image", "ClassLabel")
    }
    supervised = builder.info.supervised_keys or ()
    chosen = [
        next((name for name in names if name in supervised), names[0])
        for names in kinds.values()
        if names
    ]
    if len(chosen) < len(kinds):
        raise InputError(
            f"{source.title} has no images with one class each (its features are "
            f"{', '.join(features)}); choose an image-classification set"
        )
    return tuple(chosen)


def _decoded(
    images: list, shape: tuple[int | None, ...], title: str
) -> np.ndarray | Photos:
    """Decode small images of one shape; leave others encoded."""
    if isinstance(images[0], bytes):
        encoded = tuple(
            EncodedImage(content, f"{title}, image {row}")
            for row, content in enumerate(images)
        )
        if None in shape or math.prod(shape) > MOST_SMALL_PIXELS:
            return Photos(encoded)
        # No threads: images this small are decoded faster than handed over.
        images = [read_image(image, channels=shape[-1]) for image in encoded]
    return image_stack(np.stack(images))


def image_sample() -> Splits:
    """Return the embedded sample: 10,000 and 2,000 images of Fashion-MNIST.

    Made by `benchmarks/make_fashion_sample.py`; each class has its equal share.
    """
    packed = resources.files("kerasdl.data.samples") / "fashion.webp"
    mosaic = read_image(packed.read_bytes(), channels=1)
    side, classes = SAMPLE_SIDE, len(SAMPLE_CLASSES)
    images = mosaic.reshape(-1, side, SAMPLE_COLUMNS, side, 1)
    images = np.ascontiguousarray(images.swapaxes(1, 2)).reshape(-1, side, side, 1)
    labels = np.arange(len(images)) % classes
    return Splits(
        *(
            Labelled(f"sample {split}", images[rows], labels[rows], SAMPLE_CLASSES)
            for split, rows in (
                ("train", slice(SAMPLE_TRAIN)),
                ("test", slice(SAMPLE_TRAIN, None)),
            )
        )
    )
