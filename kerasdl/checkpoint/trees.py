"""State as JSON beside arrays: what callbacks hold, and back."""

import math

import numpy as np

ARRAY, FLOAT = "$array", "$float"


def split(tree, prefix: str, arrays: dict[str, np.ndarray]):
    """Return a state as strict JSON; its arrays go into `arrays`.

    Numbers that are not finite become strings, as JSON has none.

    Args:
        tree: Dicts, lists and tuples of arrays, numbers, strings, `None`.
        prefix: What the names of the arrays begin with.
        arrays: Takes the arrays, by name.

    Raises:
        TypeError: If the state holds anything else.
    """
    if isinstance(tree, np.ndarray):
        name = f"{prefix}/{len(arrays)}"
        arrays[name] = np.array(tree, order="C")
        return {ARRAY: name}
    if isinstance(tree, dict):
        return {key: split(value, prefix, arrays) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [split(value, prefix, arrays) for value in tree]
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, float) and not math.isfinite(tree):
        return {FLOAT: str(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"a state cannot hold a {type(tree).__name__}: {tree!r}")


def join(tree, arrays: dict[str, np.ndarray]):
    """Return the state that `split` has taken apart."""
    if isinstance(tree, list):
        return [join(value, arrays) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if set(tree) == {ARRAY}:
        return arrays[tree[ARRAY]]
    if set(tree) == {FLOAT}:
        return float(tree[FLOAT])
    return {key: join(value, arrays) for key, value in tree.items()}
