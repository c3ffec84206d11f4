"""Optimizers, against their formulas and step by step in NumPy."""

import json

import keras
import numpy as np
import pytest

import kerasdl
from kerasdl.errors import InputError
from kerasdl.optimizers import (
    CLIP_BY,
    OPTIMIZERS,
    clip_by_weights,
    make_optimizer,
    make_scalable,
    scale_rate,
)
from kerasdl.schedules import OneCycle, learning_rate_schedule

KERNEL = np.array([[1.0, -2.0], [3.0, 0.5]], "float32")
BIAS = np.array([1.0, 2.0], "float32")


@pytest.fixture
def layer():
    """A layer with a kernel, and a bias that a decay must spare."""
    layer = keras.layers.Dense(2, name="dense")
    layer.build((None, 2))
    layer.set_weights([KERNEL, BIAS])
    return layer


def step(optimizer, layer, *gradients):
    variables = layer.trainable_variables
    gradients = [keras.ops.convert_to_tensor(g) for g in gradients]
    optimizer.apply(gradients, variables)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def trained(optimizer, steps=1):
    """Train `y = 2x` on two examples; return the weight."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((1, 1))])
    model.compile(optimizer, "mse")
    x = np.array([[1.0], [-1.0]], "float32")
    weights = []
    for _ in range(steps):
        model.train_on_batch(x, 2 * x)
        weights.append(float(model.get_weights()[0][0, 0]))
    return weights if steps > 1 else weights[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("factors", [None, {"other": 0.0}], ids=["keras", "ours"])
def test_all_optimizers_learn(name, factors):
    weights = trained(make_optimizer(name, 0.05, factors=factors), steps=20)
    assert 0.1 < weights[-1] < 4


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
@pytest.mark.parametrize("factors", [None, {}], ids=["keras", "ours"])
def test_decay_spares_biases(layer, name, factors):
    optimizer = make_optimizer(
        name, 0.5, weight_decay=0.1, factors=factors, **_muon_decay(name)
    )
    kernel, bias = step(optimizer, layer, 0 * KERNEL, 0 * BIAS)
    np.testing.assert_allclose(kernel, KERNEL * (1 - 0.5 * 0.1), rtol=1e-5)
    np.testing.assert_array_equal(bias, BIAS)


def _muon_decay(name):
    return {"adam_weight_decay": 0.1} if name == "muon" else {}


def test_norms_are_not_decayed(layer):
    norm = keras.layers.LayerNormalization()
    norm.build((None, 2))
    variables = [*norm.trainable_variables, layer.kernel]
    optimizer = make_optimizer("adamw", 0.5, weight_decay=0.1)
    optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    gamma, beta, kernel = (keras.ops.convert_to_numpy(v) for v in variables)
    np.testing.assert_array_equal(gamma, np.ones(2))
    np.testing.assert_array_equal(beta, np.zeros(2))
    np.testing.assert_allclose(kernel, 0.95 * KERNEL, rtol=1e-6)


def test_rate_is_scaled_along_with_the_schedule():
    optimizer = make_optimizer(
        "sgd", learning_rate_schedule("linear", 0.4, 4), momentum=0.0
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((1, 1))])
    model.compile(optimizer, "mse")
    x, weight = np.ones((1, 1)), 0.0
    for i, scale in enumerate([1, 0.5, 0.5, 0.25]):
        if i in (1, 3):
            scale_rate(model.optimizer, 0.5)
        model.train_on_batch(x, x)  # compiled at the first step
        weight += scale * 0.4 * (1 - i / 4) * 2 * (1 - weight)
        assert float(model.get_weights()[0][0, 0]) == pytest.approx(weight, rel=1e-5)
    assert "rate_scale" in {variable.name for variable in optimizer.variables}


def test_rate_without_a_schedule_is_scaled():
    optimizer = keras.optimizers.SGD(0.5)
    assert not make_scalable(optimizer)
    scale_rate(keras.optimizers.LossScaleOptimizer(optimizer), 0.5)
    assert float(optimizer.learning_rate) == 0.25


def test_optimizer_of_someone_else_is_made_scalable():
    schedule = keras.optimizers.schedules.CosineDecay(0.4, 10)
    optimizer = keras.optimizers.Adam(schedule)
    assert make_scalable(optimizer)
    assert not make_scalable(optimizer)
    scale_rate(optimizer, 0.5)
    assert float(optimizer.learning_rate) == pytest.approx(0.2)


def test_config_makes_the_same_optimizer_without_its_state():
    schedule = OneCycle(0.4, 10)
    for options in ({}, {"clip": 0.1, "clip_by": "adaptive"}):
        optimizer = make_optimizer("adamw", schedule, **options)
        scale_rate(optimizer, 0.5)
        again = type(optimizer).from_config(optimizer.get_config())
        assert float(again.learning_rate) == pytest.approx(0.016)
        assert float(optimizer.learning_rate) == pytest.approx(0.008)


def test_each_weight_has_its_rate(layer):
    factors = {layer.kernel.path: 0.1}
    optimizer = make_optimizer("sgd", 0.5, momentum=0.0, factors=factors)
    found = step(optimizer, layer, KERNEL, BIAS)
    np.testing.assert_allclose(found[0], KERNEL * 0.95, rtol=1e-6)
    np.testing.assert_allclose(found[1], BIAS * 0.5, rtol=1e-6)
    optimizer.rate_factors.assign([0.0, 0.0])
    again = step(optimizer, layer, KERNEL, BIAS)
    np.testing.assert_array_equal(again[0], found[0])
    np.testing.assert_array_equal(again[1], found[1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_factor_of_zero_freezes(layer, name):
    paths = [variable.path for variable in layer.trainable_variables]
    optimizer = make_optimizer(
        name, 0.5, factors=dict.fromkeys(paths, 0.0), weight_decay=0.1
    )
    for _ in range(2):
        kernel, bias = step(optimizer, layer, KERNEL, BIAS)
    np.testing.assert_allclose(kernel, KERNEL, rtol=3e-7)
    np.testing.assert_allclose(bias, BIAS, rtol=3e-7)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 2, 3, 4)])
def test_adaptive_clipping_is_that_of_the_paper(shape):
    random = np.random.default_rng(0)
    weights = random.normal(size=shape).astype("float32")
    weights[..., 0] = 0.0  # counts as if its norm was 0.001
    gradient = random.normal(size=shape).astype("float32")
    gradient[..., -1] *= 1e-4  # small enough to stay
    expected = gradient.copy()
    for unit in range(shape[-1]) if len(shape) > 1 else [slice(None)]:
        norm = np.linalg.norm(gradient[..., unit])
        most = 0.01 * max(np.linalg.norm(weights[..., unit]), 1e-3)
        if norm > most:
            expected[..., unit] *= most / norm
    found = keras.ops.convert_to_numpy(clip_by_weights(gradient, weights, 0.01))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_adaptive_clipping_in_training(layer):
    optimizer = make_optimizer("sgd", 1.0, momentum=0.0, clip=0.1, clip_by="adaptive")
    kernel, _ = step(optimizer, layer, 100 * KERNEL, 0 * BIAS)
    np.testing.assert_allclose(kernel, 0.9 * KERNEL, rtol=1e-5)


@pytest.mark.parametrize(
    ("clip_by", "expected"),
    [("value", [3, 2]), ("norm", [1.8, 2.4]), ("global_norm", [1.8, 2.4])],
)
def test_clipping_of_keras(clip_by, expected):
    variable = keras.Variable([5.0, 5.0])
    optimizer = make_optimizer("sgd", 1.0, momentum=0.0, clip=3.0, clip_by=clip_by)
    optimizer.apply([keras.ops.convert_to_tensor([3.0, 4.0])], [variable])
    changed = 5 - keras.ops.convert_to_numpy(variable)
    expected = [3, 3] if clip_by == "value" else expected
    np.testing.assert_allclose(changed, expected, rtol=1e-6)


def test_one_cycle_of_sgd_cycles_the_momentum():
    rate = OneCycle(0.1, 6)
    momentum = rate.momentum()
    weight, speed, expected = 0.0, 0.0, []
    for i in range(6):
        lr, share = float(rate(i)), float(momentum(i))
        gradient = 2 * (weight - 2)
        speed = share * speed - lr * gradient
        weight += share * speed - lr * gradient  # Nesterov
        expected.append(weight)
    found = trained(make_optimizer("sgd", rate), steps=6)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("clip", [0, 10], ids=["plain", "per weight"])
def test_one_cycle_of_adam_cycles_the_first_beta(clip):
    rate = OneCycle(0.1, 6)
    momentum = rate.momentum()
    weight, m, v, expected = 0.0, 0.0, 0.0, []
    for i in range(6):
        lr, beta = float(rate(i)), float(momentum(i))
        gradient = 2 * (weight - 2)
        m = beta * m + (1 - beta) * gradient
        v = 0.999 * v + 0.001 * gradient**2
        first, second = m / (1 - beta ** (i + 1)), v / (1 - 0.999 ** (i + 1))
        weight -= lr * first / np.sqrt(second)
        expected.append(weight)
    options = {"clip": 1e6, "clip_by": "adaptive"} if clip else {}
    found = trained(make_optimizer("adam", rate, **options), steps=6)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adamm"}, r"optimizer='adamm'.*did you mean 'adamw?'"),
        ({"name": "adam", "clip_by": "size"}, r"clip_by='size'"),
        *(
            ({"name": "sgd", "clip": -1.0, "clip_by": clip_by}, r"clip=-1\.0")
            for clip_by in CLIP_BY
        ),
        ({"name": "sgd", "clip": float("nan")}, r"clip=nan"),
        ({"name": "adam", "momentun": 1}, r"optimizer='adam'.*momentun"),
    ],
)
def test_what_is_unknown_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(learning_rate=0.1, **arguments)


@pytest.mark.parametrize(
    ("made", "name", "rate"),
    [
        (lambda: keras.optimizers.Lion(1e-4, beta_1=0.8), "lion", 1e-4),
        (lambda: keras.optimizers.SGD(0.1, clipnorm=2.0), "sgd", 0.1),
        (lambda: keras.optimizers.Muon(exclude_layers=["out"]), "muon", 1e-3),
        (lambda: keras.optimizers.Nadam(0.002), "nadam", 0.002),
    ],
)
def test_a_recipe_takes_an_optimizer_as_its_name_and_arguments(made, name, rate):
    given = made()
    recipe = kerasdl.Recipe(build="mlp", optimizer=given, learning_rate=5.0)
    assert (recipe.optimizer, recipe.learning_rate) == (name, rate)
    again = kerasdl.Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert kerasdl.Recipe(build="mlp", optimizer=made()) == recipe
    remade = make_optimizer(again.optimizer, rate, **again.optimizer_options)
    assert type(remade) is type(given)  # the same stand-in on PyTorch
    configs = [{**x.get_config(), "name": name} for x in (remade, given)]
    assert json.dumps(configs[0]) == json.dumps(configs[1])


def test_a_recipe_refuses_other_optimizers():
    class Mine(keras.optimizers.SGD):
        pass

    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    for optimizer, words in (
        (Mine(), "Mine"),
        (scaled, "LossScaleOptimizer"),
        (keras.optimizers.SGD(rate), "a schedule of its own"),
        (None, "NoneType"),
    ):
        with pytest.raises(InputError, match=words):
            kerasdl.Recipe(build="mlp", optimizer=optimizer)


def test_adaptive_clipping_adds_up_words_that_occur_twice():
    optimizer = make_optimizer("sgd", 1.0, momentum=0.0, clip=0.1, clip_by="adaptive")
    table = keras.layers.Embedding(4, 2, embeddings_initializer="ones")
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), table, keras.layers.GlobalAveragePooling1D()]
    )
    model.compile(optimizer, "mse")
    model.train_on_batch(np.array([[2, 2]]), np.zeros((1, 2)))
    # The gradient of each column has norm 1, from two halves; the weights have 2.
    expected = np.ones((4, 2))
    expected[2] -= 0.1 * 2
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
