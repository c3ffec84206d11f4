"""Train a recipe: from data to a run folder with a calibrated, checksummed bundle."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

import kerasdl
from kerasdl import evaluate, report
from kerasdl.bundle import save_bundle
from kerasdl.callbacks import StopOnSignal
from kerasdl.checks import check_choice
from kerasdl.data.labelled import (
    FEWEST_EXAMPLES,
    Labelled,
    check_trainable,
    deal,
    hold_out,
)
from kerasdl.data.rows import load_rows
from kerasdl.data.sources import load_texts
from kerasdl.errors import InputError
from kerasdl.explain import explain
from kerasdl.fit import Fitted, fit
from kerasdl.predict import Classifier, Regressor
from kerasdl.recipe import Recipe
from kerasdl.runs import (
    METRICS_FILE,
    RECIPE_FILE,
    check_folder,
    claimed_folder,
    default_folder,
    write_json,
)

# What reads each kind of data.
LOADERS = {"text": load_texts, "table": load_rows}
# Data without a test split give up this share; where that would leave too few to
# measure on, the metrics are cross-validated instead.
TEST_FRACTION = 0.15
FEWEST_FOR_TEST = 200
FOLDS = 5
NUM_SHOWN_ERRORS = 10
# What one example of each kind of data is called.
UNITS = {"text": "texts", "table": "rows"}


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


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Run:
    """Train a model and write its run folder.

    The folder holds `recipe.json`, `history.csv`, `metrics.json`, `report.html`,
    `plots/`, `checkpoints/` and the trained `bundle/`. The first Ctrl-C or SIGTERM ends
    the training after the current batch; the best weights so far are kept, measured and
    written. An earlier run in the folder stays until the new one is complete.

    Args:
        recipe: What to train, on what, and how.
        out: Folder to write, `runs/<builder>-<time>` by default.
        overwrite: Replace an earlier run in `out`.
        console: Where progress is printed, standard error by default.

    Returns:
        The run.

    Raises:
        InputError: If the data or the folder cannot be used; nothing is written then.
        ValueError: If the recipe does not fit its builder.
    """
    start = time.perf_counter()
    console = console or Console(stderr=True)
    builder = _resolve(recipe.build)
    folder = Path(out) if out else default_folder(builder.__name__)
    check_folder(folder, overwrite=overwrite)
    splits = LOADERS[recipe.kind](
        recipe.data,
        notify=lambda line: console.print(line, highlight=False),
        unlabelled=recipe.unlabelled,
        **recipe.data_options,
    )
    check_trainable(splits.train)
    if recipe.unlabelled and not splits.unlabelled:
        raise InputError(
            f"{splits.train.name} has no unlabelled examples to learn from"
        )
    training = _limit(splits.train, recipe)
    test, measured_on = splits.test, splits.test.name if splits.test else None
    if test is None and len(training) >= FEWEST_FOR_TEST:
        training, test = hold_out(training, TEST_FRACTION, seed=recipe.seed)
        measured_on = f"{TEST_FRACTION:.0%} of {training.name}, held out by seed"

    if test is None:
        folds = deal(training, FOLDS, seed=recipe.seed)
        measured_on = f"{len(folds)}-fold cross-validation of {training.name}"

    with claimed_folder(folder, overwrite=overwrite), StopOnSignal() as stop:
        write_json(folder / RECIPE_FILE, recipe.to_json())
        fitted = fit(
            recipe,
            builder,
            training,
            splits.unlabelled,
            console=console,
            stop=stop,
            folder=folder,
        )
        if stop.received:
            console.print("Interrupted: measuring and writing the best model so far.")
        if test is None:
            test = training
            answers = _cross_validate(recipe, builder, training, folds, console)
        else:
            answers = fitted.predictor.answers(test.examples)
        metrics = {
            "set": measured_on,
            **evaluate.metrics(test.labels, answers, test.label_names),
            **fitted.predictor.answer_settings,
            "seconds": round(time.perf_counter() - start, 1),
        }
        run = Run(
            folder, recipe, metrics, fitted.history, fitted.predictor, stop.received
        )
        _write(run, builder.__name__, fitted, training, test, answers)
    return replace(run, interrupted=stop.received)


def _write(
    run: Run,
    builder: str,
    fitted: Fitted,
    training: Labelled,
    test: Labelled,
    answers: np.ndarray,
) -> None:
    facts = _facts(run, fitted, training)
    save_bundle(
        run.folder / "bundle",
        run.predictor,
        builder=builder,
        arguments=fitted.arguments,
        metrics=run.metrics,
        card=_card(facts, run.metrics),
    )
    write_json(run.folder / METRICS_FILE, run.metrics)
    _write_report(run, facts, test, answers)


def _resolve(build: str | Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    if not isinstance(build, str):
        return build
    check_choice("build", build, kerasdl.BUILDERS)
    return kerasdl.BUILDERS[build]


def _limit(texts: Labelled, recipe: Recipe) -> Labelled:
    """Cut the training data down to the recipe's limit, class by class."""
    if recipe.max_examples is None or recipe.max_examples >= len(texts):
        return texts
    random = np.random.default_rng(recipe.seed)
    share = recipe.max_examples / len(texts)
    rows = [
        random.permutation(members)[: max(FEWEST_EXAMPLES, round(share * len(members)))]
        for members in _rows_by_class(texts)
    ]
    return texts.subset(np.sort(np.concatenate(rows)))


