"""Functions from tensors to tensors that two model families or more share."""

import keras
from keras import layers, ops

from kerasdl.initializers import HeNormal
from kerasdl.layers import BatchNormalization, Conv2D, Dense, WordDropout

# Width in words of the convolution before steps are merged.
MERGED_WIDTH = 5
# Of every batch norm, as in torchvision: what the published weights were trained with.
NORM_EPSILON = 1e-5
NORM_MOMENTUM = 0.9


def token_mask(tokens):
    """Mark the real tokens: `(batch, length)` ids to `(batch, length)` booleans."""
    return ops.not_equal(tokens, 0)


def embed_tokens(tokens, vocabulary_size, width, *, word_dropout, dropout):
    """Embed token ids after word dropout.

    Args:
        tokens: Token ids `(batch, length)`, 0 being padding.
        vocabulary_size: Number of token ids.
        width: Size of each vector.
        word_dropout: Share of tokens replaced by the unknown token in training.
        dropout: Drop rate of whole embedding channels.

    Returns:
        Vectors `(batch, length, width)`.
    """
    tokens = WordDropout(word_dropout, name="word_dropout")(tokens)
    x = layers.Embedding(vocabulary_size, width, name="embedding")(tokens)
    return layers.SpatialDropout1D(dropout, name="embedding_dropout")(x)


def zero_padding(x, mask):
    """Make vectors `(batch, length, width)` zero where the mask is not set.

    A convolution or maximum would see behind the end of a text otherwise.
    """
    return x * ops.expand_dims(ops.cast(mask, x.dtype), -1)


def merge_steps(x, mask, *, pool):
    """Merge every `pool` steps into one: a convolution, then the maximum.

    Args:
        x: Features `(batch, length, width)`.
        mask: Real positions `(batch, length)`.
        pool: Steps merged into one; 1 leaves everything as it is.

    Returns:
        Features `(batch, length / pool, width)` and their mask, rounded up.
    """
    if pool == 1:
        return x, mask
    x = layers.Conv1D(
        x.shape[-1], MERGED_WIDTH, padding="same", activation="relu", name="stem_conv"
    )(zero_padding(x, mask))
    # Padding, after ReLU the smallest value there is, never wins the maximum.
    real = ops.expand_dims(ops.cast(mask, x.dtype), -1)
    x, real = (
        # "same" pooling would add half of what is missing on the left, and so shift the
        # steps of a text with its padding.
        layers.MaxPooling1D(pool, name=f"{name}_pool")(
            layers.ZeroPadding1D((0, pool - 1), name=f"{name}_fill")(values)
        )
        for name, values in (("stem", zero_padding(x, mask)), ("stem_mask", real))
    )
    return x, real[:, :, 0] > 0


def bidirectional(cell, units, x, mask, *, sequences, name):
    """Read a sequence in both directions and put the two results side by side.

    As `keras.layers.Bidirectional`, which imports TensorFlow on every backend.

    Args:
        cell: `kerasdl.layers.LSTM` or `GRU`.
        units: State size in each direction.
        x: Features `(batch, length, width)`.
        mask: Real positions `(batch, length)`.
        sequences: Return the state at every step, not only at the end.
        name: Name of the layers.

    Returns:
        States `(batch, length, 2 * units)`, or `(batch, 2 * units)`.
    """
    options = {"units": units, "return_sequences": sequences}
    forward = cell(**options, name=f"{name}_forward")(x, mask=mask)
    backward = cell(**options, go_backwards=True, name=f"{name}_backward")(x, mask=mask)
    if sequences:
        backward = ops.flip(backward, axis=1)
    return ops.concatenate([forward, backward], axis=-1)


def pool_max_mean(x, mask):
    """Pool real positions by maximum and by mean, side by side.

    Args:
        x: Features `(batch, length, width)`.
        mask: Real positions `(batch, length)`.

    Returns:
        Features `(batch, 2 * width)`, zeros where no position is real.
    """
    mask = ops.expand_dims(ops.cast(mask, x.dtype), -1)
    count = ops.sum(mask, axis=1)
    mean = ops.sum(x * mask, axis=1) / ops.maximum(count, 1)
    lowest = ops.max(x * mask - 1e4 * (1 - mask), axis=1)
    return ops.concatenate([lowest * ops.minimum(count, 1), mean], axis=-1)


