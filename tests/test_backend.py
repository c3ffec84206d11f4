"""The functions that each backend brings: seeding, inference and gradients."""

import gc
import importlib

import keras
import numpy as np
import pytest

from kerasdl import backend
from kerasdl.errors import InputError


# Keras 3.15 hands NumPy 2 its torch tensors the old way.
def text_model(dropout=0.0):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(20, 8, mask_zero=True)(tokens)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dropout(dropout)(x)
    return keras.Model({"tokens": tokens}, keras.layers.Dense(2)(x))


def tokens(batch, length):
    rows = np.random.default_rng(0).integers(1, 20, (batch, length))
    return {"tokens": rows.astype("int32")}


def numpy_logits(model, inputs):
    embedding, kernel, bias = model.get_weights()
    return embedding[inputs["tokens"]].mean(axis=1) @ kernel + bias


def drawn():
    """Draw weights, dropout masks and NumPy numbers."""
    model = text_model(dropout=0.5)
    masked = [
        keras.ops.convert_to_numpy(model(tokens(4, 6), training=True)) for _ in range(2)
    ]
    return [*model.get_weights(), *masked, np.random.rand(3)]  # noqa: NPY002


def test_a_seed_gives_the_same_weights_and_masks_again():
    backend.set_seed(1)
    first = drawn()
    backend.set_seed(1)
    again = drawn()
    backend.set_seed(2)
    other = drawn()
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[-1], other[-1])


def test_forward_equals_numpy_at_every_shape():
    model = text_model()
    predict = backend.forward(model)
    for batch, length in [(1, 3), (4, 7), (4, 9), (1, 7)]:
        inputs = tokens(batch, length)
        logits = predict(inputs)
        assert isinstance(logits, np.ndarray)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, numpy_logits(model, inputs), atol=1e-6)


def test_forward_sees_new_weights():
    model = text_model()
    predict, inputs = backend.forward(model), tokens(2, 5)
    predict(inputs)
    model.set_weights([weight + 1.0 for weight in model.get_weights()])
    np.testing.assert_allclose(predict(inputs), numpy_logits(model, inputs), atol=1e-5)


def test_forward_leaves_the_model_trainable():
    model = text_model(dropout=0.5)
    predict, inputs = backend.forward(model), tokens(4, 6)
    before = predict(inputs)
    np.testing.assert_array_equal(predict(inputs), before)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    model.fit(inputs, np.array([0, 1, 0, 1]), verbose=0)
    assert not np.array_equal(predict(inputs), before)


@pytest.mark.parametrize("structure", [tuple, list])
def test_forward_takes_several_inputs(structure):
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model(structure([a, b]), keras.layers.Subtract()([a, b]))
    values = np.arange(6, dtype="float32").reshape(2, 3)
    inputs = structure([values, np.ones_like(values)])
    np.testing.assert_array_equal(backend.forward(model)(inputs), values - 1)


def test_forward_takes_an_array():
    a = keras.Input((3,))
    model = keras.Model(a, keras.layers.Rescaling(2.0)(a))
    values = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(backend.forward(model)(values), 2 * values)


def test_forward_takes_any_array_and_leaves_it_alone():
    a = keras.Input((3,))
    predict = backend.forward(keras.Model(a, keras.layers.ReLU()(a)))
    values = np.array([[-1, 2, 3], [4, -5, 6]], "float32")
    fixed = values.copy()
    fixed.flags.writeable = False
    for given in (values, values[:, ::-1], values.T.copy().T, fixed, values[:0]):
        before = given.copy()
        np.testing.assert_array_equal(predict(given), np.maximum(before, 0))
        np.testing.assert_array_equal(given, before)


def test_forward_returns_float32_under_mixed_precision():
    a = keras.Input((3,))
    model = keras.Model(a, keras.layers.Dense(2, dtype="mixed_bfloat16")(a))
    assert backend.forward(model)(np.ones((2, 3), "float32")).dtype == np.float32


def normalised_model(**options):
    """Return a network with a norm and dropout, which differ in training."""
    x = features = keras.Input((3,))
    x = keras.layers.BatchNormalization(**options)(x)
    x = keras.layers.Dense(4, activation="tanh", **options)(x)
    x = keras.layers.Dropout(0.5)(x)
    model = keras.Model(features, keras.layers.Dense(2, **options)(x))
    random = np.random.default_rng(0)
    model.set_weights(
        [random.uniform(0.1, 0.6, weight.shape) for weight in model.get_weights()]
    )
    return model


def numpy_gradients(model, inputs, directions):
    """Derive the gradient by hand: norm, dense, tanh, dense."""
    scale, shift, mean, variance, first, bias, last, _ = model.get_weights()
    slope = scale / np.sqrt(variance + 1e-3)
    hidden = np.tanh(((inputs - mean) * slope + shift) @ first + bias)
    return (directions @ last.T * (1 - hidden**2)) @ first.T * slope


@pytest.mark.parametrize("trainable", [True, False])
def test_input_gradients_equal_the_formula(trainable):
    model = normalised_model()
    model.trainable = trainable
    gradients = backend.input_gradients(model)
    random = np.random.default_rng(0)
    for count in (1, 5):
        inputs, directions = (
            random.normal(size=(count, size)).astype("float32") for size in (3, 2)
        )
        found = gradients(inputs, directions)
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
        wanted = numpy_gradients(model, inputs, directions)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_input_gradients_see_new_weights_and_leave_no_trace():
    model = normalised_model()
    gradients = backend.input_gradients(model)
    inputs, directions = np.ones((2, 3), "float32"), np.eye(2, dtype="float32")
    before = gradients(inputs, directions)
    weights = model.get_weights()
    np.testing.assert_array_equal(gradients(inputs, directions), before)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    model.set_weights([weight + 0.1 for weight in weights])
    wanted = numpy_gradients(model, inputs, directions)
    np.testing.assert_allclose(
        gradients(inputs, directions), wanted, rtol=1e-4, atol=1e-6
    )
    model.compile("sgd", "mse")
    model.fit(inputs, directions, verbose=0)


def test_input_gradients_are_float32_under_mixed_precision():
    mixed = normalised_model(dtype="mixed_bfloat16")
    mixed = keras.Model(mixed.inputs[0], keras.ops.cast(mixed.outputs[0], "float32"))
    inputs, directions = np.ones((2, 3), "float32"), np.eye(2, dtype="float32")
    found = backend.input_gradients(mixed)(inputs, directions)
    assert found.dtype == np.float32
    wanted = numpy_gradients(normalised_model(), inputs, directions)
    np.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.005)


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(InputError, match="not on the Keras backend 'numpy'"):
        importlib.reload(backend)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_training_leaves_no_graph_behind(name):
    """What Keras's sum over replicas registers with TensorFlow would hold it."""
    from tensorflow.python.framework.func_graph import FuncGraph

    def train():
        keras.utils.clear_session()
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(name, "mse", jit_compile=False)
        model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)

    def graphs():
        gc.collect()
        # Their types alone: other libraries' objects may answer for others.
        return sum(issubclass(type(thing), FuncGraph) for thing in gc.get_objects())

    train()
    before = graphs()
    train()
    assert graphs() == before
