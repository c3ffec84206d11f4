"""Layers that learn from counts, and branches that are weighed: what no step trains."""

from collections.abc import Mapping

import keras
import numpy as np

from kerasdl.data.batches import Ragged
from kerasdl.data.labelled import Labelled
from kerasdl.data.vectors import word_vectors
from kerasdl.layers import Blend, NgramBag
from kerasdl.predict import Predictor
from kerasdl.recipe import Recipe


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
