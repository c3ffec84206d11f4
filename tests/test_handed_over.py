"""Batches that reach a backend without Keras's detours: the same training."""

import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers, ops
from resuming import Killed

import kerasdl
from kerasdl.backend import handed_over
from kerasdl.data.batches import BatchSource, Dense, Ragged

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_alone = pytest.mark.skipif(not ON_TENSORFLOW, reason="of TensorFlow")
jax_alone = pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
RANDOM = np.random.default_rng(0)
COUNT = 44  # the last batch is smaller
LABELS = RANDOM.integers(0, 3, COUNT)
WEIGHTS = RANDOM.uniform(0.5, 2, COUNT).astype("float32")


@pytest.fixture
def compile_from(monkeypatch):
    """Return a function that says from how many steps and weights XLA compiles."""

    def compile_from(steps, weights=0):
        if ON_TENSORFLOW:
            from kerasdl.backend import tensorflow_batches

            monkeypatch.setattr(tensorflow_batches, "FEWEST_STEPS", steps)
            monkeypatch.setattr(tensorflow_batches, "FEWEST_WEIGHTS", weights)

    return compile_from


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
def test_the_training_is_that_of_keras(model, source, xla, compile_from):
    compile_from(0 if xla else 10**9)
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
@pytest.mark.parametrize(("fewest", "pays"), [(3, True), (4, False)])
def test_xla_compiles_where_there_are_steps_enough(fewest, pays, compile_from):
    compile_from(fewest)
    model, source = rows_model(), rows_source()
    with handed_over(model, source, steps=18):
        assert model.train_function.xla
    model, source = texts_model(), texts_source()
    assert source.num_shapes == 4
    with handed_over(model, source, steps=18):
        assert model.train_function.xla == pays
    compile_from(fewest, weights=10**6)
    with handed_over(model, source, steps=18):
        assert not model.train_function.xla


@tensorflow_alone
@pytest.mark.parametrize(
    ("layer", "with_onednn", "without"),
    [
        (layers.Conv2D(2, 2, padding="same"), False, True),
        (layers.Conv2D(2, 2, 2), True, True),  # patches
        (layers.DepthwiseConv2D(2, padding="same"), False, False),
        (layers.MaxPooling2D(2), True, False),
    ],
    ids=["convolution", "patches", "depthwise", "maxima"],
)
def test_xla_compiles_what_it_makes_faster(
    layer, with_onednn, without, compile_from, monkeypatch
):
    from kerasdl.backend import tensorflow_batches

    compile_from(0)
    for has_onednn, pays in ((True, with_onednn), (False, without)):
        monkeypatch.setattr(
            tensorflow_batches, "has_onednn", lambda has_onednn=has_onednn: has_onednn
        )
        model = rows_model(layers.Reshape((2, 2, 1)), layer, layers.Flatten())
        with handed_over(model, rows_source(), steps=6):
            assert model.train_function.xla == pays
        assert model.train_function is None


@tensorflow_alone
def test_what_xla_lacks_is_trained_without_it(compile_from):
    import tensorflow as tf

    class Foreign(layers.Layer):
        """Compute what no graph holds."""

        def call(self, x):
            y = tf.numpy_function(np.zeros_like, [x], tf.float32)
            return x + tf.ensure_shape(y, x.shape)

    compile_from(0)
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


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch")
def test_pytorch_trains_on_the_memory_of_the_batches():
    batches = []

    class Kept(BatchSource):
        """Keep the batches."""

        def __getitem__(self, index):
            batches.append(super().__getitem__(index))
            return batches[-1]

    values = RANDOM.normal(size=(COUNT, 5)).astype("float32")
    source = Kept({"x": Dense(values)}, LABELS, batch_size=8, seed=0)
    with handed_over(rows_model(), source, 1) as handed:
        tensors = list(handed.get_torch_dataloader())
    for batch, (x, y) in zip(batches, tensors, strict=True):
        assert [x.data_ptr(), y.data_ptr()] == [part.ctypes.data for part in batch]


@jax_alone
def test_jax_holds_examples_that_need_no_padding(monkeypatch):
    from kerasdl.backend import jax_batches

    source = rows_source()
    with handed_over(rows_model(), source, 1) as handed:
        batches = list(handed.get_jax_iterator())
    for batch, rows in zip(batches, source.order, strict=True):
        assert all(isinstance(part, jax_batches.jax.Array) for part in batch)
        np.testing.assert_array_equal(batch[0], source.inputs["x"].values[rows])
        np.testing.assert_array_equal(batch[1], LABELS[rows])
    monkeypatch.setattr(jax_batches, "MOST_BYTES", 100)
    for source in (rows_source(), texts_source()):
        with handed_over(rows_model(), source, 1) as handed:
            parts = keras.tree.flatten(next(iter(handed.get_jax_iterator())))
        assert all(isinstance(part, np.ndarray) for part in parts)


