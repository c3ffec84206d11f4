"""How good a model is, with intervals, and how far to trust what it says.

Everything works on NumPy arrays: logits or probabilities `(count, classes)` and integer
labels `(count,)`, or values `(count,)`.
"""

# Predictors need only `softmax` and must start fast: SciPy and scikit-learn take over a
# second to import, so the functions that measure import them themselves.
# ruff: noqa: PLC0415

from collections.abc import Sequence

import numpy as np

from kerasdl.errors import InputError

TEMPERATURE_RANGE = (0.05, 20.0)
ECE_BINS = 15
BOOTSTRAP_SAMPLES = 1000


def two_logits(logits: np.ndarray) -> np.ndarray:
    """Widen one logit for two classes to the equivalent pair `[0, z]`.

    Args:
        logits: Shape `(count, classes)`, or `(count, 1)` from a one-logit head.

    Returns:
        Float64 logits `(count, classes)` with at least two columns.

    Example:
        >>> two_logits(np.array([[3.0]])).tolist()
        [[0.0, 3.0]]
    """
    logits = np.asarray(logits, np.float64)
    if logits.shape[1] > 1:
        return logits
    return np.hstack([np.zeros_like(logits), logits])


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Turn logits into probabilities.

    Args:
        logits: Shape `(count, classes)`, or `(count, 1)` from a one-logit head.
        temperature: Divides the logits; above 1 makes the probabilities more modest.

    Returns:
        Float64 probabilities `(count, classes)`, at least two columns.

    Example:
        >>> softmax(np.array([[0.0]])).tolist()
        [[0.5, 0.5]]
    """
    return np.exp(_log_softmax(logits, temperature))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature with the least log loss on held-out data.

    Args:
        logits: Shape `(count, classes)`, or `(count, 1)` from a one-logit head.
        labels: True classes `(count,)`.

    Returns:
        Temperature within `TEMPERATURE_RANGE`; 1 where nothing else is better.

    Reference:
        [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599),
        section 4.2.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def log_loss(log_temperature: float) -> float:
        log_probabilities = _log_softmax(logits, np.exp(log_temperature))
        return -log_probabilities[rows, labels].mean()

    found = minimize_scalar(
        log_loss, bounds=np.log(TEMPERATURE_RANGE), method="bounded"
    )
    return float(np.exp(found.x)) if found.fun < log_loss(0.0) else 1.0


def classification_metrics(
    labels: np.ndarray, probabilities: np.ndarray, label_names: Sequence[str]
) -> dict:
    """Measure a classifier.

    Args:
        labels: True classes `(count,)`.
        probabilities: Shape `(count, classes)`, each row summing to 1.
        label_names: Name of each class.

    Returns:
        Plain numbers, ready for JSON: `accuracy` with its 95 % Wilson interval
        `accuracy_low` to `accuracy_high`, `count`, `f1` (mean over classes), `roc_auc`
        (class 1 against class 0; with more classes the mean of each against the rest;
        `None` where a class is absent), `log_loss`, `ece` (expected calibration error),
        `brier` (squared error of the probability of class 1; with more classes summed
        over all) and `per_class`: class name to `precision`, `recall`, `f1`, `count`.

    Raises:
        InputError: If a probability is not finite.
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, np.float64)
    if not np.isfinite(probabilities).all():
        raise InputError(
            "The model's probabilities are not finite, so it cannot be measured; "
            "train it again with a lower learning rate."
        )
    predicted = probabilities.argmax(axis=1)
    correct = int((predicted == labels).sum())
    low, high = wilson_interval(correct, len(labels))
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(label_names)), zero_division=0
    )
    names = ("precision", "recall", "f1", "count")
    return {
        "accuracy": correct / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "count": len(labels),
        "f1": float(columns[2].mean()),
        "roc_auc": _roc_auc(labels, probabilities),
        "log_loss": _log_loss(labels, probabilities),
        "ece": _expected_calibration_error(labels, probabilities),
        "brier": _brier(labels, probabilities),
        "per_class": {
            label: dict(zip(names, (value.item() for value in row), strict=True))
            for label, *row in zip(label_names, *columns, strict=True)
        },
    }


def metrics(
    labels: np.ndarray, answers: np.ndarray, label_names: Sequence[str]
) -> dict:
    """Measure a model: by its probabilities where there are classes, or its values.

    Args:
        labels: True classes or values `(count,)`.
        answers: Probabilities `(count, classes)`, or values `(count,)`.
        label_names: Name of each class; empty for values.

    Returns:
        As `classification_metrics` or `regression_metrics`.
    """
    if label_names:
        return classification_metrics(labels, answers, label_names)
    return regression_metrics(labels, answers)


