"""Precision: what is set and put back, chosen, resumed, scaled, and kept."""

import functools
import io
import json
import os
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
from resuming import Killed
from rich.console import Console
from test_training import CNN, NGRAM, make_texts, weights, write_tsv

import kerasdl
from kerasdl import backend
from kerasdl import precision as precisions
from kerasdl.bundle import save_bundle
from kerasdl.errors import InputError
from kerasdl.fit import choose_precision, fit
from kerasdl.phases import Phases
from kerasdl.precision import HALF, PLAIN, Choice, choose, precision

PLAIN_CNN = replace(CNN, batch_size=16, label_smoothing=0.0)
# Clipping, decay and averages must see gradients whose scale is taken off again.
OPTIONS = [
    {"optimizer": "sgd", "clip": 0.1, "accumulate": 3, "sam": 0.05},
    {"optimizer": "sgd", "clip": 0.05, "clip_by": "adaptive", "swa": 0.5, "plateau": 1},
    {"optimizer": "schedule_free_adamw", "learning_rate": 0.02},
]


@pytest.fixture
def built():
    """What `watched` builders have built."""
    return []


@pytest.fixture
def watched(built):
    """Return a builder that remembers what it builds."""

    def watch(name):
        builder = kerasdl.BUILDERS[name]

        @functools.wraps(builder)
        def build(**arguments):
            built.append(builder(**arguments))
            return built[-1]

        return build

    return watch


def computes_in(model) -> set[str]:
    return {layer.compute_dtype for layer in model.layers} - {None}


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16", "float32"])
def test_a_precision_is_set_and_put_back(name):
    before = keras.config.dtype_policy()
    with precision(name) as chosen, precision("float32"), precision(name):
        assert chosen == name == keras.config.dtype_policy().name
    with pytest.raises(KeyError), precision(name):
        raise KeyError
    assert keras.config.dtype_policy() is before
    with pytest.raises(ValueError, match="'float16'; expected one of"):
        precision("float16").__enter__()
    with pytest.raises(InputError, match="'fp8'; expected one of"):
        replace(CNN, precision="fp8")


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({"kind": "gpu", "capability": (7, 5)}, PLAIN),
        ({"kind": "gpu", "capability": None}, PLAIN),
        ({"kind": "gpu", "capability": (8, 0)}, HALF),
        ({"kind": "tpu", "capability": None}, HALF),
        ({"kind": "cpu", "capability": None}, PLAIN),
    ],
    ids=str,
)
def test_auto_goes_by_the_device(device, expected, monkeypatch):
    device = {"name": "It", "memory": None, **device}
    monkeypatch.setattr(backend, "devices", lambda: [device])
    monkeypatch.setattr(precisions, "cpu_facts", lambda: {"flags": "fma avx2"})
    precisions._by_device.cache_clear()
    try:
        assert choose().precision == choose(lambda: 1 / 0).precision == expected
        with precision("auto") as chosen:
            assert chosen == expected
        assert "It has" in str(choose())
    finally:
        precisions._by_device.cache_clear()


@pytest.mark.backend_free
@pytest.mark.parametrize(("seconds", "expected"), [(0.01, PLAIN), (0.002, HALF)])
def test_a_processor_takes_bfloat16_where_it_is_faster(seconds, expected, monkeypatch):
    device = {"name": "CPU", "kind": "cpu", "memory": None, "capability": None}
    monkeypatch.setattr(backend, "devices", lambda: [device])
    monkeypatch.setattr(precisions, "_by_device", lambda: Choice(HALF, "matrices"))
    monkeypatch.setattr(precisions, "SECONDS", 0.2)

    def make_step():
        is_half = keras.config.dtype_policy().name == HALF
        return lambda: time.sleep(seconds if is_half else 0.01)

    assert choose(make_step).precision == expected


def test_devices_are_described():
    first = backend.devices()[0]
    assert set(first) == {"name", "kind", "memory", "capability"}
    assert first["kind"] in {"cpu", "gpu", "tpu"}


def test_a_trial_leaves_no_trace(watched, built, monkeypatch):
    device = {"name": "CPU", "kind": "cpu", "memory": None, "capability": None}
    monkeypatch.setattr(backend, "devices", lambda: [device])
    monkeypatch.setattr(precisions, "_by_device", lambda: Choice(HALF, "matrices"))
    monkeypatch.setattr(precisions, "SECONDS", 0.0)
    texts, builder = make_texts(60), watched("text_cnn")
    few = choose_precision(PLAIN_CNN, builder, texts)
    assert few == Choice(PLAIN, "a trial does not pay for 8 steps")
    expected = fit(PLAIN_CNN, builder, texts)
    built.clear()
    choice = choose_precision(replace(PLAIN_CNN, epochs=500), builder, texts)
    assert "a training step of this model" in str(choice)
    assert [model.get_layer("logits").input.dtype for model in built] == [
        "float32",
        "bfloat16",
    ]
    found = fit(PLAIN_CNN, builder, texts)
    assert found.history["loss"] == expected.history["loss"]


