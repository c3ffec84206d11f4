"""The fused layers are Keras's own: outputs, gradients, statistics."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasdl import backend
from kerasdl.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    MaxPooling2D,
)

BACKEND = keras.backend.backend()

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(1, 2, size=(3, 9, 8, 4)).astype("float32")
CASES = {
    "dense": (Dense, {"units": 6, "activation": "gelu"}),
    "without a bias": (Dense, {"units": 6, "use_bias": False}),
    "conv": (Conv2D, {"filters": 6, "kernel_size": 3, "activation": "relu"}),
    "same": (Conv2D, {"filters": 6, "kernel_size": (3, 5), "padding": "same"}),
    "strides": (Conv2D, {"filters": 6, "kernel_size": 2, "strides": 2}),
    "uneven": (Conv2D, {"filters": 6, "kernel_size": 4, "padding": "same"}),
    "groups": (Conv2D, {"filters": 6, "kernel_size": 1, "groups": 2}),
    "dilation": (Conv2D, {"filters": 6, "kernel_size": 3, "dilation_rate": 2}),
    "one by one": (Conv2D, {"filters": 6, "kernel_size": 1}),
    "depthwise": (DepthwiseConv2D, {"kernel_size": 3, "activation": "relu"}),
    "same depthwise": (DepthwiseConv2D, {"kernel_size": (3, 5), "padding": "same"}),
    "strided depthwise": (
        DepthwiseConv2D,
        {"kernel_size": 3, "strides": 2, "padding": "same", "use_bias": False},
    ),
    "two of each": (DepthwiseConv2D, {"kernel_size": 2, "depth_multiplier": 2}),
    "pool": (MaxPooling2D, {"pool_size": 3, "strides": 2}),
    "pool side by side": (MaxPooling2D, {"pool_size": (2, 3)}),
    "strided pool": (MaxPooling2D, {"pool_size": 4, "strides": 3, "padding": "same"}),
    "same pool": (MaxPooling2D, {"pool_size": 3, "strides": 1, "padding": "same"}),
    "norm": (BatchNormalization, {}),
    "plain norm": (BatchNormalization, {"scale": False, "center": False}),
    "frozen norm": (BatchNormalization, {"trainable": False}),
    "other axis": (BatchNormalization, {"axis": 1}),
    "renorm": (BatchNormalization, {"renorm": True}),
}
KINDS = {  # the others are left to Keras
    "jax": (Conv2D, DepthwiseConv2D, MaxPooling2D),
    "tensorflow": (BatchNormalization,),
}
if BACKEND in KINDS:
    CASES = {name: case for name, case in CASES.items() if case[0] in KINDS[BACKEND]}


def keras_kind(kind):
    return getattr(keras.layers, kind.__name__)


def after_a_step(kind, options, dtype, images=IMAGES):
    """Return outputs before and after a step, and all weights after it."""
    image = keras.Input(IMAGES.shape[1:])
    # The weights of this one have gradients through the inputs of the layer.
    outputs = kind(**options, dtype=dtype)(keras.layers.Dense(4)(image))
    model = keras.Model(image, outputs)
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(random.uniform(0.5, 1.5, weight.shape))
    before = ops.convert_to_numpy(model(images, training=False))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.train_on_batch(images, random.normal(size=before.shape))
    after = ops.convert_to_numpy(model(images, training=False))
    values = [before, after, *map(ops.convert_to_numpy, model.weights)]
    return [value.astype("float32") for value in values]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", CASES)
def test_a_fused_layer_is_that_of_keras(name, dtype):
    kind, options = CASES[name]
    found = after_a_step(kind, options, dtype)
    expected = after_a_step(keras_kind(kind), options, dtype)
    margin = 1e-4 if dtype == "float32" else 0.05
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=margin, atol=margin)


TAKEN = {
    "jax": ("conv", "depthwise", "pool"),
    "tensorflow": ("norm",),
    "torch": ("dense", "conv", "pool", "norm"),
}


@pytest.fixture
def one_processor():
    """Skip where JAX leaves convolutions to Keras, or does not compute."""
    kinds = [device["kind"] for device in backend.devices()]
    if BACKEND != "jax" or kinds != ["cpu"]:
        pytest.skip("JAX on one processor alone")


@pytest.mark.parametrize("name", TAKEN.get(BACKEND, ()))
def test_the_kernels_are_taken(monkeypatch, request, name):
    if BACKEND == "jax" and name != "pool":
        request.getfixturevalue("one_processor")

    def kerass_own(*_, **__):
        raise AssertionError

    kind, options = CASES[name]
    monkeypatch.setattr(keras_kind(kind), "call", kerass_own)
    layer = kind(**options)
    layer.build(IMAGES.shape)
    layer(IMAGES)


class Pixels(keras.layers.Layer):
    """A convolution of every second pixel of a line, without strides."""

    def __init__(self, dtype, **options):
        super().__init__(dtype=dtype)
        self.convolution = keras.layers.Conv2D(**options, dtype=dtype)

    def call(self, images):
        return self.convolution(images[:, :, ::2])


# In Keras's own layer PyTorch 2.13 writes past the end of its memory.
def test_strides_between_single_pixels_leave_pixels_out():
    options = {"filters": 6, "kernel_size": 1}
    found = after_a_step(Conv2D, {**options, "strides": (1, 2)}, "float32")
    expected = after_a_step(Pixels, options, "float32")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("one_processor")
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", ["conv", "same", "strides", "uneven"])
def test_gradients_are_added_up_over_groups_of_images(monkeypatch, name, size):
    from kerasdl.backend import jax_layers

    taken = []

    def group_size(count, image_bytes):
        taken.append((count, image_bytes))
        return size

    kind, options = CASES[name]
    images = np.concatenate([IMAGES, -IMAGES[:1]])
    expected = after_a_step(keras_kind(kind), options, "float32", images)
    monkeypatch.setattr(jax_layers, "_group_size", group_size)
    found = after_a_step(kind, options, "float32", images)
    assert [count for count, _ in taken] == [4]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("one_processor")
def test_groups_are_equal_and_no_larger_than_what_is_near(monkeypatch):
    from kerasdl.backend import jax_layers

    monkeypatch.setattr(jax_layers, "NEAR_BYTES", 500)
    sizes = [jax_layers._group_size(count, 100) for count in (4, 5, 12, 13, 64)]
    assert sizes == [4, 5, 4, 1, 4]
    assert jax_layers._group_size(6, 1000) == 1
    assert jax_layers._group_size(0, 0) == 0


@pytest.mark.usefixtures("one_processor")
@pytest.mark.parametrize("name", ["depthwise", "same depthwise", "strided depthwise"])
def test_a_depthwise_gradient_is_taken_row_by_row(monkeypatch, name):
    from kerasdl.backend import jax_layers

    rows, scan = [], jax_layers.jax.lax.scan

    def counted(body, start, over):
        rows.append(len(over))
        return scan(body, start, over)

    kind, options = CASES[name]
    expected = after_a_step(keras_kind(kind), options, "float32")
    monkeypatch.setattr(jax_layers.jax.lax, "scan", counted)
    found = after_a_step(kind, options, "float32")
    assert rows == [3]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("one_processor")
def test_an_empty_output_is_refused_and_an_empty_batch_is_not():
    layer = Conv2D(2, 4)
    layer.build((None, None, None, 3))
    with pytest.raises(ValueError, match="empty output"):
        layer(np.zeros((2, 3, 6, 3), "float32"))
    image = keras.Input((7, 7, 3))
    model = keras.Model(image, Conv2D(2, 3)(image))
    assert model(np.zeros((0, 7, 7, 3), "float32")).shape == (0, 5, 5, 2)
