"""The flagship for texts: a wide bag of n-grams beside a branch that reads order."""

import keras
from keras import layers

from kerasdl.blocks import (
    bidirectional,
    embed_tokens,
    merge_steps,
    ngrams_input,
    pool_max_mean,
    token_mask,
    tokens_input,
)
from kerasdl.checks import check_classes, check_positive, check_rates
from kerasdl.layers import LSTM, Blend, Dense, NgramBag
from kerasdl.tasks import Optimizer, Rate, compile_classifier

# Adam's steps suit the deep branch; the bag, whose inputs have unit length, wants
# steps this many times as long.
BAG_SCALE = 5.0


def sentiment(
    vocabulary_size: int = 30_000,
    num_classes: int = 2,
    *,
    num_ngrams: int = 2**20,
    embedding_dim: int = 128,
    pool: int = 4,
    units: int = 64,
    word_dropout: float = 0.3,
    dropout: float = 0.3,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 4e-3,
    name: str = "sentiment",
) -> keras.Model:
    """Build the compiled flagship text classifier.

    The wide branch is a naive-Bayes weighted bag of n-grams, which knows what is said;
    the deep branch, word vectors → convolution → bidirectional LSTM, knows in which
    order. They are trained apart and their logits added.

    Args:
        vocabulary_size: Number of token ids; 0 is padding, 1 the unknown token.
        num_classes: Number of classes, i.e. logits per text.
        num_ngrams: Number of n-gram ids; 0 is padding.
        embedding_dim: Size of a word vector.
        pool: Words merged into one step of the recurrent layer.
        units: State size of the recurrent layer, in each direction.
        word_dropout: Share of words hidden from the deep branch in training.
        dropout: Drop rate in the deep branch.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `{"tokens": (batch, length), "ngrams": (batch, n-grams)}`, both
        int32, to float32 logits `(batch, num_classes)`; in training to those of each
        branch `(batch, 2, num_classes)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> sentiment(1000, num_ngrams=1000).output_shape
        (None, 2)

    Reference:
        kerasdl's own: [Baselines and Bigrams](https://aclanthology.org/P12-2018) beside
        a small [C-LSTM](https://arxiv.org/abs/1511.08630).
    """
    check_classes(num_classes)
    check_positive(
        vocabulary_size=vocabulary_size,
        num_ngrams=num_ngrams,
        embedding_dim=embedding_dim,
        pool=pool,
        units=units,
    )
    check_rates(word_dropout=word_dropout, dropout=dropout)

    tokens, ngrams = tokens_input(), ngrams_input()
    wide = NgramBag(
        num_ngrams, num_classes, scale=BAG_SCALE, dtype="float32", name="bag"
    )(ngrams)

    x = embed_tokens(
        tokens, vocabulary_size, embedding_dim, word_dropout=word_dropout, dropout=0.2
    )
    x, mask = merge_steps(x, token_mask(tokens), pool=pool)
    x = bidirectional(LSTM, units, x, mask, sequences=True, name="lstm")
    x = layers.Dropout(dropout, name="dropout")(pool_max_mean(x, mask))
    deep = Dense(int(num_classes), dtype="float32", name="deep")(x)

    logits = Blend(["bag", "deep"], dtype="float32", name="logits")([wide, deep])
    model = keras.Model({"tokens": tokens, "ngrams": ngrams}, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)
