"""Pictures that look alike: resized, compressed again, brightened, slightly cropped.

Candidates are neighbours by their lowest frequencies, a perceptual hash that is not
rounded to bits. A candidate counts if one picture explains the other: a least-squares
fit with a brightness, a contrast, and a small shift and stretch along each axis.
"""

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

SIDE = 32
FREQUENCIES = 5
# Distance of unit vectors up to which two pictures are candidates.
RADIUS = 0.5
NEIGHBOURS = 8
BLOCK = 1024
SMOOTHING = 1.0
BORDER = 2  # pixels at the edge, which a shift brings in from outside
MOST_UNEXPLAINED = 0.1  # share of the variance
# Where pictures of different things are alike too, copies are so many times more so.
TIMES_CLOSER = 5
# A picture's neighbour of this rank shows something else: copies are seldom more.
OTHER_RANK = 5
MOST_COLOUR_CHANGE = 12.0  # of 255


def alike_pairs(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of pictures that show the same.

    Of 397 photos of ants and bees, each beside a copy (`benchmarks/doctor.py`), it
    finds all that were resized to 50-80 %, compressed with quality 30 or brightened by
    10 %, 98.5 % of those cropped by 5 %, and 97.5 % after all of it at once; no pair of
    different photos was taken for copies. A grey copy of a colour picture is not found.

    Args:
        pictures: Thumbnails `(count, 32, 32, 3)`, uint8.

    Returns:
        Rows `(pairs, 2)`, and the share of variance that each pair has in common.
    """
    grey = pictures.mean(-1, dtype=np.float32)
    pairs = candidates(descriptors(grey))
    smooth = gaussian_filter(grey, (0, SMOOTHING, SMOOTHING))
    unexplained = np.ones(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        first, second = pairs[start : start + BLOCK].T
        unexplained[start : start + BLOCK] = _unexplained(smooth[first], smooth[second])
    colours = pictures.mean((1, 2)) - grey.mean((1, 2))[:, None]
    change = np.abs(colours[pairs[:, 0]] - colours[pairs[:, 1]]).max(1, initial=0)
    limit = _limit(len(pictures), pairs, unexplained)
    alike = (unexplained <= limit) & (change <= MOST_COLOUR_CHANGE)
    return pairs[alike], 1 - unexplained[alike]


def descriptors(grey: np.ndarray) -> np.ndarray:
    """Return the lowest frequencies of pictures `(count, 32, 32)` as unit vectors."""
    waves = dctn(grey, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]
    waves = waves.reshape(len(grey), -1)[:, 1:]  # without the brightness
    return waves / np.maximum(np.linalg.norm(waves, axis=1, keepdims=True), 1e-6)


def candidates(vectors: np.ndarray) -> np.ndarray:
    """Return pairs of rows whose vectors are near, `(pairs, 2)`.

    Only vectors whose first coordinate is within the radius are compared, by matrix
    products: 16 s of a core for 100,000 pictures. The nearest neighbours by a k-d tree
    took 270 s on two, as 24 dimensions leave it little to prune; and 64-bit hashes
    differ in up to 17 bits for a crop of 5 %, but in as few as 7 for different photos.

    Args:
        vectors: Unit vectors `(count, width)`.
    """
    order = np.argsort(vectors[:, 0], kind="stable")
    sorted_vectors = np.ascontiguousarray(vectors[order], np.float32)
    first = sorted_vectors[:, 0]
    least = 1 - RADIUS**2 / 2  # cosine at this distance
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(vectors), BLOCK):
        block = sorted_vectors[start : start + BLOCK]
        end = np.searchsorted(first, block[-1, 0] + RADIUS, "right")
        cosines = block @ sorted_vectors[start:end].T
        # Each pair once: with what comes later only.
        cosines[np.tri(*cosines.shape, dtype=bool)] = -1
        found.append(_nearest(cosines, least) + start)
    return order[np.concatenate(found)]


def _nearest(cosines: np.ndarray, least: float) -> np.ndarray:
    """Return row and column of each row's largest entries from `least` on."""
    rows, columns = np.nonzero(cosines >= least)
    if len(rows) > NEIGHBOURS * len(cosines):
        nearest = np.argpartition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        near = np.take_along_axis(cosines, nearest, 1) >= least
        rows, columns = np.nonzero(near)[0], nearest[near]
    return np.stack([rows, columns], 1)


def _unexplained(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the share of variance that pictures of pairs do not have in common.

    Args:
        first: Pictures `(pairs, side, side)`.
        second: Their partners.
    """
    return np.minimum(_residual(first, second), _residual(second, first))


def _residual(pictures: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Fit targets by moved, stretched, lightened pictures; return what is left."""
    down, right = np.gradient(pictures, axis=(1, 2))
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    ones = np.ones_like(pictures)
    terms = np.stack([pictures, ones, right, down, right * x, down * y], 1)
    inner = slice(BORDER, -BORDER)
    terms = terms[..., inner, inner].reshape(*terms.shape[:2], -1)
    targets = targets[:, inner, inner].reshape(len(targets), -1)
    squares = terms @ terms.transpose(0, 2, 1)
    squares += 1e-3 * np.eye(squares.shape[-1], dtype=np.float32)  # solvable if flat
    weights = np.linalg.solve(squares, terms @ targets[..., None])
    left = targets - (weights.transpose(0, 2, 1) @ terms)[:, 0]
    return (left**2).sum(1) / np.maximum(targets.var(1) * targets.shape[1], 1e-6)


def _limit(count: int, pairs: np.ndarray, unexplained: np.ndarray) -> float:
    """Choose how alike copies are, by how alike different pictures of the set are."""
    rows, values = pairs.T.ravel(), np.tile(unexplained, 2)
    order = np.lexsort([values, rows])
    rows, values = rows[order], values[order]
    starts = np.searchsorted(rows, np.arange(count))
    others = np.ones(count)
    ranks = starts + OTHER_RANK - 1
    has_others = np.append(rows, np.full(OTHER_RANK, -1))[ranks] == np.arange(count)
    others[has_others] = values[ranks[has_others]]
    return min(MOST_UNEXPLAINED, float(np.median(others)) / TIMES_CLOSER)