def classify(x, num_classes, *, dropout, head="softmax"):
    """End a classifier: dropout, then float32 logits.

    Args:
        x: Features `(batch, width)`.
        num_classes: Number of classes.
        dropout: Drop rate before the logits.
        head: `"softmax"` for one logit per class, `"single"` for one logit in all.

    Returns:
        Logits `(batch, num_classes)`, or `(batch, 1)` for the single head.
    """
    x = layers.Dropout(dropout, name="dropout")(x)
    # Keras takes no integer of NumPy here, as the labels of a data set give one.
    units = 1 if head == "single" else int(num_classes)
    return Dense(units, dtype="float32", name="logits")(x)


def classify_flat(x, num_classes, *, hidden_units, dropout):
    """End a classifier: dense layers read the flattened image, then float32 logits.

    Args:
        x: Images `(batch, height, width, channels)`.
        num_classes: Number of classes.
        hidden_units: Size of each dense layer before the logits.
        dropout: Drop rate after each of them.

    Returns:
        Logits `(batch, num_classes)`.
    """
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(hidden_units, start=1):
        if i > 1:
            x = layers.Dropout(dropout, name=f"dropout{i - 1}")(x)
        x = Dense(
            units,
            activation="relu",
            kernel_initializer=HeNormal(),
            name=f"dense{i}",
        )(x)
    return classify(x, num_classes, dropout=dropout)


def tokens_input() -> keras.KerasTensor:
    """Return the model input `tokens`, `(batch, length)` int32 with any length."""
    return keras.Input((None,), dtype="int32", name="tokens")


def ngrams_input() -> keras.KerasTensor:
    """Return the model input `ngrams`, `(batch, n-grams)` int32 with any number."""
    return keras.Input((None,), dtype="int32", name="ngrams")


def image_input(input_shape: tuple[int, int, int]) -> keras.KerasTensor:
    """Return the model input `image`, `(batch, height, width, channels)` float32."""
    return keras.Input(tuple(input_shape), name="image")


def conv(
    x,
    filters,
    kernel_size,
    *,
    strides=1,
    groups=1,
    bias=False,
    mode="fan_out",
    name,
):
    """Convolve an image with symmetric padding and He-normal weights.

    Keras's "same" pads the far side only where the stride skips pixels; published
    weights expect half a kernel on each side.

    Args:
        x: Images `(batch, height, width, channels)`.
        filters: Channels of the result.
        kernel_size: Odd height and width of the kernel.
        strides: Step of the kernel, in pixels.
        groups: Groups of channels that are convolved apart.
        bias: Whether to add a bias.
        mode: `"fan_out"` keeps the scale of the gradients, `"fan_in"` that of the
            features, which matters where no norm follows (He et al. 2015, section 2.2).
        name: Name of the layer.

    Returns:
        Images `(batch, ceil(height / strides), ceil(width / strides), filters)`.
    """
    if strides > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    else:
        padding = "same"
    return Conv2D(
        filters,
        kernel_size,
        strides,
        padding,
        groups=groups,
        use_bias=bias,
        kernel_initializer=HeNormal(mode),
        name=name,
    )(x)


def batch_norm(x, *, name, zero=False, epsilon=NORM_EPSILON, momentum=NORM_MOMENTUM):
    """Normalise over the batch as torchvision does, with or without an initial zero.

    Args:
        x: Images `(batch, height, width, channels)`.
        name: Name of the layer.
        zero: Start with a scale of zero, so that a residual unit starts as identity
            (Goyal et al. 2017, section 5.1).
        epsilon: Added to the variance.
        momentum: Share of the moving statistics that a step keeps.

    Returns:
        Images of the same shape.
    """
    return BatchNormalization(
        momentum=momentum,
        epsilon=epsilon,
        gamma_initializer="zeros" if zero else "ones",
        name=name,
    )(x)
