"""The contracts of every builder, from the one table in `cases`."""

import math

import keras
import numpy as np
import pytest
from cases import BATCH, CASES, Case, Texts
from keras import ops

import kerasdl
from kerasdl.backend import forward
from kerasdl.bundle import load, save_bundle
from kerasdl.data.arrays import ArrayEncoder
from kerasdl.data.batches import BatchSource, Ragged
from kerasdl.data.text import TextEncoder
from kerasdl.predict import Classifier

# Networks that take half a minute to compile.
DEEP = ("inception", "efficientnet")
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.builder)
BY_NAME = {case.builder: case for case in CASES}
EACH_TEXT = pytest.mark.parametrize(
    "case",
    [case for case in CASES if isinstance(case.inputs, Texts)],
    ids=lambda case: case.builder,
)
LABELS = np.arange(BATCH) % 2
# Every option that could let padding through; the single head and more classes too.
RECURRENT = [
    {"cell": cell, "bidirectional": both, "pool": pool, "pooling": pooling}
    for cell in ("lstm", "gru")
    for both in (False, True)
    for pool in (1, 4)
    for pooling in ("last", "max_mean")
]
ATTENTIVE = [
    {"norm": norm, "positions": positions, "pool": pool}
    for norm in ("pre", "post")
    for positions in ("sinusoidal", "learned", "rotary")
    for pool in (1, 4)
]
VARIANTS = [
    *(("lstm_sentiment", options) for options in RECURRENT),
    ("lstm_sentiment", {"head": "single"}),
    ("lstm_sentiment", {"num_classes": 4}),
    *(("transformer_classifier", options) for options in ATTENTIVE),
    ("transformer_classifier", {"num_classes": 4, "pool": 3}),
    ("transformer_classifier", {"positions": "learned", "max_tokens": 5}),
    ("text_cnn", {}),
    ("text_cnn", {"num_classes": 4, "kernel_sizes": (2,)}),
    ("ngram_classifier", {}),
    ("ngram_classifier", {"num_classes": 4}),
    ("sentiment", {}),
    ("sentiment", {"num_classes": 4, "pool": 3}),
]
# Attention in float16, where the backend cannot.
REFUSED = set()
if keras.backend.backend() == "jax":
    REFUSED = {(name, "mixed_float16") for name in ("transformer_classifier", "vit")}
    # It compiles for a second per model.
    VARIANTS = VARIANTS[::4]


def lightly(model):
    """Let TensorFlow run a few steps without tracing them, which takes far longer."""
    model.run_eagerly = keras.backend.backend() == "tensorflow"
    return model


def randomise(model):
    """Move every weight off its initial value, so that nothing is hidden by zeros."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        value = ops.convert_to_numpy(weight.value)
        weight.assign(value + random.normal(0, 0.1, value.shape))
    return model


def logits(model, batch):
    """Run the model as in inference."""
    if keras.backend.backend() == "jax":  # op by op it would compile each of them
        return forward(model)(batch)
    return ops.convert_to_numpy(model(batch, training=False))


def mapped(function, batch):
    """Apply a function to every input."""
    return keras.tree.map_structure(function, batch)


def values(model):
    """Return all weights by path."""
    return {weight.path: ops.convert_to_numpy(weight.value) for weight in model.weights}


def test_every_builder_has_a_case():
    # It needs KerasHub, which imports TensorFlow: test_pretrained.py has its cases.
    assert list(BY_NAME) == sorted({*kerasdl.BUILDERS} - {"pretrained_classifier"})


@EACH
def test_output_is_finite_float32(case):
    model = case.build(num_classes=np.int64(3))
    found = logits(model, case.batch())
    assert model.output.dtype == "float32"
    assert model.output_shape == (None, 3)
    assert found.shape == (BATCH, 3)
    assert np.isfinite(found).all()
    assert model.name == case.builder
    assert {tensor.name for tensor in model.inputs} == set(case.inputs.names)


def trainable_parameters(model):
    """Count the numbers in the weights that training changes."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


@pytest.mark.backend_free
@EACH
def test_parameter_count_is_the_published_one(case):
    counts = list(case.published)
    if case.parameters:
        counts.append(({}, case.parameters()))
    assert counts
    for arguments, expected in counts:
        # Shapes are enough: nothing is allocated.
        with keras.StatelessScope(initialize_variables=False):
            model = kerasdl.BUILDERS[case.builder](**arguments, optimizer=None)
        assert trainable_parameters(model) == expected, arguments
        assert not model.compiled


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case.builder in DEEP else ())
        for case in CASES
    ],
    ids=lambda case: case.builder,
)
def test_three_steps_move_every_weight_and_one_batch_overfits(case):
    # Adam without decay leaves a weight without gradient where it is.
    model = case.build(optimizer="adam", learning_rate=case.rate, **case.still)
    batch = mapped(lambda x: x[:-1], case.batch())  # an empty text says nothing
    before = values(model)
    for step in range(case.steps):
        loss, accuracy = model.train_on_batch(batch, LABELS[:-1])
        model.reset_metrics()
        if step == 2:
            after = values(model)
    still = {
        weight.path
        for weight in model.trainable_weights
        if np.array_equal(before[weight.path], after[weight.path])
    }
    assert still == set(case.frozen)
    assert loss < 0.05
    assert accuracy == 1


@EACH
def test_keras_file_round_trip_is_exact(case, tmp_path):
    model = randomise(case.build())
    model.optimizer.build(model.trainable_variables)  # Keras wants to restore it
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = logits(model, case.batch())
    np.testing.assert_array_equal(logits(again, case.batch()), expected)
    assert values(again).keys() == values(model).keys()


