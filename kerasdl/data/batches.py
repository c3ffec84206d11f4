"""Batches of variable-length examples, in an order that depends on nothing but a seed.

The batch source works with `model.fit` on every backend and needs no tf.data.
"""

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import keras
import numpy as np

from kerasdl.errors import InputError

# Padded widths are rounded up to these steps, so that widths recur.
WIDTHS_PER_OCTAVE = 2
SMALLEST_WIDTH = 16
# Examples are sorted by length into this many buckets, each with one padded width per
# input: little padding is computed, and JAX compiles one program per bucket.
NUM_BUCKETS = 8
# In bytes, what the widest registers of processors read at once.
ALIGNMENT = 64
# Streamed batches are made while the model works on the ones before.
BATCHES_AHEAD = 2


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


@dataclass(frozen=True)
class Dense:
    """Arrays of one shape, which need no padding, behind the methods of `Ragged`.

    Attributes:
        values: All arrays, shape `(count, …)`.
    """

    values: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Zeros `(count,)`: no array is longer than another."""
        return np.zeros(len(self.values), np.int64)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[row]

    def take(self, rows: np.ndarray) -> "Dense":
        """Select arrays by index, in the given order."""
        values = self.values
        taken = _aligned((len(rows), *values.shape[1:]), values.dtype)
        if not (values.flags.c_contiguous and values.flags.aligned):
            taken[...] = values[rows]  # `take` would copy all of them first
            return Dense(taken)
        # "clip", of rows that are all there, is what writes straight to its output.
        return Dense(values.take(rows, axis=0, out=taken, mode="clip"))

    def pad(self, width: int) -> np.ndarray:  # noqa: ARG002 - the signature of Ragged
        """Return the arrays as they are."""
        return self.values


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array on whose memory JAX and TensorFlow compute; others they copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


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


def check_finite(array: np.ndarray, where: str) -> None:
    """Refuse an array of examples in which not all is a number.

    Raises:
        InputError: Names the first such example, and the place in it.
    """
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, *place = bad[0].tolist()
        at = f" at {tuple(place)}" if place else ""
        raise InputError(
            f"example {row} holds {array[tuple(bad[0])]}{at} {where}; correct it or "
            "leave it out"
        )


class BatchCount(int):
    """The batches of an epoch; Keras asks for them once and keeps the answer.

    The first epoch after a resume has fewer. It ends in time because Keras compares
    what it has seen with this number after every batch.
    """

    def __new__(cls, source: "BatchSource"):
        """Count the batches of a source as it stands."""
        count = super().__new__(cls, len(source.order))
        count.source = source
        return count

    def __le__(self, seen):
        return len(self.source.order) <= seen


class BatchSource(keras.utils.PyDataset):
    """Batches, bucketed by length, whose order is a pure function of `(seed, epoch)`.

    Every example comes exactly once per epoch. Sequences are padded on the right with
    zeros, so that fused recurrent kernels apply. Inputs that say `is_streamed` are made
    ahead of time by a thread. Keras's own worker threads would start an epoch before
    `on_epoch_begin` has set its order.

    Attributes:
        order: Example indices of the batches of this epoch that are asked for by
            number, in order: all, or those left in the first epoch after a resume.
        copies: How often each batch is handed over, end to end: TensorFlow deals it out
            to so many replicas, each of which wants the whole.
        failure: What went wrong with a batch, as TensorFlow hides it in an error of
            its own; `None` if nothing did.

    Args:
        inputs: Model input name to sequences or arrays, all of the same count.
        targets: Labels or values `(count,)`, or soft labels `(count, classes)`.
        weights: How much each example counts, `(count,)`; all alike if omitted.
        batch_size: Examples per batch; the last batch may be smaller.
        seed: Shuffles each epoch differently; `None` keeps one order by length.
    """

    def __init__(
        self,
        inputs: Mapping[str, Ragged | Dense],
        targets: np.ndarray | None = None,
        *,
        weights: np.ndarray | None = None,
        batch_size: int = 64,
        seed: int | None = None,
    ):
        super().__init__()
        self.inputs = dict(inputs)
        self.targets = targets
        self.weights = weights
        self.batch_size = batch_size
        self.seed = seed
        lengths = sum(ragged.lengths for ragged in self.inputs.values())
        self._count = len(lengths)
        most = min(NUM_BUCKETS, self._count // batch_size, len(np.unique(lengths)))
        self._buckets = np.array_split(np.argsort(lengths, kind="stable"), max(most, 1))
        self._bucket_of = np.zeros(self._count, np.int64)
        for i, members in enumerate(self._buckets):
            self._bucket_of[members] = i
        self._widths = {
            name: self._bucket_widths(ragged) for name, ragged in self.inputs.items()
        }
        self._next = 0, 0
        self._places: dict[int, int] | None = None
        self.order = self.plan(0)
        self.copies = 1
        self.failure: Exception | None = None
        streamed = any(
            getattr(values, "is_streamed", False) for values in self.inputs.values()
        )
        self._pool = ThreadPoolExecutor(1) if streamed else None
        self._ahead: dict[int, Future] = {}

    @property
    def num_batches(self) -> int:
        """Number of batches of an epoch, or of those left in a resumed one."""
        return BatchCount(self)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of a whole epoch."""
        return -(-self._count // self.batch_size)

    @property
    def num_shapes(self) -> int:
        """Number of shapes that whole batches have."""
        return len(set(zip(*self._widths.values(), strict=True)))

    def check_finite(self) -> None:
        """Refuse arrays in which not all is a number.

        Raises:
            InputError: Names the first such example. Inputs made on the fly are not
                looked at.
        """
        arrays = {
            f"in {name!r}": values.values
            for name, values in self.inputs.items()
            if isinstance(values, Dense)
        }
        for where, array in {**arrays, "in the targets": self.targets}.items():
            if array is not None and array.dtype.kind == "f":
                check_finite(array, where)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Let the next epoch be this one, without its first `batch` batches.

        Args:
            epoch: Number of the epoch, from 0.
            batch: Batches of it that were trained on before.
        """
        self._next = epoch, batch
        self._places = None
        self.order = self.plan(epoch)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the example indices of every batch of an epoch, in order."""
        random = np.random.default_rng([self.seed or 0, epoch])
        batches, rest = [], []
        for members in self._buckets:
            if self.seed is not None:
                members = random.permutation(members)  # noqa: PLW2901
            full = len(members) - len(members) % self.batch_size
            batches += self._cut(members[:full])
            rest.append(members[full:])
        batches += self._cut(np.concatenate(rest))
        if self.seed is not None:
            batches = [batches[i] for i in random.permutation(len(batches))]
        return self._extremes_first(batches)

    def _bucket_widths(self, ragged: Ragged | Dense) -> np.ndarray:
        """Return one padded width per bucket, never smaller than the one before."""
        lengths = ragged.lengths
        longest = [lengths[members].max(initial=0) for members in self._buckets]
        widths = [padded_width(length) for length in np.maximum.accumulate(longest)]
        return np.array(widths)

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        return [
            order[start : start + self.batch_size]
            for start in range(0, len(order), self.batch_size)
        ]

    def _bucket(self, rows: np.ndarray) -> int:
        return int(self._bucket_of[rows].max())

    def _extremes_first(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        """Put a batch of the first and one of the last bucket in front.

        Keras on TensorFlow takes the batch signature from the first two batches; only
        where these differ in width does it allow any width.
        """
        if len(self._buckets) == 1:
            return batches
        buckets = [self._bucket(rows) for rows in batches]
        if not buckets or min(buckets) == max(buckets):
            return batches
        first, second = int(np.argmin(buckets)), int(np.argmax(buckets))
        others = [rows for i, rows in enumerate(batches) if i not in (first, second)]
        return [batches[first], batches[second], *others]

    def pad(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Pad each input of the examples `rows` to the width of their bucket."""
        bucket = self._bucket(rows)
        return {
            name: ragged.take(rows).pad(self._widths[name][bucket])
            for name, ragged in self.inputs.items()
        }

    def rows(self, index: int) -> np.ndarray:
        """Return the example indices of the batch that Keras asks for by a number."""
        return self.order[self._place(index)]

    def examples(self):
        """Return all examples as one batch, nothing copied.

        Returns:
            Inputs and targets as of a batch; `None` where inputs are padded, or made on
            the fly, or a subclass changes what a batch is.
        """
        changed = type(self).__getitem__ is not BatchSource.__getitem__
        if changed or any(type(values) is not Dense for values in self.inputs.values()):
            return None
        arrays = {name: dense.values for name, dense in self.inputs.items()}
        return self._arranged(arrays, self.targets, self.weights)

    def __getitem__(self, index: int):
        try:
            if self._pool is None:
                return self.batch(self.rows(index))
            return self._awaited(self._place(index))
        except Exception as error:
            self.failure = error
            raise

    def _place(self, index: int) -> int:
        """Return the place in the order of what Keras asks for by number.

        `fit` shuffles the numbers unless it is told not to, by a generator that is not
        ours. So whatever number it asks for first gets the first batch.
        """
        if self._places is None or self.seed is None:
            return index
        return self._places.setdefault(index, len(self._places))

    def _awaited(self, place: int):
        """Return a batch that a thread has made, and let it make the next ones."""
        last = min(place + BATCHES_AHEAD, len(self.order) - 1)
        self._ahead = {
            i: self._ahead.get(i) or self._pool.submit(self.batch, self.order[i])
            for i in range(place, last + 1)
        }
        return self._ahead[place].result()

    def batch(self, rows: np.ndarray):
        """Return the batch of the examples `rows`, as `fit` takes it."""
        targets, weights = (
            None if part is None else part[rows]
            for part in (self.targets, self.weights)
        )
        batch = self._arranged(self.pad(rows), targets, weights)
        if self.copies == 1:
            return batch
        return keras.tree.map_structure(
            lambda values: np.concatenate([values] * self.copies), batch
        )

    def _arranged(self, inputs: dict[str, np.ndarray], *answers: np.ndarray | None):
        """Return a batch as `fit` takes it."""
        inputs = inputs if len(inputs) > 1 else next(iter(inputs.values()))
        return inputs, *(part for part in answers if part is not None)

    def on_epoch_begin(self):
        """Take up the order of the next epoch (Keras calls this)."""
        self.on_epoch_end()
        epoch, batch = self._next
        self.order = self.plan(epoch)[batch:]
        self._places = {}
        for future in self._ahead.values():
            future.cancel()
        self._ahead = {}

    def on_epoch_end(self):
        """Move on, if all batches were asked for (Keras calls this).

        Keras also begins an epoch when it only wants to see the shapes of a batch.
        """
        if self._places is not None and len(self._places) >= len(self.order):
            self._next = self._next[0] + 1, 0
        self._places = None
