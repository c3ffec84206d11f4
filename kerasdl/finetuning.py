"""Fine-tune a pretrained model: first its head on cached features, then the rest."""

import itertools
from collections.abc import Iterator

import keras
import numpy as np

from kerasdl import backend
from kerasdl.augment import augmented
from kerasdl.callbacks import KeepBest, write_history
from kerasdl.checkpoint import random_state, set_random_state
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.data.labelled import Labelled, hold_out
from kerasdl.distribution import current
from kerasdl.epochs import in_smaller_parts, run_epochs
from kerasdl.errors import InputError
from kerasdl.fit import Fitted, class_weights
from kerasdl.heads import Encoded, fit_head
from kerasdl.optimizers import make_optimizer
from kerasdl.phases import History, Phase, Phases
from kerasdl.precision import PLAIN, in_float32, precision
from kerasdl.predict import FEWEST_FOR_CONFIDENCE, Classifier
from kerasdl.pretrained import HEAD, Pretrained, open_pretrained
from kerasdl.recipe import Recipe
from kerasdl.runs import HISTORY_FILE
from kerasdl.schedules import learning_rate_schedule
from kerasdl.steps import set_training_step
from kerasdl.tasks import compile_classifier

# The backbone is unfrozen in so many parts, from the head down, each of which learns
# slower than the one above it by this factor (Howard & Ruder 2018, section 3.2).
PARTS = 3
DECAY = 2.6


def finetuning(pretrained: str) -> Recipe:
    """The recipe of fine-tuning: a head, then a few careful epochs of the whole."""
    return Recipe(
        build="pretrained_classifier",
        kind="image",
        pretrained=str(pretrained),
        augment="light",
        tta=True,
        epochs=3,
        batch_size=16,
        learning_rate=1e-4,
    )


def fit_pretrained(
    recipe: Recipe,
    data: Labelled,
    unlabelled=(),
    *,
    validation: Labelled | None = None,
    phases: Phases | None = None,
) -> Fitted:
    """Fine-tune a recipe's pretrained model on labelled images.

    The backbone runs over every image once, and a logistic regression on its features
    becomes the new head. Then the backbone is unfrozen part by part from above, for
    `recipe.epochs` epochs in all, with lower learning rates further down; it computes
    as at prediction, so that dropout is off and the statistics of batch norms stay.
    Each of these stages is a training of its own: schedule, `recipe.ema` and
    `recipe.swa` begin anew in it, and the next one goes on from the average.

    The best epoch is kept where it beats the head alone on the validation images by
    more than its standard error. Otherwise the head alone is kept, calibrated on them,
    and at last fitted to what was held out, too: where there are few images, each
    counts. With fewer than `FEWEST_FOR_CONFIDENCE` to choose an epoch by, the backbone
    stays frozen: with a quarter of the ants and bees held out, the head was better than
    the last epoch in four runs of four.

    Args:
        recipe: How to train.
        data: Training images.
        unlabelled: None: a pretrained model does not learn from them.
        validation: Images to validate on; a stratified part of `data` if omitted.
        phases: Where the trainings are saved, and what ends them; by default nothing.

    Returns:
        The trained model.

    Raises:
        InputError: If the pretrained model cannot be read, or there are unlabelled
            images.
    """
    phases = phases or Phases()
    if unlabelled:
        raise InputError("a pretrained model does not learn from unlabelled images")
    kept = data
    if validation is None:
        kept, validation = hold_out(data, recipe.validation_fraction, seed=recipe.seed)
    pretrained = _open(recipe)
    encoder, classes = pretrained.encoder, len(data.label_names)
    sets = [Encoded(encoder, encoder.encode(x.examples), x) for x in (kept, validation)]

    with precision(recipe.precision) as chosen:
        backend.set_seed(recipe.seed)
        model = pretrained.build(classes)
        head = fit_head(model, recipe, *sets, console=phases.console)
        is_tuned, epochs = try_backbone(model, recipe, *sets, phases)
    if chosen != PLAIN or current().devices > 1:
        model = in_float32(model, lambda: pretrained.build(classes))
    answers = Classifier(model, encoder, data.label_names, tta=recipe.tta)
    answers.calibrate(validation.examples, validation.labels)
    if not is_tuned:
        head.fit(model, len(data))
    history = {name: head.history[name] + epochs.get(name, []) for name in head.history}
    if phases.folder and phases.in_front:
        numbered = {"epoch": range(len(history["loss"])), **history}
        write_history(phases.folder / HISTORY_FILE, numbered)
    arguments = {**pretrained.arguments, "num_classes": classes}
    return Fitted(pretrained.builder, arguments, answers, history)