def regression_metrics(values: np.ndarray, predicted: np.ndarray) -> dict:
    """Measure a regressor.

    Args:
        values: True values `(count,)`.
        predicted: Predicted values `(count,)`.

    Returns:
        Plain numbers, ready for JSON: `rmse` with its 95 % bootstrap interval
        `rmse_low` to `rmse_high`, `mae`, `r2` (share of the variance explained, `None`
        where all values are the same), `count`.

    Raises:
        InputError: If a prediction is not finite.
    """
    from scipy.stats import bootstrap
    from sklearn.metrics import r2_score

    if not np.isfinite(predicted).all():
        raise InputError(
            "The model's predictions are not finite, so it cannot be measured; "
            "train it again with a lower learning rate."
        )
    errors = np.asarray(predicted, np.float64) - values
    # SciPy wants two values at least; of one, every resample is that one.
    squares = np.resize(errors**2, max(len(errors), 2))
    interval = bootstrap(
        (squares,), np.mean, n_resamples=BOOTSTRAP_SAMPLES, rng=0, method="percentile"
    ).confidence_interval
    return {
        "rmse": float(np.sqrt((errors**2).mean())),
        "rmse_low": float(np.sqrt(interval.low)),
        "rmse_high": float(np.sqrt(interval.high)),
        "mae": float(np.abs(errors).mean()),
        "r2": float(r2_score(values, predicted)) if np.ptp(values) else None,
        "count": len(values),
    }


def conformal_margin(errors: np.ndarray, coverage: float = 0.9) -> float:
    """Find how far predictions must be trusted to err, from errors on held-out data.

    Args:
        errors: Predicted minus true values `(count,)`, of examples that the model was
            not trained on.
        coverage: Share of new examples whose error shall stay within the margin.

    Returns:
        The margin; the largest error where there are too few to promise more.

    Example:
        >>> conformal_margin(np.arange(-9.0, 11.0))
        9.0

    Reference:
        [Distribution-Free Predictive Inference for
        Regression](https://arxiv.org/abs/1604.04173), section 2.2.
    """
    ordered = np.sort(np.abs(errors))
    rank = int(np.ceil(coverage * (len(ordered) + 1)))
    return float(ordered[min(rank, len(ordered)) - 1])


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share.

    Example:
        >>> low, high = wilson_interval(8, 10)
        >>> round(low, 3), round(high, 3)
        (0.49, 0.943)
    """
    from scipy.stats import binomtest

    interval = binomtest(int(correct), int(count)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Count how often each true class (row) was predicted as each class (column).

    Args:
        labels: True classes `(count,)`.
        probabilities: Shape `(count, classes)`.

    Returns:
        Counts `(classes, classes)`.
    """
    from sklearn.metrics import confusion_matrix

    classes = range(probabilities.shape[1])
    return confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes)


def reliability_bins(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS
) -> dict[str, np.ndarray]:
    """Compare stated confidence with the accuracy observed.

    Args:
        labels: True classes `(count,)`.
        probabilities: Shape `(count, classes)`.
        bins: How many bins of equal width cut the range 0 to 1.

    Returns:
        For each bin that is not empty: mean `confidence` in the predicted class,
        `accuracy` and `count`.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    filled = count > 0
    count = count[filled]
    return {
        "confidence": np.bincount(which, confidence, bins)[filled] / count,
        "accuracy": np.bincount(which, correct, bins)[filled] / count,
        "count": count,
    }


def _log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = two_logits(logits) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def _roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    classes = probabilities.shape[1]
    if len(np.unique(labels)) < classes:
        return None
    scores = probabilities[:, 1] if classes == 2 else probabilities
    return float(roc_auc_score(labels, scores, multi_class="ovr"))


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    true = probabilities[np.arange(len(labels)), labels]
    # A probability that was rounded to 0 would make the whole mean infinite.
    return float(-np.log(true.clip(np.finfo(np.float64).eps)).mean())


def _expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    bins = reliability_bins(labels, probabilities)
    gaps = np.abs(bins["accuracy"] - bins["confidence"])
    return float(np.average(gaps, weights=bins["count"]))


def _brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    classes = probabilities.shape[1]
    squares = (probabilities - np.eye(classes)[labels]) ** 2
    # With two classes both columns err alike; by convention one of them counts.
    return float(squares.sum(axis=1).mean() / (2 if classes == 2 else 1))
