"""Simple features of pictures that need no trained network."""

import numpy as np
from scipy.ndimage import uniform_filter

CELL = 8
ORIENTATIONS = 8
COLOURS = 4  # levels of each channel in the histogram


def simple_features(pictures: np.ndarray) -> np.ndarray:
    """Return gradient histograms, colour histograms and tiny copies of pictures.

    Args:
        pictures: Pixels `(count, side, side, 3)`, uint8; `side` a multiple of 8.

    Returns:
        Features `(count, width)`, float32.
    """
    parts = (_gradients(pictures), _colours(pictures), _tiny(pictures))
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _gradients(pictures: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients (Dalal & Triggs 2005), a histogram a cell."""
    grey = pictures.mean(-1, dtype=np.float32)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right)
    turns = np.arctan2(down, right) / np.pi % 1  # half a turn is the same edge
    bins = (turns * ORIENTATIONS).astype(np.int8) % ORIENTATIONS
    cells = grey.shape[1] // CELL
    shape = (len(grey), cells, CELL, cells, CELL)
    histograms = np.stack(
        [
            (strength * (bins == orientation)).reshape(shape).sum((2, 4))
            for orientation in range(ORIENTATIONS)
        ],
        axis=-1,
    )
    energy = uniform_filter((histograms**2).sum(-1), (0, 3, 3))
    histograms /= np.sqrt(energy + CELL**2)[..., None]
    return np.sqrt(histograms).reshape(len(grey), -1)


def _colours(pictures: np.ndarray) -> np.ndarray:
    count = len(pictures)
    levels = pictures.reshape(count, -1, 3) // (256 // COLOURS)
    codes = levels @ np.array([COLOURS**2, COLOURS, 1], np.uint8)
    rows = np.arange(count)[:, None] * COLOURS**3
    histograms = np.bincount((codes + rows).ravel(), minlength=count * COLOURS**3)
    return np.sqrt(histograms.reshape(count, -1) / codes.shape[1])


def _tiny(pictures: np.ndarray) -> np.ndarray:
    cells = pictures.shape[1] // CELL
    shape = (len(pictures), cells, CELL, cells, CELL, 3)
    means = pictures.reshape(shape).mean((2, 4), dtype=np.float32)
    return means.reshape(len(pictures), -1) / 255
