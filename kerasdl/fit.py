"""Fit one model to labelled texts: split, encode, build, train, calibrate."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

from kerasdl import backend, evaluate
from kerasdl.bundle import Predictor
from kerasdl.callbacks import ProgressDisplay, StopOnSignal, standard_callbacks
from kerasdl.data.batches import BatchSource, Ragged
from kerasdl.data.sources import LabelledTexts, hold_out
from kerasdl.data.text import TextEncoder
from kerasdl.data.vectors import word_vectors
from kerasdl.layers import Blend, NgramBag
from kerasdl.recipe import Recipe
from kerasdl.schedules import learning_rate_schedule

# So few validation texts can all be right by luck: they may make the probabilities
# more cautious, not bolder.
FEWEST_FOR_CONFIDENCE = 50


@dataclass(frozen=True)
class Fitted:
    """A trained model with what its bundle needs.

    Attributes:
        model: The model, at its best epoch.
        arguments: The builder's arguments, those that the data decided included.
        predictor: The model behind its encoder and temperature.
        history: Logged quantity to its value after each epoch.
    """

    model: keras.Model
    arguments: dict
    predictor: Predictor
    history: dict[str, list[float]]


def fit(
    recipe: Recipe,
    builder: Callable[..., keras.Model],
    texts: LabelledTexts,
    unlabelled: Sequence[str] = (),
    *,
    console: Console,
    stop: StopOnSignal | None = None,
    folder: Path | None = None,
) -> Fitted:
    """Train a recipe's model on labelled texts.

    A stratified part of `texts` is kept for validation: it chooses the epoch, the
    weights of the branches and the temperature of the probabilities. Where there are
    unlabelled texts, a first model gives them soft labels, and a second one learns from
    all texts (self-training, Scudder 1965; soft labels, Hinton et al. 2015).

    Args:
        recipe: How to train.
        builder: The recipe's builder.
        texts: Training texts.
        unlabelled: More texts of the same kind.
        console: Where progress is printed.
        stop: Ends the training early when a signal comes.
        folder: Where the history and the best checkpoint go; `None` writes nothing.

    Returns:
        The trained model.
    """
    backend.set_seed(recipe.seed)
    kept, validation = hold_out(texts, recipe.validation_fraction, seed=recipe.seed)
    labels = kept.labels
    if unlabelled:
        teacher = fit(recipe, builder, texts, console=console, stop=stop, folder=folder)
        if stop and stop.received:
            return teacher
        guessed = teacher.predictor.probabilities(unlabelled)
        labels = np.concatenate([np.eye(len(texts.label_names))[labels], guessed])
    encoder, inputs = TextEncoder.fit_encode(
        [*kept.texts, *unlabelled], **recipe.encoder
    )
    arguments = {
        **_sizes(builder, encoder),
        "num_classes": len(texts.label_names),
        **recipe.arguments,
    }
    steps = -(-len(labels) // recipe.batch_size)
    schedule = learning_rate_schedule(
        recipe.schedule,
        recipe.learning_rate,
        steps * recipe.epochs,
        warmup=recipe.warmup,
    )
    model = builder(**arguments, optimizer=recipe.optimizer, learning_rate=schedule)
    warm_start(model, recipe, inputs, labels)
    targets = smoothed(labels, len(texts.label_names), recipe.label_smoothing)
    history = _run_epochs(
        model,
        recipe,
        BatchSource(inputs, targets, batch_size=recipe.batch_size, seed=recipe.seed),
        BatchSource(
            encoder.encode(validation.texts), validation.labels, batch_size=256
        ),
        console=console,
        extra=[stop] if stop else [],
        folder=folder,
    )
    predictor = Predictor(model, encoder, texts.label_names)
    adapt_blend(predictor, validation)
    temperature = evaluate.fit_temperature(
        predictor.logits(validation.texts), validation.labels
    )
    few = len(validation) < FEWEST_FOR_CONFIDENCE
    predictor.temperature = max(temperature, 1.0) if few else temperature
    return Fitted(model, arguments, predictor, history)


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


def adapt_blend(predictor: Predictor, validation: LabelledTexts) -> None:
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
            logits = Predictor(apart, predictor.encoder, ()).logits(validation.texts)
            shape = (len(logits), len(layer.branches), -1)
            layer.adapt(logits.reshape(shape), validation.labels)


def smoothed(labels: np.ndarray, num_classes: int, smoothing: float) -> np.ndarray:
    """Give a share of each label to all classes alike (Szegedy et al. 2016, section 7).

    Args:
        labels: Classes `(count,)`, or soft labels `(count, num_classes)`.
        num_classes: Number of classes.
        smoothing: The share; 0 returns the labels as they are.

    Returns:
        Soft labels `(count, num_classes)`, float32, unless `smoothing` is 0.

    Example:
        >>> smoothed(np.array([1]), 2, 0.1)
        array([[0.05, 0.95]], dtype=float32)
    """
    if smoothing == 0:
        return labels
    shares = np.eye(num_classes)[labels] if labels.ndim == 1 else labels
    return (shares * (1 - smoothing) + smoothing / num_classes).astype(np.float32)


def _sizes(builder: Callable[..., keras.Model], encoder: TextEncoder) -> dict[str, int]:
    """Return the builder's arguments that the encoder decides."""
    sizes = {
        "vocabulary_size": encoder.vocabulary_size,
        "num_ngrams": encoder.num_ngrams,
    }
    return {
        k: v for k, v in sizes.items() if k in inspect.signature(builder).parameters
    }


def _run_epochs(
    model: keras.Model,
    recipe: Recipe,
    training: BatchSource,
    validation: BatchSource,
    *,
    console: Console,
    extra: list[keras.callbacks.Callback],
    folder: Path | None,
) -> dict[str, list[float]]:
    """Run `model.fit` and return its history."""
    progress = ProgressDisplay(
        console,
        epochs=recipe.epochs,
        steps=training.num_batches,
        batch_size=recipe.batch_size,
    )
    with progress:
        history = model.fit(
            training,
            validation_data=validation,
            epochs=recipe.epochs,
            verbose=0,
            callbacks=[
                *standard_callbacks(folder, patience=recipe.patience),
                progress,
                *extra,
            ],
        )
    return history.history
