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
from kerasdl.data.sources import (
    FEWEST_EXAMPLES,
    LabelledTexts,
    check_trainable,
    deal,
    hold_out,
    load_texts,
)
from kerasdl.errors import InputError
from kerasdl.explain import explain
from kerasdl.fit import Fitted, fit
from kerasdl.predict import Predictor
from kerasdl.recipe import Recipe
from kerasdl.runs import (
    METRICS_FILE,
    RECIPE_FILE,
    check_folder,
    claimed_folder,
    default_folder,
    write_json,
)

# Data without a test split give up this share; where that would leave too few to
# measure on, the metrics are cross-validated instead.
TEST_FRACTION = 0.15
FEWEST_FOR_TEST = 200
FOLDS = 5
NUM_SHOWN_ERRORS = 10


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: Where everything lies.
        recipe: What was asked for.
        metrics: What was measured, with the name of the set in `set`.
        history: Logged quantity to its value after each epoch.
        predictor: The trained model, ready for texts.
        interrupted: Number of the signal that ended the training early, or `None`.
    """

    folder: Path
    recipe: Recipe
    metrics: dict
    history: dict[str, list[float]]
    predictor: Predictor
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
    splits = load_texts(
        recipe.data,
        notify=lambda line: console.print(line, highlight=False),
        unlabelled=recipe.unlabelled,
        **recipe.data_options,
    )
    check_trainable(splits.train)
    if recipe.unlabelled and not splits.unlabelled:
        raise InputError(f"{splits.train.name} has no unlabelled texts to learn from")
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
            probabilities = _cross_validate(recipe, builder, training, folds, console)
        else:
            probabilities = fitted.predictor.probabilities(test.texts)
        measured = evaluate.classification_metrics(
            test.labels, probabilities, test.label_names
        )
        metrics = {
            "set": measured_on,
            **measured,
            "temperature": fitted.predictor.temperature,
            "seconds": round(time.perf_counter() - start, 1),
        }
        run = Run(
            folder, recipe, metrics, fitted.history, fitted.predictor, stop.received
        )
        _write(run, builder.__name__, fitted, training, test, probabilities)
    return replace(run, interrupted=stop.received)


def _write(
    run: Run,
    builder: str,
    fitted: Fitted,
    training: LabelledTexts,
    test: LabelledTexts,
    probabilities: np.ndarray,
) -> None:
    facts = _facts(run, fitted, training)
    save_bundle(
        run.folder / "bundle",
        model=fitted.model,
        builder=builder,
        arguments=fitted.arguments,
        encoder=fitted.predictor.encoder,
        label_names=training.label_names,
        temperature=fitted.predictor.temperature,
        metrics=run.metrics,
        card=_card(facts, run.metrics),
    )
    write_json(run.folder / METRICS_FILE, run.metrics)
    _write_report(run, facts, test, probabilities)


def _resolve(build: str | Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    if not isinstance(build, str):
        return build
    check_choice("build", build, kerasdl.BUILDERS)
    return kerasdl.BUILDERS[build]


def _limit(texts: LabelledTexts, recipe: Recipe) -> LabelledTexts:
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


def _rows_by_class(texts: LabelledTexts) -> list[np.ndarray]:
    return [
        np.flatnonzero(texts.labels == label) for label in range(len(texts.label_names))
    ]


def _cross_validate(
    recipe: Recipe,
    builder: Callable[..., keras.Model],
    texts: LabelledTexts,
    folds: list[np.ndarray],
    console: Console,
) -> np.ndarray:
    """Predict every text by a model that has not seen it; return probabilities."""
    probabilities = np.zeros((len(texts), len(texts.label_names)))
    for held in folds:
        kept = np.setdiff1d(np.arange(len(texts)), held)
        fitted = fit(recipe, builder, texts.subset(kept), console=console)
        probabilities[held] = fitted.predictor.probabilities(texts.subset(held).texts)
    return probabilities


def _facts(run: Run, fitted: Fitted, training: LabelledTexts) -> dict[str, str]:
    """Facts of the run as the report and the model card show them."""
    return {
        "model": f"{fitted.model.name}, {fitted.model.count_params():,} parameters",
        "training data": f"{training.name}, {len(training):,} texts",
        "data fingerprint": training.fingerprint[:16],
        "measured on": f"{run.metrics['set']}, {run.metrics['count']:,} texts",
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

Text classifier trained by kerasdl. Accuracy {metrics["accuracy"]:.2%} (95 % interval
{metrics["accuracy_low"]:.2%} to {metrics["accuracy_high"]:.2%}), log loss
{metrics["log_loss"]:.4f}, expected calibration error {metrics["ece"]:.2%}, measured on
{metrics["set"]}.

| fact | value |
|---|---|
{rows}

The probabilities are calibrated on a validation split of the training data. Expect less
on texts that differ from these in topic, length or language.
"""


def _write_report(
    run: Run, facts: dict[str, str], test: LabelledTexts, probabilities: np.ndarray
) -> None:
    worst = report.most_confident_errors(test.labels, probabilities, NUM_SHOWN_ERRORS)
    run_report = report.RunReport(
        title=f"{run.recipe.to_json()['build']} on {run.recipe.data}",
        summary=facts,
        metrics=run.metrics,
        history=run.history,
        labels=test.labels,
        probabilities=probabilities,
        label_names=test.label_names,
        errors=[_error(run.predictor, test, probabilities, row) for row in worst],
        notes=_notes(run),
    )
    report.write_report(run.folder / "report.html", run_report)
    plots = run.folder / "plots"
    plots.mkdir(exist_ok=True)
    report.save_plots(plots, run_report)


def _error(
    predictor: Predictor, test: LabelledTexts, probabilities: np.ndarray, row: int
) -> report.ErrorExample:
    predicted = int(probabilities[row].argmax())
    return report.ErrorExample(
        text=test.texts[row],
        label=test.label_names[test.labels[row]],
        predicted=test.label_names[predicted],
        probability=float(probabilities[row, predicted]),
        words=[(w.word, w.push) for w in explain(predictor, test.texts[row])],
    )


def _notes(run: Run) -> list[str]:
    if run.interrupted is None:
        return []
    return ["The training was interrupted; this is the best model so far."]
