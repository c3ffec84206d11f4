"""Train a recipe: from data to a run folder with a calibrated, checksummed bundle."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

import kerasdl
from kerasdl import backend, evaluate
from kerasdl.callbacks import StopOnSignal, TensorBoard
from kerasdl.checks import check_choice
from kerasdl.data.encoders import ENCODERS
from kerasdl.data.image_files import Photos
from kerasdl.data.image_sources import load_images
from kerasdl.data.labelled import (
    FEWEST_EXAMPLES,
    Labelled,
    Splits,
    check_trainable,
    deal,
    hold_out,
)
from kerasdl.data.rows import load_rows
from kerasdl.data.sources import load_texts
from kerasdl.distribution import current
from kerasdl.doctor import fast_check
from kerasdl.errors import InputError
from kerasdl.finetuning import finetuning, fit_pretrained
from kerasdl.fit import Fitted, choose_precision, fit, prepare
from kerasdl.phases import Phases
from kerasdl.precision import choose, precision
from kerasdl.rate_finder import FoundRate, lr_find
from kerasdl.recipe import Recipe
from kerasdl.results import Run, write_results
from kerasdl.runs import (
    RECIPE_FILE,
    begin,
    check_folder,
    claimed_folder,
    default_folder,
    end,
    go_on,
    is_saved,
)
from kerasdl.untrusted import read_json

# What reads each kind of data.
LOADERS = {"text": load_texts, "table": load_rows, "image": load_images}
# Data without a test split give up this share; where that would leave too few to
# measure on, the metrics are cross-validated instead.
TEST_FRACTION = 0.15
FEWEST_FOR_TEST = 200
FOLDS = 5


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    force_resume: bool = False,
    every_minutes: float = 5.0,
    every_steps: int | None = None,
    tensorboard: bool = False,
    console: Console | None = None,
) -> Run:
    """Train a model and write its run folder.

    The folder holds `recipe.json`, `history.csv`, `metrics.json`, `report.html`,
    `plots/`, `checkpoints/` and the trained `bundle/`. The first Ctrl-C or SIGTERM ends
    the training after the current batch; the best weights so far are kept, measured and
    written. An earlier run in the folder stays until the new one is complete.

    Within `with kerasdl.distribute(...)` all its devices train, in all its processes,
    and the chief writes.

    The state of the training is saved as it goes. A run that was stopped, killed or cut
    short by an error is continued by `resume`, bit for bit on a CPU.

    Args:
        recipe: What to train, on what, and how.
        out: Folder to write, `runs/<builder>-<time>` by default.
        overwrite: Replace an earlier run in `out`.
        resume: Continue the unfinished run in `out`, begun with the same recipe.
        force_resume: Continue it even where recipe or data are not the same.
        every_minutes: Save at least so often; at the end of an epoch, too, where that
            costs less than 3 % of the time.
        every_steps: Save after so many steps, whatever it costs.
        tensorboard: Write curves, histograms and plots into `tensorboard/` of the
            folder (the extra `tensorboard`).
        console: Where progress is printed, standard error by default.

    Returns:
        The run.

    Raises:
        InputError: If the data or the folder cannot be used; nothing is written then.
        ValueError: If the recipe does not fit its builder.
    """
    start = time.perf_counter()
    console = _heard(console)
    resume = resume or force_resume
    _fitter(recipe)  # refuses a builder that there is not, before data are read
    if resume and out is None:
        raise InputError("resume needs the folder of the run; give it as out")
    folder = Path(out) if out else default_folder(recipe.name)
    check_folder(folder, overwrite=overwrite, resume=resume)
    board = TensorBoard(folder / "tensorboard") if tensorboard else None
    _check_devices(recipe, console)
    parts = _read(recipe, console)
    if recipe.precision == "auto":
        recipe = _settled(recipe, parts.training, folder if resume else None, console)
    fit_model = _fitter(recipe)
    facts = {"recipe": recipe.to_json(), "data": parts.fingerprints}
    current().agree({"version": kerasdl.__version__, **facts})

    with (
        backend.deterministic() if recipe.deterministic else nullcontext(),
        _claimed(folder, overwrite=overwrite, resume=resume),
        StopOnSignal() as stop,
        _hint(folder, console),
    ):
        phases = Phases(
            folder,
            console,
            stop,
            _begun(folder, facts, resume=resume, force=force_resume),
            facts=facts,
            saving={"every_minutes": every_minutes, "every_steps": every_steps},
            tensorboard=tensorboard,
        )
        fitted = fit_model(
            parts.training,
            parts.unlabelled,
            validation=parts.validation,
            phases=phases,
        )
        answers = _cross_validate(fit_model, parts, phases)
        interrupted = stop.received
        if interrupted:
            console.print("Interrupted: measuring and writing the best model so far.")
        if answers is None:
            parts = parts if parts.test else _cut_short(parts, recipe)
            answers = fitted.predictor.answers(parts.test.examples)
        test = parts.test or parts.training
        metrics = {
            "set": parts.measured_on,
            **evaluate.metrics(test.labels, answers, test.label_names),
            **fitted.predictor.answer_settings,
            "seconds": round(time.perf_counter() - start, 1),
        }
        run = Run(
            folder, recipe, metrics, fitted.history, fitted.predictor, interrupted
        )
        if current().is_chief:
            _write(run, fitted, parts.training, test, answers, board)
        if interrupted:
            console.print(f"Continue it with --resume {folder}", soft_wrap=True)
    return replace(run, interrupted=stop.received)


def _heard(console: Console | None) -> Console:
    """Return where progress is printed, by one of the processes."""
    if not current().is_chief:
        return Console(quiet=True)
    return console or Console(stderr=True)


def _check_devices(recipe: Recipe, console: Console) -> None:
    """Refuse a batch that the devices cannot share; say what trains."""
    devices = current()
    devices.check_batch_size(recipe.batch_size)
    if devices.devices > 1:
        if recipe.rematerialise:
            raise InputError(
                "rematerialise=True: several devices cannot do that; take one, or let "
                "accumulate=2 or more take less memory"
            )
        line = devices.describe(recipe.batch_size, recipe.learning_rate)
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _begun(folder: Path, facts: dict, *, resume: bool, force: bool) -> str:
    """Begin or go on with a run, which its chief does, and return its identity."""
    run_id = ""
    if current().is_chief:
        run_id = (
            go_on(folder, **facts, force=force) if resume else begin(folder, **facts)
        )
    return current().from_chief(run_id)


def _write(run: Run, fitted: Fitted, training, test, answers, board) -> None:
    """Write what a run has found; unless it was interrupted, it is finished then."""
    write_results(run, fitted, training, test, answers)
    if board:
        board.add_plots(run.folder / "plots")
    if not run.interrupted:
        end(run.folder)


def _settled(
    recipe: Recipe, data: Labelled, resumed: Path | None, console: Console
) -> Recipe:
    """Return a recipe with the precision that is chosen, or that a run was begun in."""
    if resumed:
        before = Recipe.from_json(read_json(resumed / RECIPE_FILE))
        return replace(recipe, precision=before.precision)
    if recipe.deterministic:
        raise InputError(
            "precision='auto' goes by how long a trial takes; name one, such as "
            "mixed_bfloat16, to be deterministic"
        )
    if recipe.pretrained:
        choice = choose()
    else:
        choice = choose_precision(recipe, _resolve(recipe.build), data)
    console.print(str(choice), highlight=False, markup=False, soft_wrap=True)
    return replace(recipe, precision=current().from_chief(choice.precision))


def _claimed(folder: Path, **options) -> AbstractContextManager:
    """Claim the folder of a run, which its chief does for all processes."""
    return claimed_folder(folder, **options) if current().is_chief else nullcontext()


@contextmanager
def _hint(folder: Path, console: Console) -> Iterator[None]:
    """Say how a run goes on that an error has cut short."""
    try:
        yield
    except Exception as error:
        if is_saved(folder) and not isinstance(error, InputError):
            console.print(
                f"The run can be continued: --resume {folder}",
                markup=False,
                soft_wrap=True,
            )
        raise


def finetune(
    pretrained: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    **changes,
) -> Run:
    """Fine-tune a pretrained image model, and write its run folder.

    Args:
        pretrained: What to start from, as `kerasdl.pretrained.open_pretrained` takes
            it: a KerasHub preset or its folder, a timm or Hugging Face folder, a
            bundle.
        data: Images, as `kerasdl.data.image_sources.load_images` takes them.
        out: As of `train`.
        overwrite: As of `train`.
        console: As of `train`.
        **changes: Fields of the recipe to replace, `epochs=0` for a new head alone.

    Returns:
        The run.

    Raises:
        InputError: If the model, the data or the folder cannot be used.
    """
    recipe = replace(finetuning(str(pretrained)), data=str(data), **changes)
    return train(recipe, out=out, overwrite=overwrite, console=console)


def find_rate(recipe: Recipe, *, console: Console | None = None) -> FoundRate:
    """Search a learning rate for a recipe: see `kerasdl.lr_find`.

    Args:
        recipe: What would be trained, on what, and how.
        console: Where is said which data were taken, standard error by default.

    Returns:
        The suggestion, and the curve.

    Raises:
        InputError: If the data cannot be used, or the loss falls at no rate.
    """
    if recipe.pretrained:
        raise InputError("a pretrained model has its rate already; leave it as it is")
    parts = _read(recipe, console or Console(stderr=True))
    data, validation = parts.training, parts.validation
    if validation is None:
        data, validation = hold_out(data, recipe.validation_fraction, seed=recipe.seed)
    encoder, inputs = ENCODERS[recipe.kind].fit_encode(data.examples, **recipe.encoder)
    build, parts = _resolve(recipe.build), (data, validation)
    with precision(recipe.precision):
        prepared = prepare(recipe, build, encoder, inputs, data.labels, parts)
        return lr_find(prepared.trained, prepared.training)


@dataclass(frozen=True)
class _Parts:
    """The data of a run: what is trained, validated and measured on."""

    training: Labelled
    validation: Labelled | None
    test: Labelled | None
    unlabelled: Sequence
    measured_on: str
    folds: Sequence[np.ndarray] = ()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Name of each part to what tells its content from any other."""
        parts = {
            "training": self.training,
            "validation": self.validation,
            "test": self.test,
        }
        if self.unlabelled:
            nothing = np.zeros(len(self.unlabelled), np.int64)
            parts["unlabelled"] = Labelled("", self.unlabelled, nothing, ("",))
        return {name: part.fingerprint for name, part in parts.items() if part}


