"""Fit one model to labelled examples: split, encode, build, train, calibrate."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from kerasdl import backend
from kerasdl.augment import augmented
from kerasdl.callbacks import (
    LowerRateOnPlateau,
    NanGuard,
    ProgressDisplay,
    StochasticAverage,
    averaging,
    standard_callbacks,
)
from kerasdl.data.batches import BatchSource, Dense, Ragged
from kerasdl.data.encoders import ENCODERS, Encoder
from kerasdl.data.labelled import Labelled, hold_out
from kerasdl.data.vectors import word_vectors
from kerasdl.layers import Blend, NgramBag
from kerasdl.optimizers import make_optimizer
from kerasdl.phases import History, Phase, Phases
from kerasdl.precision import PLAIN, Choice, choose, precision
from kerasdl.predict import Classifier, Predictor, Regressor
from kerasdl.recipe import Recipe
from kerasdl.schedules import learning_rate_schedule
from kerasdl.steps import set_training_step

# Rounds of self-training where there are unlabelled examples.
ROUNDS = 2
# In fewer steps a training does not make up for the time of a trial.
FEWEST_STEPS = 500


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

    fitted = fit_once("teacher" if unlabelled else "training", inputs, kept.labels)
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


def in_smaller_parts(
    fit: Callable[..., Any], recipe: Recipe, *arguments, phase: Phase, **options
):
    """Fit as a recipe says; where memory runs out, compute each batch in more parts.

    The steps stay the same (see `Recipe.accumulate`). The training goes on from what
    was saved, or starts again.

    Args:
        fit: Takes the recipe, the arguments, the phase and the options.
        recipe: How to train.
        *arguments: Of `fit`.
        phase: Where the training is saved.
        **options: Of `fit`.

    Returns:
        What `fit` returns.
    """
    while True:
        try:
            return fit(recipe, *arguments, phase=phase, **options)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            parts = 2 * recipe.accumulate
            if parts > recipe.batch_size:
                raise
        recipe = replace(recipe, accumulate=parts)
        phase.phases.console.print(
            f"Out of memory: each batch of {recipe.batch_size} is now computed in "
            f"{parts} parts of {-(-recipe.batch_size // parts)}.",
            soft_wrap=True,
        )


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
    arguments = builder_arguments(recipe, builder, encoder, kept)
    with precision(recipe.precision) as chosen:
        prepared = prepare(
            recipe, builder, encoder, inputs, labels, data, teacher=teacher
        )
        model, trained, answers, training, validating = prepared
        history = phase.finished(model)
        if history is None:
            guard = NanGuard(
                phase.folder,
                source=training,
                examples=kept.examples,
                console=phase.phases.console,
            )
            history = _run_epochs(trained, recipe, training, validating, phase, guard)
            phase.finish(model, history)
    if chosen != PLAIN:
        model = in_float32(model, builder, arguments)
        answers = _answers(model, encoder, kept, tta=recipe.tta)
    adapt_blend(answers, validation)
    answers.calibrate(validation.examples, validation.labels)
    return Fitted(builder.__name__, arguments, answers, history)


def in_float32(
    model: keras.Model, builder: Callable[..., keras.Model], arguments: Mapping
) -> keras.Model:
    """Return a model with the same weights that computes in float32.

    Args:
        model: Model that was built in any precision.
        builder: Its builder.
        arguments: Its arguments.
    """
    with precision(PLAIN):
        plain = builder(**{**arguments, "optimizer": None})
    plain.set_weights(model.get_weights())
    return plain


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
    if steps < FEWEST_STEPS:
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
        _, trained, _, training, _ = prepared
        batch = keras.utils.unpack_x_y_sample_weight(training[0])
        return lambda: trained.train_on_batch(*batch)

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
) -> tuple[keras.Model, keras.Model, Classifier | Regressor, BatchSource, BatchSource]:
    """Make all that `fit` of a model needs.

    Args:
        recipe: How to train.
        builder: The recipe's builder.
        encoder: What has encoded the inputs.
        inputs: Encoded training examples.
        labels: Their labels, integer or soft.
        data: Examples to train and to validate on.
        teacher: A model of the same build, trained on labels alone.

    Returns:
        The model, itself again or what augments around it, its answers, and the batches
        to train and to validate on.
    """
    backend.set_seed(recipe.seed)
    kept, validation = data
    arguments = builder_arguments(recipe, builder, encoder, kept)
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
    return model, trained, answers, training, validating


def builder_arguments(recipe, builder, encoder: Encoder, data: Labelled) -> dict:
    """Return the arguments of a recipe's builder, those that data decide included."""
    return {
        **_accepted(builder, {**encoder.sizes, **_outputs(data)}),
        **recipe.arguments,
    }


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