def _open(recipe: Recipe) -> Pretrained:
    pretrained = open_pretrained(recipe.pretrained)
    if size := recipe.encoder.get("image_size"):
        return pretrained.resized(size)
    return pretrained


def try_backbone(
    model: keras.Model,
    recipe: Recipe,
    training: Encoded,
    validation: Encoded,
    phases: Phases,
) -> tuple[bool, History]:
    """Run `fit_backbone` where it can be judged; undo it where it does not help.

    Returns:
        Whether the model was changed, and what `fit_backbone` returned, if it ran.
    """
    count = len(validation.data)
    if not recipe.epochs:
        return False, {}
    if count < FEWEST_FOR_CONFIDENCE:
        phases.console.print(
            f"{count} validation images are too few to choose an epoch by: the "
            "backbone stays frozen",
            highlight=False,
            soft_wrap=True,
        )
        return False, {}
    weights, losses = model.get_weights(), validation.losses(model)
    epochs = fit_backbone(model, recipe, training, validation, phases)
    if is_better(validation.losses(model), losses):
        return True, epochs
    model.set_weights(weights)
    return False, epochs


def is_better(losses: np.ndarray, others: np.ndarray) -> bool:
    """Say whether losses are lower by more than the standard error of their mean.

    Args:
        losses: Loss of each image `(count,)`.
        others: Loss of each by the model to beat `(count,)`.
    """
    gains = others - losses
    return bool(gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains)))


class AsAtPrediction(keras.Model):
    """Functional model that computes in training what it computes at prediction.

    Dropout is off; batch norms use their statistics, and do not change them. (To call
    an inner model with `training=False` is not enough: a functional model tells its
    layers how it is itself called.)
    """

    def call(self, inputs, training=None, mask=None):  # noqa: ARG002 - Keras's
        """Return the outputs for the inputs."""
        return super().call(inputs, training=False, mask=mask)


def fit_backbone(
    model: keras.Model,
    recipe: Recipe,
    training: Encoded,
    validation: Encoded,
    phases: Phases,
) -> History:
    """Unfreeze a model part by part, from above, and train it; keep the best epoch.

    Args:
        model: Model whose head fits already.
        recipe: Epochs in all, batch size, learning rate of the head, and more.
        training: Training images.
        validation: Validation images.
        phases: Where each stage is saved, and what ends it.

    Returns:
        Logged quantity to its value after each epoch.
    """
    graph = AsAtPrediction(model.input, model.output, name=model.name)
    parts = parts_from_above(model)
    batches = [_batches(recipe, x, x is training) for x in (training, validation)]
    best = KeepBest(model)
    history = {}
    for depth, span in stages(recipe.epochs):
        if phases.is_stopped:
            break
        _unfreeze(parts, depth)
        stage = _Stage(graph, parts, training, batches, best, span)
        ran = in_smaller_parts(stage.fit, recipe, phase=phases.phase(f"stage-{depth}"))
        for name, values in ran.items():
            history.setdefault(name, []).extend(values)
    _unfreeze(parts, PARTS)
    best.restore()
    return history


def _unfreeze(parts: list[list[keras.Variable]], depth: int) -> None:
    """Let the parts down to this depth be trained, and no others."""
    for i, part in enumerate(parts):
        for variable in part:
            variable.trainable = i <= depth


