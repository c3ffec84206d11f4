"""Recurrent (Hochreiter 1997) and convolutional (Kim 2014) classifiers for text."""

import keras
from keras import layers

from kerasdl.blocks import bidirectional as both_directions
from kerasdl.blocks import (
    classify,
    embed_tokens,
    merge_steps,
    pool_max_mean,
    token_mask,
    tokens_input,
    zero_padding,
)
from kerasdl.checks import check_choice, check_classes, check_positive, check_rates
from kerasdl.layers import GRU, LSTM
from kerasdl.tasks import Optimizer, Rate, compile_classifier

CELLS = {"lstm": LSTM, "gru": GRU}
POOLINGS = ("last", "max_mean")
HEADS = ("softmax", "single")


def lstm_sentiment(
    vocabulary_size: int = 30_000,
    num_classes: int = 2,
    *,
    cell: str = "lstm",
    units: tuple[int, ...] = (128, 64),
    bidirectional: bool = False,
    embedding_dim: int = 128,
    pool: int = 1,
    pooling: str = "last",
    head: str = "softmax",
    word_dropout: float = 0.0,
    dropout: float = 0.2,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "lstm_sentiment",
) -> keras.Model:
    """Build a compiled recurrent text classifier.

    Embedding, then one recurrent layer per entry of `units`, then a dense layer. The
    defaults with `head="single"` are the textbook network Embedding → LSTM(128) →
    LSTM(64) → Dense(1).

    Args:
        vocabulary_size: Number of token ids; 0 is padding, 1 the unknown token.
        num_classes: Number of classes.
        cell: `"lstm"` or `"gru"`.
        units: State size of each recurrent layer, from the first to the last.
        bidirectional: Read each layer's input in both directions.
        embedding_dim: Size of a word vector.
        pool: Words merged into one step, by a convolution and a maximum, before the
            recurrent layers; 1 leaves every word a step.
        pooling: `"last"` takes the state at the end of the text, `"max_mean"` the
            maximum and the mean over its states.
        head: `"softmax"` gives one logit per class, `"single"` one logit for two.
        word_dropout: Share of words hidden in training.
        dropout: Drop rate of embedding channels and before the logits.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `tokens` `(batch, length)` int32 to float32 logits
        `(batch, num_classes)`, or `(batch, 1)` for the single head.

    Raises:
        ValueError: If an argument is out of range, or the single head is asked of more
            than two classes.

    Example:
        >>> lstm_sentiment(1000, head="single").output_shape
        (None, 1)

    Reference:
        [Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735), with the
        forget gate of [Gers et al.](https://doi.org/10.1162/089976600300015015).
    """
    check_classes(num_classes)
    check_positive(
        vocabulary_size=vocabulary_size,
        units=units,
        embedding_dim=embedding_dim,
        pool=pool,
    )
    check_rates(word_dropout=word_dropout, dropout=dropout)
    check_choice("cell", cell, CELLS)
    check_choice("pooling", pooling, POOLINGS)
    check_choice("head", head, HEADS)
    if head == "single" and num_classes != 2:
        raise ValueError(f"head='single' needs num_classes=2, not {num_classes}")

    tokens = tokens_input()
    mask = token_mask(tokens)
    x = embed_tokens(
        tokens,
        vocabulary_size,
        embedding_dim,
        word_dropout=word_dropout,
        dropout=dropout,
    )
    x, mask = merge_steps(x, mask, pool=pool)
    for i, size in enumerate(units, start=1):
        sequences = i < len(units) or pooling == "max_mean"
        if bidirectional:
            x = both_directions(
                CELLS[cell], size, x, mask, sequences=sequences, name=f"{cell}{i}"
            )
        else:
            layer = CELLS[cell](size, return_sequences=sequences, name=f"{cell}{i}")
            x = layer(x, mask=mask)
    if pooling == "max_mean":
        x = pool_max_mean(x, mask)
    logits = classify(x, num_classes, dropout=dropout, head=head)

    model = keras.Model(tokens, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def text_cnn(
    vocabulary_size: int = 30_000,
    num_classes: int = 2,
    *,
    kernel_sizes: tuple[int, ...] = (3, 4, 5),
    filters: int = 100,
    embedding_dim: int = 128,
    word_dropout: float = 0.0,
    dropout: float = 0.5,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "text_cnn",
) -> keras.Model:
    """Build a compiled convolutional text classifier.

    Parallel convolutions of several widths read the embedded text; each is pooled over
    time by maximum and mean.

    Args:
        vocabulary_size: Number of token ids; 0 is padding, 1 the unknown token.
        num_classes: Number of classes, i.e. logits per text.
        kernel_sizes: Width in words of each parallel convolution.
        filters: Filters of each convolution.
        embedding_dim: Size of a word vector.
        word_dropout: Share of words hidden in training.
        dropout: Drop rate before the logits.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `tokens` `(batch, length)` int32 to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> text_cnn(1000, 3).output_shape
        (None, 3)

    Reference:
        [Convolutional Neural Networks for Sentence Classification](
        https://arxiv.org/abs/1408.5882), section 2. Differs: mean pooling beside the
        maximum, and padding at both ends so that texts shorter than a filter work.
    """
    check_classes(num_classes)
    check_positive(
        vocabulary_size=vocabulary_size,
        kernel_sizes=kernel_sizes,
        filters=filters,
        embedding_dim=embedding_dim,
    )
    check_rates(word_dropout=word_dropout, dropout=dropout)

    tokens = tokens_input()
    mask = token_mask(tokens)
    x = embed_tokens(
        tokens, vocabulary_size, embedding_dim, word_dropout=word_dropout, dropout=0.0
    )
    x = zero_padding(x, mask)
    pooled = [
        pool_max_mean(
            layers.Conv1D(
                filters, size, padding="same", activation="relu", name=f"conv{size}"
            )(x),
            mask,
        )
        for size in kernel_sizes
    ]
    x = layers.Concatenate(name="pooled")(pooled) if len(pooled) > 1 else pooled[0]
    logits = classify(x, num_classes, dropout=dropout)

    model = keras.Model(tokens, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)
