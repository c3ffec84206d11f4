"""Logistic regression on features, as the weights of a dense layer."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from kerasdl.evaluate import softmax

# Strengths of the head's L2 penalty, as scikit-learn's `C`, on features whose deviation
# is 1 on average.
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Up to this many images the strength is cross-validated; beyond, the validation images
# are enough to choose it.
MOST_CROSS_VALIDATED = 5000
FOLDS = 5


def regress(
    features: np.ndarray,
    labels: np.ndarray,
    strength: float,
    class_weight: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression with an L2 penalty.

    Args:
        features: Shape `(count, views, width)`; all views of an image have its label.
        labels: Classes `(count,)`, each of them present.
        strength: Inverse of the penalty, on features whose deviation is 1 on average.
        class_weight: As of scikit-learn.

    Returns:
        Kernel `(width, classes)` and bias `(classes,)` of a dense layer, float32.
    """
    views, width = features.shape[1:]
    flat = features.reshape(-1, width).astype(np.float64)
    mean, scale = flat.mean(axis=0), max(flat.std(axis=0).mean(), 1e-12)
    model = LogisticRegression(
        C=strength / views, class_weight=class_weight, max_iter=300
    )
    with warnings.catch_warnings():
        # Weak penalties take longer, and are not worth the wait.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((flat - mean) / scale, np.repeat(labels, views))
    kernel, bias = model.coef_.T / scale, model.intercept_
    if kernel.shape[1] == 1:  # one logit for two classes becomes a pair
        kernel, bias = kernel * [[-0.5, 0.5]], bias * [-0.5, 0.5]
    return kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32)


def best_strength(
    features: np.ndarray,
    labels: np.ndarray,
    held: np.ndarray,
    held_labels: np.ndarray,
    class_weight: str | None,
    seed: int,
) -> float:
    """Choose the penalty of `regress` by the log loss on images not trained on.

    Few images are cross-validated: those held out would be too few to choose by.

    Args:
        features: Shape `(count, views, width)`.
        labels: Classes `(count,)`.
        held: Features held out, for the choice where there are many.
        held_labels: Their classes.
        class_weight: As of scikit-learn.
        seed: Deals the folds.

    Returns:
        One of `STRENGTHS`.
    """
    folds = min(FOLDS, np.bincount(labels).min())
    parts = [(features, labels, held, held_labels)]
    if folds >= 2 and len(labels) <= MOST_CROSS_VALIDATED:
        cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
        parts = [
            (features[rows], labels[rows], features[others], labels[others])
            for rows, others in cut.split(features[:, 0], labels)
        ]

    def total_loss(strength: float) -> float:
        total = 0.0
        for x, y, other_x, other_y in parts:
            kernel, bias = regress(x, y, strength, class_weight)
            total += log_losses(other_x[:, 0] @ kernel + bias, other_y).sum()
        return total

    return min(STRENGTHS, key=total_loss)


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each label, `(count,)`."""
    likelihood = softmax(logits)[np.arange(len(labels)), labels]
    return -np.log(np.maximum(likelihood, 1e-15))