@EACH
def test_bundle_round_trip_is_exact(case, tmp_path):
    if isinstance(case.inputs, Texts):
        examples = ["a good film", "a bad film, really", ""]
        encoder = TextEncoder.fit(examples, min_count=1, ngram_orders=(1, 2))
    else:
        examples = case.batch()
        encoder = ArrayEncoder(case.inputs.names[0], case.inputs.shape)
    sizes = {name: size for name, size in encoder.sizes.items() if name in case.tiny}
    arguments = case.tiny | sizes
    model = randomise(case.build(**arguments))
    labels = tuple(f"class {i}" for i in range(model.output_shape[-1]))
    folder = save_bundle(
        tmp_path / "bundle",
        Classifier(model, encoder, labels, 1.5),
        builder=case.builder,
        arguments=arguments,
        metrics={},
        card="# A test\n",
        keras_copy=False,
    )
    predictor = load(folder)
    expected, found = values(model), values(predictor.model)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value)
    batch = {name: x.pad(16) for name, x in encoder.encode(examples).items()}
    batch = {name: batch[name] for name in case.inputs.names}
    batch = batch if len(batch) > 1 else batch.popitem()[1]
    np.testing.assert_allclose(
        predictor.outputs(examples), logits(model, batch), atol=1e-5, rtol=1e-5
    )


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def mixed_precision(request):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(policy)


@EACH
def test_mixed_precision_keeps_float32_logits_and_weights(case, mixed_precision):
    if (case.builder, mixed_precision) in REFUSED:
        with pytest.raises(ValueError, match=r"float16.*use the policy mixed_bfloat16"):
            case.build()
        return
    model = lightly(case.build())
    loss = model.train_on_batch(case.batch(), LABELS)[0]
    assert model.output.dtype == "float32"
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    assert np.isfinite(loss)
    for weight in model.weights:
        assert np.isfinite(ops.convert_to_numpy(weight.value)).all(), weight.path


@pytest.mark.parametrize(
    ("case", "arguments", "match"),
    [(case, *bad) for case in CASES for bad in case.bad],
    ids=lambda value: value.builder if isinstance(value, Case) else None,
)
def test_bad_argument_is_named_before_any_weight(case, arguments, match, monkeypatch):
    if "optimizer" not in arguments:  # Keras looks for it at the end
        monkeypatch.delattr(keras.layers.Layer, "add_weight")
    with pytest.raises(ValueError, match=match):
        case.build(**arguments)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_padding_changes_nothing(name, options):
    case = BY_NAME[name]
    model = randomise(case.build(**options))
    batch = case.batch(width=11)
    expected = logits(model, batch)
    assert np.isfinite(expected).all()  # the last text is empty
    spread = np.abs(expected - expected[:1]).max()
    assert spread > 1e-3  # the inputs matter, so equality below says something
    for extra in (1,) if keras.backend.backend() == "jax" else (1, 6):
        padded = mapped(lambda ids, n=extra: np.pad(ids, ((0, 0), (0, n))), batch)
        np.testing.assert_allclose(logits(model, padded), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("extended", ["tokens", "ngrams"])
def test_inputs_are_padded_apart(extended):
    case = BY_NAME["sentiment"]
    model, batch = randomise(case.build()), case.batch()
    expected = logits(model, batch)
    batch[extended] = np.pad(batch[extended], ((0, 0), (0, 5)))
    np.testing.assert_allclose(logits(model, batch), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"cell": "gru"}])
def test_word_order_matters_to_recurrent_models(options):
    model = randomise(BY_NAME["lstm_sentiment"].build(**options))
    ids = np.arange(1, 9, dtype="int32")[None]
    assert np.abs(logits(model, ids) - logits(model, ids[:, ::-1].copy())).max() > 1e-3


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_word_order_matters_to_transformers(positions):
    model = randomise(BY_NAME["transformer_classifier"].build(positions=positions))
    ids = np.arange(1, 9, dtype="int32")[None]
    assert np.abs(logits(model, ids) - logits(model, ids[:, ::-1].copy())).max() > 1e-4


def test_single_head_is_the_textbook_network():
    model = kerasdl.BUILDERS["lstm_sentiment"](50, head="single")
    kinds = [
        type(layer).__name__
        for layer in model.layers
        if type(layer).__name__ in ("Embedding", "LSTM", "GRU", "Dense")
    ]
    assert kinds == ["Embedding", "LSTM", "LSTM", "Dense"]
    assert [model.get_layer(f"lstm{i}").units for i in (1, 2)] == [128, 64]
    assert model.output_shape == (None, 1)
    ids = np.arange(1, 9, dtype="int32")[None]
    z = logits(model, ids)[0, 0]
    expected = np.log1p(np.exp(-z))
    assert model.evaluate(ids, np.ones((1, 1)), verbose=0)[0] == pytest.approx(expected)


@EACH
def test_plain_fit_takes_arrays(case):
    model = lightly(case.build())
    history = model.fit(case.batch(), LABELS, batch_size=4, verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    assert np.isfinite(history["loss"]).all()


@EACH_TEXT
def test_plain_fit_takes_a_batch_source_with_soft_labels(case):
    lengths = np.array([3, 20, 17, 0, 24, 18, 9, 6])  # padded to 16 or 24
    ids = np.arange(lengths.sum(), dtype="int32") % 29 + 1
    inputs = {name: Ragged.from_lengths(ids, lengths) for name in case.inputs.names}
    soft = np.eye(3, dtype="float32")[np.arange(8) % 3] * 0.9 + 0.1 / 3
    model = lightly(case.build(num_classes=3))
    source = BatchSource(inputs, soft, batch_size=4, seed=0)
    history = model.fit(source, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
