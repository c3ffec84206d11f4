"""Vision transformers (Dosovitskiy et al. 2021), DeiT and compact ones (CCT)."""

from typing import NamedTuple

import keras
from keras import layers, ops

from kerasdl.blocks import classify, conv, image_input
from kerasdl.checks import (
    check_choice,
    check_classes,
    check_image,
    check_rates,
    check_sizes,
)
from kerasdl.initializers import TruncatedNormal
from kerasdl.layers import (
    ClassToken,
    Conv2D,
    Dense,
    GridPositions,
    MaxPooling2D,
    SelfAttention,
    StochasticDepth,
)
from kerasdl.tasks import Optimizer, Rate, compile_classifier

POOLINGS = ("token", "mean", "sequence")
POSITIONS = ("learned", "sinusoidal")
NORM_EPSILON = 1e-6
# Channels of every convolution of a tokenizer but the last.
TOKENIZER_WIDTH = 64


class Form(NamedTuple):
    """One row of a paper's table.

    Attributes:
        patch_size: Height and width of a patch; `None` where convolutions make tokens.
        width: Size of every token's vector.
        depth: Number of encoder blocks.
        num_heads: Attention heads.
        mlp_ratio: Width within the network of each block, as a multiple of `width`.
        convolutions: Convolutions that make the tokens.
        pooling: How tokens become one vector.
        stochastic_depth: Share of the examples that lose the last block.
    """

    patch_size: int | None
    width: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    convolutions: int = 0
    pooling: str = "token"
    stochastic_depth: float = 0.0


# ViT: table 1 of Dosovitskiy et al.; Ti and S: table 1 of Touvron et al. 2021, whose
# DeiT trains without dropout but with stochastic depth (table 9). CCT: section 4.1 and
# table 5 of Hassani et al. 2021, "layers / kernel size × convolutions".
VARIANTS = {
    "vit_ti16": Form(16, 192, 12, 3),
    "vit_ti32": Form(32, 192, 12, 3),
    "vit_s16": Form(16, 384, 12, 6),
    "vit_s32": Form(32, 384, 12, 6),
    "vit_b16": Form(16, 768, 12, 12),
    "vit_b32": Form(32, 768, 12, 12),
    "vit_l16": Form(16, 1024, 24, 16),
    "vit_l32": Form(32, 1024, 24, 16),
    "deit_ti16": Form(16, 192, 12, 3, stochastic_depth=0.1),
    "deit_s16": Form(16, 384, 12, 6, stochastic_depth=0.1),
    "deit_b16": Form(16, 768, 12, 12, stochastic_depth=0.1),
    "cct_2_3x2": Form(None, 128, 2, 2, 1, 2, "sequence", 0.1),
    "cct_7_3x1": Form(None, 256, 7, 4, 2, 1, "sequence", 0.1),
}


def vit(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    variant: str = "vit_b16",
    patch_size: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    pooling: str | None = None,
    positions: str = "learned",
    dropout: float = 0.0,
    stochastic_depth: float | None = None,
    optimizer: Optimizer = "adamw",
    learning_rate: Rate = 1e-3,
    name: str = "vit",
) -> keras.Model:
    """Build a compiled vision transformer.

    An image becomes a grid of tokens, `height / patch_size` times
    `width / patch_size`; compact transformers halve height and width with each of their
    convolutions instead. Every encoder block keeps `(batch, tokens, width)`.

    Args:
        input_shape: Image shape `(height, width, channels)`, normalised float pixels.
        num_classes: Number of classes, i.e. logits per image.
        variant: A key of `VARIANTS`; what is `None` below comes from its row.
        patch_size: Height and width of a patch in pixels; must divide the image's. Not
            for compact transformers.
        width: Size of every token's vector.
        depth: Number of encoder blocks.
        num_heads: Attention heads; must divide `width`.
        pooling: `"token"` reads the answer off a class token, `"mean"` off the mean of
            the tokens, `"sequence"` off their mean weighted by a learned score.
        positions: `"learned"`, or `"sinusoidal"` and fixed: for a width that is a
            multiple of 4.
        dropout: Drop rate of each branch, after the positions and before the logits.
        stochastic_depth: Share of the examples that lose both branches of the last
            block in training; grows linearly from 0 in the first.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `image` `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range, the patches do not divide the image
            or the heads the width.

    Example:
        >>> vit((32, 32, 3), 10, variant="cct_2_3x2").output_shape
        (None, 10)

    Reference:
        [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929), section 3.1;
        [DeiT](https://arxiv.org/abs/2012.12877) without distillation;
        [CCT](https://arxiv.org/abs/2104.05704), section 3. Differs: no dropout within
        the attention; CCT with pre-norm blocks as in ViT, where the authors' code also
        normalises the sum.
    """
    check_classes(num_classes)
    check_choice("variant", variant, VARIANTS)
    given = {
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "num_heads": num_heads,
        "pooling": pooling,
        "stochastic_depth": stochastic_depth,
    }
    form = VARIANTS[variant]
    if form.patch_size is None and patch_size is not None:
        raise ValueError(f"patch_size={patch_size}; variant={variant!r} has no patches")
    form = form._replace(**{k: v for k, v in given.items() if v is not None})
    _check_form(form, positions, dropout)
    _check_grid(input_shape, form.patch_size)

    image = image_input(input_shape)
    x = _patches(image, form) if form.patch_size else _convolve(image, form)
    x = GridPositions(positions, name="positions")(x)
    x = layers.Reshape((-1, form.width), name="tokens")(x)
    if form.pooling == "token":
        learned = positions == "learned"
        x = ClassToken(has_position=learned, name="class_token")(x)
    x = layers.Dropout(dropout, name="positions_dropout")(x)
    for i in range(form.depth):
        drop_path = form.stochastic_depth * i / max(form.depth - 1, 1)
        x = _block(x, form, rates=(dropout, drop_path), name=f"block{i + 1}")
    x = _norm(x, "norm")
    logits = classify(_pool(x, form.pooling), num_classes, dropout=dropout)

    model = keras.Model(image, logits, name=name)
    return compile_classifier(model, optimizer=optimizer, learning_rate=learning_rate)