def _rows_by_class(texts: Labelled) -> list[np.ndarray]:
    return [
        np.flatnonzero(texts.labels == label) for label in range(len(texts.label_names))
    ]


def _cross_validate(
    recipe: Recipe,
    builder: Callable[..., keras.Model],
    data: Labelled,
    folds: list[np.ndarray],
    console: Console,
) -> np.ndarray:
    """Answer every example by a model that has not seen it."""
    answers = [None] * len(data)
    for held in folds:
        kept = np.setdiff1d(np.arange(len(data)), held)
        fitted = fit(recipe, builder, data.subset(kept), console=console)
        found = fitted.predictor.answers(data.subset(held).examples)
        for row, answer in zip(held, found, strict=True):
            answers[row] = answer
    return np.array(answers)


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
    run: Run, facts: dict[str, str], test: Labelled, answers: np.ndarray
) -> None:
    worst = report.worst_errors(test.labels, answers, NUM_SHOWN_ERRORS)
    run_report = report.RunReport(
        title=f"{run.recipe.to_json()['build']} on {run.recipe.data}",
        summary=facts,
        metrics=run.metrics,
        history=run.history,
        labels=test.labels,
        answers=answers,
        label_names=test.label_names,
        errors=[_error(run, test, answers, row) for row in worst],
        notes=_notes(run),
    )
    report.write_report(run.folder / "report.html", run_report)
    plots = run.folder / "plots"
    plots.mkdir(exist_ok=True)
    report.save_plots(plots, run_report)


def _error(
    run: Run, test: Labelled, answers: np.ndarray, row: int
) -> report.ErrorExample:
    (example,) = test.subset(np.array([row])).examples
    if not test.label_names:
        return report.ErrorExample(
            text=_shown(example),
            label=f"{test.labels[row]:.6g}",
            predicted=f"{answers[row]:.6g}",
        )
    predicted = int(answers[row].argmax())
    is_text = isinstance(example, str)
    words = explain(run.predictor, example) if is_text else ()
    return report.ErrorExample(
        text=_shown(example),
        label=test.label_names[test.labels[row]],
        predicted=test.label_names[predicted],
        probability=float(answers[row, predicted]),
        words=[(word.word, word.push) for word in words],
    )


def _shown(example) -> str:
    """Return an example as a text for people."""
    if isinstance(example, str):
        return example
    return ", ".join(
        f"{name} {report.UNKNOWN if cell is None else cell}"
        for name, cell in example.items()
    )


def _notes(run: Run) -> list[str]:
    notes = []
    if not run.predictor.labels:
        notes.append("Loss and curves are in standard deviations of the target.")
    if run.interrupted is not None:
        notes.append("The training was interrupted; this is the best model so far.")
    return notes
