"""Batches that reach TensorFlow without tf.data: the same training, in one trace."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerasdl.backend import handed_over
from kerasdl.data.batches import BatchSource, Dense, Ragged

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_alone = pytest.mark.skipif(not ON_TENSORFLOW, reason="of TensorFlow")
RANDOM = np.random.default_rng(0)
COUNT = 44  # the last batch is smaller
LABELS = RANDOM.integers(0, 3, COUNT)
WEIGHTS = RANDOM.uniform(0.5, 2, COUNT).astype("float32")


def batches():
    """Return the module that is TensorFlow's alone."""
    from kerasdl.backend import tensorflow_batches

    return tensorflow_batches


def rows_source():
    values = RANDOM.normal(size=(COUNT, 5)).astype("float32")
    return BatchSource({"x": Dense(values)}, LABELS, batch_size=8, seed=0)


def texts_source():
    lengths = RANDOM.permutation(np.repeat([10, 20, 40, 80], COUNT // 4))
    tokens = RANDOM.integers(1, 20, lengths.sum()).astype("int32")
    inputs = {
        "tokens": Ragged.from_lengths(tokens, lengths),
        "numbers": Dense(RANDOM.normal(size=(COUNT, 2))),  # float64
    }
    return BatchSource(inputs, LABELS, weights=WEIGHTS, batch_size=8, seed=0)


def rows_model(*more):
    x = keras.Input((5,), name="x")
    y = layers.Dense(4, activation="relu")(x)
    for layer in more:
        y = layer(y)
    return compiled(x, layers.Dense(3)(y))


def texts_model():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    numbers = keras.Input((2,), name="numbers")
    y = layers.GlobalAveragePooling1D()(layers.Embedding(20, 4)(tokens))
    y = layers.Dense(3)(layers.Concatenate()([y, numbers]))
    return compiled({"tokens": tokens, "numbers": numbers}, y)


def compiled(inputs, outputs):
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def trained(model, source, *, directly, epochs=2):
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape))
    source.start(0)
    if not directly:
        history = model.fit(source, epochs=epochs, verbose=0)
    else:
        with handed_over(model, source, epochs * len(source.order)) as batches:
            history = model.fit(batches, epochs=epochs, verbose=0)
    return list(map(ops.convert_to_numpy, model.weights)), history.history


@pytest.mark.parametrize(
    ("model", "source"),
    [(rows_model, rows_source), (texts_model, texts_source)],
    ids=["rows", "texts"],
)
@pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
def test_the_training_is_that_of_keras(model, source, xla, monkeypatch):
    if ON_TENSORFLOW:
        monkeypatch.setattr(batches(), "FEWEST_STEPS", 0 if xla else 10**9)
    data = source()
    found = trained(model(), data, directly=True)
    expected = trained(model(), data, directly=False)
    margin = 1e-5 if xla and ON_TENSORFLOW else 0
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=margin, atol=margin)
    for name, values in expected[1].items():
        np.testing.assert_allclose(found[1][name], values, rtol=margin)


@tensorflow_alone
def test_one_trace_serves_all_shapes():
    model, source, calls = texts_model(), texts_source(), []
    assert source.num_shapes > 1
    step = model.train_step
    model.train_step = lambda data: calls.append(data) or step(data)
    trained(model, source, directly=True)
    # TensorFlow traces again what has made variables: those of the metrics.
    assert len(calls) == 2


@tensorflow_alone
@pytest.mark.parametrize(("fewest", "pays"), [(4, True), (5, False)])
def test_xla_compiles_where_there_are_steps_enough(fewest, pays, monkeypatch):
    monkeypatch.setattr(batches(), "FEWEST_STEPS", fewest)
    model, source = rows_model(), rows_source()
    with handed_over(model, source, steps=18):
        assert model.train_function.xla
    model, source = texts_model(), texts_source()
    assert source.num_shapes == 4
    with handed_over(model, source, steps=18):
        assert model.train_function.xla == pays


@tensorflow_alone
def test_xla_is_not_taken_for_windows_of_maxima(monkeypatch):
    monkeypatch.setattr(batches(), "FEWEST_STEPS", 0)
    more = layers.Reshape((4, 1)), layers.MaxPooling1D(2), layers.Flatten()
    model = rows_model(*more)
    with handed_over(model, rows_source(), steps=6):
        assert not model.train_function.xla
    assert model.train_function is None


@tensorflow_alone
def test_what_xla_lacks_is_trained_without_it(monkeypatch):
    import tensorflow as tf

    class Foreign(layers.Layer):
        """Compute what no graph holds."""

        def call(self, x):
            y = tf.numpy_function(np.zeros_like, [x], tf.float32)
            return x + tf.ensure_shape(y, x.shape)

    monkeypatch.setattr(batches(), "FEWEST_STEPS", 0)
    model, source = rows_model(Foreign()), rows_source()
    source.start(0)
    with handed_over(model, source, 1) as handed:
        assert model.train_function.xla
        model.fit(handed, verbose=0)
        assert not model.train_function.xla
    assert int(model.optimizer.iterations) == len(source.order)


@tensorflow_alone
def test_keras_deals_out_to_several_devices():
    import tensorflow as tf

    source = rows_source()
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = rows_model()
        with handed_over(model, source, 1) as handed:
            assert handed is source
    with handed_over(model, source, 1) as handed:
        assert handed is source


@pytest.mark.skipif(ON_TENSORFLOW, reason="of the other backends")
def test_other_backends_take_the_source():
    source = rows_source()
    with handed_over(rows_model(), source, 1) as handed:
        assert handed is source
