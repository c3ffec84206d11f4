"""What a finished run leaves: its bundle with a card, its metrics, its report."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

import kerasdl
from kerasdl import report
from kerasdl.augment import augmented_batch
from kerasdl.bundle import save_bundle
from kerasdl.data.images import ImageEncoder
from kerasdl.data.labelled import Labelled
from kerasdl.explain import explain
from kerasdl.fit import Fitted
from kerasdl.heatmaps import heatmaps, overlay
from kerasdl.predict import Classifier, Regressor
from kerasdl.recipe import Recipe
from kerasdl.runs import METRICS_FILE, write_json

NUM_SHOWN_ERRORS = 10
# Training images shown as the network sees them, in so many columns.
NUM_SHOWN_IMAGES = 24
COLUMNS = 8
# What one example of each kind of data is called.
UNITS = {"text": "texts", "table": "rows", "image": "images"}


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: Where everything lies.
        recipe: What was asked for.
        metrics: What was measured, with the name of the set in `set`.
        history: Logged quantity to its value after each epoch.
        predictor: The trained model, ready for examples.
        interrupted: Number of the signal that ended the training early, or `None`.
    """

    folder: Path
    recipe: Recipe
    metrics: dict
    history: dict[str, list[float]]
    predictor: Classifier | Regressor
    interrupted: int | None = None


def write_results(
    run: Run,
    fitted: Fitted,
    training: Labelled,
    test: Labelled,
    answers: np.ndarray,
) -> None:
    """Write the bundle, the metrics and the report of a run into its folder.

    Args:
        run: The run.
        fitted: What was fitted in it.
        training: What it was fitted to.
        test: What it was measured on.
        answers: Its answers for `test`.
    """
    facts = _facts(run, fitted, training)
    save_bundle(
        run.folder / "bundle",
        run.predictor,
        builder=fitted.builder,
        arguments=fitted.arguments,
        metrics=run.metrics,
        card=_card(facts, run.metrics),
    )
    write_json(run.folder / METRICS_FILE, run.metrics)
    _write_report(run, facts, training, test, answers)


def _facts(run: Run, fitted: Fitted, training: Labelled) -> dict[str, str]:
    """Facts of the run as the report and the model card show them."""
    model, unit = fitted.predictor.model, UNITS[run.recipe.kind]
    return {
        "model": f"{model.name}, {model.count_params():,} parameters",
        "training data": f"{training.name}, {len(training):,} {unit}",
        "data fingerprint": training.fingerprint[:16],
        "measured on": f"{run.metrics['set']}, {run.metrics['count']:,} {unit}",
        "epochs": str(len(run.history.get("loss", ()))),
        "seed": str(run.recipe.seed),
        "duration": f"{run.metrics['seconds']:.0f} s",
        "backend": f"Keras {keras.version()} on {keras.backend.backend()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "kerasdl": kerasdl.__version__,
    }


def _card(facts: dict[str, str], metrics: dict) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""# Model card

Trained by kerasdl. {_measured(metrics)}, measured on {metrics["set"]}.

| fact | value |
|---|---|
{rows}

What it says about its own certainty is calibrated on a validation split of the training
data. Expect less on examples that differ from these.
"""


def _measured(metrics: dict) -> str:
    if "accuracy" in metrics:
        return (
            f"Accuracy {metrics['accuracy']:.2%} (95 % interval "
            f"{metrics['accuracy_low']:.2%} to {metrics['accuracy_high']:.2%}), log "
            f"loss {metrics['log_loss']:.4f}, expected calibration error "
            f"{metrics['ece']:.2%}"
        )
    return (
        f"Root mean squared error {metrics['rmse']:.4g} (95 % interval "
        f"{metrics['rmse_low']:.4g} to {metrics['rmse_high']:.4g}), mean absolute "
        f"error {metrics['mae']:.4g}"
    )


def _write_report(
    run: Run,
    facts: dict[str, str],
    training: Labelled,
    test: Labelled,
    answers: np.ndarray,
) -> None:
    worst = report.worst_errors(test.labels, answers, NUM_SHOWN_ERRORS)
    run_report = report.RunReport(
        title=f"{run.recipe.name} on {run.recipe.data}",
        summary=facts,
        metrics=run.metrics,
        history=run.history,
        labels=test.labels,
        answers=answers,
        label_names=test.label_names,
        errors=[_error(run, test, answers, row) for row in worst],
        notes=_notes(run),
        batches=_batches(run, training),
    )
    report.write_report(run.folder / "report.html", run_report)
    plots = run.folder / "plots"
    plots.mkdir(exist_ok=True)
    report.save_plots(plots, run_report)


def _batches(run: Run, training: Labelled) -> list[report.BatchPicture]:
    """Return a few training images as the network sees them."""
    encoder = run.predictor.encoder
    if not isinstance(encoder, ImageEncoder):
        return []
    random = np.random.default_rng(run.recipe.seed)
    few = training.subset(random.permutation(len(training))[:NUM_SHOWN_IMAGES])
    pixels = encoder.pixels(encoder.check(few.examples))
    seen = augmented_batch(run.recipe.augment, encoder, pixels, run.recipe.seed)
    labels = [few.label_names[label] for label in few.labels]
    return [report.BatchPicture(report.mosaic(seen, COLUMNS), labels)]


def _error(
    run: Run, test: Labelled, answers: np.ndarray, row: int
) -> report.ErrorExample:
    """Show one error: the true answer, the given one, and what led there."""
    if not test.label_names:
        given = {"label": f"{test.labels[row]:.6g}", "predicted": f"{answers[row]:.6g}"}
    else:
        predicted = int(answers[row].argmax())
        given = {
            "label": test.label_names[test.labels[row]],
            "predicted": test.label_names[predicted],
            "probability": float(answers[row, predicted]),
        }
    shown = _shown_image if isinstance(run.predictor.encoder, ImageEncoder) else _shown
    return report.ErrorExample(**shown(run, test.subset(np.array([row])), row), **given)


def _shown_image(run: Run, image: Labelled, row: int) -> dict:
    """Return an image and where the model looked."""
    encoder = run.predictor.encoder
    pixels = encoder.pixels(encoder.check(image.examples))[0]
    (example,) = image.examples
    shown = {"picture": report.picture_bytes(pixels)}
    try:
        heat = heatmaps(run.predictor, image.examples)[0]
        shown["heatmap"] = report.picture_bytes(np.asarray(overlay(pixels, heat)))
    except ValueError:  # a model without feature maps or attention
        pass
    is_file = isinstance(example, Path)
    return {"text": str(example) if is_file else f"image {row} of the set", **shown}


def _shown(run: Run, one: Labelled, row: int) -> dict:  # noqa: ARG001 - as of images
    """Return a text with the words that pushed, or a row of a table in words."""
    (example,) = one.examples
    if not isinstance(example, str):
        cells = (
            f"{name} {report.UNKNOWN if cell is None else cell}"
            for name, cell in example.items()
        )
        return {"text": ", ".join(cells)}
    words = explain(run.predictor, example) if one.label_names else ()
    return {"text": example, "words": [(word.word, word.push) for word in words]}


def _notes(run: Run) -> list[str]:
    notes = []
    if not run.predictor.labels:
        notes.append("Loss and curves are in standard deviations of the target.")
    if run.interrupted is not None:
        notes.append("The training was interrupted; this is the best model so far.")
    return notes
