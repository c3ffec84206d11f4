"""Fit one model to labelled examples: split, encode, build, train, calibrate."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from kerasdl import backend
from kerasdl.augment import augmented
from kerasdl.counting import adapt_blend, keep_bag, warm_start
from kerasdl.data.batches import BatchSource, Dense, Ragged
from kerasdl.data.encoders import ENCODERS, Encoder
from kerasdl.data.labelled import Labelled, hold_out
from kerasdl.distribution import current
from kerasdl.epochs import in_smaller_parts, run_epochs
from kerasdl.optimizers import make_optimizer
from kerasdl.phases import MAIN, Phase, Phases
from kerasdl.precision import PLAIN, Choice, choose, in_float32, precision
from kerasdl.predict import Classifier, Regressor
from kerasdl.recipe import Recipe
from kerasdl.rematerialisation import rematerialise
from kerasdl.schedules import learning_rate_schedule
from kerasdl.steps import set_training_step

# Rounds of self-training where there are unlabelled examples.
ROUNDS = 2
# In fewer steps a training does not make up for the time of a trial.
FEWEST_STEPS_FOR_A_TRIAL = 500


@dataclass(frozen=True)
class Fitted:
    """A trained model with what its bundle needs.

    Attributes:
        builder: Name of the builder.
        arguments: Its arguments, those that the data decided included.
        predictor: The model, at its best epoch, behind its encoder and calibrated.
        history: Logged quantity to its value after each epoch.
    """

    builder: str
    arguments: dict
    predictor: Classifier | Regressor
    history: dict[str, list[float]]


@dataclass(frozen=True)
class Prepared:
    """All that a training needs, ready to run.

    Attributes:
        model: The model.
        trained: What is trained: the model, or one around it that augments.
        arguments: Of the builder, those that the data decided included.
        answers: The model behind its encoder.
        training: Batches to train on.
        validation: Batches to validate on.
    """

    model: keras.Model
    trained: keras.Model
    arguments: dict
    answers: Classifier | Regressor
    training: BatchSource
    validation: BatchSource


def fit(
    recipe: Recipe,
    builder: Callable[..., keras.Model],
    data: Labelled,
    unlabelled: Sequence = (),
    *,
    validation: Labelled | None = None,
    phases: Phases | None = None,
) -> Fitted:
    """Train a recipe's model on labelled examples.

    Validation examples choose the epoch, the weights of the branches and how far to
    trust the answers. Where there are unlabelled
    examples, the model gives them soft labels, and a new one learns from all examples,
    `ROUNDS` times (self-training, Scudder 1965; soft labels, Hinton et al. 2015); a bag
    of n-grams beside other branches stays as the labels alone have made it.

    Args:
        recipe: How to train.
        builder: The recipe's builder.
        data: Training examples.
        unlabelled: More examples of the same kind.
        validation: Examples to validate on; a stratified part of `data` if omitted.
        phases: Where the trainings are saved, and what ends them; by default nothing.

    Returns:
        The trained model.
    """
    phases = phases or Phases()
    kept = data
    if validation is None:
        kept, validation = hold_out(data, recipe.validation_fraction, seed=recipe.seed)
    encoder, inputs = ENCODERS[recipe.kind].fit_encode(kept.examples, **recipe.encoder)

    def fit_once(phase, inputs, labels, teacher=None):
        data = kept, validation
        return in_smaller_parts(
            _fit_once,
            recipe,
            builder,
            encoder,
            inputs,
            labels,
            data,
            teacher=teacher,
            phase=phases.phase(phase),
        )

    fitted = fit_once("teacher" if unlabelled else MAIN, inputs, kept.labels)
    if not unlabelled:
        return fitted
    inputs = encoder.encode([*kept.examples, *unlabelled])
    known = np.eye(len(data.label_names))[kept.labels]
    for number in range(1, ROUNDS + 1):
        if phases.is_stopped:
            break
        guessed = fitted.predictor.answers(unlabelled)
        labels = np.concatenate([known, guessed])
        fitted = fit_once(f"student-{number}", inputs, labels, fitted.predictor.model)
    return fitted


def _fit_once(
    recipe: Recipe,
    builder: Callable[..., keras.Model],
    encoder: Encoder,
    inputs: Mapping[str, Ragged],
    labels: np.ndarray,
    data: tuple[Labelled, Labelled],
    *,
    teacher: keras.Model | None,
    phase: Phase,
) -> Fitted:
    """Train one model on encoded examples; calibrate it on the second of `data`."""
    kept, validation = data
    with precision(recipe.precision) as chosen:
        ready = prepare(recipe, builder, encoder, inputs, labels, data, teacher=teacher)
        history = phase.finished(ready.model)
        if history is None:
            history = run_epochs(
                ready.trained,
                recipe,
                ready.training,
                ready.validation,
                phase,
                examples=kept.examples,
            )
            phase.finish(ready.model, history)
    answers = ready.answers
    if chosen != PLAIN or current().devices > 1:
        plain = {**ready.arguments, "optimizer": None}
        model = in_float32(ready.model, lambda: builder(**plain))
        answers = _answers(model, encoder, kept, tta=recipe.tta)
    adapt_blend(answers, validation)
    answers.calibrate(validation.examples, validation.labels)
    return Fitted(builder.__name__, ready.arguments, answers, history)


def choose_precision(
    recipe: Recipe, builder: Callable[..., keras.Model], data: Labelled
) -> Choice:
    """Choose what a recipe with `precision="auto"` trains in.

    Args:
        recipe: How to train.
        builder: Its builder.
        data: Training examples, some of which the trial takes.
    """
    steps = recipe.epochs * -(-len(data) // recipe.batch_size)
    if steps < FEWEST_STEPS_FOR_A_TRIAL:
        return Choice(PLAIN, f"a trial does not pay for {steps} steps")
    rows = np.linspace(0, len(data) - 1, min(len(data), 2 * recipe.batch_size))
    sample = data.subset(np.unique(rows.astype(int)))
    encoder, inputs = ENCODERS[recipe.kind].fit_encode(
        sample.examples, **recipe.encoder
    )
    # Of what a sample may be too small for, a step shows nothing.
    recipe = replace(recipe, class_weights=False, word_vectors=0.0)

    def make_step():
        prepared = prepare(
            recipe, builder, encoder, inputs, sample.labels, (sample, sample)
        )
        batch = keras.utils.unpack_x_y_sample_weight(prepared.training[0])
        return lambda: prepared.trained.train_on_batch(*batch)

    return choose(make_step)


def prepare(
    recipe: Recipe,
    builder: Callable[..., keras.Model],
    encoder: Encoder,
    inputs: Mapping[str, Ragged],
    labels: np.ndarray,
    data: tuple[Labelled, Labelled],
    *,
    teacher: keras.Model | None = None,
) -> Prepared:
    """Make all that `fit` of a model needs.

    Args:
        recipe: How to train.
        builder: The recipe's builder.
        encoder: What has encoded the inputs.
        inputs: Encoded training examples.
        labels: Their labels, integer or soft.
        data: Examples to train and to validate on.
        teacher: A model of the same build, trained on labels alone.
    """
    backend.set_seed(recipe.seed)
    kept, validation = data
    arguments = {
        **_accepted(builder, {**encoder.sizes, **_outputs(kept)}),
        **recipe.arguments,
    }
    steps = -(-len(labels) // recipe.batch_size)
    schedule = learning_rate_schedule(
        recipe.schedule,
        recipe.learning_rate,
        steps * recipe.epochs,
        warmup=recipe.warmup,
        **recipe.schedule_options,
    )
    model = builder(
        **arguments, optimizer=_optimizer(recipe, schedule), learning_rate=schedule
    )
    if recipe.rematerialise:
        rematerialise(model)
    warm_start(model, recipe, inputs, labels)
    if teacher:
        keep_bag(model, teacher)
    answers = _answers(model, encoder, kept, tta=recipe.tta)
    training = BatchSource(
        inputs,
        answers.targets(labels, smoothing=recipe.label_smoothing),
        weights=class_weights(kept)[labels] if recipe.class_weights else None,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
    validating = BatchSource(
        encoder.encode(validation.examples),
        answers.targets(validation.labels),
        batch_size=256,
    )
    trained = model
    if recipe.augment != "none":
        trained = augmented(model, recipe.augment, encoder)
        training, validating = (
            _with_targets(source, len(kept.label_names))
            for source in (training, validating)
        )
    if recipe.accumulate > 1 or recipe.sam:
        set_training_step(trained, micro_batches=recipe.accumulate, radius=recipe.sam)
    return Prepared(model, trained, arguments, answers, training, validating)


def _optimizer(recipe: Recipe, schedule) -> keras.optimizers.Optimizer:
    """Return the recipe's optimizer, with a schedule that callbacks may scale."""
    return make_optimizer(
        recipe.optimizer,
        schedule,
        clip=recipe.clip,
        clip_by=recipe.clip_by,
        ema=recipe.ema,
        **recipe.optimizer_options,
    )


