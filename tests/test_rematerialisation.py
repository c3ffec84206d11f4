"""Rematerialisation: the same step, held in less memory."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from cases import CASES
from keras import layers
from resuming import Killed
from test_images_app import pictures
from test_training import CNN, make_texts, write_tsv

import kerasdl
from kerasdl import Recipe, backend, rematerialise
from kerasdl.distribution import Distribution
from kerasdl.errors import InputError
from kerasdl.precision import precision
from kerasdl.steps import set_training_step

WIDTH, DEPTH, BATCH = 32, 16, 8
TEXTS = [
    case
    for case in CASES
    if case.builder in ("lstm_sentiment", "sentiment", "transformer_classifier")
]


def conv_net() -> keras.Model:
    """Return a network with all that a second computation could get wrong."""
    image = x = keras.Input((6, 6, 2), name="image")
    for i in range(3):
        y = layers.Conv2D(4, 3, padding="same", name=f"conv{i}")(x)
        y = layers.BatchNormalization(name=f"norm{i}")(y)
        y = layers.Dropout(0.3, name=f"dropout{i}")(keras.ops.relu(y))
        x = layers.Concatenate(name=f"join{i}")([x, y])
    logits = layers.Dense(3, dtype="float32", name="logits")(layers.Flatten()(x))
    model = keras.Model(image, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model


def deep_net() -> keras.Model:
    """Return a network that holds as much after each layer."""
    x = row = keras.Input((WIDTH,))
    for i in range(DEPTH):
        x = layers.Dense(WIDTH, activation="tanh", name=f"dense{i}")(x)
    model = keras.Model(row, x)
    model.compile("sgd", "mean_squared_error")
    return model


def after_three_steps(build, inputs, *, again: bool, name="float32", parts=1):
    """Train for three steps; return all that has changed."""
    backend.set_seed(3)
    with precision(name):
        model = build()
        if again:
            assert rematerialise(model) > 1
        if parts > 1:
            set_training_step(model, micro_batches=parts)
        model.fit(
            inputs, np.arange(3 * BATCH) % 2, batch_size=BATCH, shuffle=False, verbose=0
        )
    return [(v.path, keras.ops.convert_to_numpy(v)) for v in model.variables]


def check_equal(build, inputs, **options):
    expected = after_three_steps(build, inputs, again=False, **options)
    found = after_three_steps(build, inputs, again=True, **options)
    # A compiled program may add in another order, or round elsewhere.
    exact = keras.backend.backend() == "torch"
    scale = 1e-2 if options.get("name") else 1e-6
    for (path, value), (_, other) in zip(expected, found, strict=True):
        tolerance = 0 if exact or "seed_generator" in path else scale
        np.testing.assert_allclose(
            other, value, rtol=tolerance, atol=tolerance, err_msg=path
        )


IMAGES = np.random.default_rng(0).normal(size=(3 * BATCH, 6, 6, 2)).astype("float32")


def test_three_steps_are_the_same_with_dropout_and_batch_norm():
    check_equal(conv_net, IMAGES)


def test_in_bfloat16():
    check_equal(conv_net, IMAGES, name="mixed_bfloat16")


@pytest.mark.slow
def test_a_batch_in_parts():
    check_equal(conv_net, IMAGES, parts=2)


@pytest.mark.slow
@pytest.mark.usefixtures("full_compilation")
@pytest.mark.parametrize("case", TEXTS, ids=lambda case: case.builder)
def test_several_inputs_integers_and_masks(case):
    inputs = case.batch(count=3 * BATCH)
    check_equal(lambda: case.build(optimizer="sgd", learning_rate=0.1), inputs)


def test_a_mask_that_leaves_a_segment():
    def build():
        tokens = keras.Input((8,), dtype="int32")
        real = keras.ops.not_equal(tokens, 0)  # read by every layer, made in the first
        x = layers.Embedding(9, WIDTH, name="embedding")(tokens)
        for i in range(DEPTH):
            x = layers.Dense(WIDTH, activation="tanh", name=f"dense{i}")(x)
            x = x * keras.ops.expand_dims(keras.ops.cast(real, x.dtype), -1)
        model = keras.Model(tokens, layers.Dense(2)(x[:, 0]))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        return model

    check_equal(build, np.arange(24 * 8).reshape(24, 8) % 9)


def held(model: keras.Model) -> int:
    """Return the bytes that a step holds from forward to backward."""
    rows = np.ones((1024, WIDTH), "float32")
    return {"torch": held_on_torch, "jax": held_on_jax}[keras.backend.backend()](
        model, rows
    )


def held_on_torch(model, rows):
    import torch

    sizes = {}

    def note(tensor):
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.from_numpy(rows), training=True)
    return sum(sizes.values())


def held_on_jax(model, rows):
    import jax

    weights, states = (
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )

    def loss(weights):
        outputs, _ = model.stateless_call(weights, states, rows, training=True)
        return (outputs**2).sum()

    compiled = jax.jit(jax.grad(loss)).lower(weights).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow does not tell"
)
def test_a_step_holds_less():
    plain, less = deep_net(), deep_net()
    rematerialise(less)
    assert held(less) < 0.7 * held(plain)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the others tell what they hold"
)
def test_a_step_computes_again():
    import tensorflow as tf

    def products(model):
        @tf.function
        def gradients(rows):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(rows, training=True))
            return tape.gradient(loss, model.trainable_variables)

        graph = gradients.get_concrete_function(tf.ones((BATCH, WIDTH))).graph
        return sum(operation.type == "MatMul" for operation in graph.get_operations())

    plain, less = deep_net(), deep_net()
    segments = rematerialise(less)
    assert products(plain) == 3 * DEPTH - 1  # nobody asks for the rows' gradient
    # The last segment is not computed again; any other gives its rows a gradient.
    again = products(less) - products(plain)
    assert DEPTH / 2 < again < DEPTH
    assert segments > 2


def test_at_prediction_nothing_changes():
    model = conv_net()
    expected = model.predict(IMAGES, verbose=0)
    rematerialise(model)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), expected)


@pytest.mark.backend_free
def test_what_cannot_be_cut_is_refused():
    row = keras.Input((4,))
    twice = layers.Dense(4, name="dense")
    shared = keras.Model(row, layers.Activation("relu", name="relu")(twice(twice(row))))
    with pytest.raises(InputError, match="calls a layer twice, before 'relu'"):
        rematerialise(shared)
    tokens = keras.Input((4,), dtype="int32")
    embedding = layers.Embedding(9, 4, mask_zero=True, name="embedding")(tokens)
    masked = keras.Model(tokens, layers.LSTM(2)(embedding))
    with pytest.raises(InputError, match=r"layer 'embedding' .* gives a mask"):
        rematerialise(masked)
    small = keras.Model(row, layers.Dense(4)(row))
    with pytest.raises(InputError, match="too small for rematerialisation"):
        rematerialise(small)
    with pytest.raises(InputError, match="not functional"):
        rematerialise(keras.Sequential())
    with pytest.raises(InputError, match="fine-tuning cannot do that"):
        Recipe(build="resnet", kind="image", pretrained="some", rematerialise=True)


@pytest.mark.backend_free
def test_several_devices_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("kerasdl.training.current", lambda: Distribution(devices=2))
    data = write_tsv(tmp_path / "texts.tsv", make_texts(20))
    with pytest.raises(InputError, match="several devices cannot do that"):
        kerasdl.train(replace(CNN, data=data, rematerialise=True), out=tmp_path / "out")


def test_a_recipe_says_so(tmp_path):
    data = write_tsv(tmp_path / "texts.tsv", make_texts(220, noise=0.2))
    # Plain Adam on TensorFlow leaves rows of an embedding alone that do not occur.
    recipe = replace(CNN, data=data, epochs=1, optimizer="sgd", learning_rate=0.1)
    plain = kerasdl.train(recipe, out=tmp_path / "plain")
    less = kerasdl.train(replace(recipe, rematerialise=True), out=tmp_path / "less")
    assert "call" in vars(less.predictor.model)
    assert "call" not in vars(plain.predictor.model)
    np.testing.assert_allclose(
        less.history["val_loss"], plain.history["val_loss"], rtol=1e-5
    )


@pytest.fixture
def cut(monkeypatch):
    """Return the numbers of segments of the models that trainings cut from now on."""
    segments = []
    monkeypatch.setattr(
        "kerasdl.fit.rematerialise", lambda model: segments.append(rematerialise(model))
    )
    return segments


def few_texts(folder):
    return write_tsv(folder / "texts.tsv", make_texts(40)), "--model", "text_cnn"


def few_images(folder):
    shown = pictures(40)
    np.savez(folder / "images.npz", images=shown.examples, labels=shown.labels)
    return (folder / "images.npz",)


def few_rows(folder):
    rows = [f"{i % 7},{i % 3},{'no' if i % 3 else 'yes'}\n" for i in range(40)]
    (folder / "rows.csv").write_text("a,b,class\n" + "".join(rows))
    return folder / "rows.csv", "--target", "class"


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("app", "data"),
    [("sentiment", few_texts), ("images", few_images), ("tabular", few_rows)],
)
def test_the_flag_of_a_command_reaches_the_model(
    app, data, cut, run_cli, monkeypatch, tmp_path
):
    def no_further(*_, **__):
        raise InputError("seen enough")

    monkeypatch.setattr("kerasdl.fit.warm_start", no_further)
    command = app, "train", "--data", *data(tmp_path), "--quick"
    for flags, count in (((), 0), (["--rematerialise"], 1)):
        code, _, err = run_cli(*command, *flags, "--out", tmp_path / "run")
        assert (code, "seen enough" in err) == (2, True), err
        assert len(cut) == count
    assert cut[0] > 1


@pytest.mark.slow
def test_a_resumed_run_keeps_it(cut, kill, run_cli, tmp_path):
    data = write_tsv(tmp_path / "texts.tsv", make_texts(220, noise=0.2))
    recipe = replace(CNN, data=data, epochs=1, rematerialise=True)
    whole, out = kerasdl.train(recipe, out=tmp_path / "whole"), tmp_path / "run"
    kill(3)
    with pytest.raises(Killed):
        kerasdl.train(recipe, out=out, every_steps=1)
    kill(-1)
    with pytest.raises(InputError, match="rematerialise was True, now False"):
        kerasdl.train(replace(recipe, rematerialise=False), out=out, resume=True)
    code, _, err = run_cli("sentiment", "train", "--resume", out)
    assert code == 0, err
    assert len(cut) == 3  # the whole run, the one that was killed, and as it went on
    weights = "bundle/weights.safetensors"
    assert (out / weights).read_bytes() == (whole.folder / weights).read_bytes()
