"""The multilayer perceptron: numerics, initialisation, regression, standardisation."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import erf

from kerasdl.backend import forward
from kerasdl.layers import Standardize
from kerasdl.models.mlp import mlp
from kerasdl.weights import pack

BATCH, FEATURES = 8, 6
_random = np.random.default_rng(0)
ROWS = _random.normal(size=(BATCH, FEATURES)).astype("float32")
TARGETS = _random.normal(size=(BATCH, 2)).astype("float32")
FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def randomise(model):
    random = np.random.default_rng(1)
    for weight in model.weights:
        positive = weight.path.endswith(("variance", "deviation"))
        weight.assign(random.uniform(0.2 if positive else -0.8, 0.8, weight.shape))
    return model


def reference(weights, rows, *, activation, norm, layers):
    """Run the forward pass in NumPy, on weights by path."""
    x = (rows - weights["standardize/mean"]) / weights["standardize/deviation"]
    x = x.reshape(len(x), -1)
    for i in range(1, layers + 1):
        x = x @ weights[f"hidden{i}_dense/kernel"]
        if norm != "batch":
            x = x + weights[f"hidden{i}_dense/bias"]
        name = f"hidden{i}_norm"
        if norm == "batch":
            mean, variance = (
                weights[f"{name}/moving_{kind}"] for kind in ("mean", "variance")
            )
            x = (x - mean) / np.sqrt(variance + 1e-5)
        elif norm == "layer":
            mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
            x = (x - mean) / np.sqrt(variance + 1e-6)
        if norm:
            x = x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]
        x = FORMULAS[activation](x)
    return x @ weights["logits/kernel"] + weights["logits/bias"]


@pytest.mark.parametrize(
    ("activation", "norm"),
    [
        ("relu", "batch"),
        ("leaky_relu", None),
        ("gelu", "layer"),
        ("sigmoid", None),
        ("tanh", None),
    ],
)
def test_forward_pass_is_that_of_numpy(activation, norm):
    model = mlp(
        (2, 3),
        4,
        hidden=(7, 5),
        activation=activation,
        norm=norm,
        dropout=0.5,  # off at inference
        standardize=True,
    )
    randomise(model)
    rows = ROWS.reshape(BATCH, 2, 3)
    expected = reference(
        pack(model, "float32"), rows, activation=activation, norm=norm, layers=2
    )
    np.testing.assert_allclose(forward(model)(rows), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("activation", "variance"),
    [("relu", 2 / 400), ("gelu", 2 / 400), ("selu", 1 / 400), ("tanh", 2 / 500)],
)
def test_initialisation_fits_the_activation(activation, variance):
    model = mlp((400,), hidden=(100,), activation=activation, optimizer=None)
    kernel = ops.convert_to_numpy(model.get_layer("hidden1_dense").kernel)
    assert kernel.var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_regressor_overfits_one_batch_and_moves_every_weight(num_outputs):
    model = mlp(
        (FEATURES,), num_outputs=num_outputs, activation="gelu", learning_rate=0.01
    )
    before = pack(model, "float32")
    targets = TARGETS[:, :num_outputs]
    for _ in range(120):
        loss, error = model.train_on_batch(ROWS, targets)
        model.reset_metrics()
    assert loss < 0.02
    assert error < 0.1
    for path, value in pack(model, "float32").items():
        assert not np.array_equal(value, before[path]), path
    found = forward(model)(ROWS)
    assert model.output.dtype == "float32"
    assert found.shape == (BATCH, num_outputs)
    if num_outputs == 1:  # targets without an axis of their own are the same
        loss = model.evaluate(ROWS, targets[:, 0], verbose=0)[0]
        expected = np.square(found - targets).mean()
        assert loss == pytest.approx(expected, abs=1e-5)


def test_regressor_in_mixed_precision_and_as_a_file(tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = mlp((FEATURES,), num_outputs=2, standardize=True)
        # Half precision would not tell these rows apart.
        rows = 1e4 + ROWS
        model.get_layer("standardize").adapt(rows)
        loss = model.train_on_batch(rows, TARGETS)[0]
        found = forward(model)(rows)
    finally:
        keras.config.set_dtype_policy(policy)
    assert np.isfinite(loss)
    assert model.output.dtype == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert len(np.unique(found[:, 0])) == BATCH
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(forward(again)(rows), found)


def test_penalties_are_in_the_loss():
    plain = mlp((FEATURES,))
    model = mlp((FEATURES,), l1=0.1, l2=0.01)
    model.set_weights(plain.get_weights())
    labels = np.arange(BATCH) % 2
    without, with_penalty = (
        m.evaluate(ROWS, labels, verbose=0)[0] for m in (plain, model)
    )
    kernels = [w for path, w in pack(model, "float32").items() if "kernel" in path]
    expected = sum(0.1 * np.abs(k).sum() + 0.01 * np.square(k).sum() for k in kernels)
    assert len(kernels) == 3
    assert with_penalty - without == pytest.approx(expected, rel=1e-4)


def test_dropout_follows_every_hidden_layer():
    model = mlp((FEATURES,), hidden=(8, 7), dropout=0.5, optimizer=None)
    rates = {layer.name: layer.rate for layer in model.layers if hasattr(layer, "rate")}
    assert rates == {"hidden1_dropout": 0.5, "hidden2_dropout": 0.5}


def test_standardize_adapts_and_takes_weights_one_by_one():
    model = mlp((2, 3), standardize=True)
    rows = 5 + 3 * ROWS.reshape(BATCH, 2, 3)
    rows[..., 1] = 7  # never varies
    run = forward(model)
    before = run(rows)
    model.get_layer("standardize").adapt(rows)
    assert not np.allclose(run(rows), before)  # seen by what was compiled before

    layer = Standardize()
    layer.adapt(rows)
    found = ops.convert_to_numpy(layer(rows))
    np.testing.assert_allclose(found.mean((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(found.std((0, 1)), [1, 0, 1], atol=1e-6)

    other = mlp((2, 3), standardize=True)
    by_path = {weight.path: weight for weight in other.weights}
    for weight in model.weights:
        by_path[weight.path].assign(weight)
    np.testing.assert_array_equal(forward(other)(rows), run(rows))


def test_standardize_learns_nothing_in_training():
    model = mlp((FEATURES,), standardize=True)
    layer = model.get_layer("standardize")
    layer.adapt(ROWS)
    before = [ops.convert_to_numpy(weight) for weight in layer.weights]
    model.train_on_batch(ROWS, np.arange(BATCH) % 2)
    for old, weight in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), old)


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3)), np.array([[1.0, np.nan]]), np.array([[np.inf]])]
)
def test_standardize_refuses_what_has_no_mean(array):
    with pytest.raises(ValueError, match=r"array of shape .*finite"):
        Standardize().adapt(array)


def test_numbers_of_numpy_are_taken_and_stored():
    model = mlp((3,), 2, l2=np.float32(0.5), dropout=np.float32(0.25), optimizer=None)
    again = keras.models.model_from_json(model.to_json())
    assert again.get_layer("hidden1_dense").kernel_regularizer.l2 == 0.5
    assert again.get_layer("hidden1_dropout").rate == 0.25
