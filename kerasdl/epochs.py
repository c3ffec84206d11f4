"""Run the epochs of a training: its callbacks, its saves, and less memory at need."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras

from kerasdl import backend
from kerasdl.callbacks import (
    LowerRateOnPlateau,
    Meter,
    NanGuard,
    ProgressDisplay,
    PromptCallbacks,
    StochasticAverage,
    TensorBoard,
    averaging,
    standard_callbacks,
)
from kerasdl.data.batches import BatchSource
from kerasdl.distribution import current
from kerasdl.phases import MAIN, History, Phase
from kerasdl.recipe import Recipe
from kerasdl.steps import quick_steps


def run_epochs(
    model: keras.Model,
    recipe: Recipe,
    training: BatchSource,
    validation: BatchSource,
    phase: Phase,
    *,
    examples: Sequence = (),
    span: tuple[int, int] | None = None,
    keeping: keras.callbacks.Callback | None = None,
    steps: int | None = None,
) -> History:
    """Run `model.fit`, from where it was before if it was, and return its history.

    Args:
        model: Compiled model.
        recipe: How to train.
        training: Batches to train on.
        validation: Batches to validate on.
        phase: Where the training is saved, and what ends it.
        examples: What the rows of `training` were, to name those of a bad batch.
        span: First epoch and end, where they are not those of the recipe.
        keeping: What keeps the best weights, in place of `standard_callbacks`.
        steps: Of a training that is only measured, how long it would be: whether
            compiling pays depends on it.

    Returns:
        Logged quantity to its value after each epoch.
    """
    first, last = span or (0, recipe.epochs)
    steps = steps or (last - first) * training.batches_per_epoch
    current().share(model, training, validation)
    run = phase.phases
    meter = Meter(len(training.targets), in_logs=False)
    progress = ProgressDisplay(
        run.console,
        epochs=recipe.epochs,
        steps=training.batches_per_epoch,
        meter=meter,
        source=training,
    )
    keeping = (
        [keeping]
        if keeping
        else standard_callbacks(phase.folder, patience=recipe.patience, averages=False)
    )
    callbacks = [
        NanGuard(phase.folder, source=training, examples=examples, console=run.console),
        *_averages(model, recipe, training, first, last),
        *([LowerRateOnPlateau(patience=recipe.plateau)] if recipe.plateau else []),
        *keeping,
        meter,
        *_board(phase, meter),
        progress,
        *([run.stop] if run.stop else []),
    ]
    checkpoint = phase.checkpoint(callbacks, training)
    callbacks = [*callbacks, *([checkpoint] if checkpoint else [])]
    # Saving makes the guard of the chief look at the loss; others must not look later.
    if current().processes == 1:
        count = training.num_batches
        callbacks = PromptCallbacks(callbacks, model, epochs=last, steps=count)
    with (
        progress,
        quick_steps(model),
        backend.handed_over(model, training, steps) as batches,
        _named_failure(training, validation),
    ):
        history = model.fit(
            batches,
            validation_data=validation,
            initial_epoch=max(first, checkpoint.initial_epoch) if checkpoint else first,
            epochs=last,
            verbose=0,
            callbacks=callbacks,
        )
    return history.history


def _averages(
    model: keras.Model, recipe: Recipe, training: BatchSource, first: int, last: int
) -> list[keras.callbacks.Callback]:
    """Return what validates and keeps an average of the weights, if the recipe does."""
    if recipe.swa:
        start = first + round((1 - recipe.swa) * (last - first))
        return [StochasticAverage(training, start=min(start, last - 1))]
    return averaging(model.optimizer)


def _board(phase: Phase, meter: Meter) -> list[keras.callbacks.Callback]:
    """Return what writes curves for TensorBoard, if the run does."""
    if not phase.phases.tensorboard or phase.folder is None:
        return []
    folder = phase.folder / "tensorboard"
    if phase.name != MAIN:
        folder /= phase.name
    return [TensorBoard(folder, meter=meter)]


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
            # Others would still wait for what this process was to compute.
            if not backend.is_out_of_memory(error) or current().processes > 1:
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
