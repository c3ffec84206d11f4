"""Fine-tuning: what moves, what stays, and what is kept."""

import csv
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from test_pretrained import ENCODER, SHAPE, TINY, values, write_bundle

import kerasdl
from kerasdl import backend, finetuning
from kerasdl.backend import forward
from kerasdl.bundle import save_bundle
from kerasdl.callbacks import KeepBest
from kerasdl.data.labelled import Labelled, hold_out
from kerasdl.errors import InputError
from kerasdl.finetuning import fit_backbone, fit_pretrained
from kerasdl.heads import Encoded, fit_head
from kerasdl.logistic import STRENGTHS, best_strength, log_losses, regress
from kerasdl.models.pretrained import keras_hub
from kerasdl.phases import Phases

QUIET = Console(quiet=True)
CNN = {"filters": [8, 8, 16], "input_shape": list(SHAPE)}


def made_up(count, seed=0):
    """Images whose class is the colour that is brightest, with a bright half."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = random.integers(0, 160, (count, *SHAPE))
    images[np.arange(count), :, :, labels] += 60
    images[:, :, :16] += 30
    return Labelled("made up", images.astype("uint8"), labels, ("red", "green", "blue"))


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """A bundle of a small network of ours."""
    folder = tmp_path_factory.mktemp("cnn") / "bundle"
    model = kerasdl.cnn(**CNN, num_classes=3, optimizer=None)
    write_bundle(folder, model, "cnn", {**CNN, "num_classes": 3})
    return str(folder)


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory):
    """A preset folder of a small network of KerasHub, with layers within layers."""
    folder = str(tmp_path_factory.mktemp("efficientnet"))
    hub = keras_hub()
    # KerasHub forgets another number of features when it saves.
    settings = {**TINY["EfficientNetBackbone"], "num_features": 1280}
    hub.models.EfficientNetBackbone(**settings, input_shape=SHAPE).save_to_preset(
        folder
    )
    hub.layers.EfficientNetImageConverter(
        image_size=SHAPE[:2], scale=1 / 127.5, offset=-1
    ).save_to_preset(folder)
    return folder


@pytest.fixture(params=["cnn", "efficientnet"])
def source(request):
    return request.getfixturevalue(request.param)


def prepared(source, count=24):
    opened = finetuning.open_pretrained(source)
    sets = [made_up(count), made_up(12, seed=1)]
    encoder = opened.encoder
    sets = [Encoded(encoder, encoder.encode(part.examples), part) for part in sets]
    return opened.build(3), *sets


def plain(source, **changes):
    recipe = replace(finetuning.finetuning(source), augment="none", epochs=1)
    return replace(recipe, **changes)


def test_cached_features_give_the_logits_of_the_whole_model(source):
    model, training, validation = prepared(source)
    before = values(model)
    head = fit_head(model, plain(source), training, validation, console=QUIET)
    logits = training.outputs(model)
    features = keras.Model(model.input, model.get_layer("logits").input)
    kernel, bias = model.get_layer("logits").get_weights()
    cached = training.outputs(features) @ kernel + bias
    np.testing.assert_allclose(logits, cached, atol=1e-3)
    labels = training.data.labels
    expected = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    loss = expected[np.arange(len(labels)), labels].mean()
    assert head.history["loss"] == pytest.approx([loss], abs=1e-3)
    assert head.history["accuracy"] == [np.mean(logits.argmax(axis=1) == labels)]
    for path, value in values(model).items():
        moved = not np.array_equal(value, before[path])
        assert moved == path.startswith("logits")


def test_lower_parts_stay_frozen_and_all_statistics_stay(source):
    model, training, validation = prepared(source)
    before = values(model)
    parts = finetuning.parts_from_above(model)
    recipe = plain(source, learning_rate=0.01)
    history = fit_backbone(model, recipe, training, validation, Phases())
    assert len(history["val_loss"]) == 1
    assert [weight.path for weight in parts[0]] == ["logits/kernel", "logits/bias"]
    upper = {weight.path for part in parts[:2] for weight in part}
    lower = {weight.path for part in parts[2:] for weight in part}
    moved = {p for p, x in values(model).items() if not np.array_equal(x, before[p])}
    assert len(upper) > 2
    assert moved == upper
    statistics = [path for path in before if "moving_" in path]
    assert statistics
    # Nothing is left frozen.
    assert {v.path for v in model.trainable_variables} == upper | lower


def test_in_the_end_all_parts_learn(cnn):
    model, training, validation = prepared(cnn)
    before = values(model)
    recipe = plain(cnn, epochs=3, learning_rate=0.01)
    history = fit_backbone(model, recipe, training, validation, Phases())
    assert len(history["val_loss"]) == 3
    moved = {p for p, x in values(model).items() if not np.array_equal(x, before[p])}
    assert moved == {variable.path for variable in model.trainable_variables}


def test_what_is_no_better_than_the_head_is_not_kept(cnn, monkeypatch):
    monkeypatch.setattr(finetuning, "PARTS", 1)
    data, validation = made_up(24), made_up(60, seed=1)
    recipe = plain(cnn, epochs=2, learning_rate=10.0)
    fitted = fit_pretrained(recipe, data, validation=validation)
    found = values(fitted.predictor.model)
    before = values(prepared(cnn)[0])
    for path, value in found.items():
        if not path.startswith("logits"):
            np.testing.assert_array_equal(value, before[path])


def test_few_images_give_a_head_that_has_seen_them_all_in_the_end(cnn):
    data = made_up(40)
    predictor = fit_pretrained(plain(cnn), data).predictor
    kept, validation = hold_out(data, 0.1, seed=0)
    order = [*kept.examples, *validation.examples]
    features = keras.Model(
        predictor.model.input, predictor.model.get_layer("pool").output
    )
    x = forward(features)(ENCODER.encode(np.array(order))["image"].pad(0))
    labels = np.concatenate([kept.labels, validation.labels])
    weights = predictor.model.get_layer("logits").get_weights()
    fits = [regress(x[:, None], labels, strength) for strength in STRENGTHS]
    assert any(np.allclose(weights[0], kernel, atol=1e-3) for kernel, _ in fits)
    before = values(prepared(cnn)[0])
    for path, value in values(predictor.model).items():
        if not path.startswith("logits"):
            np.testing.assert_array_equal(value, before[path])


def test_better_is_more_than_a_standard_error():
    assert finetuning.is_better(np.array([1.0, 2, 3]), np.array([2.0, 3.1, 4]))
    assert not finetuning.is_better(np.array([1.0, 2, 3]), np.array([1.1, 3, 2.5]))
    assert not finetuning.is_better(np.ones(3), np.ones(3))
    assert not finetuning.is_better(np.ones(3), np.zeros(3))


def test_the_best_epoch_is_kept(cnn, monkeypatch):
    monkeypatch.setattr(finetuning, "PARTS", 1)
    model, training, validation = prepared(cnn)
    recipe = plain(cnn, epochs=3, learning_rate=0.02)
    history = fit_backbone(model, recipe, training, validation, Phases())
    loss = validation.losses(model).mean()
    assert loss == pytest.approx(min(history["val_loss"]), rel=1e-3)


@pytest.mark.parametrize(
    ("source", "augment", "precision"),
    [("cnn", "light", "mixed_bfloat16"), ("efficientnet", "none", "float32")],
    indirect=["source"],
)
def test_a_fine_tuned_bundle_answers_the_same(source, augment, precision, tmp_path):
    recipe = plain(source, augment=augment, precision=precision)
    data = made_up(60)
    validation = made_up(60, seed=1)
    (tmp_path / "checkpoints").mkdir()
    fitted = fit_pretrained(
        recipe, data, validation=validation, phases=Phases(tmp_path)
    )
    assert fitted.predictor.model.get_layer("pool").compute_dtype == "float32"
    test = made_up(30, seed=2)
    answers = fitted.predictor.answers(test.examples)
    assert np.mean(answers.argmax(axis=1) == test.labels) > 0.6
    save_bundle(
        tmp_path / "bundle",
        fitted.predictor,
        builder=fitted.builder,
        arguments=fitted.arguments,
        metrics={},
        card="",
        keras_copy=False,
    )
    loaded = kerasdl.load(tmp_path / "bundle")
    np.testing.assert_allclose(loaded.answers(test.examples), answers, atol=1e-6)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == fitted.history["val_loss"]
    assert len(rows) == 2  # of the head, and of one epoch


def test_the_head_sees_mirror_images_where_the_recipe_augments(cnn):
    model, training, validation = prepared(cnn)
    recipe = plain(cnn)
    kernels = []
    for augment in ("none", "light"):
        recipe = replace(recipe, augment=augment)
        fit_head(model, recipe, training, validation, console=QUIET)
        kernels.append(model.get_layer("logits").get_weights()[0])
    assert not np.allclose(*kernels, rtol=1e-3)


def test_images_of_another_size(cnn):
    recipe = plain(cnn, encoder={"image_size": 24})
    fitted = fit_pretrained(recipe, made_up(30))
    assert fitted.predictor.model.input_shape == (None, 24, 24, 3)
    assert fitted.arguments["input_shape"] == [24, 24, 3]


def test_unlabelled_images_are_refused(cnn):
    with pytest.raises(InputError, match="unlabelled"):
        fit_pretrained(plain(cnn), made_up(9), [1])


# The parts.


@pytest.mark.parametrize("classes", [2, 3])
def test_the_regression_is_that_of_scikit_learn(classes):
    random = np.random.default_rng(0)
    labels = np.arange(60) % classes
    features = random.normal(3, 2, (60, 5)) + np.eye(5)[labels]
    kernel, bias = regress(features[:, None], labels, 0.3)
    assert kernel.shape == (5, classes)
    logits = features @ kernel + bias
    scaled = (features - features.mean(axis=0)) / features.std(axis=0).mean()
    expected = LogisticRegression(C=0.3).fit(scaled, labels).predict_proba(scaled)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, atol=1e-3)
    assert log_losses(logits, labels).mean() == pytest.approx(
        -np.log(expected[np.arange(60), labels]).mean(), abs=1e-3
    )


def test_two_equal_views_count_as_one():
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = random.normal(size=(40, 1, 5)) + labels[:, None, None]
    once = regress(features, labels, 1.0)
    twice = regress(np.repeat(features, 2, axis=1), labels, 1.0)
    np.testing.assert_allclose(once[0], twice[0], atol=1e-3)


def test_noise_is_penalised_more_than_what_tells_the_classes_apart():
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    noise = random.normal(size=(80, 1, 30))
    clear = noise + 4 * labels[:, None, None]

    def best(features):
        return best_strength(features, labels, features, labels, None, seed=0)

    assert best(noise) < best(clear)


@pytest.mark.parametrize("epochs", range(8))
def test_stages_cover_every_epoch_from_above(epochs):
    found = list(finetuning.stages(epochs))
    depths = [depth for depth, _ in found]
    assert depths == sorted(depths)
    covered = [epoch for _, span in found for epoch in range(*span)]
    assert covered == list(range(epochs))
    assert depths[-1:] == ([] if epochs == 0 else [min(epochs, finetuning.PARTS)])


def test_rates_fall_from_part_to_part(cnn):
    model, *_ = prepared(cnn)
    parts = finetuning.parts_from_above(model)
    assert sum(map(len, parts)) == len(model.trainable_variables)
    assert parts[-1][0].path == "stage1_conv1/kernel"
    order = [v.path for v in model.trainable_variables]
    places = [order.index(part[0].path) for part in parts]
    assert all(above > below for above, below in itertools.pairwise(places))
    images = ENCODER.encode(made_up(3).examples)["image"].pad(0)
    graph = finetuning.AsAtPrediction(model.input, model.output)
    calm = keras.ops.convert_to_numpy(graph(images, training=True))
    np.testing.assert_allclose(calm, forward(model)(images), atol=1e-4)


# What a recipe asks of the epochs.


@pytest.fixture
def seen(monkeypatch):
    """Weights by path after each step, and those kept and validated of each epoch."""
    found = {"steps": [], "epochs": []}
    end = KeepBest.on_epoch_end

    def on_train_batch_end(self, *_, **__):
        assert self.model.built  # asking for it brings the weights up to date on JAX
        found["steps"].append(values(self.kept))

    def on_epoch_end(self, epoch, logs=None):
        found["epochs"].append(values(self.kept))
        end(self, epoch, logs)

    monkeypatch.setattr(KeepBest, "on_train_batch_end", on_train_batch_end)
    monkeypatch.setattr(KeepBest, "on_epoch_end", on_epoch_end)
    return found


def tuned(source, seen, **changes):
    backend.set_seed(0)
    model, training, validation = prepared(source)
    before = values(model)
    for weights in seen.values():
        weights.clear()
    recipe = plain(source, batch_size=8, learning_rate=0.01, **changes)
    fit_backbone(model, recipe, training, validation, Phases())
    return before, [dict(weights) for weights in seen["epochs"]]


@pytest.mark.slow
def test_averages_are_validated_and_kept(source, seen, monkeypatch):
    monkeypatch.setattr(finetuning, "PARTS", 1)
    before, epochs = tuned(source, seen, epochs=2)
    steps = [dict(weights) for weights in seen["steps"]]
    assert len(steps) == 6
    _, moving = tuned(source, seen, epochs=2, ema=0.8)
    _, stochastic = tuned(source, seen, epochs=2, swa=1.0)
    for path, value in before.items():
        expected, means = value, []
        for place, weights in enumerate(steps):
            # Keras begins with the weights after the first step.
            share = 0.8 if place else 0.0
            expected = share * expected + (1 - share) * weights[path]
            if place in (2, 5):
                means.append(expected)
        pairs = zip((means[0], means[1]), moving, strict=True)
        halves = [epochs[0][path], (epochs[0][path] + epochs[1][path]) / 2]
        for mean, weights in [*pairs, *zip(halves, stochastic, strict=True)]:
            np.testing.assert_allclose(weights[path], mean, rtol=1e-4, atol=1e-5)
        if "moving_" in path:
            np.testing.assert_array_equal(stochastic[1][path], value)


@pytest.mark.slow
def test_a_stage_that_does_not_fit_into_memory_is_computed_in_parts(cnn, monkeypatch):
    run, tried = finetuning.run_epochs, []

    def run_epochs(model, recipe, *others, **options):
        tried.append(recipe.accumulate)
        history = run(model, recipe, *others, **options)
        if recipe.accumulate < 2:
            raise MemoryError
        return history

    def tune(**changes):
        backend.set_seed(0)
        model, training, validation = prepared(cnn)
        recipe = plain(cnn, epochs=2, augment="light", batch_size=8, **changes)
        history = fit_backbone(model, recipe, training, validation, Phases())
        return values(model), history

    expected = tune(accumulate=2)
    monkeypatch.setattr(finetuning, "run_epochs", run_epochs)
    found = tune()
    assert tried == [1, 2, 1, 2]
    assert found[1] == expected[1]
    for path, value in found[0].items():
        np.testing.assert_array_equal(value, expected[0][path])


def whole(folder, source):
    """Fine-tune in three stages, or go on with it; return all that is left."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    recipe = plain(source, augment="light", ema=0.5, epochs=3, batch_size=8)
    fitted = fit_pretrained(
        replace(recipe, learning_rate=0.01),
        made_up(24),
        validation=made_up(60, seed=1),
        phases=Phases(folder, saving={"every_steps": 1}),
    )
    found = values(fitted.predictor.model)
    return {path: value.tobytes() for path, value in found.items()}, fitted.history


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
import conftest, test_finetuning
from kerasdl.callbacks import Checkpoint

end = Checkpoint.on_train_batch_end

def on_train_batch_end(self, batch, logs=None):
    end(self, batch, logs)
    if self._store.folder.name == "stage-2" and batch == 1:
        self._writer.flush()
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoint.on_train_batch_end = on_train_batch_end
test_finetuning.whole(pathlib.Path(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.slow
def test_fine_tuning_killed_in_its_second_stage_goes_on_bit_for_bit(cnn, tmp_path):
    folder = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, Path(__file__).parent, folder, cnn],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = {path.name for path in (folder / "checkpoints" / "stage-2").iterdir()}
    assert left == {"step-00000001", "step-00000002"}
    assert whole(folder, cnn) == whole(tmp_path / "whole", cnn)
