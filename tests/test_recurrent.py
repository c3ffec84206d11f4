"""The fused LSTM and GRU against Keras's own layers and, on torch, torch.nn."""

import keras
import numpy as np
import pytest

from kerasdl import backend, layers

# Keras 3.15 hands NumPy 2 its torch tensors the old way.
BATCH, TIME, FEATURES, UNITS = 5, 7, 3, 4
LENGTHS = np.array([7, 3, 1, 0, 5])
RIGHT = np.arange(TIME) < LENGTHS[:, None]
LEFT = RIGHT[:, ::-1]
HOLES = np.random.default_rng(3).random((BATCH, TIME)) < 0.6
MASKS = {"none": None, "right": RIGHT, "full": np.ones_like(RIGHT), "left": LEFT,
         "holes": HOLES}  # fmt: skip
ON_TORCH = keras.backend.backend() == "torch"
on_torch = pytest.mark.skipif(not ON_TORCH, reason="fused on torch only")
# Elsewhere the layers are Keras's own, and every case would compile.
both = (False, True) if ON_TORCH else (True,)
masks = MASKS if ON_TORCH else ("right",)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def pair(kind, wrap=lambda layer: layer, **options):
    """Build our layer and Keras's plain loop, with the same random weights."""
    ours = wrap(getattr(layers, kind)(UNITS, **options))
    theirs = wrap(getattr(keras.layers, kind)(UNITS, use_cudnn=False, **options))
    for layer in (ours, theirs):
        layer.build((BATCH, TIME, FEATURES))
        layer.set_weights(
            [numbers(*w.shape, seed=i) for i, w in enumerate(layer.weights)]
        )
    return ours, theirs


def states(layer, seed=9):
    count = (2 if isinstance(layer, keras.layers.LSTM) else 1) * (
        2 if isinstance(layer, keras.layers.Bidirectional) else 1
    )
    return [numbers(BATCH, UNITS, seed=seed + i) for i in range(count)]


def results(layer, mask, initial_state=None, training=False):
    outputs = layer(
        keras.ops.convert_to_tensor(numbers(BATCH, TIME, FEATURES)),
        mask=None if mask is None else keras.ops.convert_to_tensor(mask),
        initial_state=initial_state,
        training=training,
    )
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def assert_equal(ours, theirs, atol=1e-5):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=atol, rtol=0)


@pytest.fixture
def calls(monkeypatch):
    """Record whether each layer call went through the fused kernel."""
    fused, real = [], backend.recurrent

    def spy(*arguments):
        result = real(*arguments)
        fused.append(result is not None)
        return result

    monkeypatch.setattr(backend, "recurrent", spy)
    return fused


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("mask", masks)
@pytest.mark.parametrize("go_backwards", both)
@pytest.mark.parametrize("with_state", both)
def test_outputs_and_states_are_those_of_keras(
    kind, mask, go_backwards, with_state, calls
):
    for return_sequences in both:
        ours, theirs = pair(
            kind,
            return_sequences=return_sequences,
            return_state=True,
            go_backwards=go_backwards,
        )
        initial = states(ours) if with_state else None
        assert_equal(
            results(ours, MASKS[mask], initial), results(theirs, MASKS[mask], initial)
        )
    assert calls == [ON_TORCH and mask in ("none", "right", "full")] * len(both)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("go_backwards", both)
def test_padding_can_give_zeros(kind, go_backwards):
    for return_sequences in both:
        ours, theirs = pair(
            kind,
            return_sequences=return_sequences,
            zero_output_for_mask=True,
            go_backwards=go_backwards,
        )
        assert_equal(results(ours, RIGHT), results(theirs, RIGHT))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("mask", masks)
@pytest.mark.parametrize("return_sequences", both)
def test_bidirectional_is_that_of_keras(kind, mask, return_sequences):
    ours, theirs = pair(
        kind, keras.layers.Bidirectional, return_sequences=return_sequences
    )
    assert isinstance(ours.backward_layer, getattr(layers, kind))
    assert_equal(results(ours, MASKS[mask]), results(theirs, MASKS[mask]))