def class_weights(data: Labelled) -> np.ndarray:
    """Return the weight of each class, so that all count alike and the mean is 1.

    Args:
        data: Examples with classes.

    Returns:
        Float32 `(classes,)`.
    """
    counts = np.bincount(data.labels, minlength=len(data.label_names))
    return (len(data) / (len(counts) * counts)).astype(np.float32)


def _with_targets(source: BatchSource, classes: int) -> BatchSource:
    """Hand the labels to the model, too, which mixes them as it mixes the images."""
    targets = source.targets
    if targets.ndim == 1:
        targets = np.eye(classes, dtype=np.float32)[targets]
    return BatchSource(
        {**source.inputs, "target": Dense(targets)},
        targets,
        weights=source.weights,
        batch_size=source.batch_size,
        seed=source.seed,
    )


def _outputs(data: Labelled) -> dict[str, int]:
    """Return what the labels decide of a builder's arguments."""
    if data.label_names:
        return {"num_classes": len(data.label_names)}
    return {"num_outputs": 1}


def _accepted(builder: Callable[..., keras.Model], arguments: dict) -> dict:
    """Return those of the arguments that the builder has."""
    names = inspect.signature(builder).parameters
    return {name: value for name, value in arguments.items() if name in names}


def _answers(
    model: keras.Model, encoder: Encoder, data: Labelled, *, tta: bool
) -> Classifier | Regressor:
    if data.label_names:
        return Classifier(model, encoder, data.label_names, tta=tta)
    return Regressor(model, encoder, data.labels.mean(), data.labels.std())