def warm_start(
    model: keras.Model, recipe: Recipe, inputs: Mapping[str, Ragged], labels: np.ndarray
) -> None:
    """Let the layers that learn from counts see the training data once.

    Args:
        model: Freshly built model.
        recipe: Says whether the embedding starts from word vectors.
        inputs: Encoded training texts.
        labels: Their labels, integer or soft.
    """
    for layer in model.layers:
        if isinstance(layer, NgramBag):
            layer.adapt(inputs["ngrams"], labels)
    if recipe.word_vectors:
        embedding = model.get_layer("embedding")
        vectors = word_vectors(
            inputs["tokens"],
            embedding.input_dim,
            embedding.output_dim,
            seed=recipe.seed,
        )
        embedding.set_weights([recipe.word_vectors * vectors])


def keep_bag(model: keras.Model, teacher: keras.Model) -> None:
    """Give a blended model the bag of its teacher, and keep it as it is.

    Soft labels blur what the bag counts: on IMDB, validated on films that the training
    part lacks, a bag trained on them has a log loss of 0.243 instead of 0.231. The
    other branches gain from the texts.

    Args:
        model: Freshly built model.
        teacher: A model of the same build, trained on labels alone.
    """
    if any(isinstance(layer, Blend) for layer in model.layers):
        for layer in model.layers:
            if isinstance(layer, NgramBag):
                layer.set_weights(teacher.get_layer(layer.name).get_weights())
                layer.trainable = False


def adapt_blend(predictor: Predictor, validation: Labelled) -> None:
    """Weigh the branches of a model that has several, on texts it was not trained on.

    Args:
        predictor: The trained model.
        validation: Labelled texts.
    """
    for layer in predictor.model.layers:
        if isinstance(layer, Blend):
            apart = keras.Model(
                predictor.model.input, keras.ops.concatenate(layer.input, axis=-1)
            )
            logits = Predictor(apart, predictor.encoder).outputs(validation.examples)
            shape = (len(logits), len(layer.branches), -1)
            layer.adapt(logits.reshape(shape), validation.labels)


def _run_epochs(
    model: keras.Model,
    recipe: Recipe,
    training: BatchSource,
    validation: BatchSource,
    phase: Phase,
    guard: NanGuard,
) -> History:
    """Run `model.fit`, from where it was before if it was, and return its history."""
    progress = ProgressDisplay(
        phase.phases.console,
        epochs=recipe.epochs,
        steps=training.batches_per_epoch,
        batch_size=recipe.batch_size,
    )
    stop = phase.phases.stop
    callbacks = [
        guard,
        *_averages(model, recipe, training),
        *([LowerRateOnPlateau(patience=recipe.plateau)] if recipe.plateau else []),
        *standard_callbacks(phase.folder, patience=recipe.patience),
        progress,
        *([stop] if stop else []),
    ]
    checkpoint = phase.checkpoint(callbacks, training)
    with progress, _named_failure(training, validation):
        history = model.fit(
            training,
            validation_data=validation,
            initial_epoch=checkpoint.initial_epoch if checkpoint else 0,
            epochs=recipe.epochs,
            verbose=0,
            callbacks=[*callbacks, *([checkpoint] if checkpoint else [])],
        )
    return history.history


def _averages(
    model: keras.Model, recipe: Recipe, training: BatchSource
) -> list[keras.callbacks.Callback]:
    """Return what validates and keeps an average of the weights, if the recipe does."""
    if recipe.swa:
        start = round((1 - recipe.swa) * recipe.epochs)
        return [StochasticAverage(training, start=min(start, recipe.epochs - 1))]
    return averaging(model.optimizer)


@contextmanager
def _named_failure(*sources: BatchSource) -> Iterator[None]:
    """Raise what went wrong with a batch itself, not what a backend makes of it."""
    try:
        yield
    except Exception:
        for source in sources:
            if source.failure:
                raise source.failure from None
        raise
