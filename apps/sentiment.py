"""Sentiment of texts: one recipe per model, and what their bundles are asked.

Every recipe is a function returning a `kerasdl.Recipe`; its docstring states the
accuracy and the wall time, encoding included, on the official IMDB test split, measured
by `python benchmarks/imdb.py --models NAME` on TensorFlow and 2 shared CPU cores. The
rows are in `benchmarks/results/imdb.json`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

DEFAULT_MODEL = "sentiment"
DEFAULT_BUNDLE = "sentiment-imdb"
QUICK = {"epochs": 1, "max_examples": 2000}
# Names that mean the same class, whatever the case.
SYNONYMS = {
    "neg": "negative",
    "0": "negative",
    "pos": "positive",
    "1": "positive",
}
# What the recipes of the deep models share.
SEQUENCES = {"max_tokens": 400, "min_count": 5}


def flagship() -> Recipe:
    """Bag of n-grams beside convolution and LSTM: 92.6 ± 0.2 % (3 seeds), 224 s."""
    return Recipe(
        build="sentiment",
        encoder={
            "max_tokens": 400,
            "ngram_orders": (1, 2, 3),
            "min_count": 3,
            "vocabulary_size": 40_000,
        },
        epochs=2,
        learning_rate=4e-3,
        warmup=0.1,
        label_smoothing=0.1,
        word_vectors=3.4,
        validation_fraction=0.05,
    )


def flagship_unlabelled() -> Recipe:
    """And the unlabelled texts, 50,000 of IMDB: 93.0 ± 0.1 % (3 seeds).

    828 s in two of the runs; 2,467 s in the third, beside a busy machine's other work.
    """
    return replace(flagship(), unlabelled=True)


def ngram() -> Recipe:
    """N-grams alone: 92.3 ± 0.1 % over three seeds, 36 s."""
    return Recipe(
        build="ngram_classifier",
        encoder={
            "max_tokens": 0,
            "ngram_orders": (1, 2, 3),
            "vocabulary_size": 100_000,
        },
        epochs=2,
        batch_size=256,
        learning_rate=0.05,
        schedule="linear",
        validation_fraction=0.05,
    )


def lstm() -> Recipe:
    """Convolution, then a bidirectional LSTM: 90.6 ± 0.1 % (3 seeds), 189 s."""
    return Recipe(
        build="lstm_sentiment",
        arguments={
            "units": (64,),
            "bidirectional": True,
            "pool": 4,
            "pooling": "max_mean",
            "word_dropout": 0.3,
            "dropout": 0.3,
        },
        encoder=SEQUENCES,
        epochs=2,
        learning_rate=4e-3,
        warmup=0.1,
        label_smoothing=0.1,
        word_vectors=3.4,
    )


def cnn() -> Recipe:
    """Convolution of width 3 over word vectors: 89.9 ± 0.1 % (3 seeds), 111 s."""
    return Recipe(
        build="text_cnn",
        arguments={"kernel_sizes": (3,), "word_dropout": 0.15, "dropout": 0.3},
        encoder=SEQUENCES,
        epochs=3,
        learning_rate=2e-3,
        warmup=0.1,
        label_smoothing=0.1,
        word_vectors=1.1,
    )


def transformer() -> Recipe:
    """One pre-norm encoder block over merged words: 89.7 ± 0.1 % (3 seeds), 205 s."""
    return Recipe(
        build="transformer_classifier",
        arguments={"depth": 1, "pool": 4, "word_dropout": 0.15, "dropout": 0.1},
        encoder=SEQUENCES,
        epochs=2,
        learning_rate=1e-3,
        warmup=0.1,
        label_smoothing=0.1,
        word_vectors=3.4,
    )


RECIPES = {
    "sentiment": flagship,
    "sentiment_unlabelled": flagship_unlabelled,
    "ngram_classifier": ngram,
    "lstm_sentiment": lstm,
    "text_cnn": cnn,
    "transformer_classifier": transformer,
}


def recipe(model: str = DEFAULT_MODEL, *, quick: bool = False, **changes) -> Recipe:
    """Return the recipe of a model.

    Args:
        model: A key of `RECIPES`.
        quick: One epoch on at most 2,000 examples, to see that everything works.
        **changes: Fields of the recipe to replace; `None` keeps the recipe's own.

    Returns:
        The recipe.

    Raises:
        InputError: If there is no such model, or a value is out of range.
    """
    check_choice("model", model, RECIPES, error=InputError)
    changes = {name: value for name, value in changes.items() if value is not None}
    return replace(RECIPES[model](), **{**(QUICK if quick else {}), **changes})


def match_labels(given: Sequence[str], known: Sequence[str]) -> "np.ndarray":
    """Match the class names of evaluation data to those of a bundle.

    Case does not count; `pos`, `positive` and `1` mean the same, and so do `neg`,
    `negative` and `0`.

    Args:
        given: Class names of the data.
        known: Class names of the bundle.

    Returns:
        For every given class the index of the known one, `(len(given),)`.

    Raises:
        InputError: If a name has no counterpart, or two share one.

    Example:
        >>> match_labels(["POS", "neg"], ["negative", "positive"]).tolist()
        [1, 0]
    """
    import numpy as np

    index = {_plain(name): i for i, name in enumerate(known)}
    matched = [index.get(_plain(name)) for name in given]
    if None in matched or len(set(matched)) < len(matched):
        raise InputError(
            f"the labels of the data ({', '.join(given)}) do not match those of the"
            f" bundle ({', '.join(known)}); rename them in the data"
        )
    return np.array(matched)


def _plain(name: str) -> str:
    return SYNONYMS.get(name.strip().casefold(), name.strip().casefold())


def evaluate(bundle: str, data: str, *, notify, **data_options) -> dict:
    """Measure a bundle on labelled texts: their test split where they have one.

    Args:
        bundle: Run folder, bundle folder or name of a shipped bundle.
        data: As in a recipe.
        notify: Called with a line that says which data were taken.
        **data_options: Options of `kerasdl.data.sources.load_texts`.

    Returns:
        Metrics of `kerasdl.evaluate.classification_metrics` and the name of the set.
    """
    from kerasdl.bundle import load
    from kerasdl.data.sources import load_texts
    from kerasdl.evaluate import classification_metrics

    predictor = load(bundle)  # refused in a moment; the data may take longer
    splits = load_texts(data, notify=notify, **data_options)
    texts = splits.train if splits.test is None else splits.test
    labels = match_labels(texts.label_names, predictor.labels)[texts.labels]
    metrics = classification_metrics(
        labels, predictor.answers(texts.examples), predictor.labels
    )
    return {"set": texts.name, **metrics}
