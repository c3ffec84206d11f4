"""Batches: every example once, in an order that is a function of (seed, epoch)."""

import keras
import numpy as np
import pytest
from test_images import some_photos

import kerasdl
from kerasdl.data.batches import BatchSource, Ragged, padded_width
from kerasdl.data.images import ImageEncoder


def texts(count, seed=0, longest=90):
    """Return sequences of random lengths; each begins with its number plus one."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest, count)
    values = random.integers(1, 20, lengths.sum()).astype("int32")
    ragged = Ragged.from_lengths(values, lengths)
    values[ragged.offsets[:-1]] = np.arange(count) + 1
    return ragged


def test_ragged_behaves_like_a_list_of_arrays():
    rows = [[5, 6], [], [7], [8, 9, 4]]
    ragged = Ragged.from_lengths(
        np.concatenate(rows).astype("int32"), np.array([2, 0, 1, 3])
    )
    assert len(ragged) == 4
    assert [row.tolist() for row in map(ragged.__getitem__, range(4))] == rows
    taken = ragged.take(np.array([3, 1, 3, 0]))
    assert [taken[i].tolist() for i in range(4)] == [rows[i] for i in (3, 1, 3, 0)]
    assert ragged.pad(4).tolist() == [row + [0] * (4 - len(row)) for row in rows]
    assert ragged.pad(4).dtype == np.int32
    assert len(ragged.take(np.zeros(0, int))) == 0


def test_padded_widths_are_few_and_close():
    widths = [padded_width(n) for n in range(1, 2001)]
    assert all(n <= width for n, width in enumerate(widths, 1))
    assert all(width <= max(16, 1.5 * n) for n, width in enumerate(widths, 1))
    assert len(set(widths)) < 16


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 31, 32, 33, 64, 500])
@pytest.mark.parametrize("batch_size", [1, 32])
def test_every_example_comes_once_per_epoch(count, batch_size, seed):
    targets = np.arange(count)
    source = BatchSource(
        {"tokens": texts(count)}, targets, batch_size=batch_size, seed=seed
    )
    assert source.num_batches == -(-count // batch_size)
    for _ in range(2):
        source.on_epoch_begin()
        seen = []
        for i in range(source.num_batches):
            tokens, labels = source[i]
            assert len(labels) <= batch_size
            np.testing.assert_array_equal(tokens[:, 0], labels + 1)
            seen += labels.tolist()
        assert sorted(seen) == targets.tolist()


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        source = BatchSource({"x": texts(300)}, batch_size=16, seed=seed)
        return np.concatenate(source.plan(epoch)).tolist()

    forwards = [order(3, epoch) for epoch in range(3)]
    assert [order(3, epoch) for epoch in (2, 1, 0)] == forwards[::-1]
    different = [*forwards, order(4, 0)]
    assert len({tuple(rows) for rows in different}) == 4
    assert order(None, 0) == order(None, 5)
    source = BatchSource({"x": texts(300)}, np.arange(300), batch_size=16, seed=3)
    for epoch in range(3):
        source.on_epoch_begin()
        labels = [source[i][1] for i in range(source.num_batches)]
        assert np.concatenate(labels).tolist() == forwards[epoch]


def test_batches_hold_similar_lengths_padded_on_the_right():
    ragged = texts(2000, longest=400)
    source = BatchSource({"x": ragged}, batch_size=32, seed=0)
    padded = 0
    for i, rows in enumerate(source.plan(0)):
        (batch,) = source[i]
        padded += batch.size
        for row, values in zip(rows, batch, strict=True):
            length = ragged.lengths[row]
            np.testing.assert_array_equal(values[:length], ragged[row])
            assert not values[length:].any()
    assert padded < 1.4 * ragged.lengths.sum()
    assert padded < 0.75 * 2000 * ragged.lengths.max()


@pytest.mark.parametrize("seed", [None, *range(20)])
def test_first_two_batches_differ_in_every_width_that_varies(seed):
    random = np.random.default_rng(99 if seed is None else seed)
    lengths = {
        "falling": np.sort(random.integers(1, 50, 24))[::-1],
        "rising": np.sort(random.integers(1, 90, 24)),
        "mixed": random.integers(1, 200, 24),
        "constant": np.full(24, 10),
    }
    inputs = {
        name: Ragged.from_lengths(np.ones(sizes.sum(), "int32"), sizes)
        for name, sizes in lengths.items()
    }
    source = BatchSource(inputs, batch_size=6, seed=seed)
    widths = [
        {name: source[i][0][name].shape[1] for name in inputs}
        for i in range(source.num_batches)
    ]
    varying = [name for name in inputs if len({w[name] for w in widths}) > 1]
    assert varying
    assert all(widths[0][name] != widths[1][name] for name in varying)
    assert {width["constant"] for width in widths} == {16}


def test_one_batch_is_not_widened():
    source = BatchSource({"x": texts(20)}, batch_size=32, seed=0)
    assert source[0][0].shape[1] == padded_width(texts(20).lengths.max())


@pytest.mark.parametrize(
    "name", ["ngram_classifier", pytest.param("sentiment", marks=pytest.mark.slow)]
)
def test_model_methods_take_changing_widths(name):
    sizes = {"num_ngrams": 25}
    if name == "sentiment":
        sizes |= {"vocabulary_size": 25, "embedding_dim": 4, "units": 2}
    model = kerasdl.BUILDERS[name](**sizes)
    # Two batches of short texts come first when they are sorted by length.
    lengths = np.array([3] * 8 + [20] * 4)
    ids = np.arange(lengths.sum(), dtype="int32") % 24 + 1
    names = [tensor.name for tensor in model.inputs]
    inputs = {name: Ragged.from_lengths(ids, lengths) for name in names}
    labels = np.arange(12) % 2
    validation = BatchSource(inputs, labels, batch_size=4)
    training = BatchSource(inputs, labels, batch_size=4, seed=1)
    model.fit(training, validation_data=validation, epochs=2, verbose=0)
    found = model.predict(BatchSource(inputs, batch_size=4), verbose=0)
    padded = {name: ragged.pad(24) for name, ragged in inputs.items()}
    together = model(padded if len(padded) > 1 else padded[names[0]], training=False)
    order = np.concatenate(validation.plan(0))
    together = keras.ops.convert_to_numpy(together)
    np.testing.assert_allclose(found, together[order], atol=1e-5)


def test_a_model_trains_on_streamed_photos(tmp_path):
    photos = some_photos(tmp_path)
    encoder, inputs = ImageEncoder.fit_encode(photos, image_size=8, cache_mb=0)
    image = keras.Input(encoder.sizes["input_shape"], name="image")
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(image))
    model = keras.Model(image, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    source = BatchSource(inputs, np.arange(12) % 2, batch_size=4, seed=0)
    history = model.fit(source, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]