def test_an_empty_text_gives_zeros():
    for kind in ("LSTM", "GRU"):
        ours, _ = pair(kind, keras.layers.Bidirectional)
        np.testing.assert_array_equal(results(ours, RIGHT)[0][LENGTHS == 0], 0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"use_bias": False},
        {"unroll": True},
        {"reset_after": False},
        {"recurrent_dropout": 0.5},
    ],
)
def test_other_cells_take_the_loop_of_keras(options, calls):
    kind = "GRU" if "reset_after" in options else "LSTM"
    ours, theirs = pair(kind, **options)
    assert_equal(results(ours, RIGHT), results(theirs, RIGHT))
    assert calls == [False]


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_input_dropout_is_that_of_keras(kind):
    ours, theirs = pair(kind, dropout=0.5, seed=1, return_sequences=True)
    trained = results(ours, RIGHT, training=True)
    assert_equal(trained, results(theirs, RIGHT, training=True))
    assert not np.allclose(trained[0], results(ours, RIGHT)[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_half_precision(kind):
    ours, theirs = pair(kind, dtype="mixed_bfloat16", return_sequences=True)
    tensors = [layer(numbers(BATCH, TIME, FEATURES)) for layer in (ours, theirs)]
    assert {keras.backend.standardize_dtype(t.dtype) for t in tensors} == {"bfloat16"}
    a, b = (keras.ops.convert_to_numpy(keras.ops.cast(t, "float32")) for t in tensors)
    np.testing.assert_allclose(a, b, atol=0.06)


def gradients(layer, mask, initial_state):
    """Differentiate a weighted sum of all results by inputs, states and weights."""
    import torch

    leaves = [
        torch.tensor(array, requires_grad=True)
        for array in (numbers(BATCH, TIME, FEATURES), *initial_state)
    ]
    mask = None if mask is None else torch.tensor(mask)
    outputs = layer(leaves[0], initial_state=leaves[1:], mask=mask)
    total = sum(
        (x * torch.tensor(numbers(*x.shape, seed=7 + i))).sum()
        for i, x in enumerate(outputs)
    )
    weights = [weight.value for weight in layer.weights]
    return [g.numpy() for g in torch.autograd.grad(total, [*leaves, *weights])]


@on_torch
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("mask", ["none", "right"])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_gradients_are_those_of_keras(kind, mask, go_backwards, calls):
    for return_sequences in (False, True):
        ours, theirs = pair(
            kind,
            return_sequences=return_sequences,
            return_state=True,
            go_backwards=go_backwards,
        )
        initial = states(ours)
        assert_equal(
            gradients(ours, MASKS[mask], initial),
            gradients(theirs, MASKS[mask], initial),
            atol=2e-5,
        )
    assert calls == [True, True]


@on_torch
def test_the_lstm_is_that_of_torch():
    import torch

    ours, _ = pair("LSTM", return_sequences=True)
    kernel, recurrent_kernel, bias = (torch.tensor(w) for w in ours.get_weights())
    reference = torch.nn.LSTM(FEATURES, UNITS, batch_first=True)
    reference.load_state_dict(
        {
            "weight_ih_l0": kernel.T,
            "weight_hh_l0": recurrent_kernel.T,
            "bias_ih_l0": bias,
            "bias_hh_l0": torch.zeros_like(bias),
        }
    )
    expected = reference(torch.tensor(numbers(BATCH, TIME, FEATURES)))[0]
    assert_equal(results(ours, None), [expected.detach().numpy()])


def classifier(module):
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(10, FEATURES, mask_zero=True)(tokens)
    x = module.LSTM(UNITS, return_sequences=True)(x)
    x = keras.layers.Bidirectional(module.GRU(UNITS), name="top")(x)
    return keras.Model(tokens, keras.layers.Dense(2)(x))


def test_a_model_trains_saves_and_loads(tmp_path):
    model = classifier(layers)
    tokens = np.random.default_rng(0).integers(1, 10, (8, TIME)) * (
        np.arange(TIME) < np.arange(8)[:, None]
    )
    tokens = tokens.astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    before = model.get_weights()
    model.fit(tokens, np.arange(8) % 2, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert not np.array_equal(old, new)

    expected = backend.forward(model)(tokens)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(backend.forward(loaded)(tokens), expected)
    assert isinstance(loaded.get_layer("top").forward_layer, layers.GRU)

    plain = classifier(keras.layers)
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(backend.forward(plain)(tokens), expected, atol=1e-5)
    np.testing.assert_allclose(
        backend.forward(model)(np.pad(tokens, ((0, 0), (0, 4)))), expected, atol=1e-6
    )


def test_weight_names_are_those_of_keras():
    def paths(module):
        layer = module.LSTM(UNITS, name="lstm")
        layer.build((BATCH, TIME, FEATURES))
        return [weight.path for weight in layer.weights]

    assert paths(layers) == paths(keras.layers)
