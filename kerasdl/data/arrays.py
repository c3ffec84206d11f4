"""Examples that are arrays already: normalised images, series, rows of features."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from kerasdl.data.batches import Dense, check_finite
from kerasdl.errors import InputError
from kerasdl.untrusted import LARGEST_EXAMPLE


@dataclass(frozen=True)
class ArrayEncoder:
    """Hand arrays to a model as they are, once their shape is known to fit.

    Attributes:
        name: Name of the model's input: `image`, `series` or `features`.
        shape: Shape of one example; an axis of any length is `None`.
    """

    name: str
    shape: tuple[int | None, ...]
    files: ClassVar = ()

    @classmethod
    def fit_encode(
        cls, examples: np.ndarray, *, name: str
    ) -> tuple["ArrayEncoder", dict[str, Dense]]:
        """Take the shape of training examples `(count, *shape)`."""
        encoder = cls(name, np.shape(examples)[1:])
        return encoder, encoder.encode(encoder.check(examples))

    @classmethod
    def from_folder(cls, config: Mapping, folder: Path) -> "ArrayEncoder":
        """Rebuild an encoder from its settings; it needs no files.

        Raises:
            InputError: If the settings do not make an encoder.
        """
        name, shape = config.get("name"), config.get("shape")
        sizes_fit = isinstance(shape, list) and all(
            size is None or (type(size) is int and size > 0) for size in shape
        )
        if (
            set(config) != {"name", "shape"}
            or not isinstance(name, str)
            or not sizes_fit
            or math.prod(size or 1 for size in shape) > LARGEST_EXAMPLE
        ):
            raise InputError(f"{folder}: the shape of the inputs is not valid")
        return cls(name, tuple(shape))

    def resized(self, shape: Sequence[int]) -> "ArrayEncoder":
        """Return the encoder for examples of another shape."""
        return replace(self, shape=tuple(shape))

    def contents(self) -> dict[str, bytes]:
        """Return no files: everything stands in `config`."""
        return {}

    @property
    def config(self) -> dict:
        """The settings, ready for JSON."""
        return {"name": self.name, "shape": list(self.shape)}

    @property
    def sizes(self) -> dict[str, tuple]:
        """The argument of a builder that the arrays decide."""
        return {"input_shape": self.shape}

    @property
    def no_examples(self) -> np.ndarray:
        """An array of no example."""
        return np.zeros((0, *(size or 1 for size in self.shape)), np.float32)

    def check(self, examples) -> np.ndarray:
        """Return examples as one float32 array `(count, *shape)`.

        Raises:
            InputError: If they are of another shape, or a number is not finite.
        """
        try:
            array = np.asarray(examples, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the examples are no array of numbers: {error}"
            ) from error
        sizes = zip(self.shape, array.shape[1:], strict=False)
        if array.ndim != len(self.shape) + 1 or any(
            size not in (None, found) for size, found in sizes
        ):
            expected = ", ".join("any" if s is None else str(s) for s in self.shape)
            raise InputError(
                f"the examples have the shape {array.shape}; give (count, {expected})"
            )
        check_finite(array, "in the input")
        return array

    def encode(self, examples: np.ndarray) -> dict[str, Dense]:
        """Return the model's input by name."""
        return {self.name: Dense(examples)}
