"""Transformer encoder for text classification (Vaswani et al. 2017)."""

import keras
from keras import layers

from kerasdl.blocks import (
    classify,
    embed_tokens,
    merge_steps,
    pool_max_mean,
    token_mask,
    tokens_input,
)
from kerasdl.checks import check_choice, check_classes, check_positive, check_rates
from kerasdl.layers import Dense, PositionEmbedding, SelfAttention
from kerasdl.tasks import Optimizer, Rate, compile_classifier

POSITIONS = ("sinusoidal", "learned", "rotary")
NORMS = ("pre", "post")
MLP_RATIO = 4


def transformer_classifier(
    vocabulary_size: int = 30_000,
    num_classes: int = 2,
    *,
    width: int = 128,
    depth: int = 2,
    num_heads: int = 4,
    norm: str = "pre",
    positions: str = "sinusoidal",
    max_tokens: int = 512,
    pool: int = 1,
    word_dropout: float = 0.0,
    dropout: float = 0.1,
    optimizer: Optimizer = "adamw",
    learning_rate: Rate = 1e-3,
    name: str = "transformer_classifier",
) -> keras.Model:
    """Build a compiled transformer encoder with pooled logits.

    Args:
        vocabulary_size: Number of token ids; 0 is padding, 1 the unknown token.
        num_classes: Number of classes, i.e. logits per text.
        width: Size of every token's vector.
        depth: Number of encoder blocks.
        num_heads: Attention heads; must divide `width`, with an even quotient for
            rotary positions.
        norm: `"pre"` normalises the input of each branch, `"post"` the sum after it.
        positions: `"sinusoidal"`, `"learned"` or `"rotary"`.
        max_tokens: Number of learned positions; later ones share the last.
        pool: Words merged into one position, by a convolution and a maximum, before the
            encoder blocks; 1 leaves every word a position.
        word_dropout: Share of words hidden in training.
        dropout: Drop rate of each branch and before the logits.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `tokens` `(batch, length)` int32 to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range, or the heads do not divide the
            width.

    Example:
        >>> transformer_classifier(1000, width=64, depth=1).output_shape
        (None, 2)

    Reference:
        [Attention Is All You Need](https://arxiv.org/abs/1706.03762), section 3;
        pre-norm after [Xiong et al.](https://arxiv.org/abs/2002.04745), rotary
        positions after [RoFormer](https://arxiv.org/abs/2104.09864). Differs: GELU, no
        dropout within the attention.
    """
    check_classes(num_classes)
    check_positive(
        vocabulary_size=vocabulary_size,
        width=width,
        depth=depth,
        num_heads=num_heads,
        max_tokens=max_tokens,
        pool=pool,
    )
    check_rates(word_dropout=word_dropout, dropout=dropout)
    check_choice("norm", norm, NORMS)
    check_choice("positions", positions, POSITIONS)
    if width % (num_heads * (2 if positions == "rotary" else 1)):
        raise ValueError(
            f"num_heads={num_heads} does not divide width={width} into whole"
            f"{' even' if positions == 'rotary' else ''} heads"
        )

    tokens = tokens_input()
    mask = token_mask(tokens)
    x = embed_tokens(
        tokens, vocabulary_size, width, word_dropout=word_dropout, dropout=0.0
    )
    x, mask = merge_steps(x, mask, pool=pool)
    if positions != "rotary":
        x = PositionEmbedding(positions, max_length=max_tokens, name="positions")(x)
    for i in range(1, depth + 1):
        attention = SelfAttention(
            num_heads, rotary=positions == "rotary", name=f"block{i}_attention"
        )
        x = _branch(
            x,
            lambda y, attention=attention: attention(y, mask),
            norm=norm,
            dropout=dropout,
            name=f"block{i}_attention",
        )
        x = _branch(
            x,
            lambda y, i=i: _mlp(y, width, name=f"block{i}_mlp"),
            norm=norm,
            dropout=dropout,
            name=f"block{i}_mlp",
        )
    if norm == "pre":
        x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    logits = classify(pool_max_mean(x, mask), num_classes, dropout=dropout)

    model = keras.Model(tokens, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _branch(x, function, *, norm, dropout, name):
    """Add a residual branch with its normalisation."""
    normalise = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")
    y = function(normalise(x) if norm == "pre" else x)
    x = layers.Add(name=f"{name}_add")(
        [x, layers.Dropout(dropout, name=f"{name}_dropout")(y)]
    )
    return x if norm == "pre" else normalise(x)


def _mlp(x, width, *, name):
    x = Dense(MLP_RATIO * width, activation="gelu", name=f"{name}_expand")(x)
    return Dense(width, name=f"{name}_project")(x)
