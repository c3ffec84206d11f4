"""The random generators that are no variables."""

import random

import numpy as np

from kerasdl import backend


def random_state() -> dict:
    """Return the generators that are no variables: Python's, NumPy's, PyTorch's."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, np.array(words, np.uint32), gauss],
        "numpy": [kind, keys, *rest],
        "backend": backend.random_state(),
    }


def set_random_state(state: dict) -> None:
    """Go on drawing from what `random_state` has returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    backend.set_random_state(state["backend"])