class _Stage:
    """A training of the parts that are unfrozen; tried again, it begins as it began."""

    def __init__(self, graph, parts, training, batches, best, span):
        self.graph = graph
        self.parts = parts
        self.training = training
        self.batches = batches
        self.best = best
        self.span = span
        self.start = best.kept.get_weights(), best.state_dict(), random_state()

    def fit(self, recipe: Recipe, *, phase: Phase) -> History:
        """Run the epochs of the stage, or what is left of them."""
        model, best = self.best.kept, self.best
        weights, state, draws = self.start
        model.set_weights(weights)
        best.load_state_dict(state)
        set_random_state(draws)
        self.batches[0].start(self.span[0])
        steps = (self.span[1] - self.span[0]) * self.batches[0].batches_per_epoch
        encoder = self.training.encoder
        trained = _compiled(self.graph, recipe, self.parts, steps, encoder)
        ran = phase.finished(model, [best])
        if ran is None:
            ran = run_epochs(
                trained,
                recipe,
                *self.batches,
                phase,
                examples=self.training.data.examples,
                span=self.span,
                keeping=best,
            )
            phase.finish(model, ran, [best])
        return ran


def parts_from_above(model: keras.Model) -> list[list[keras.Variable]]:
    """Return the trainable variables: those of the logits, then `PARTS` below."""
    head = model.get_layer(HEAD).trainable_variables
    paths = {variable.path for variable in head}
    body = [v for v in model.trainable_variables if v.path not in paths]
    cuts = np.linspace(0, len(body), PARTS + 1).astype(int)
    below = [body[start:end] for start, end in itertools.pairwise(cuts)]
    return [head, *reversed(below)]


def stages(epochs: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield how many parts are unfrozen, and in which epochs.

    Example:
        >>> list(stages(4))
        [(1, (0, 2)), (2, (2, 3)), (3, (3, 4))]
        >>> list(stages(1))
        [(1, (0, 1))]
    """
    ends = [-(-epochs * depth // PARTS) for depth in range(PARTS + 1)]
    for depth, (start, end) in enumerate(itertools.pairwise(ends), start=1):
        if start < end:
            yield depth, (start, end)


def _compiled(graph, recipe, parts, steps, encoder) -> keras.Model:
    """Compile the graph with a learning rate that falls from part to part, and augment.

    Returns:
        The graph, or a model around it.
    """
    schedule = learning_rate_schedule(
        recipe.schedule,
        recipe.learning_rate,
        steps,
        warmup=recipe.warmup,
        **recipe.schedule_options,
    )
    rates = {
        variable.path: DECAY**-depth
        for depth, part in enumerate(parts)
        for variable in part
    }
    optimizer = make_optimizer(
        recipe.optimizer,
        schedule,
        clip=recipe.clip,
        clip_by=recipe.clip_by,
        ema=recipe.ema,
        factors=rates,
        **recipe.optimizer_options,
    )
    trained = compile_classifier(graph, optimizer=optimizer, learning_rate=schedule)
    if recipe.augment != "none":
        trained = augmented(trained, recipe.augment, encoder)
    if recipe.accumulate > 1 or recipe.sam:
        set_training_step(trained, micro_batches=recipe.accumulate, radius=recipe.sam)
    return trained


def _batches(recipe: Recipe, images: Encoded, is_training: bool) -> BatchSource:
    """Return batches; where images are mixed, the labels are an input, too."""
    labels, classes = images.data.labels, len(images.data.label_names)
    smoothing = recipe.label_smoothing if is_training else 0
    targets = np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes
    targets = targets.astype(np.float32)
    inputs = images.inputs
    if recipe.augment != "none":
        inputs = {**inputs, "target": Dense(targets)}
    if not is_training:
        return BatchSource(inputs, targets)
    return BatchSource(
        inputs,
        targets,
        weights=class_weights(images.data)[labels] if recipe.class_weights else None,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
