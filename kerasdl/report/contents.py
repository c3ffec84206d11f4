"""What the page of a run shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ErrorExample:
    """An example that the model got wrong.

    Attributes:
        text: The whole text, as the model saw it, another example in words, or where an
            image comes from.
        label: Name of the true class, or the true value.
        predicted: Name of the class that the model chose, or its value.
        probability: What the model gave the class it chose; `None` of a value.
        words: Words (or phrases) with their push: above 0 towards the chosen class,
            below 0 away from it.
        picture: The image, as `picture_bytes` makes it, instead of a text.
        heatmap: The same, with what the model looked at drawn over it.
    """

    text: str
    label: str
    predicted: str
    probability: float | None = None
    words: Sequence[tuple[str, float]] = ()
    picture: bytes | None = None
    heatmap: bytes | None = None


@dataclass(frozen=True)
class BatchPicture:
    """Training images as the network sees them.

    Attributes:
        picture: The images, as `mosaic` lays them out.
        labels: Name of the class of each, row by row.
    """

    picture: bytes
    labels: Sequence[str]


@dataclass(frozen=True)
class RunReport:
    """All that the page of a run shows.

    Attributes:
        title: Heading of the page.
        summary: Facts on data, model and environment, in the order shown.
        metrics: As `kerasdl.evaluate.metrics` returns, and `set`: what was measured on.
        history: Metric name to its value after each epoch, as Keras names them.
        labels: True classes or values `(count,)`.
        answers: Probabilities `(count, classes)`, or predicted values `(count,)`.
        label_names: Name of each class; empty for values.
        errors: Examples that the model got wrong, the worst first.
        notes: Remarks, a sentence each.
        batches: Training images, of an image model.
    """

    title: str
    summary: dict[str, str]
    metrics: dict
    history: dict[str, list[float]]
    labels: np.ndarray
    answers: np.ndarray
    label_names: Sequence[str]
    errors: Sequence[ErrorExample] = ()
    notes: Sequence[str] = ()
    batches: Sequence[BatchPicture] = ()


def worst_errors(labels: np.ndarray, answers: np.ndarray, limit: int) -> np.ndarray:
    """Find the errors that the model was most certain of, or the largest ones.

    Args:
        labels: True classes or values `(count,)`.
        answers: Probabilities `(count, classes)`, or predicted values `(count,)`.
        limit: How many to return at most.

    Returns:
        Row numbers, the worst first.
    """
    if answers.ndim == 1:
        return np.argsort(-np.abs(answers - labels), kind="stable")[:limit]
    wrong = np.flatnonzero(answers.argmax(axis=1) != labels)
    order = np.argsort(-answers[wrong].max(axis=1), kind="stable")
    return wrong[order[:limit]]