def test_training_is_in_half_and_what_it_gives_in_float32(watched, built):
    recipe = replace(PLAIN_CNN, precision="mixed_bfloat16")
    texts = make_texts(60)
    found = fit(recipe, watched("text_cnn"), texts)
    trained, kept = built
    assert "bfloat16" in computes_in(trained)
    assert {weight.dtype for weight in trained.trainable_weights} == {"float32"}
    assert computes_in(kept) == {"float32"}
    assert found.predictor.model is kept
    for path, value in weights(kept).items():
        assert (value == weights(trained)[path]).all()
    plain = fit(PLAIN_CNN, watched("text_cnn"), texts)
    assert found.history["loss"] != plain.history["loss"]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_a_killed_training_goes_on_bit_for_bit(name, watched, built, kill, tmp_path):
    recipe = replace(PLAIN_CNN, precision=name, ema=0.9, clip=1.0, schedule="one_cycle")
    texts = make_texts(60)

    def train(folder):
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        phases = Phases(folder, saving={"every_steps": 1})
        return fit(recipe, watched("text_cnn"), texts, phases=phases)

    expected = train(tmp_path / "a")
    scaled = isinstance(built[0].optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (name == "mixed_float16")
    kill(6)  # of 8 steps
    with pytest.raises(Killed):
        train(tmp_path / "b")
    kill(-1)
    found = train(tmp_path / "b")
    assert found.history["loss"] == expected.history["loss"]
    for path, value in weights(found.predictor.model).items():
        assert (value == weights(expected.predictor.model)[path]).all()
    if scaled:  # each finite step counts, those before the kill, too
        slots = {v.name: v for v in built[-2].optimizer.variables}
        assert int(keras.ops.convert_to_numpy(slots["step_counter"])) == 8


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_float16_trains_as_float32_does(options):
    arguments = {**PLAIN_CNN.arguments, "dropout": 0.0}
    options = {"learning_rate": 0.3, "schedule": "constant", **options}
    recipe = replace(PLAIN_CNN, arguments=arguments, **options)
    builder, texts = kerasdl.BUILDERS["text_cnn"], make_texts(60)
    losses = [
        fit(replace(recipe, precision=name), builder, texts).history["loss"]
        for name in ("float32", "mixed_float16")
    ]
    np.testing.assert_allclose(*losses, atol=2e-3)
    assert losses[0][1] < losses[0][0] - 0.01


def test_what_auto_has_chosen_is_written_down_and_kept(kill, monkeypatch, tmp_path):
    data, out = write_tsv(tmp_path / "few.tsv", make_texts(40)), tmp_path / "run"
    recipe = replace(NGRAM, data=data, batch_size=8, precision="auto")
    choice, said = Choice(HALF, "so it is"), io.StringIO()
    options = {"out": out, "every_steps": 1, "console": Console(file=said)}
    monkeypatch.setattr("kerasdl.training.choose_precision", lambda *_: choice)
    for resume in (False, True):
        kill(2)
        with pytest.raises(Killed):
            kerasdl.train(recipe, resume=resume, **options)
        written = json.loads((out / "recipe.json").read_text())
        assert written["precision"] == HALF
        monkeypatch.setattr("kerasdl.training.choose_precision", None)  # not again
    assert said.getvalue().count("precision: mixed_bfloat16 (so it is)\n") == 1
    assert "resuming after" in said.getvalue()


def test_a_bundle_answers_alike_under_every_policy(tmp_path):
    texts = make_texts(20)
    fitted = fit(replace(NGRAM, precision=HALF), kerasdl.ngram_classifier, texts)
    save_bundle(
        tmp_path / "bundle",
        fitted.predictor,
        builder=fitted.builder,
        arguments=fitted.arguments,
        metrics={},
        card="",
        keras_copy=False,
    )
    expected = fitted.predictor.outputs(texts.examples)
    with precision(HALF):
        found = kerasdl.load(tmp_path / "bundle").outputs(texts.examples)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, expected)


@pytest.mark.backend_free
def test_a_precision_is_an_option(refused):
    command = "sentiment", "train", "--precision"
    refused(*command, "float16", words=["precision='float16'", "mixed_float16"])
    refused(*command, "float8", words=["8 bits", "take mixed_bfloat16"])


def test_float16_is_refused_where_attention_cannot_compute_in_it():
    recipe = replace(
        PLAIN_CNN,
        build="transformer_classifier",
        arguments={"depth": 1, "width": 8, "num_heads": 1},
        word_vectors=0.0,
        precision="mixed_float16",
    )
    builder = kerasdl.transformer_classifier
    kind = backend.devices()[0]["kind"]
    if (keras.backend.backend(), kind) != ("jax", "cpu"):
        assert fit(replace(recipe, epochs=1), builder, make_texts(20)).history["loss"]
        return
    with pytest.raises(InputError, match="no attention in float16 on a CPU; use"):
        fit(recipe, builder, make_texts(20))
    assert keras.config.dtype_policy().name == "float32"


def test_devices_is_a_command(run_cli, monkeypatch):
    monkeypatch.setattr(precisions, "peak", lambda _: 2e11)
    monkeypatch.setattr(precisions, "choose", lambda: Choice(HALF, "so it is"))
    code, printed, _ = run_cli("devices", "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["backend"] == keras.backend.backend()
    assert found["auto"] == HALF
    assert found["devices"][0]["kind"] == backend.devices()[0]["kind"]
    assert found["devices"][0]["memory"] > 2**28
    code, printed, _ = run_cli("devices")
    assert "200 GFLOP/s in bfloat16" in printed
    assert "auto is mixed_bfloat16 (so it is)" in printed


def test_the_peak_is_measured_and_memory_of_a_gpu_taken_as_needed(monkeypatch):
    monkeypatch.setattr(precisions, "PRODUCTS", 1)
    assert 1e8 < precisions.peak("float32") < 1e16
    name = {
        "tensorflow": "TF_FORCE_GPU_ALLOW_GROWTH",
        "jax": "XLA_PYTHON_CLIENT_PREALLOCATE",
    }.get(keras.backend.backend())
    assert name is None or name in os.environ
