"""Images and labels as the arrays of an `.npz` file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from kerasdl.data.labelled import Labelled, Splits, sorted_names, splits_of
from kerasdl.data.pixels import image_stack
from kerasdl.data.tables import refuse_unreadable
from kerasdl.errors import InputError

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
    arrays = _arrays(path)
    pairs = {
        split: (arrays[images], arrays[labels])
        for split, images, labels in ARCHIVE_KEYS
        if images in arrays and labels in arrays
    }
    if "train" not in pairs:
        raise InputError(
            f"{path} has the arrays {', '.join(arrays) or 'none'}; name them x_train "
            "and y_train, or images and labels"
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


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, as NumPy leaves a file that is cut off open.
        with refuse_unreadable(path), path.open("rb") as file:
            return dict(np.load(file, allow_pickle=False))
    # Not a zip file, cut off, or arrays of Python objects.
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read as .npz ({error}); write it with "
            "numpy.savez_compressed"
        ) from error


def _label_texts(path: Path, labels: np.ndarray) -> list[str]:
    labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iuUb":
        raise InputError(
            f"{path} has labels of shape {labels.shape} and type {labels.dtype}; give "
            "one whole number or text for each image"
        )
    return list(map(str, labels.tolist()))
