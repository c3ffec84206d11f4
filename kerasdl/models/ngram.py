"""Linear classifier over a bag of n-grams (Wang & Manning 2012)."""

import keras

from kerasdl.blocks import ngrams_input
from kerasdl.checks import check_classes, check_positive
from kerasdl.layers import NgramBag
from kerasdl.tasks import Optimizer, Rate, compile_classifier


def ngram_classifier(
    num_ngrams: int = 2**20,
    num_classes: int = 2,
    *,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 0.1,
    name: str = "ngram_classifier",
) -> keras.Model:
    """Build a compiled linear classifier over a bag of n-grams.

    Args:
        num_ngrams: Number of n-gram ids; 0 is padding.
        num_classes: Number of classes, i.e. logits per text.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `ngrams` `(batch, n-grams)` int32 to float32 logits
        `(batch, num_classes)`. Call `model.get_layer("bag").adapt(...)` on the training
        texts before training, as `kerasdl.train` does, for the naive-Bayes weights.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> ngram_classifier(1024, 3).output_shape
        (None, 3)

    Reference:
        [Baselines and Bigrams](https://aclanthology.org/P12-2018), section 2. Differs:
        unit-length texts, log loss.
    """
    check_classes(num_classes)
    check_positive(num_ngrams=num_ngrams)

    ngrams = ngrams_input()
    logits = NgramBag(num_ngrams, num_classes, dtype="float32", name="bag")(ngrams)

    model = keras.Model(ngrams, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)
