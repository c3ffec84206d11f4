"""Random examples of the shapes that a recipe trains on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kerasdl.data.batches import Ragged
from kerasdl.data.encoders import Encoder
from kerasdl.data.images import ImageEncoder
from kerasdl.data.labelled import Labelled
from kerasdl.data.rows import Columns, RowEncoder
from kerasdl.recipe import Recipe

# Of IMDB's reviews: tokens of the median review, deviation of the logarithm, n-grams
# that count per token, and in all.
MEDIAN_TOKENS, SPREAD, FEWEST_TOKENS = 200, 0.6, 10
NGRAMS_PER_TOKEN, NGRAMS = 2, 560_000
VOCABULARY_SIZE, MOST_TOKENS = 30_000, 400  # as of `TextEncoder` itself
# Of Fashion-MNIST's images, which are also the default data.
ARRAY_SHAPE, CHANNELS, CLASSES = (28, 28, 1), 3, 10
NUMBERS, CATEGORIES, VALUES = 16, 4, tuple("abcde")


@dataclass(frozen=True)
class RandomTexts:
    """An encoder without texts: words and n-grams as frequent as in a language.

    Attributes:
        options: Options of `TextEncoder.fit_encode`.
    """

    options: Mapping
    no_examples: ClassVar = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments of a builder that texts would decide."""
        words = self.options.get("vocabulary_size", VOCABULARY_SIZE)
        return {"vocabulary_size": words, "num_ngrams": NGRAMS}

    def encode(self, examples) -> dict[str, Ragged]:
        """Return as many random texts as there are examples."""
        random = np.random.default_rng(0)
        lengths = random.lognormal(np.log(MEDIAN_TOKENS), SPREAD, len(examples))
        lengths = np.maximum(lengths.astype(int), FEWEST_TOKENS)
        inputs = {}
        if most := self.options.get("max_tokens", MOST_TOKENS):
            words = self.sizes["vocabulary_size"]
            inputs["tokens"] = _frequent(random, np.minimum(lengths, most), words)
        if self.options.get("ngram_orders"):
            inputs["ngrams"] = _frequent(random, NGRAMS_PER_TOKEN * lengths, NGRAMS)
        return inputs


def _frequent(random, lengths: np.ndarray, count: int) -> Ragged:
    """Draw ids from 1 to `count - 1`, id n in proportion to 1 / n (Zipf's law)."""
    ids = count ** random.random(lengths.sum())
    return Ragged.from_lengths(ids.astype(np.int32), lengths)


def random_examples(recipe: Recipe, count: int) -> tuple[Encoder, dict, Labelled]:
    """Return random examples, encoded as the recipe says.

    Args:
        recipe: Its kind, and the options of its encoder, count.
        count: Number of examples.

    Returns:
        Encoder, encoded inputs, and the examples with random labels.
    """
    random = np.random.default_rng(0)
    classes = 2
    if recipe.kind == "text":
        examples = np.arange(count)
        encoder = RandomTexts(recipe.encoder)
        inputs = encoder.encode(examples)
    elif recipe.kind == "image":
        classes = CLASSES
        side = recipe.encoder.get("image_size")
        shape = (side, side, CHANNELS) if side else ARRAY_SHAPE
        examples = random.integers(0, 256, (count, *shape), np.uint8)
        encoder, inputs = ImageEncoder.fit_encode(examples, **recipe.encoder)
    else:
        examples = _table(random, count)
        encoder, inputs = RowEncoder.fit_encode(examples)
    labels = random.integers(0, classes, count)
    names = tuple(map(str, range(classes)))
    return encoder, inputs, Labelled("random", examples, labels, names)


def _table(random, count: int) -> Columns:
    numbers = {f"x{i}": random.normal(size=count) for i in range(NUMBERS)}
    values = random.choice(VALUES, (CATEGORIES, count))
    return Columns.of({**numbers, **{f"c{i}": row for i, row in enumerate(values)}})
