"""Plateau, averages and unfreezing, in `fit`, against what NumPy makes of it."""

import keras
import numpy as np
import pytest
import safetensors.numpy
from keras import layers

from kerasdl.callbacks import (
    AveragedWeights,
    LowerRateOnPlateau,
    Unfreeze,
    standard_callbacks,
)
from kerasdl.callbacks.averaging import StochasticAverage, averaging
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.errors import InputError
from kerasdl.optimizers import make_optimizer

X = np.array([[1.0], [-1.0]], "float32")


def linear(optimizer):
    """A model that has to learn `y = 2x`."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((1, 1))])
    model.compile(optimizer, "mse")
    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False
    return model


def fit(model, epochs, *callbacks, **options):
    data = {"validation_data": (X, 2 * X), "batch_size": 2, "verbose": 0, **options}
    return model.fit(X, 2 * X, epochs=epochs, callbacks=list(callbacks), **data).history


def weight(model):
    return float(model.get_weights()[0].item())


class Watch(keras.callbacks.Callback):
    """Note the weight at every epoch's begin and end."""

    def __init__(self):
        super().__init__()
        self.begin, self.end, self.rates = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.begin.append(weight(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.end.append(weight(self.model))
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        self.rates.append(float(rate))


@pytest.mark.parametrize("kind", ["float", "ours", "keras"])
def test_plateau_lowers_the_rate_along_with_the_schedule(kind):
    linear_fall = keras.optimizers.schedules.PolynomialDecay(0.4, 8, 0.0)
    optimizer = {
        "float": lambda: make_optimizer("sgd", 0.4, momentum=0.0),
        "ours": lambda: make_optimizer("sgd", linear_fall, momentum=0.0),
        "keras": lambda: keras.optimizers.SGD(linear_fall),
    }[kind]()
    watch, model = Watch(), linear(optimizer)
    plateau = LowerRateOnPlateau("val_loss", factor=0.5, patience=2, min_delta=100)
    fit(model, 6, watch, plateau)
    scales = [1, 1, 1, 0.5, 0.5, 0.25]  # seen before the plateau acts
    falls = [1.0 if kind == "float" else 1 - step / 8 for step in range(1, 7)]
    np.testing.assert_allclose(watch.rates, 0.4 * np.multiply(scales, falls), rtol=1e-5)
    expected = 0.0
    for step, scale in enumerate([1, 1, 1, 0.5, 0.5, 0.25]):
        fall = 1.0 if kind == "float" else 1 - step / 8
        expected += 0.4 * scale * fall * 2 * (2 - expected)
    assert weight(model) == pytest.approx(expected, rel=1e-5)


def test_plateau_gives_and_takes_its_state():
    plateau = LowerRateOnPlateau("accuracy")
    plateau.set_model(linear("sgd"))
    plateau.on_train_begin()
    plateau.on_epoch_end(0, {"accuracy": 0.5})
    plateau.on_epoch_end(1, {"accuracy": 0.4})
    assert plateau.state_dict() == {"best": -0.5, "wait": 1}
    other = LowerRateOnPlateau("accuracy")
    other.load_state_dict(plateau.state_dict())
    assert other.state_dict() == plateau.state_dict()


def test_moving_average_is_validated_and_training_goes_on():
    model, watch = linear(make_optimizer("sgd", 0.1, momentum=0.0, ema=0.5)), Watch()
    history = fit(model, 4, AveragedWeights(), watch)
    raw, average, weights, averages = 0.0, 0.0, [], []
    for step in range(4):
        raw += 0.1 * 2 * (2 - raw)
        average = raw if step == 0 else 0.5 * average + 0.5 * raw
        weights.append(raw)
        averages.append(average)
    np.testing.assert_allclose(watch.begin, [0, *weights[:-1]], rtol=1e-6)
    np.testing.assert_allclose(watch.end, averages, rtol=1e-6)
    losses = (np.array(averages) - 2) ** 2
    np.testing.assert_allclose(history["val_loss"], losses, rtol=1e-5)
    assert weight(model) == pytest.approx(averages[-1], rel=1e-6)


def test_average_of_schedule_free_adamw():
    optimizer = make_optimizer("schedule_free_adamw", 0.1)
    model, watch = linear(optimizer), Watch()
    fit(model, 4, *averaging(optimizer), watch)
    fast = average = moment = 0.0  # Defazio et al. 2024: z, x and v
    for step in range(1, 5):
        here = 0.1 * fast + 0.9 * average
        gradient = 2 * (here - 2)
        moment = 0.999 * moment + 0.001 * gradient**2
        fast -= 0.1 * gradient / np.sqrt(moment / (1 - 0.999**step))
        average += (fast - average) / step
        assert watch.end[step - 1] == pytest.approx(average, rel=1e-4)
    assert averaging(keras.optimizers.SGD()) == []


@pytest.mark.parametrize(
    "options",
    [{"name": "schedule_free_adamw"}, {"name": "adam", "ema": 0.5}, {"name": "adam"}],
    ids=["schedule-free", "moving", "none"],
)
def test_standard_callbacks_validate_and_keep_averages(options, tmp_path):
    def trained(make_callbacks):
        model, watch = linear(make_optimizer(learning_rate=0.1, **options)), Watch()
        callbacks = [*make_callbacks(model.optimizer), watch]
        return model, watch, fit(model, 4, *callbacks)

    _, expected, history = trained(averaging)
    model, found, logs = trained(lambda _: standard_callbacks(tmp_path, patience=9))
    assert (found.begin, found.end) == (expected.begin, expected.end)
    assert logs["val_loss"] == history["val_loss"]
    best = expected.end[int(np.argmin(history["val_loss"]))]
    path = tmp_path / "checkpoints" / "best.safetensors"
    (stored,) = safetensors.numpy.load_file(path).values()
    assert stored.item() == best
    assert weight(model) == best
    _, raw, _ = trained(lambda _: standard_callbacks(None, patience=9, averages=False))
    assert (raw.end == found.end) == (options == {"name": "adam"})


def test_a_new_process_goes_on_from_the_training_weights():
    """What a checkpoint at the end of an epoch holds is the average, and the rest."""
    whole = linear(make_optimizer("sgd", 0.1, momentum=0.0, ema=0.5))
    fit(whole, 4, AveragedWeights())
    first = linear(make_optimizer("sgd", 0.1, momentum=0.0, ema=0.5))
    callback = AveragedWeights()
    fit(first, 2, callback)

    class Restore(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            resumed.load_state_dict(callback.state_dict())

    second = linear(make_optimizer("sgd", 0.1, momentum=0.0, ema=0.5))
    second.optimizer.build(second.trainable_variables)
    second.set_weights(first.get_weights())
    for one, other in zip(
        second.optimizer.variables, first.optimizer.variables, strict=True
    ):
        one.assign(other)
    resumed = AveragedWeights()
    fit(second, 4, resumed, Restore(), initial_epoch=2)
    assert weight(second) == weight(whole)


def test_stochastic_average_has_statistics_of_its_own():
    images = np.random.default_rng(0).normal(3, 2, (6, 2)).astype("float32")
    source = BatchSource({"x": Dense(images)}, images[:, :1], batch_size=3)
    inputs = keras.Input((2,))
    norm = layers.BatchNormalization()
    hidden = layers.Dense(2, name="hidden")
    model = keras.Model(inputs, layers.Dense(1)(norm(hidden(inputs))))
    model.compile(keras.optimizers.SGD(0.05), "mse")
    kernels = []

    class Note(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernels.append([w.copy() for w in hidden.get_weights()])

        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                if hasattr(self.model, "jax_state_sync"):
                    self.model.jax_state_sync()
                kernels.append([w.copy() for w in hidden.get_weights()])

    swa = StochasticAverage(source, start=1)
    model.fit(source, epochs=3, callbacks=[swa, Note()], verbose=0, shuffle=False)
    after = [kernels[i] for i in (3, 5)]  # the ends of the second and third epoch
    kernel, bias = (np.mean(pair, axis=0) for pair in zip(*after, strict=True))
    np.testing.assert_allclose(hidden.get_weights()[0], kernel, rtol=1e-5)
    seen = [images[rows] @ kernel + bias for rows in source.order]
    mean, variance = (
        np.mean([f(x, axis=0) for x in seen], 0) for f in (np.mean, np.var)
    )
    np.testing.assert_allclose(norm.get_weights()[2], mean, rtol=1e-4)
    np.testing.assert_allclose(norm.get_weights()[3], variance, rtol=1e-4)
    assert norm.momentum == 0.99
    assert swa.state_dict()["count"] == 2


@pytest.mark.parametrize(
    ("values", "mean", "count"),
    [
        ([np.nan, 1.0, np.inf, 3.0, np.nan], 2.0, 2),
        ([3e38, -3e38], 3e38, 1),  # their distance is infinite in 32 bits
    ],
)
def test_a_stochastic_average_stays_finite(values, mean, count):
    source = BatchSource({"x": Dense(X)}, 2 * X, batch_size=2)
    swa, model = StochasticAverage(source, start=0), linear("sgd")
    swa.set_model(model)
    swa.on_train_begin()
    for epoch, value in enumerate(values):
        swa.on_epoch_begin(epoch)
        model.set_weights([np.full((1, 1), value)])
        swa.on_epoch_end(epoch)
    assert weight(model) == np.float32(mean)
    assert swa.state_dict()["count"] == count


def test_weights_are_unfrozen_in_their_epoch():
    optimizer = make_optimizer("adamw", 0.1, weight_decay=0.1, factors={})
    inputs = keras.Input((1,))
    body = layers.Dense(2, name="body")
    model = keras.Model(inputs, layers.Dense(1, name="head")(body(inputs)))
    model.compile(optimizer, "mse")
    kernels = [body.get_weights()[0]]

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernels.append(body.get_weights()[0])

    fit(model, 3, Unfreeze({"body": 5, "body/kernel": 2}), Note())
    np.testing.assert_array_equal(kernels[2], kernels[0])
    assert np.abs(kernels[3] - kernels[2]).min() > 0


@pytest.mark.parametrize(
    ("optimizer", "path", "message"),
    [
        ("adam", "dense", "a rate for each weight; make it with"),
        (None, "nothing", "no weight's path begins with 'nothing'"),
    ],
)
def test_what_cannot_be_unfrozen_is_refused(optimizer, path, message):
    model = linear(optimizer or make_optimizer("adam", 0.1, factors={}))
    with pytest.raises(InputError, match=message):
        fit(model, 1, Unfreeze({path: 1}))


def test_statistics_of_an_average_are_those_of_a_whole_epoch_after_a_resume():
    data = np.arange(12, dtype="float32")[:, None]
    source = BatchSource({"x": Dense(data)}, data, batch_size=2, seed=0)
    swa = StochasticAverage(source, start=0)
    swa.on_train_begin()
    source.start(0, 4)
    source.on_epoch_begin()
    assert len(source.order) == 2
    assert sorted(np.concatenate(list(swa._batches())).ravel()) == list(range(12))
