"""A new head on frozen layers, which run over every image once."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from rich.console import Console

from kerasdl.data.images import ImageEncoder, Pictures
from kerasdl.data.labelled import Labelled
from kerasdl.logistic import best_strength, log_losses, regress
from kerasdl.predict import Predictor
from kerasdl.pretrained import HEAD
from kerasdl.recipe import Recipe


@dataclass(frozen=True)
class Encoded:
    """Labelled images, encoded once.

    Attributes:
        encoder: What encoded them.
        inputs: The model's input by its name.
        data: The images and their classes.
    """

    encoder: ImageEncoder
    inputs: Mapping[str, Pictures]
    data: Labelled

    def outputs(self, model: keras.Model) -> np.ndarray:
        """Return what a model makes of the images, `(count, width)`."""
        return Predictor(model, self.encoder).encoded_outputs(self.inputs)

    def losses(self, model: keras.Model) -> np.ndarray:
        """Return the negative log-likelihood of each label, `(count,)`."""
        return log_losses(self.outputs(model), self.data.labels)


@dataclass(frozen=True)
class Head:
    """A logistic regression on the features of frozen layers.

    Attributes:
        features: Of training, then validation images, `(count, views, width)`.
        labels: Their classes `(count,)`.
        strength: Inverse of the penalty, as `regress` takes it.
        class_weight: As of scikit-learn.
        history: Losses and accuracies, a list of one value each.
    """

    features: np.ndarray
    labels: np.ndarray
    strength: float
    class_weight: str | None
    history: dict[str, list[float]]

    def fit(self, model: keras.Model, count: int) -> None:
        """Give a model logits that fit the first `count` images."""
        kernel, bias = regress(
            self.features[:count], self.labels[:count], self.strength, self.class_weight
        )
        model.get_layer(HEAD).set_weights([kernel, bias])


def fit_head(
    model: keras.Model,
    recipe: Recipe,
    training: Encoded,
    validation: Encoded,
    *,
    console: Console,
) -> Head:
    """Give the model the logits of a logistic regression on its features.

    Where the recipe augments, the mirror images count as training images, too.

    Args:
        model: The model, whose logits are replaced.
        recipe: Says whether to augment, and whether classes count alike.
        training: Training images.
        validation: Validation images, for the choice of the penalty where there are
            many.
        console: Where the result is printed.

    Returns:
        The head, fitted to the training images.
    """
    start = time.perf_counter()
    features = keras.Model(model.input, model.get_layer(HEAD).input, name="features")
    views = [features]
    if recipe.augment != "none":
        mirrored = features(keras.ops.flip(model.input, axis=2))
        views.append(keras.Model(model.input, mirrored, name="mirrored"))
    seen, held = (
        np.stack([images.outputs(view) for view in views], axis=1)
        for images in (training, validation)
    )
    labels = training.data.labels, validation.data.labels
    weight = "balanced" if recipe.class_weights else None
    strength = best_strength(seen, labels[0], held, labels[1], weight, recipe.seed)
    history = {}
    head = Head(
        np.concatenate([seen, held]), np.concatenate(labels), strength, weight, history
    )
    head.fit(model, len(seen))
    kernel, bias = model.get_layer(HEAD).get_weights()
    for prefix, x, y in zip(("", "val_"), (seen, held), labels, strict=True):
        logits = x[:, 0] @ kernel + bias
        history[f"{prefix}loss"] = [float(log_losses(logits, y).mean())]
        history[f"{prefix}accuracy"] = [float((logits.argmax(axis=1) == y).mean())]
    figures = " · ".join(f"{name} {value[0]:.4f}" for name, value in history.items())
    console.print(
        f"head on {seen.shape[-1]:,} frozen features · {figures} · "
        f"{time.perf_counter() - start:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    return head
