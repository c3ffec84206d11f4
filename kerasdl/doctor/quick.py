"""What can be told of images without decoding them."""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from kerasdl.data.image_files import Photos
from kerasdl.doctor.findings import Copies, Fault, Findings
from kerasdl.doctor.scan import Classes, Place, places_of, relative

FEW_IMAGES = 20
MOST_IMBALANCE = 5
MOST_GIFS = 0.05


def fast_check(classes: Classes, *, root: str | os.PathLike = "") -> Findings:
    """Look at class sizes, for GIFs, and for files of the same content.

    Of 100,000 files, nine of ten as long as another one, it takes 5 s of a core.

    Args:
        classes: Image files that can be read, by class, by split (`train`,
            `validation`, `test`; `""` without splits).
        root: Folder that the findings name files relative to.

    Raises:
        InputError: If a file cannot be read; names it.
    """
    places = places_of(classes)
    keys = Photos(tuple(place.path for place in places)).copy_keys()
    counts = {
        split: {label: len(paths) for label, paths in files.items()}
        for split, files in classes.items()
    }
    gifs = [place.path.suffix.lower() == ".gif" for place in places]
    return Findings(
        folder=str(root),
        classes=counts,
        faults=[*class_faults(counts), *odd_gifs(places, gifs, root)],
        copies=describe_copies(
            places, [(group, "the same file") for group in groups_of(keys)], root
        ),
    )


def class_faults(counts: dict[str, dict[str, int]]) -> list[Fault]:
    """Judge the sizes of classes.

    Args:
        counts: Number of readable images by class, by split.
    """
    faults = [
        Fault(os.path.join(split, label), "empty_class", "no readable image")
        for split, classes in counts.items()
        for label, count in classes.items()
        if not count
    ]
    learned = "train" if "train" in counts else next(iter(counts))
    known = counts[learned]
    if len(known) < 2:
        only = os.path.join(learned, next(iter(known), ""))
        faults.append(Fault(only, "one_class", "two are the least"))
    faults += [
        Fault(os.path.join(split, label), "unknown_class", "train/ has no such class")
        for split, classes in counts.items()
        for label in classes
        if label not in known
    ]
    return faults + _small_classes(learned, known)


def _small_classes(split: str, counts: dict[str, int]) -> list[Fault]:
    filled = {label: count for label, count in counts.items() if count}
    faults = [
        Fault(os.path.join(split, label), "tiny_class", f"{count} images")
        for label, count in filled.items()
        if count < FEW_IMAGES
    ]
    if len(filled) > 1:
        small, large = (choose(filled, key=filled.get) for choose in (min, max))
        if filled[large] > MOST_IMBALANCE * filled[small]:
            detail = f"{filled[small]:,} images, but {filled[large]:,} of {large}"
            faults.append(Fault(os.path.join(split, small), "imbalance", detail))
    return faults


def odd_gifs(
    places: Sequence[Place], gifs: Sequence[bool], root: str | os.PathLike
) -> list[Fault]:
    """Name the GIFs of a set where nearly all images are something else."""
    if sum(gifs) > MOST_GIFS * len(gifs):
        return []
    return [
        Fault(relative(place, root), "odd_format", "seldom a photo")
        for place, is_gif in zip(places, gifs, strict=True)
        if is_gif
    ]


def groups_of(keys: Iterable) -> list[np.ndarray]:
    """Return the rows of each key that is there more than once."""
    rows = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return [np.array(group) for group in rows.values() if len(group) > 1]


def describe_copies(
    places: Sequence[Place],
    groups: Sequence[tuple[np.ndarray, str]],
    root: str | os.PathLike,
) -> list[Copies]:
    """Say of groups of rows what it means that they show the same picture.

    Args:
        places: The images.
        groups: Rows that show the same picture, and how alike they are.
        root: Folder that the files are named relative to.
    """
    found = []
    for rows, how in groups:
        _, splits, labels = zip(*(places[row] for row in rows), strict=True)
        parts = [how]
        for names in (splits, labels):
            distinct = list(dict.fromkeys(names))
            if len(distinct) > 1:
                parts.append(f"in {' and '.join(distinct)}")
        what = "two_labels" if len(set(labels)) > 1 else "copies"
        if what == "copies" and len(set(splits)) > 1:
            what = "across_splits"
        paths = tuple(relative(places[row], root) for row in rows)
        found.append(Copies(paths, what, ", ".join(parts)))
    order = ("two_labels", "across_splits", "copies")
    return sorted(found, key=lambda copies: order.index(copies.what))
