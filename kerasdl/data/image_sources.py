"""Labelled images from TFDS, the embedded sample, a folder, a table or an archive.

Every source returns `kerasdl.data.labelled.Splits`; its examples are one uint8 array
`(count, height, width, channels)`, or files that are decoded when they are needed.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kerasdl.data import tfds
from kerasdl.data.image_archive import image_archive
from kerasdl.data.image_files import (
    Ignored,
    Photos,
    class_files,
    faults,
    files_below,
    split_folders,
)
from kerasdl.data.image_sets import TFDS_SETS, image_sample, tfds_images
from kerasdl.data.labelled import Labelled, Splits, sorted_names, splits_of
from kerasdl.data.names import no_such_data
from kerasdl.data.tables import (
    FORMATS,
    Table,
    clean_labels,
    clean_texts,
    find_column,
    read_table,
    refuse_unreadable,
)
from kerasdl.errors import InputError

__all__ = ["files_below", "image_folder", "image_table", "load_images"]

NAMES = ("auto", "sample", *TFDS_SETS)
OTHERWISE = ", tfds:NAME, or the path of a folder, a table or an .npz file"
PATH_COLUMNS = ("path", "file", "filename", "image")
LABEL_COLUMNS = ("label", "class", "target")


def load_images(
    data: str,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    skip_corrupt: bool = False,
    unlabelled: bool = False,  # noqa: ARG001 - as every loader; no source has any
    notify: Callable[[str], None] = print,
) -> Splits:
    """Load labelled images by name or from a path.

    Args:
        data: `fashion_mnist`, `cifar10`, `mnist`, `tfds:NAME`, `sample`, `auto`
            (Fashion-MNIST if it is there, otherwise the sample), or the path of a
            folder of class folders, of a table of paths and labels, or of an `.npz`.
        path_column: Column of the paths, tables only; found by its name if omitted.
        label_column: Column of the labels, tables only; found by its name if omitted.
        skip_corrupt: Whether to leave out images that cannot be read, and list them,
            instead of refusing.
        unlabelled: No source of images has unlabelled ones.
        notify: Called with each line about what was taken and what was left out.

    Raises:
        InputError: If the data cannot be used; the message says why.
    """
    if data == "auto":
        data = _choose(notify)
    is_name = data in NAMES or data.startswith("tfds:")
    path = Path(data).expanduser()
    with refuse_unreadable(path):
        if not is_name and (not data or not path.exists()):
            raise InputError(no_such_data(data, NAMES, OTHERWISE))
        is_table = not is_name and path.suffix.lower() != ".npz" and not path.is_dir()
    if is_table:
        return image_table(
            path,
            path_column=path_column,
            label_column=label_column,
            skip_corrupt=skip_corrupt,
            notify=notify,
        )
    if (path_column, label_column) != (None, None):
        raise InputError(
            f"--path-column and --label-column are for tables ({', '.join(FORMATS)}), "
            f"but {data} is none; leave them out"
        )
    if data == "sample":
        return image_sample()
    if is_name:
        return tfds_images(data.removeprefix("tfds:"))
    if path.is_dir():
        return image_folder(path, skip_corrupt=skip_corrupt, notify=notify)
    return image_archive(path)


def _choose(notify: Callable[[str], None]) -> str:
    if TFDS_SETS["fashion_mnist"].is_prepared():
        notify(f"Data: Fashion-MNIST, found in {tfds.tfds_folder()}.")
        return "fashion_mnist"
    notify(
        f"Data: the embedded sample, as Fashion-MNIST is not in {tfds.tfds_folder()}; "
        "--data fashion_mnist downloads it (30 MB)."
    )
    return "sample"


def image_folder(
    path: str | Path,
    *,
    skip_corrupt: bool = False,
    notify: Callable[[str], None] = print,
) -> Splits:
    """Read a folder of class folders of images.

    The class folders may stand in `train/`, `test/` and `val/` (or `valid/` or
    `validation/`). The images are not decoded yet, only looked at as `faults` does.

    Args:
        path: The folder.
        skip_corrupt: Whether to leave images out that cannot be read, and list them.
        notify: Called with one line about files that are no images, and with one for
            each image left out.

    Raises:
        InputError: If there are fewer than two classes, a class is empty, or an image
            cannot be read.
    """
    path = Path(path)
    ignored = Ignored()
    with refuse_unreadable(path):
        folders = split_folders(path, ignored)
        found = {split: class_files(f, ignored) for split, f in folders.items()}
    if line := ignored.line(path):
        notify(line)
    train = found["train" if "train" in found else ""]
    names = sorted_names(train)
    if len(names) < 2:
        has = f"only one class folder, {names[0]!r}" if names else "no class folders"
        raise InputError(
            f"{folders.get('train', path)} has {has}; give a folder with one folder of "
            "images for each of two or more classes"
        )
    for split, classes in found.items():
        if unknown := sorted(set(classes) - set(names)):
            raise InputError(
                f"{folders[split]} has the class {unknown[0]!r}, which train/ lacks "
                f"(it has {', '.join(names)}); give both the same class folders"
            )
    splits = {}
    for split, classes in found.items():
        files = [classes.get(name, []) for name in names]
        labels = np.repeat(np.arange(len(names)), list(map(len, files)))
        photos = Photos(tuple(itertools.chain.from_iterable(files)), path)
        good = _readable(photos, skip_corrupt=skip_corrupt, notify=notify)
        for label, name in enumerate(names):
            if name in classes and not np.any(labels[good] == label):
                raise InputError(
                    f"{folders[split] / name}: no image of class {name!r} can be read; "
                    "replace some, or remove the folder"
                )
        title = f"{path.resolve().name} {split}".strip()
        splits[split or "train"] = Labelled(title, photos[good], labels[good], names)
    return splits_of(splits)


def _readable(
    photos: Photos, *, skip_corrupt: bool, notify: Callable[[str], None]
) -> np.ndarray:
    """Refuse images that cannot be read, or list them and return the other rows."""
    bad = faults(photos, decode=skip_corrupt)
    if bad and not skip_corrupt:
        others = f" and {len(bad) - 1:,} others" if len(bad) > 1 else ""
        raise InputError(
            f"{next(iter(bad.values()))}, or leave it{others} out with --skip-corrupt"
        )
    if bad:
        plural = "s" if len(bad) > 1 else ""
        notify(f"Left out {len(bad):,} image{plural} that cannot be read:")
        for reason in bad.values():
            notify(f"  {reason.rpartition(';')[0]}")
    return np.array([row for row, path in enumerate(photos) if path not in bad], int)


def image_table(
    path: str | Path,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    skip_corrupt: bool = False,
    notify: Callable[[str], None] = print,
) -> Splits:
    """Read a CSV, TSV, JSONL or Parquet file with a path and a label in each row.

    Args:
        path: The file; its ending tells what it is. Paths in it are relative to its
            folder.
        path_column: Column of the paths; found by its name if omitted.
        label_column: Column of the labels; found by its name if omitted.
        skip_corrupt: Whether to leave images out that cannot be read, and list them.
        notify: Called with one line for each image left out.

    Raises:
        InputError: If the table, its columns, its labels or an image cannot be used.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"{path} is no set of images; give a folder with one folder of images for "
            f"each class, an .npz file or a table ({', '.join(FORMATS)})"
        )
    rows = read_table(path, encoding="utf-8", encoding_errors="strict")
    path_name = find_column(rows, path_column, PATH_COLUMNS, "--path-column")
    label_name = find_column(rows, label_column, LABEL_COLUMNS, "--label-column")
    if path_name == label_name:
        raise InputError(
            f"{path}: paths and labels cannot both be column {path_name!r}; choose "
            "with --path-column and --label-column"
        )
    labels = clean_labels(rows, label_name)
    photos = Photos(_paths(rows, path_name), path.parent)
    good = _readable(photos, skip_corrupt=skip_corrupt, notify=notify)
    labels = [labels[row] for row in good]
    names = sorted_names(labels)
    index = {name: i for i, name in enumerate(names)}
    indices = np.array([index[label] for label in labels], np.int64)
    return Splits(Labelled(path.name, photos[good], indices, names))


def _paths(rows: Table, column: str) -> tuple[Path, ...]:
    texts = clean_texts(rows, column)
    for place, text in zip(rows.places, texts, strict=True):
        if not text.strip():
            raise InputError(
                f"{rows.path}: the path is missing at {place}; fill it in or delete "
                "the row"
            )
    return tuple(rows.path.parent / text for text in texts)