def _check_form(form, positions, dropout):
    check_sizes(width=form.width, depth=form.depth, num_heads=form.num_heads)
    check_rates(dropout=dropout, stochastic_depth=form.stochastic_depth)
    check_choice("pooling", form.pooling, POOLINGS)
    check_choice("positions", positions, POSITIONS)
    if form.width % form.num_heads:
        raise ValueError(
            f"num_heads={form.num_heads} does not divide width={form.width}"
        )
    if positions == "sinusoidal" and form.width % 4:
        raise ValueError(
            f"width={form.width}; positions='sinusoidal' need a multiple of 4"
        )


def _check_grid(input_shape, patch_size):
    check_image(input_shape)
    if patch_size is None:
        return
    check_sizes(patch_size=patch_size)
    if any(size % patch_size for size in input_shape[:2]):
        raise ValueError(
            f"input_shape={tuple(input_shape)}; expected a height and width divisible "
            f"by patch_size={patch_size}"
        )


def _patches(image, form):
    return Conv2D(
        form.width,
        form.patch_size,
        form.patch_size,
        kernel_initializer=TruncatedNormal(),
        name="patches",
    )(image)


def _convolve(x, form):
    """Make tokens that overlap, by convolutions."""
    for i in range(1, form.convolutions + 1):
        filters = form.width if i == form.convolutions else TOKENIZER_WIDTH
        x = conv(x, filters, 3, name=f"tokenizer_conv{i}")
        x = layers.ReLU(name=f"tokenizer_relu{i}")(x)
        # After ReLU a padding of zeros is never above the maximum.
        x = layers.ZeroPadding2D(1, name=f"tokenizer_pad{i}")(x)
        x = MaxPooling2D(3, 2, name=f"tokenizer_pool{i}")(x)
    return x


def _block(x, form, *, rates, name):
    """Encode once: attention, then a network of two layers, each a residual branch."""
    y = _norm(x, f"{name}_attention_norm")
    attention = SelfAttention(
        form.num_heads,
        qkv_bias=not form.convolutions,
        kernel_initializer=TruncatedNormal(),
        name=f"{name}_attention",
    )
    x = _add_branch(x, attention(y), rates, name=f"{name}_attention")
    y = _norm(x, f"{name}_mlp_norm")
    y = _dense(y, form.mlp_ratio * form.width, "gelu", name=f"{name}_mlp_expand")
    y = _dense(y, form.width, name=f"{name}_mlp_project")
    return _add_branch(x, y, rates, name=f"{name}_mlp")


def _add_branch(x, y, rates, *, name):
    dropout, drop_path = rates
    y = layers.Dropout(dropout, name=f"{name}_dropout")(y)
    y = StochasticDepth(drop_path, name=f"{name}_drop_path")(y)
    return layers.Add(name=f"{name}_add")([x, y])


def _dense(x, units, activation=None, *, name):
    return Dense(units, activation, kernel_initializer=TruncatedNormal(), name=name)(x)


def _norm(x, name):
    return layers.LayerNormalization(epsilon=NORM_EPSILON, name=name)(x)


def _pool(x, pooling):
    """Bring tokens `(batch, tokens, width)` to one vector `(batch, width)`."""
    if pooling == "token":
        return x[:, 0]
    if pooling == "mean":
        return layers.GlobalAveragePooling1D(name="pool")(x)
    # A softmax of one token, which Keras's own warns of, is right.
    shares = ops.exp(ops.log_softmax(_dense(x, 1, name="pool_score"), axis=1))
    return ops.sum(x * shares, axis=1)
