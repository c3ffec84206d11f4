"""Texts in, labels and calibrated probabilities out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kerasdl.backend import forward
from kerasdl.data.batches import BatchSource, Ragged
from kerasdl.data.text import TextEncoder
from kerasdl.errors import InputError
from kerasdl.evaluate import softmax

BATCH_SIZE = 64
# Texts are encoded a chunk at a time, so that memory does not grow with their number.
TEXTS_PER_CHUNK = 4096


@dataclass(frozen=True)
class Prediction:
    """What the model says about one text.

    Attributes:
        text: The text.
        label: Most probable label.
        probability: Calibrated probability of `label`.
        probabilities: Calibrated probability of every label.
    """

    text: str
    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """A trained text classifier, ready for texts.

    Args:
        model: Model with one logit per label, or one logit for two labels.
        encoder: Turns texts into the model's inputs.
        labels: Class names, in the order of the logits.
        temperature: Divides the logits, so that the probabilities are calibrated.

    Raises:
        InputError: If the encoder does not make an input that the model needs.
    """

    def __init__(
        self,
        model: keras.Model,
        encoder: TextEncoder,
        labels: Sequence[str],
        temperature: float = 1.0,
    ):
        self.model = model
        self.encoder = encoder
        self.labels = tuple(labels)
        self.temperature = temperature
        self._forward = forward(model)
        needed = {tensor.name for tensor in keras.tree.flatten(model.input)}
        if missing := sorted(needed - set(encoder.encode([]))):
            raise InputError(
                f"the encoder does not make the model's input {missing[0]!r}"
            )

    def __call__(self, texts: Sequence[str] | str) -> list[Prediction]:
        """Classify texts; a single string counts as one text.

        Args:
            texts: Any texts, empty ones included.

        Returns:
            One prediction per text, in order.

        Raises:
            InputError: If an item is not a string.
        """
        texts = _as_list(texts)
        rows = self.probabilities(texts).tolist()
        return [
            self._prediction(text, row) for text, row in zip(texts, rows, strict=True)
        ]

    def probabilities(self, texts: Sequence[str] | str) -> np.ndarray:
        """Return calibrated probabilities `(count, classes)`, float64."""
        return softmax(self.logits(texts), self.temperature)

    def logits(self, texts: Sequence[str] | str) -> np.ndarray:
        """Return the model's logits `(count, units)`, before calibration."""
        texts = _as_list(texts)
        chunks = [
            self.encoded_logits(
                self.encoder.encode(texts[start : start + TEXTS_PER_CHUNK])
            )
            for start in range(0, max(len(texts), 1), TEXTS_PER_CHUNK)
        ]
        return np.concatenate(chunks)

    def encoded_logits(self, inputs: Mapping[str, Ragged]) -> np.ndarray:
        """Return the logits `(count, units)` of texts that are already encoded."""
        source = BatchSource(inputs, batch_size=BATCH_SIZE)
        count = len(next(iter(inputs.values())))
        logits = np.zeros((count, self.model.output_shape[-1]), np.float32)
        for rows in source.plan(0) if count else ():
            # Few batch sizes, so that JAX compiles few programs.
            padded = source.pad(np.resize(rows, _next_power_of_two(len(rows))))
            batch = keras.tree.map_structure(
                lambda tensor, padded=padded: padded[tensor.name], self.model.input
            )
            logits[rows] = self._forward(batch)[: len(rows)]
        return logits

    def _prediction(self, text: str, row: list[float]) -> Prediction:
        best = int(np.argmax(row))
        named = dict(zip(self.labels, row, strict=True))
        return Prediction(text, self.labels[best], row[best], named)


def _as_list(texts: Sequence[str] | str) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {i} is {type(text).__name__}; give strings")
    return texts


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