def _read(recipe: Recipe, console: Console) -> _Parts:
    """Read the data of a recipe, and set some aside to measure on."""

    def notify(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    splits = LOADERS[recipe.kind](
        recipe.data,
        notify=notify,
        unlabelled=recipe.unlabelled,
        **recipe.data_options,
    )
    check_trainable(splits.train)
    for line in _doubts(splits):
        notify(line)
    if recipe.unlabelled and not splits.unlabelled:
        raise InputError(
            f"{splits.train.name} has no unlabelled examples to learn from"
        )
    training = _limit(splits.train, recipe)
    others = splits.validation, splits.test, splits.unlabelled
    if splits.test:
        return _Parts(training, *others, splits.test.name)
    if len(training) >= FEWEST_FOR_TEST:
        kept, test = hold_out(training, TEST_FRACTION, seed=recipe.seed)
        measured_on = f"{TEST_FRACTION:.0%} of {training.name}, held out by seed"
        return _Parts(kept, splits.validation, test, splits.unlabelled, measured_on)
    folds = deal(training, FOLDS, seed=recipe.seed)
    measured_on = f"{len(folds)}-fold cross-validation of {training.name}"
    return _Parts(training, *others, measured_on, folds)


def _doubts(splits: Splits) -> list[str]:
    """Return what a quick look at image files finds odd about them, a line each."""
    images = splits.train.examples
    if not isinstance(images, Photos) or not isinstance(images.paths[0], Path):
        return []
    parts = {
        "train": splits.train,
        "validation": splits.validation,
        "test": splits.test,
    }
    files = {
        split: {
            name: list(part.examples[np.flatnonzero(part.labels == label)])
            for label, name in enumerate(part.label_names)
        }
        for split, part in parts.items()
        if part
    }
    return fast_check(files, root=images.root or "").lines()


def _fitter(recipe: Recipe) -> Callable[..., Fitted]:
    """Return what fits a model to examples as the recipe says."""
    if recipe.pretrained:
        return partial(fit_pretrained, recipe)
    return partial(fit, recipe, _resolve(recipe.build))


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
    fit_model: Callable[..., Fitted], parts: _Parts, phases: Phases
) -> np.ndarray | None:
    """Answer every example by a model that has not seen it.

    Returns:
        The answers, or `None` where there are no folds or a signal has come.
    """
    data = parts.training
    answers = [None] * len(data)
    for number, held in enumerate(parts.folds, start=1):
        if phases.is_stopped:
            return None
        kept = data.subset(np.setdiff1d(np.arange(len(data)), held))
        fitted = fit_model(kept, phases=phases.aside(f"fold-{number}"))
        found = fitted.predictor.answers(data.subset(held).examples)
        for row, answer in zip(held, found, strict=True):
            answers[row] = answer
    return np.array(answers) if parts.folds and not phases.is_stopped else None


def _cut_short(parts: _Parts, recipe: Recipe) -> _Parts:
    """Return what is measured on where folds were left out: what the model chose by."""
    data = parts.training
    _, validation = hold_out(data, recipe.validation_fraction, seed=recipe.seed)
    measured_on = (
        f"validation part of {data.name}, by which the model was chosen: the "
        "cross-validation was cut short"
    )
    return replace(parts, test=validation, measured_on=measured_on)