@jax_alone
def test_an_epoch_goes_on_where_it_was_on_what_jax_holds():
    inputs = {
        "x": Dense(RANDOM.normal(size=(COUNT, 5))),  # float64
        "z": Dense(RANDOM.integers(0, 9, (COUNT, 2))),
    }
    source = BatchSource(inputs, LABELS, weights=WEIGHTS, batch_size=8, seed=0)
    source.start(3, 2)
    expected = source.plan(3)[2:]
    with handed_over(rows_model(), source, 1) as handed:
        handed.on_epoch_begin()
        batches = list(handed.get_jax_iterator())
        handed.on_epoch_end()
    for (x, labels, weights), rows in zip(batches, expected, strict=True):
        np.testing.assert_allclose(x["x"], inputs["x"].values[rows], rtol=1e-6)
        np.testing.assert_array_equal(x["z"], inputs["z"].values[rows])
        np.testing.assert_array_equal(labels, LABELS[rows])
        np.testing.assert_array_equal(weights, WEIGHTS[rows])
    np.testing.assert_array_equal(source.order[0], expected[0])
    source.on_epoch_begin()
    assert len(source.order) == source.batches_per_epoch


@jax_alone
def test_jax_leaves_to_numpy_what_it_cannot_hold(monkeypatch):
    from kerasdl.backend import jax_batches

    class Doubled(Dense):
        """Change the examples as they are taken."""

        def take(self, rows):
            return Dense(2 * self.values[rows])

    values = RANDOM.normal(size=(COUNT, 5)).astype("float32")
    source = BatchSource({"x": Doubled(values)}, LABELS, batch_size=8)
    with handed_over(rows_model(), source, 1) as handed:
        x, _ = next(iter(handed.get_jax_iterator()))
    np.testing.assert_array_equal(x, 2 * values[source.order[0]])

    def is_full(_):
        raise MemoryError

    monkeypatch.setattr(jax_batches.jax, "device_put", is_full)
    found = trained(rows_model(), rows_source(), directly=True)
    monkeypatch.undo()
    assert np.isfinite(found[1]["loss"]).all()


@jax_alone
@pytest.mark.parametrize("option", ["run_eagerly", "steps_per_execution"])
def test_jax_leaves_other_steps_to_keras(option):
    model, source = rows_model(), rows_source()
    setattr(model, option, 2 if option == "steps_per_execution" else True)
    with handed_over(model, source, 1) as handed:
        assert model.train_function is None
        assert isinstance(next(iter(handed))[0], np.ndarray)


@jax_alone
def test_keras_does_not_look_through_the_values_of_each_step():
    import jax

    states = []

    class Peek(keras.callbacks.Callback):
        """Look at what Keras keeps in the model."""

        def on_train_batch_end(self, batch, logs=None):
            states.append(self.model._jax_state["trainable_variables"])

    model, source = rows_model(), rows_source()
    source.start(0)
    with handed_over(model, source, 1) as handed:
        model.fit(handed, callbacks=[Peek()], verbose=0)
    assert len(states) == len(source.order)
    assert not any(isinstance(state, list | tuple) for state in states)
    assert all(isinstance(value, jax.Array) for value in states[-1])
    assert all(map(np.array_equal, states[-1], model.get_weights()))
    assert model.train_function is None


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int64"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_batches_lie_where_a_backend_need_not_copy_them(dtype, count):
    values = RANDOM.integers(0, 9, (COUNT, 3, 5)).astype(dtype)
    rows = RANDOM.integers(0, COUNT, count)
    taken = Dense(values).take(rows).values
    np.testing.assert_array_equal(taken, values[rows])
    assert taken.dtype == values.dtype
    assert taken.ctypes.data % 64 == 0


def test_examples_in_another_order_are_not_copied_for_each_batch():
    values = np.ones((50, 1000, 1000), "uint8").transpose(0, 2, 1)
    source = Dense(values)
    tracemalloc.start()
    taken = source.take(np.array([3, 1])).values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(taken, values[[3, 1]])
    assert peak < values.nbytes / 5


@jax_alone
def test_jax_computes_on_the_memory_of_a_batch():
    import jax

    values = RANDOM.normal(size=(COUNT, 5)).astype("float32")
    batch = Dense(values).take(np.arange(9)).values
    held = jax.device_put(batch, may_alias=True)
    assert held.unsafe_buffer_pointer() == batch.ctypes.data


@tensorflow_alone
def test_a_killed_run_that_xla_compiles_goes_on_bit_for_bit(
    compile_from, kill, tmp_path
):
    compile_from(0)
    random = np.random.default_rng(2)
    table = random.normal(size=(250, 3))
    lines = [f"{a},{b},{c},{'high' if a > b else 'low'}" for a, b, c in table]
    data = tmp_path / "rows.csv"
    data.write_text("\n".join(["a,b,c,class", *lines]))
    recipe = kerasdl.Recipe(
        build="mlp",
        kind="table",
        arguments={"hidden": (8,), "dropout": 0.5},
        data=str(data),
        data_options={"target": "class"},
        epochs=3,
        batch_size=64,
    )
    whole = kerasdl.train(recipe, out=tmp_path / "whole")
    out = tmp_path / "run"
    kill(5)  # in the second epoch
    with pytest.raises(Killed):
        kerasdl.train(recipe, out=out, every_steps=1)
    kill(-1)
    resumed = kerasdl.train(recipe, out=out, resume=True, every_steps=1)
    for one, other in zip(
        *(run.predictor.model.get_weights() for run in (whole, resumed)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
