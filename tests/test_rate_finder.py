"""The learning-rate finder: a curve, a cap, and no trace."""

import random

import keras
import numpy as np
import pytest
from keras import layers

from kerasdl import backend
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.errors import InputError
from kerasdl.optimizers import make_optimizer
from kerasdl.rate_finder import CAPS, family_of, lr_find
from kerasdl.schedules import learning_rate_schedule

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 4)).astype("float32")
Y = X @ RANDOM.normal(size=(4, 1)).astype("float32")


def model_of(optimizer):
    """A model with all that training changes: dropout, statistics, metrics."""
    x = inputs = keras.Input((4,))
    x = layers.Dropout(0.1, seed=1)(layers.Dense(4)(x))
    model = keras.Model(inputs, layers.Dense(1)(layers.BatchNormalization()(x)))
    model.compile(optimizer, "mse", metrics=["mae"])
    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False
    return model


def everything(model):
    groups = [model.variables, model.optimizer.variables, model.metrics_variables]
    values = [keras.ops.convert_to_numpy(v).tolist() for g in groups for v in g]
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
    states = random.getstate(), numpy_state, str(backend.random_state())
    return values, states, float(model.optimizer.learning_rate)


@pytest.mark.parametrize("kind", ["float", "schedule"])
def test_nothing_changes_even_if_it_fails(kind):
    schedule = learning_rate_schedule("cosine", 0.01, 50)
    model = model_of(make_optimizer("adam", 0.01 if kind == "float" else schedule))
    model.train_on_batch(X, Y)
    before = everything(model)
    found = lr_find(model, (X, Y), steps=20)
    assert everything(model) == before
    assert len(found.rates) == len(found.losses) == len(found.smoothed)

    def batches():
        yield X, Y
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        lr_find(model, batches(), steps=20)
    assert everything(model) == before
    again = model_of(make_optimizer("adam", 0.01 if kind == "float" else schedule))
    again.set_weights(model.get_weights())
    # It trains on with its own rate, not with that of the search.
    weights = model.get_weights()[0]
    model.train_on_batch(X, Y)
    assert 0 < np.abs(model.get_weights()[0] - weights).max() < 0.02


@pytest.mark.parametrize("kind", ["float", "schedule"])
def test_the_rate_rises_by_the_same_factor(kind):
    rate = 0.1 if kind == "float" else learning_rate_schedule("linear", 0.1, 9)
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((1, 1))])
    model.compile(make_optimizer("sgd", rate, momentum=0.0), "mse")
    ones = np.ones((1, 1), "float32")
    found = lr_find(model, (ones, 2 * ones), lowest=1e-3, highest=0.1, steps=10)
    rates = 1e-3 * 100 ** (np.arange(10) / 9)
    np.testing.assert_allclose(found.rates, rates, rtol=1e-6)
    weight, losses = 0.0, []
    for rate in rates:
        losses.append((weight - 2) ** 2)
        weight -= rate * 2 * (weight - 2)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    weights = 0.9 ** np.arange(9, -1, -1)
    expected = np.average(losses, weights=weights)
    assert found.smoothed[-1] == pytest.approx(expected, rel=1e-5)


def test_source_is_not_moved_on():
    source = BatchSource({"x": Dense(X)}, Y, batch_size=16, seed=1)
    order = [rows.tolist() for rows in source.order]
    found = lr_find(model_of(make_optimizer("adam", 1e-3)), source, steps=30)
    assert [rows.tolist() for rows in source.order] == order
    assert found.family == "dense"
    assert found.suggestion == min(found.uncapped, CAPS["dense"])


def test_suggestion_is_capped_by_the_family():
    model = model_of(make_optimizer("adam", 1e-3))
    found = lr_find(model, (X, Y), steps=30, family="pretrained")
    assert found.suggestion == CAPS["pretrained"] == 5e-5
    assert found.uncapped > found.cap


def test_families():
    image, text = keras.Input((4, 4, 3)), keras.Input((5, 4))
    for layer, inputs, family in [
        (layers.Conv2D(2, 3), image, "convolutional"),
        (layers.LSTM(2), text, "recurrent"),
        (layers.Flatten(), text, "dense"),
    ]:
        assert family_of(keras.Model(inputs, layer(inputs))) == family
    attention = layers.MultiHeadAttention(1, 2)(text, text)
    inner = keras.Model(text, attention)
    assert family_of(keras.Model(text, inner(text))) == "transformer"


def test_what_cannot_be_searched_is_refused():
    model = model_of(make_optimizer("adam", 1e-3))
    with pytest.raises(ValueError, match=r"lowest=1, highest=0.1"):
        lr_find(model, (X, Y), lowest=1, highest=0.1)
    with pytest.raises(InputError, match="the loss falls at no learning rate"):
        lr_find(model, (X, np.full_like(Y, np.nan)), steps=10)
