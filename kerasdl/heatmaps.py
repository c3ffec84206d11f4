"""Where in an image a model looked: Grad-CAM and attention rollout."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from PIL import Image

from kerasdl.backend import forward, input_gradients
from kerasdl.layers import (
    AdaptiveAveragePooling,
    ClassToken,
    GridPositions,
    SelfAttention,
)
from kerasdl.predict import Classifier

BATCH_SIZE = 16
# These move or merge features: the maps before them are finer, and in their place.
RESAMPLING = (
    AdaptiveAveragePooling,
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.ZeroPadding2D,
)
# Perceptually ordered: the lighter, the more a place mattered.
COLOUR_MAP = "inferno"
# Share of the colour in an overlay where nothing mattered, and where most did.
OPACITY = (0.35, 0.7)
SMALLEST_OVERLAY = 224


def heatmaps(
    predictor: Classifier, examples: Any, labels: np.ndarray | None = None
) -> np.ndarray:
    """Draw where a model looked, in the way that fits it.

    Args:
        predictor: An image classifier.
        examples: Images, as its encoder takes them.
        labels: Class `(count,)` to explain in each, the predicted one by default;
            attention does not depend on it.

    Returns:
        By `attention_rollout` where the model has attention, by `grad_cam` elsewhere.

    Raises:
        ValueError: If the model has neither attention nor feature maps.
    """
    if _patch_shares(predictor.model):
        return attention_rollout(predictor, examples)
    return grad_cam(predictor, examples, labels)


def grad_cam(
    predictor: Classifier, examples: Any, labels: np.ndarray | None = None
) -> np.ndarray:
    """Draw which places speak for a class.

    The last feature maps are summed, each weighted by how much the class's logit rises
    with it on average; what speaks against the class counts as nothing. A vision
    transformer's are those before its first block, which say less of its answer than
    `attention_rollout` does.

    Args:
        predictor: An image classifier.
        examples: Images, as its encoder takes them.
        labels: Class `(count,)` to explain in each, the predicted one by default.

    Returns:
        Maps `(count, height, width)` float32 as large as the model's input, from 0 to
        the largest value of each, 1; all 0 where nothing speaks for the class.

    Raises:
        ValueError: If the model has no feature maps, or the labels do not fit.

    Reference:
        [Grad-CAM](https://arxiv.org/abs/1610.02391), section 3.
    """
    halves = _halves(predictor.model)
    if halves is None:
        raise ValueError(
            f"the model {predictor.model.name!r} has neither feature maps nor patches "
            "to draw a heatmap of; explain a convolutional network or a vision "
            "transformer"
        )

    def compute(batch, labels):
        features = halves.features(batch)
        logits = halves.logits(features)
        if labels is None:
            labels = logits.argmax(axis=1) if logits.shape[1] > 1 else logits[:, 0] > 0
        slopes = halves.slopes(features, _directions(labels, logits.shape[1]))
        weighted = np.einsum("nhwc,nc->nhw", features, slopes.mean(axis=(1, 2)))
        return np.maximum(weighted, 0)

    drawn = _drawn(predictor, examples, compute, labels)
    return drawn / _spans(drawn)


def attention_rollout(predictor: Classifier, examples: Any) -> np.ndarray:
    """Draw which patches a vision transformer's answer attends to, over all blocks.

    Each block passes on half of its tokens as they are and half as its heads, on
    average, mix them. The product over the blocks says what part each patch has in
    the tokens that the answer is read off.

    Args:
        predictor: An image classifier by `kerasdl.vit`, or one that contains it.
        examples: Images, as its encoder takes them.

    Returns:
        Maps `(count, height, width)` float32 as large as the model's input, from 0 for
        the least part to 1 for the largest; all 0 where all parts are the same.

    Raises:
        ValueError: If the model has no attention over patches.

    Reference:
        [Quantifying Attention Flow](https://arxiv.org/abs/2005.00928), section 3.
    """
    shares = _patch_shares(predictor.model)
    if shares is None:
        raise ValueError(
            f"the model {predictor.model.name!r} has no attention over patches; use "
            "grad_cam"
        )
    drawn = _drawn(predictor, examples, lambda batch, _: shares(batch))
    drawn -= drawn.min(axis=(1, 2), keepdims=True, initial=1)
    return drawn / _spans(drawn)


def overlay(image: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Blend a heatmap over an image.

    Args:
        image: Pixels `(height, width, channels)` uint8, one channel or three.
        heat: Values `(height, width)` from 0 to 1, of any size.

    Returns:
        A picture in colour, enlarged by a whole factor where the image is small.
    """
    from matplotlib import colormaps  # noqa: PLC0415

    image = np.broadcast_to(image, (*image.shape[:2], 3))
    factor = -(-SMALLEST_OVERLAY // min(image.shape[:2]))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    heat = _resized(heat, image.shape[:2])[..., None]
    colours = colormaps[COLOUR_MAP](heat[..., 0])[..., :3] * 255
    least, most = OPACITY
    opacity = least + (most - least) * heat
    blended = image * (1 - opacity) + colours * opacity
    return Image.fromarray(blended.round().astype(np.uint8))


def _drawn(
    predictor: Classifier,
    examples: Any,
    compute: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Compute maps of images, a batch at a time, and enlarge them to these."""
    encoder = predictor.encoder
    (images,) = encoder.encode(encoder.check(examples)).values()
    if labels is not None:
        labels = _checked(labels, len(images), len(predictor.labels))
    drawn = np.zeros((len(images), *predictor.model.inputs[0].shape[1:3]), np.float32)
    for start in range(0, len(images), BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, len(images)))
        # Few batch sizes, so that JAX compiles few programs.
        padded = np.resize(rows, 1 << (len(rows) - 1).bit_length())
        batch = images.take(padded).pad(0)
        heats = compute(batch, None if labels is None else labels[padded])
        for row, heat in zip(rows, heats, strict=False):
            drawn[row] = _resized(heat, drawn.shape[1:])
    return drawn


def _checked(labels: np.ndarray, count: int, classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.isin(labels, range(classes)).all():
        raise ValueError(
            f"labels={labels}; expected a class from 0 to {classes - 1} for each of "
            f"{count} images"
        )
    return labels.astype(np.int64)


def _directions(labels: np.ndarray, units: int) -> np.ndarray:
    """Return which way the logits `(count, units)` go where a class gains."""
    if units == 1:  # the second class where it is above 0
        return np.where(labels, 1, -1)[:, None].astype(np.float32)
    return np.eye(units, dtype=np.float32)[labels]


def _spans(heats: np.ndarray) -> np.ndarray:
    """Return what to divide maps `(count, h, w)` by, so that the highest is 1."""
    highest = heats.max(axis=(1, 2), keepdims=True, initial=0)
    return np.where(highest > 0, highest, 1)


def _resized(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(np.asarray(heat, np.float32))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


class _Halves(NamedTuple):
    """A model cut where its last feature maps are.

    Attributes:
        features: Images to feature maps `(count, h, w, c)`.
        logits: Feature maps to logits.
        slopes: Feature maps and a direction of the logits to how far these go there
            with each feature.
    """

    features: Callable[[np.ndarray], np.ndarray]
    logits: Callable[[np.ndarray], np.ndarray]
    slopes: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _once_per_model(make):
    """Remember what is made of a model as long as the model lives."""
    made = weakref.WeakKeyDictionary()

    def remember(model):
        if model not in made:
            made[model] = make(model)
        return made[model]

    return remember


@_once_per_model
def _halves(model: keras.Model) -> _Halves | None:
    cut = _cut(model)
    if cut is None:
        return None
    lower, upper = cut
    return _Halves(forward(lower), forward(upper), input_gradients(upper))


@_once_per_model
def _patch_shares(model: keras.Model) -> Callable[[np.ndarray], np.ndarray] | None:
    shares = _rolled_out(model)
    return None if shares is None else forward(shares)


def _cut(model: keras.Model) -> tuple[keras.Model, keras.Model] | None:
    """Cut a model at the last feature maps that all of its answer goes through.

    Returns:
        Model from images to feature maps, and model from these to logits.
    """
    trace = _Trace(model)
    for step in reversed(trace.steps):
        lower = upper = None
        if _holds_maps(step):
            lower = keras.Model(trace.input, step.made)
        elif _is_graph(step.layer) and (halves := _cut(step.layer)):
            lower, upper = halves
            lower = keras.Model(trace.input, lower(step.read))
        if lower is None:
            continue
        # Float32 in between, whatever the layers compute in.
        features = keras.Input(lower.output_shape[1:])
        try:
            rest = keras.Model(step.made, trace.output)
        except ValueError:  # a part of the answer goes another way
            continue
        return lower, keras.Model(
            features, rest(upper(features) if upper else features)
        )
    return None


def _rolled_out(model: keras.Model) -> keras.Model | None:
    """Return the model from images to the part of each patch, `(count, h, w)`."""
    trace = _Trace(model)
    attentions = trace.find(SelfAttention)
    if not attentions or not trace.grid:
        for step in trace.steps:
            if _is_graph(step.layer) and (inner := _rolled_out(step.layer)):
                return keras.Model(trace.input, inner(step.read))
        return None
    rolled = _read_off(trace, attentions[-1].made.shape[1])
    for step in reversed(attentions):
        # A row times each block's matrix, from the last block down.
        mixed = ops.matmul(rolled, _MeanAttention(step.layer)(step.read))
        rolled = ops.add(rolled, mixed) / 2
    rows, columns = trace.grid
    patches = ops.reshape(rolled[:, 0, -rows * columns :], (-1, rows, columns))
    return keras.Model(trace.input, patches)


def _read_off(trace: "_Trace", tokens: int):
    """Return the part of each token in the answer, `(batch or 1, 1, tokens)`."""
    if trace.find(ClassToken):
        return np.eye(1, tokens, dtype="float32")[None]
    scores = [step.made for step in trace.steps if step.layer.name == "pool_score"]
    if not scores:
        return np.full((1, 1, tokens), 1 / tokens, "float32")
    shares = ops.exp(ops.log_softmax(ops.cast(scores[0], "float32"), axis=1))
    return ops.transpose(shares, (0, 2, 1))


class _MeanAttention(keras.layers.Layer):
    """Compute what the fused kernel keeps to itself: the attention, over all heads.

    Input as that of the attention layer; output `(batch, queries, keys)`, float32.
    """

    def __init__(self, attention: SelfAttention):
        super().__init__()
        self.attention = attention

    def call(self, x):
        length, width = x.shape[1:]
        num_heads = self.attention.num_heads
        heads = (-1, length, num_heads, width // num_heads)
        query, key, _ = (
            ops.reshape(ops.cast(part, "float32"), heads)
            for part in ops.split(self.attention.qkv(x), 3, axis=-1)
        )
        scores = ops.einsum("bqhd,bkhd->bhqk", query, key) / heads[-1] ** 0.5
        return ops.mean(ops.softmax(scores), axis=1)


class _Step(NamedTuple):
    """A layer at its place in a graph, with what it reads and makes there."""

    layer: keras.layers.Layer
    read: keras.KerasTensor
    made: keras.KerasTensor


class _Trace:
    """The graph of a model, on the same layers, in the order of computation."""

    def __init__(self, model: keras.Model):
        self.steps = []
        # A model of its own: a clone is compiled as its model is.
        graph = keras.Model(model.inputs, model.outputs)
        graph = keras.models.clone_model(
            graph, clone_function=lambda layer: layer, call_function=self._call
        )
        self.input, self.output = graph.inputs[0], graph.outputs[0]

    def _call(self, layer, *args, **kwargs):
        made = layer(*args, **kwargs)
        if args and isinstance(layer, keras.layers.Layer):
            self.steps.append(_Step(layer, args[0], made))
        return made

    def find(self, kind: type) -> list[_Step]:
        return [step for step in self.steps if isinstance(step.layer, kind)]

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the patches of a vision transformer."""
        positions = self.find(GridPositions)
        return positions[0].made.shape[1:3] if positions else None


def _is_graph(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (keras.Function, keras.Sequential))


def _holds_maps(step: _Step) -> bool:
    shape = getattr(step.made, "shape", ())
    is_spread = len(shape) == 4 and max(shape[1:3]) > 1
    return is_spread and not isinstance(step.layer, RESAMPLING)
