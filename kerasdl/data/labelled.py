"""Labelled examples of any kind, and fair ways to cut them."""

import hashlib
import itertools
import os
import re
import struct
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kerasdl.errors import InputError

FEWEST_EXAMPLES = 3
# Values are held out in equal shares from this many ranges of their size.
VALUE_RANGES = 10


@dataclass(frozen=True, eq=False)
class Labelled:
    """Examples, each with the index of its class or with its value.

    Attributes:
        name: What was read, as metrics shall call it.
        examples: The examples: a list, or something that a row array selects from.
        labels: Index into `label_names` of each example, int64; or, where there are no
            classes, its value, float64. Shape `(count,)`.
        label_names: Names of the classes; empty for values.
    """

    name: str
    examples: Sequence
    labels: np.ndarray
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of class names, labels and examples, in hexadecimal digits."""
        digest = hashlib.sha256()
        names = (name.encode() for name in (*self.label_names, ""))
        for encoded in itertools.chain(names, _identities(self.examples)):
            # With its length, so that moving a boundary between texts shows.
            digest.update(struct.pack("<q", len(encoded)) + encoded)
        kind = "<i8" if self.label_names else "<f8"
        digest.update(self.labels.astype(kind).tobytes())
        return digest.hexdigest()

    def subset(self, rows: np.ndarray) -> "Labelled":
        """Return the examples with these indices, in this order."""
        if isinstance(self.examples, list):
            chosen = [self.examples[row] for row in rows]
        else:
            chosen = self.examples[rows]
        return Labelled(self.name, chosen, self.labels[rows], self.label_names)

    @property
    def strata(self) -> np.ndarray:
        """What a fair cut keeps in proportion: the classes, or ranges of the values."""
        if self.label_names:
            return self.labels
        edges = np.quantile(self.labels, np.arange(1, VALUE_RANGES) / VALUE_RANGES)
        # Distinct edges, so that a frequent value does not leave empty ranges.
        return np.searchsorted(np.unique(edges), self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set: its training part and, where it has them, the others.

    Attributes:
        train: Labelled examples; all of them where the data has no test split.
        test: The official or given test split, or `None`.
        unlabelled: Examples without labels, empty unless asked for.
        validation: The given validation split beside a test split, or `None`.
    """

    train: Labelled
    test: Labelled | None = None
    unlabelled: Sequence = field(default_factory=list)
    validation: Labelled | None = None


def splits_of(parts: Mapping[str, Labelled]) -> Splits:
    """Put `train`, `validation` and `test` in their places.

    Without a test split, the validation split is what is measured on.
    """
    validation, test = parts.get("validation"), parts.get("test")
    if test is None:
        return Splits(parts["train"], validation)
    return Splits(parts["train"], test, validation=validation)


def sorted_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct labels, in the order of numbers where all are numbers."""
    names = sorted(set(labels))
    if all(re.fullmatch(r"-?[0-9]{1,19}", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def check_trainable(data: Labelled) -> None:
    """Refuse training data with fewer than two classes or too few examples of one.

    Raises:
        InputError: Names the class and how many examples it has.
    """
    if not data.label_names:
        _check_values(data)
        return
    if len(data.label_names) < 2:
        only = ", ".join(map(repr, data.label_names))
        raise InputError(f"{data.name} has {only} only; give two or more classes")
    counts = np.bincount(data.labels, minlength=len(data.label_names))
    for name, count in zip(data.label_names, counts, strict=True):
        if count < FEWEST_EXAMPLES:
            raise InputError(
                f"{data.name}: class {name!r} has {count} "
                f"example{'' if count == 1 else 's'}, and {FEWEST_EXAMPLES} are the "
                "least; add some or remove the class"
            )


def _check_values(data: Labelled) -> None:
    different = len(np.unique(data.labels))
    if different < FEWEST_EXAMPLES:
        raise InputError(
            f"{data.name} has {different} different value"
            f"{'' if different == 1 else 's'} to predict, and {FEWEST_EXAMPLES} are "
            "the least; add rows or choose another target"
        )


def hold_out(
    data: Labelled, fraction: float, *, seed: int
) -> tuple[Labelled, Labelled]:
    """Set a fraction of every class, or of every range of values, aside.

    Texts that differ only in case or white space, and equal images, stay on one side.
    Each class has at least one example on each side.

    Args:
        data: What to cut.
        fraction: Share to hold out, above 0 and below 1.
        seed: Chooses the examples.

    Returns:
        The examples kept and the examples held out, each in their former order.

    Raises:
        InputError: If a class has too few different examples.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    groups, strata = _groups_of_copies(data)
    random = np.random.default_rng(seed)
    is_held = np.zeros(len(data), bool)
    for stratum in np.unique(strata):
        members = [
            groups[i] for i in random.permutation(np.flatnonzero(strata == stratum))
        ]
        count = sum(map(len, members))
        # Where every example is repeated, the least repeated one still fits.
        least = min(map(len, members), default=0)
        room = min(max(least, round(fraction * count)), count - 1)
        for rows in members:
            if len(rows) <= room:
                is_held[rows] = True
                room -= len(rows)
    _check_sides(data, is_held)
    kept = data.subset(np.flatnonzero(~is_held))
    held = data.subset(np.flatnonzero(is_held))
    return kept, held


