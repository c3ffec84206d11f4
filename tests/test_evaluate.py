"""Metrics against hand-computed values, closed formulas and plain loops."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from kerasdl import evaluate
from kerasdl.errors import InputError

pytestmark = pytest.mark.backend_free

NAMES = ("no", "yes")
# Predicted: yes, yes, no, no; the second and the third are wrong.
LABELS = np.array([1, 0, 1, 0])
PROBABILITIES = np.array([[0.1, 0.9], [0.4, 0.6], [0.7, 0.3], [0.8, 0.2]])


def random_case(classes, count=500, seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, classes))
    return random.integers(0, classes, count), evaluate.softmax(logits)


def test_softmax_equals_the_formula():
    logits = np.array([[1.0, 2.0, -1.0]])
    expected = [math.exp(z / 2) for z in logits[0]]
    expected = np.array(expected) / sum(expected)
    np.testing.assert_allclose(evaluate.softmax(logits, 2.0)[0], expected, rtol=1e-14)


def test_softmax_survives_huge_logits():
    probabilities = evaluate.softmax(np.array([[1e5, -1e5]], np.float32))
    assert probabilities.dtype == np.float64
    np.testing.assert_array_equal(probabilities, [[1.0, 0.0]])


def test_one_logit_is_the_sigmoid():
    z = np.array([[-3.0], [0.0], [1.5]])
    sigmoid = 1 / (1 + np.exp(-z[:, 0]))
    np.testing.assert_allclose(evaluate.softmax(z)[:, 1], sigmoid, rtol=1e-14)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_temperature_recovers_the_scale(classes):
    random = np.random.default_rng(1)
    true_logits = random.normal(0, 2, (20_000, classes))
    cumulative = evaluate.softmax(true_logits).cumsum(axis=1)
    labels = (random.random((20_000, 1)) > cumulative).sum(axis=1)
    assert evaluate.fit_temperature(3 * true_logits, labels) == pytest.approx(3, 0.05)
    assert evaluate.fit_temperature(true_logits / 2, labels) == pytest.approx(0.5, 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_temperature_never_raises_the_log_loss(seed):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (30, 3))
    labels = random.integers(0, 3, 30)

    def log_loss(temperature):
        probabilities = evaluate.softmax(logits, temperature)
        return -np.log(probabilities[np.arange(30), labels]).mean()

    temperature = evaluate.fit_temperature(logits, labels)
    assert log_loss(temperature) <= log_loss(1.0)
    # No temperature on a grid does better, so it is the minimum.
    grid = np.geomspace(*evaluate.TEMPERATURE_RANGE, 200)
    assert log_loss(temperature) <= min(map(log_loss, grid)) + 1e-6


def test_temperature_stays_in_range():
    logits = np.array([[0.0, 1.0]])
    low, high = evaluate.TEMPERATURE_RANGE
    assert evaluate.fit_temperature(logits, np.array([1])) == pytest.approx(low, 0.01)
    assert evaluate.fit_temperature(logits, np.array([0])) == pytest.approx(high, 0.01)
    assert evaluate.fit_temperature(0 * logits, np.array([0])) == 1.0


def test_metrics_of_a_hand_computed_case():
    metrics = evaluate.classification_metrics(LABELS, PROBABILITIES, NAMES)
    assert metrics["accuracy"] == 0.5
    assert metrics["count"] == 4
    assert metrics["f1"] == pytest.approx(0.5)
    # Of the four (yes, no) pairs, only 0.3 against 0.6 is in the wrong order.
    assert metrics["roc_auc"] == pytest.approx(0.75)
    assert metrics["log_loss"] == pytest.approx(
        -(math.log(0.9) + math.log(0.4) + math.log(0.3) + math.log(0.8)) / 4
    )
    assert metrics["brier"] == pytest.approx((0.01 + 0.36 + 0.49 + 0.04) / 4)
    # Each confidence has a bin of its own: 0.9 right, 0.6 wrong, 0.7 wrong, 0.8 right.
    assert metrics["ece"] == pytest.approx((0.1 + 0.6 + 0.7 + 0.2) / 4)
    assert metrics["per_class"]["yes"] == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "count": 2,
    }
    assert json.loads(json.dumps(metrics)) == metrics


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_equal_plain_loops(classes):
    labels, probabilities = random_case(classes)
    names = [str(i) for i in range(classes)]
    metrics = evaluate.classification_metrics(labels, probabilities, names)
    predicted = [max(range(classes), key=row.__getitem__) for row in probabilities]
    f1, areas, brier = [], [], 0.0
    for c in range(classes):
        hits = sum(p == c == t for p, t in zip(predicted, labels, strict=True))
        called, there = predicted.count(c), int((labels == c).sum())
        f1.append(2 * hits / (called + there))
        row = metrics["per_class"][str(c)]
        assert row["precision"] == pytest.approx(hits / called)
        assert row["recall"] == pytest.approx(hits / there)
        assert row["count"] == there
        own, other = probabilities[labels == c, c], probabilities[labels != c, c]
        areas.append((own[:, None] > other).mean())
        brier += ((probabilities[:, c] - (labels == c)) ** 2).mean()
    assert metrics["f1"] == pytest.approx(np.mean(f1))
    assert metrics["roc_auc"] == pytest.approx(np.mean(areas))
    assert metrics["brier"] == pytest.approx(brier / 2 if classes == 2 else brier)


def test_calibration_error_equals_a_plain_loop():
    labels, probabilities = random_case(3)
    metrics = evaluate.classification_metrics(labels, probabilities, "abc")
    confidence, error = probabilities.max(axis=1), 0.0
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, 16)
    bins = evaluate.reliability_bins(labels, probabilities)
    counts = []
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = abs(confidence[inside].mean() - correct[inside].mean())
            error += inside.mean() * gap
            counts.append(inside.sum())
    assert metrics["ece"] == pytest.approx(error)
    assert bins["count"].tolist() == counts


def test_certainty_falls_into_the_last_bin():
    bins = evaluate.reliability_bins(np.array([1]), np.array([[0.0, 1.0]]))
    assert {name: values.tolist() for name, values in bins.items()} == {
        "confidence": [1.0],
        "accuracy": [1.0],
        "count": [1],
    }


@pytest.mark.parametrize(
    ("correct", "count"), [(8, 10), (0, 5), (5, 5), (23_100, 25_000)]
)
def test_wilson_equals_the_closed_formula(correct, count):
    z, share = 1.959963984540054, correct / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = z / (1 + z * z / count)
    spread *= math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    expected = (centre - spread, centre + spread)
    assert evaluate.wilson_interval(correct, count) == pytest.approx(expected, abs=1e-9)


def test_metrics_carry_the_interval():
    labels = np.array([1] * 8 + [0] * 2)
    probabilities = np.tile([0.2, 0.8], (10, 1))
    metrics = evaluate.classification_metrics(labels, probabilities, NAMES)
    assert metrics["accuracy_low"] == pytest.approx(0.490, abs=5e-4)
    assert metrics["accuracy_high"] == pytest.approx(0.943, abs=5e-4)
    # Class 0 is never predicted: zero, without a warning.
    assert metrics["per_class"]["no"]["precision"] == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_an_absent_class_leaves_the_auc_undefined(classes):
    probabilities = np.full((4, classes), 1 / classes)
    metrics = evaluate.classification_metrics(
        np.zeros(4, int), probabilities, [str(i) for i in range(classes)]
    )
    assert metrics["roc_auc"] is None
    assert metrics["per_class"]["1"]["count"] == 0


def test_a_probability_of_zero_keeps_the_log_loss_finite():
    metrics = evaluate.classification_metrics(
        np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]], np.float32), NAMES
    )
    assert 10 < metrics["log_loss"] < 100


def test_probabilities_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        evaluate.classification_metrics(LABELS, PROBABILITIES * np.nan, NAMES)


def test_confusion_has_true_classes_in_rows():
    labels = np.array([0, 0, 0, 1, 2])
    probabilities = np.eye(4)[[0, 1, 1, 1, 0]]
    assert evaluate.confusion(labels, probabilities).tolist() == [
        [1, 2, 0, 0],
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_import_is_cheap():
    code = (
        "import sys, kerasdl.evaluate; "
        "sys.exit(any(m in sys.modules for m in ('sklearn', 'scipy', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_row_can_be_measured():
    found = evaluate.regression_metrics(np.array([2.0]), np.array([5.0]))
    ends = (found[name] for name in ("rmse", "rmse_low", "rmse_high", "mae"))
    assert [*ends] == [3.0] * 4
    assert found["r2"] is None
    assert found["count"] == 1
