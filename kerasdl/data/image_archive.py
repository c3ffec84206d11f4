"""Images and labels as the arrays of an `.npz` file."""

from pathlib import Path

import numpy as np

from kerasdl.data.archives import read_arrays
from kerasdl.data.labelled import Labelled, Splits, sorted_names, splits_of
from kerasdl.data.pixels import image_stack
from kerasdl.errors import InputError
from kerasdl.untrusted import brief

ARCHIVE_KEYS = (
    ("train", "x_train", "y_train"),
    ("train", "images", "labels"),
    ("validation", "x_val", "y_val"),
    ("test", "x_test", "y_test"),
)


def image_archive(path: str | Path) -> Splits:
    """Read an `.npz` file of pixels and labels.

    Its arrays are `x_train` and `y_train`, with `x_test` and `y_test` and with `x_val`
    and `y_val` where there are such splits; or `images` and `labels`.

    Args:
        path: The file.

    Raises:
        InputError: If it cannot be read, or its arrays do not fit each other.
    """
    path = Path(path)
    wanted = {name for _, *names in ARCHIVE_KEYS for name in names}
    arrays, found = read_arrays(path, wanted)
    pairs = {
        split: (arrays[images], arrays[labels])
        for split, images, labels in ARCHIVE_KEYS
        if images in arrays and labels in arrays
    }
    if "train" not in pairs:
        raise InputError(
            f"{path} has the arrays {brief(', '.join(found)) or 'none'}; name them "
            "x_train and y_train, or images and labels"
        )
    texts = {split: _label_texts(path, labels) for split, (_, labels) in pairs.items()}
    names = sorted_names(texts["train"])
    index = {name: i for i, name in enumerate(names)}
    splits = {}
    for split, (images, _) in pairs.items():
        if unknown := sorted(set(texts[split]) - set(names)):
            raise InputError(
                f"{path}: the {split} labels have {unknown[0]!r}, which the training "
                "labels lack; remove it there"
            )
        try:
            pixels = image_stack(images[..., None] if images.ndim == 3 else images)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if len(pixels) != len(texts[split]):
            raise InputError(
                f"{path} has {len(pixels):,} {split} images and {len(texts[split]):,} "
                "labels; give one label for each image"
            )
        labels = np.array([index[text] for text in texts[split]], np.int64)
        title = path.name if len(pairs) == 1 else f"{path.name} {split}"
        splits[split] = Labelled(title, pixels, labels, names)
    return splits_of(splits)


def _label_texts(path: Path, labels: np.ndarray) -> list[str]:
    labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iuUb":
        raise InputError(
            f"{path} has labels of shape {labels.shape} and type {labels.dtype}; give "
            "one whole number or text for each image"
        )
    return list(map(str, labels.tolist()))
