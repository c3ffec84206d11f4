"""Examine a folder of images: every file decoded, compared and its label doubted."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kerasdl.data.image_files import faults
from kerasdl.data.pixels import in_threads
from kerasdl.doctor.alike import alike_pairs
from kerasdl.doctor.features import simple_features
from kerasdl.doctor.findings import Doubt, Fault, Findings
from kerasdl.doctor.labels import FOLDS, out_of_fold, wrong_labels
from kerasdl.doctor.looks import (
    Look,
    Unusable,
    is_blank,
    look_at,
    oddities,
    only_bombs_warn,
)
from kerasdl.doctor.quick import (
    class_faults,
    describe_copies,
    fast_check,
    groups_of,
    odd_gifs,
)
from kerasdl.doctor.scan import Listing, Place, places_of, relative, scan

CHUNK = 512
# Among larger pictures, a shorter side below this is an icon's.
TINY_SIDE = 32
MOST_ASPECT = 4
TIMES_SMALLER, TIMES_LARGER = 4, 10


def check_images(
    folder: str | os.PathLike,
    *,
    full: bool = True,
    features: Callable[[Sequence[Path]], np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """Examine a folder of class folders, with or without train/, val/ and test/.

    On two busy cores, 210 to 560 photos of 500 pixels a second, decoding most of it.

    Args:
        folder: The folder.
        full: Whether to decode every image; otherwise what files are, class sizes and
            files of the same content are looked at.
        features: Returns features `(count, width)` of image files, to doubt labels by;
            simple features of shapes and colours if omitted.
        progress: Called with the number of images done and their count.

    Raises:
        InputError: If it is no folder of class folders, or holds no image.
    """
    listing = scan(folder)
    places = places_of(listing.classes)
    if not full:
        return _fast(listing, places)
    paths = [place.path for place in places]
    looks, simple = _look_at_all(paths, progress)
    found = [
        Fault(relative(place, listing.root), look.what, look.detail)
        for place, look in zip(places, looks, strict=True)
        if isinstance(look, Unusable)
    ]
    rows = [row for row, look in enumerate(looks) if isinstance(look, Look)]
    places, looks = [places[row] for row in rows], [looks[row] for row in rows]
    for place, look in zip(places, looks, strict=True):
        name = relative(place, listing.root)
        found += [Fault(name, *odd) for odd in oddities(place.path, look)]
    found += _odd_among_others(places, looks, listing.root)
    groups = _same_pictures(looks)
    if features is not None:
        simple = features([place.path for place in places])
    doubts, accuracy = _doubts(places, simple, groups, listing.root)
    counts = _counts(listing, places)
    return Findings(
        folder=str(folder),
        classes=counts,
        faults=(*listing.faults, *class_faults(counts), *found),
        copies=describe_copies(places, groups, listing.root),
        doubts=doubts,
        label_accuracy=accuracy,
        ignored=listing.ignored.line(listing.root),
    )


def _fast(listing: Listing, places: Sequence[Place]) -> Findings:
    bad = faults([place.path for place in places])
    with only_bombs_warn():
        found = [
            Fault(relative(place, listing.root), *_verdict(look_at(place.path)))
            for place in places
            if place.path in bad
        ]
    sound = {
        split: {
            label: [path for path in paths if path not in bad]
            for label, paths in classes.items()
        }
        for split, classes in listing.classes.items()
    }
    findings = fast_check(sound, root=listing.root)
    return replace(
        findings,
        faults=(*listing.faults, *findings.faults, *found),
        ignored=listing.ignored.line(listing.root),
    )


def _verdict(look: Look | Unusable) -> tuple[str, str]:
    if isinstance(look, Unusable):
        return look.what, look.detail
    return "corrupt", "it does not end as it should"


def _look_at_all(
    paths: Sequence[Path], progress: Callable[[int, int], None]
) -> tuple[list[Look | Unusable], np.ndarray]:
    """Return what each file holds, and features of those that could be read."""
    looks, features = [], [np.zeros((0, 0), np.float16)]
    with only_bombs_warn():
        for start in range(0, len(paths), CHUNK):
            chunk = in_threads(look_at, paths[start : start + CHUNK])
            thumbnails = [look.thumbnail for look in chunk if isinstance(look, Look)]
            if thumbnails:
                # Half the digits: they are compared, not added up.
                features.append(simple_features(np.stack(thumbnails)).astype("f2"))
            looks += [_with_small_thumbnail(look) for look in chunk]
            if progress:
                progress(len(looks), len(paths))
    return looks, np.concatenate(features[1:] or features)


def _with_small_thumbnail(look: Look | Unusable) -> Look | Unusable:
    """Halve the thumbnail, so that 100,000 fit into memory."""
    if isinstance(look, Unusable):
        return look
    side = look.thumbnail.shape[0] // 2
    means = look.thumbnail.reshape(side, 2, side, 2, 3).mean((1, 3))
    return look._replace(thumbnail=means.astype(np.uint8))


def _odd_among_others(
    places: Sequence[Place], looks: Sequence[Look], root: Path
) -> list[Fault]:
    """Find what is odd because the other images are different."""
    sides = np.array([look.size for look in looks]).reshape(-1, 2)
    shorter, longer = sides.min(1, initial=10**9), sides.max(1, initial=0)
    usual = np.median(shorter) if len(looks) else 0
    found = odd_gifs(places, [look.format == "GIF" for look in looks], root)
    for place, look, short, long in zip(places, looks, shorter, longer, strict=True):
        name = relative(place, root)
        if reason := _odd_size(short, long, usual):
            detail = "{:,} x {:,} pixels, {}".format(*look.size, reason)
            found.append(Fault(name, "odd_size", detail))
    return found


def _odd_size(shorter: int, longer: int, usual: float) -> str:
    if shorter < TINY_SIDE <= usual / 2 or shorter * TIMES_SMALLER < usual:
        return f"far smaller than the usual {usual:,.0f}"
    if shorter > TIMES_LARGER * usual:
        return f"far larger than the usual {usual:,.0f}"
    return "a strip" if longer > MOST_ASPECT * shorter else ""


def _same_pictures(looks: Sequence[Look]) -> list[tuple[np.ndarray, str]]:
    """Return rows that show the same picture, and how alike they are."""
    first_of = {}
    same = np.array(
        [first_of.setdefault(look.pixels, row) for row, look in enumerate(looks)],
        np.int64,
    )
    # One of each, and nothing blank: there noise decides what is alike.
    rows = np.array(
        [row for row in first_of.values() if not is_blank(looks[row])], np.int64
    )
    pairs, shared = np.zeros((0, 2), np.int64), np.zeros(0)
    if len(rows) > 1:
        pairs, shared = alike_pairs(np.stack([looks[row].thumbnail for row in rows]))
        pairs = rows[pairs]
    edges = np.concatenate([np.stack([np.arange(len(looks)), same], 1), pairs])
    graph = coo_array((np.ones(len(edges)), edges.T), (len(looks), len(looks)))
    _, groups = connected_components(graph, directed=False)
    least = np.ones(len(looks))
    np.minimum.at(least, groups[pairs[:, 0]], shared)
    return [
        (members, _how(members, looks, least[groups[members[0]]]))
        for members in groups_of(groups.tolist())
    ]


def _how(rows: np.ndarray, looks: Sequence[Look], shared: float) -> str:
    if len({looks[row].content for row in rows}) == 1:
        return "the same file"
    if len({looks[row].pixels for row in rows}) == 1:
        return "the same pixels"
    return f"alike to {min(shared, 0.999):.1%}"


def _doubts(
    places: Sequence[Place],
    features: np.ndarray,
    groups: Sequence[tuple[np.ndarray, str]],
    root: Path,
) -> tuple[list[Doubt], float | None]:
    """Doubt the labels of classes that have an example for each fold."""
    names, labels, counts = np.unique(
        [place.label for place in places], return_inverse=True, return_counts=True
    )
    rows = np.flatnonzero(counts[labels] >= FOLDS) if places else np.zeros(0, int)
    if len(names := names[counts >= FOLDS]) < 2:
        return [], None
    labels = np.searchsorted(names, [places[row].label for row in rows])
    group = np.arange(len(places))
    for members, _ in groups:
        group[members] = members[0]
    probabilities = out_of_fold(features[rows].astype(np.float32), labels, group[rows])
    wrong, suggested = wrong_labels(labels, probabilities)
    doubts = [
        Doubt(
            relative(places[rows[row]], root),
            str(names[labels[row]]),
            str(names[other]),
            round(float(probabilities[row, other]), 4),
            round(float(probabilities[row, labels[row]]), 4),
        )
        for row, other in zip(wrong, suggested, strict=True)
    ]
    return doubts, float((probabilities.argmax(1) == labels).mean())


def _counts(listing: Listing, places: Sequence[Place]) -> dict[str, dict[str, int]]:
    counts = {
        split: dict.fromkeys(classes, 0) for split, classes in listing.classes.items()
    }
    for place in places:
        counts[place.split][place.label] += 1
    return counts
