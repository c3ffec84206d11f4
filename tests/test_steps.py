"""Micro-batches against whole batches, and sharpness-aware steps against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

from kerasdl.optimizers import make_optimizer
from kerasdl.steps import set_training_step
from kerasdl.tasks import AuxiliaryModel, compile_classifier

RANDOM = np.random.default_rng(1)
SERIES = RANDOM.normal(size=(10, 6, 4)).astype("float32")
SERIES[3:, 4:] = 0  # padding, not alike in all parts
SERIES[8:, 1:] = 0
LABELS = RANDOM.integers(0, 3, 10)
WEIGHTS = RANDOM.random(10).astype("float32")


def series(*, dropout=0.0):
    """Masked means, with a penalty on the weights."""
    inputs = keras.Input((6, 4))
    x = layers.Dense(5)(layers.Masking()(inputs))
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(dropout, seed=3)(x)
    logits = layers.Dense(3, kernel_regularizer="l2", dtype="float32")(x)
    return filled(keras.Model(inputs, logits))


def filled(model):
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    return model


def compiled(model, **options):
    optimizer = make_optimizer("sgd", 0.1, nesterov=False, **options)
    compile_classifier(model, optimizer=optimizer, learning_rate=0.0)
    return quick(model)


def quick(model):
    """Leave XLA out on TensorFlow, where it takes seconds a model."""
    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False
    return model


def gradients(model, *batch):
    """Take a step; return the gradients: what a first step leaves as momentum."""
    logs = model.train_on_batch(*batch, return_dict=True)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    slots = [v for v in optimizer.variables if v.name.endswith("momentum")]
    assert len(slots) == len(model.trainable_variables)
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 1
    return [keras.ops.convert_to_numpy(slot) / -0.1 for slot in slots], logs


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize("parts", [4, 30])
def test_parts_have_the_gradient_of_the_whole(parts):
    batch = SERIES, LABELS, WEIGHTS
    expected, logs = gradients(compiled(series(), clip=0.01), *batch)
    model = compiled(series(), clip=0.01)
    if parts == 4 and keras.backend.backend() == "tensorflow":
        model.jit_compile = True
    set_training_step(model, micro_batches=parts)
    found, counted = gradients(model, *batch)
    assert_close(found, expected, 1e-6)
    assert counted == pytest.approx(logs, rel=1e-6)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_bfloat16", 1e-2), ("mixed_float16", 1e-2)]
)
def test_parts_in_mixed_precision(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    try:
        models = [compiled(series()) for _ in range(2)]
    finally:
        keras.config.set_dtype_policy("float32")
    set_training_step(models[1], micro_batches=3)
    expected, found = (
        np.concatenate([part.ravel() for part in gradients(m, SERIES, LABELS)[0]])
        for m in models
    )
    # As a vector: how a processor rounds to 8 bits decides the single numbers.
    distance = np.linalg.norm(found - expected)
    assert distance <= tolerance * np.linalg.norm(expected)
    scaled = isinstance(models[1].optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")


def test_parts_count_by_their_valid_places():
    tags = np.eye(3)[RANDOM.integers(0, 3, (10, 6))]
    models = []
    for _ in range(2):
        inputs = keras.Input((6, 4))
        model = filled(keras.Model(inputs, layers.Dense(3)(layers.Masking()(inputs))))
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(make_optimizer("sgd", 0.1, nesterov=False), loss)
        models.append(quick(model))
    set_training_step(models[1], micro_batches=3)
    (expected, _), (found, _) = (gradients(model, SERIES, tags) for model in models)
    assert_close(found, expected, 1e-6)


def test_parts_of_a_model_with_a_loss_of_its_own():
    def model():
        x = layers.Flatten()(inputs := keras.Input((6, 4)))
        outputs = {name: layers.Dense(3, name=name)(x) for name in ("aux", "logits")}
        model = compiled(filled(AuxiliaryModel(inputs, outputs)))
        model.run_eagerly = keras.backend.backend() == "tensorflow"
        return model

    expected, _ = gradients(model(), SERIES, LABELS)
    split = model()
    set_training_step(split, micro_batches=4)
    assert_close(gradients(split, SERIES, LABELS)[0], expected, 1e-6)


def test_training_in_parts_is_training():
    """Uneven last batches and a schedule: the same weights, the same updates."""
    models = []
    for parts in (1, 2):
        model = series()
        schedule = keras.optimizers.schedules.CosineDecay(0.5, 6)
        optimizer = make_optimizer("adamw", schedule, ema=0.5)
        compile_classifier(model, optimizer=optimizer, learning_rate=0.0)
        quick(model)
        if parts > 1:
            set_training_step(model, micro_batches=parts)
        model.fit(SERIES, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0)
        assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 6
        models.append(model)
    plain, split = (model.get_weights() for model in models)
    assert_close(split, plain, 1e-5)


def test_batch_norm_sees_each_part():
    x = keras.Input((1,))
    norm = layers.BatchNormalization(momentum=0.5)
    model = compiled(keras.Model(x, layers.Dense(2)(norm(x))))
    set_training_step(model, micro_batches=2)
    model.train_on_batch(np.array([[2.0], [2.0], [6.0]]), np.array([0, 1, 1]))
    mean = keras.ops.convert_to_numpy(norm.moving_mean)
    np.testing.assert_allclose(mean, [(0 + 2) / 2 / 2 + 6 / 2], rtol=1e-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_sharpness_aware_step_is_that_of_the_paper(parts):
    x = np.array([[1.0, 2.0], [-1.0, 0.5], [3.0, 1.0]], "float32")
    y = np.array([[1.0], [2.0], [0.5]], "float32")
    weight = np.array([[0.5], [-1.0]], "float32")

    def gradient_at(weight):
        return 2 * x.T @ (x @ weight - y) / len(x)

    first = gradient_at(weight)
    worst = weight + 0.3 * first / np.linalg.norm(first)
    expected = weight - 0.1 * gradient_at(worst)

    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.set_weights([weight])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    quick(model)
    set_training_step(model, micro_batches=parts, radius=0.3)
    logs = model.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-6)
    assert logs["loss"] == pytest.approx(np.mean((x @ weight - y) ** 2), rel=1e-6)


def test_sharpness_aware_step_drops_the_same_twice():
    models = [compiled(series(dropout=0.5)) for _ in range(2)]
    set_training_step(models[1], radius=1e-6)
    (expected, _), (found, _) = (gradients(m, SERIES, LABELS) for m in models)
    assert_close(found, expected, 1e-4)
    seeds = [
        [keras.ops.convert_to_numpy(v).tolist() for v in m.non_trainable_variables]
        for m in models
    ]
    assert seeds[0] == seeds[1]


class OwnStep(keras.Model):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 0}, r"micro_batches=0; expected an integer of at least 1"),
        ({"radius": -1}, r"radius=-1; expected a number"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        set_training_step(compiled(series()), **options)


def test_what_cannot_be_split_is_refused():
    x = keras.Input((2,))
    model = OwnStep(x, layers.Dense(1)(x), name="mine")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="'mine' has a training step of its own"):
        set_training_step(model, micro_batches=2)
    model = keras.Model(x, layers.Dense(1)(x), name="summed")
    model.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    with pytest.raises(ValueError, match="'summed' has reduction='sum'"):
        set_training_step(model, micro_batches=2)