def _check_sides(data: Labelled, is_held: np.ndarray) -> None:
    if not data.label_names and not is_held.any():
        raise InputError(f"{data.name} has too few different rows; add some")
    for label, name in enumerate(data.label_names):
        sides = is_held[data.labels == label]
        if len(sides) and (sides.all() or not sides.any()):
            raise InputError(
                f"{data.name}: class {name!r} has too few different examples to hold "
                "some out; add some"
            )


def deal(data: Labelled, most: int, *, seed: int) -> list[np.ndarray]:
    """Deal examples out into folds for cross-validation, copies into the same one.

    Args:
        data: What to deal out.
        most: Largest number of folds; there are fewer where a class has fewer examples.
        seed: Chooses the examples.

    Returns:
        The rows of each fold, ascending; each class, or range of values, in proportion.

    Raises:
        InputError: If a class has fewer than `FEWEST_EXAMPLES` different examples.
    """
    groups, strata = _groups_of_copies(data)
    counts = np.bincount(strata, minlength=len(data.label_names))
    if data.label_names and counts.min() < FEWEST_EXAMPLES:
        raise InputError(
            f"{data.name}: class {data.label_names[counts.argmin()]!r} has fewer "
            f"than {FEWEST_EXAMPLES} different examples; add some or remove the class"
        )
    number = counts.min() if data.label_names else len(groups)
    folds = [[] for _ in range(min(most, number))]
    random = np.random.default_rng(seed)
    turn = 0
    for stratum in np.unique(strata):
        # Each class starts with the first fold; small ranges must not all do so.
        turn = 0 if data.label_names else turn
        for group in random.permutation(np.flatnonzero(strata == stratum)):
            folds[turn % len(folds)] += groups[group]
            turn += 1
    return [np.sort(rows) for rows in folds]


def _groups_of_copies(data: Labelled) -> tuple[list[list[int]], np.ndarray]:
    """Group rows whose examples count as the same, with their stratum."""
    groups = {}
    for row, key in enumerate(_copy_keys(data.examples)):
        groups.setdefault(key, []).append(row)
    groups = list(groups.values())
    return groups, data.strata[[rows[0] for rows in groups]]


def _identities(examples: Sequence) -> Iterable[bytes]:
    """Yield what tells each example apart: its text, pixels, or file."""
    if isinstance(examples, np.ndarray):
        return (_content(array) for array in examples)
    if hasattr(examples, "identities"):
        return map(os.fsencode, examples.identities())
    return (str(example).encode() for example in examples)


def _copy_keys(examples: Sequence) -> Iterable[Hashable]:
    """Yield keys that are equal for copies, even those that differ in case or space."""
    if isinstance(examples, np.ndarray):
        return (_content(array) for array in examples)
    if hasattr(examples, "copy_keys"):
        return examples.copy_keys()
    return (" ".join(str(example).casefold().split()) for example in examples)


def _content(array: np.ndarray) -> bytes:
    shape = ",".join(map(str, (array.dtype.str, *array.shape)))
    return hashlib.sha256(shape.encode() + array.tobytes()).digest()
