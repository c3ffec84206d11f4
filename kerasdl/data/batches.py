"""Batches of variable-length examples, in an order that depends on nothing but a seed.

The batch source works with `model.fit` on every backend and needs no tf.data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

# Padded widths are rounded up to these steps: few enough that JAX compiles a handful
# of programs, close enough that little padding is computed.
WIDTHS_PER_OCTAVE = 2
SMALLEST_WIDTH = 16
# Examples are sorted by length within pools of this many batches, so that a batch
# holds similar lengths while its members still change from epoch to epoch.
POOL_BATCHES = 32


@dataclass(frozen=True)
class Ragged:
    """Integer sequences of different lengths, stored end to end.

    Attributes:
        values: All sequences concatenated, shape `(total,)`.
        offsets: Start of each sequence and the end of the last, shape `(count + 1,)`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Cut `values` into consecutive sequences of the given lengths."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @property
    def lengths(self) -> np.ndarray:
        """Length of each sequence, shape `(count,)`."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def take(self, rows: np.ndarray) -> "Ragged":
        """Select sequences by index, in the given order."""
        lengths = self.lengths[rows]
        starts = np.repeat(
            self.offsets[:-1][rows] - np.cumsum(lengths) + lengths, lengths
        )
        return Ragged.from_lengths(
            self.values[starts + np.arange(lengths.sum())], lengths
        )

    def pad(self, width: int) -> np.ndarray:
        """Fill each sequence up with zeros on the right, shape `(count, width)`."""
        padded = np.zeros((len(self), width), self.values.dtype)
        padded[np.arange(width) < self.lengths[:, None]] = self.values
        return padded


def padded_width(length: int) -> int:
    """Round a length up to the next of few widths, at most 1.5 times as long.

    Example:
        >>> [padded_width(n) for n in (0, 16, 17, 25, 300)]
        [16, 16, 24, 32, 384]
    """
    width = SMALLEST_WIDTH
    while width < length:
        octave = 2 ** (width.bit_length() - 1)
        width += octave // WIDTHS_PER_OCTAVE
    return width


class BatchSource(keras.utils.PyDataset):
    """Length-bucketed batches whose order is a pure function of `(seed, epoch)`.

    Every example comes exactly once per epoch. Sequences are padded on the right with
    zeros, so that fused recurrent kernels apply.

    Args:
        inputs: Model input name to sequences, all of the same count.
        targets: Labels `(count,)`, or soft labels `(count, classes)`.
        batch_size: Examples per batch; the last batch may be smaller.
        seed: Shuffles each epoch differently; `None` keeps one order by length.
    """

    def __init__(
        self,
        inputs: Mapping[str, Ragged],
        targets: np.ndarray | None = None,
        *,
        batch_size: int = 64,
        seed: int | None = None,
    ):
        super().__init__()
        self.inputs = dict(inputs)
        self.targets = targets
        self.batch_size = batch_size
        self.seed = seed
        self._lengths = sum(ragged.lengths for ragged in self.inputs.values())
        self._epoch = -1
        self._plan = self.plan(0)

    @property
    def num_batches(self) -> int:
        """Number of batches of an epoch."""
        return -(-len(self._lengths) // self.batch_size)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the example indices of every batch of an epoch, in order."""
        if self.seed is None:
            batches = self._cut(np.argsort(self._lengths, kind="stable"))
            return _extremes_first(batches, self._lengths)
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self._lengths))
        pool = self.batch_size * POOL_BATCHES
        batches = []
        for start in range(0, len(order), pool):
            members = order[start : start + pool]
            batches += self._cut(
                members[np.argsort(self._lengths[members], kind="stable")]
            )
        batches = [batches[i] for i in random.permutation(len(batches))]
        return _extremes_first(batches, self._lengths)

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        return [
            order[start : start + self.batch_size]
            for start in range(0, len(order), self.batch_size)
        ]

    def __getitem__(self, index: int):
        rows = self._plan[index]
        batch = {
            name: ragged.take(rows).pad(self._width(ragged, index))
            for name, ragged in self.inputs.items()
        }
        inputs = batch if len(batch) > 1 else batch.popitem()[1]
        return (inputs,) if self.targets is None else (inputs, self.targets[rows])

    def _width(self, ragged: Ragged, index: int) -> int:
        """Return the padded width of a batch.

        Keras on TensorFlow takes the batch signature from the first two batches; only
        where these differ in width does it allow any width.
        """
        lengths = ragged.lengths
        width = padded_width(lengths[self._plan[index]].max(initial=0))
        if index > 0 or len(self._plan) == 1:
            return width
        varies = padded_width(lengths.min()) < padded_width(lengths.max())
        second = padded_width(lengths[self._plan[1]].max(initial=0))
        return padded_width(width + 1) if varies and width == second else width

    def on_epoch_begin(self):
        """Move on to the order of the next epoch (Keras calls this)."""
        self._epoch += 1
        self._plan = self.plan(self._epoch)


def _extremes_first(batches: list, lengths: np.ndarray) -> list:
    """Put the shortest and the longest batch first, see `BatchSource._width`."""
    longest = [lengths[rows].max(initial=0) for rows in batches]
    first, second = int(np.argmin(longest)), int(np.argmax(longest))
    if first == second:
        return batches
    rest = [rows for i, rows in enumerate(batches) if i not in (first, second)]
    return [batches[first], batches[second], *rest]
