"""The recurrent network for series: numerics, forecasts, normalisation."""

import keras
import numpy as np
import pytest
from scipy.special import expit

from kerasdl.backend import forward
from kerasdl.models.rnn import EPSILON, rnn
from kerasdl.weights import pack

BATCH, LENGTH, CHANNELS, UNITS = 6, 5, 3, 4
_random = np.random.default_rng(0)
SERIES = _random.normal(size=(BATCH, LENGTH, CHANNELS)).astype("float32")
TARGETS = _random.normal(size=(BATCH, 4, 2)).astype("float32")
SHAPE = (LENGTH, CHANNELS)


def randomise(model):
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(random.normal(0, 0.5, weight.shape))
    return model


def lstm(series, weights, name):
    """Run an LSTM in NumPy; return the states at every step."""
    kernel, recurrent, bias = (
        next(w for path, w in weights.items() if path.startswith(name) and end(path))
        for end in (
            lambda path: path.endswith("/kernel"),
            lambda path: path.endswith("recurrent_kernel"),
            lambda path: path.endswith("bias"),
        )
    )
    h = c = np.zeros((len(series), recurrent.shape[0]))
    states = []
    for x in series.swapaxes(0, 1):
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1)


def test_stacked_bidirectional_classifier_is_that_of_numpy():
    model = randomise(rnn(SHAPE, 3, units=(UNITS, 2), bidirectional=True, dropout=0.5))
    weights = pack(model, "float32")
    x = np.concatenate(
        [
            lstm(SERIES, weights, "lstm1_forward"),
            lstm(SERIES[:, ::-1], weights, "lstm1_backward")[:, ::-1],
        ],
        axis=-1,
    )
    x = np.concatenate(
        [
            lstm(x, weights, "lstm2_forward")[:, -1],
            lstm(x[:, ::-1], weights, "lstm2_backward")[:, -1],
        ],
        axis=-1,
    )
    expected = x @ weights["logits/kernel"] + weights["logits/bias"]
    np.testing.assert_allclose(forward(model)(SERIES), expected, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_forecast_is_that_of_numpy(normalize):
    model = randomise(
        rnn(SHAPE, num_outputs=2, horizon=4, units=(UNITS,), normalize=normalize)
    )
    weights = pack(model, "float32")
    mean = SERIES.mean(1, keepdims=True) if normalize else np.zeros((1, 1, CHANNELS))
    deviation = (
        SERIES.std(1, keepdims=True) + EPSILON
        if normalize
        else np.ones((1, 1, CHANNELS))
    )
    x = lstm((SERIES - mean) / deviation, weights, "lstm1")[:, -1]
    steps = x @ weights["steps/kernel"] + weights["steps/bias"]
    expected = steps.reshape(BATCH, 4, 2) * deviation[..., :2] + mean[..., :2]
    np.testing.assert_allclose(forward(model)(SERIES), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"cell": "gru", "normalize": True}])
def test_forecaster_overfits_one_batch_and_moves_every_weight(options):
    model = rnn(
        SHAPE,
        num_outputs=2,
        horizon=4,
        units=(16,),
        learning_rate=0.03,
        **options,
    )
    before = pack(model, "float32")
    for _ in range(150):
        loss = model.train_on_batch(SERIES, TARGETS)[0]
        model.reset_metrics()
    assert loss < 0.05
    for path, value in pack(model, "float32").items():
        assert not np.array_equal(value, before[path]), path


def test_normalised_forecast_follows_level_and_scale():
    run = forward(
        randomise(rnn(SHAPE, num_outputs=2, horizon=4, units=(3,), normalize=True))
    )
    expected = 10 * run(SERIES) + 100
    np.testing.assert_allclose(run(10 * SERIES + 100), expected, rtol=1e-2)
    flat = run(np.full_like(SERIES, 5))  # no deviation at all
    np.testing.assert_allclose(flat, 5, atol=0.02)


def test_normalised_classifier_ignores_level_and_scale():
    run = forward(randomise(rnn(SHAPE, units=(3,), normalize=True)))
    np.testing.assert_allclose(run(10 * SERIES + 100), run(SERIES), atol=1e-2)


def test_any_length():
    model = randomise(rnn((None, CHANNELS), num_outputs=1, horizon=2, normalize=True))
    assert model.output_shape == (None, 2, 1)
    run = forward(model)
    for length in (1, LENGTH):
        found = run(SERIES[:, :length])
        assert found.shape == (BATCH, 2, 1)
        assert np.isfinite(found).all()


def test_forecaster_in_mixed_precision_and_as_a_file(tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = rnn(SHAPE, num_outputs=2, horizon=4, units=(3,), normalize=True)
        loss = model.train_on_batch(SERIES, TARGETS)[0]
        found = forward(model)(SERIES)
    finally:
        keras.config.set_dtype_policy(policy)
    assert np.isfinite(loss)
    assert model.output.dtype == "float32"
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(forward(again)(SERIES), found)


def test_dropout_follows_every_recurrent_layer():
    model = rnn(SHAPE, units=(3, 2), dropout=0.5, optimizer=None)
    names = [layer.name for layer in model.layers]
    assert names == ["series", "lstm1", "lstm1_dropout", "lstm2", "dropout", "logits"]
    rates = [model.get_layer(name).rate for name in names if "dropout" in name]
    assert rates == [0.5, 0.5]
