"""Bundles: exact round trips, the same answers on every backend, no trust in files."""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from keras import layers, ops

import kerasdl
from kerasdl import bundle, manifest
from kerasdl.bundle import find_bundle, load, read_bundle, save_bundle
from kerasdl.data.text import TextEncoder
from kerasdl.errors import InputError
from kerasdl.manifest import seal
from kerasdl.predict import Classifier
from kerasdl.spec import REQUIRED
from kerasdl.weights import pack_float

TEXTS = [
    "a good, good film",
    "bad film!!!",
    "",
    " \t\n",
    "not good but not bad either " * 30,
    "zebra <br /> good :-)",
    "x",
]
LABELS = ("negative", "positive")
TEMPERATURE = 1.7
FILES = sorted(REQUIRED | {bundle.MANIFEST, bundle.KERAS_COPY})
LOAD_ELSEWHERE = """
import json, sys
import keras, kerasdl
from test_bundle import TEXTS, allowed, load, save
predictor = load(sys.argv[1], builders=allowed())
save(sys.argv[2], predictor.model, predictor.encoder)
print(json.dumps([predictor.answers(TEXTS).tolist(), sorted(sys.modules)]))
"""


def tiny(vocabulary_size=40, num_classes=2, *, width=4, optimizer="adam"):
    """Build a mean-of-embeddings classifier with moving statistics and dropout."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = ops.expand_dims(ops.cast(ops.not_equal(tokens, 0), "float32"), -1)
    x = layers.Embedding(vocabulary_size, width, name="embedding")(tokens) * mask
    x = ops.sum(x, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.1, name="dropout")(x)
    model = keras.Model(tokens, layers.Dense(num_classes, name="logits")(x))
    if optimizer:
        model.compile(optimizer, "mse")
    return model


def allowed():
    """Return the allow-list of these tests."""
    return {"tiny": tiny}


def save(folder, model, encoder, **options):
    """Save a model that `tiny` built."""
    vocabulary_size, width = model.get_layer("embedding").embeddings.shape
    arguments = {"vocabulary_size": vocabulary_size, "width": width}
    return save_bundle(
        folder,
        Classifier(model, encoder, LABELS, TEMPERATURE),
        **{
            "builder": "tiny",
            "arguments": arguments,
            "metrics": {"accuracy": 0.5},
            "card": "# Tiny\n",
            **options,
        },
    )


def randomise(model, seed=0):
    """Give every weight random values, variances positive ones."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(random.uniform(0.5, 1.5, weight.shape) * random.choice([-1, 1]))
        if "variance" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


def values(model):
    """Return every weight as an array, by path."""
    return {weight.path: ops.convert_to_numpy(weight.value) for weight in model.weights}


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.fit(TEXTS, min_count=1, max_tokens=20)


@pytest.fixture(scope="module")
def model():
    return randomise(tiny())


@pytest.fixture(scope="module")
def original(tmp_path_factory, model, encoder):
    return save(tmp_path_factory.mktemp("run") / "bundle", model, encoder)


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def refused(folder, match):
    """Load a bundle that must be refused, in one sentence."""
    with pytest.raises(InputError, match=match) as caught:
        load(folder, builders=allowed())
    assert "\n" not in str(caught.value)


def edit_spec(folder, **changes):
    """Change the spec and make the checksums fit again, as an attacker would."""
    path = folder / bundle.SPEC
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    seal(folder)


def edit_weights(folder, edit):
    """Change the stored arrays and make the checksums fit again."""
    path = folder / bundle.WEIGHTS
    arrays = safetensors.numpy.load_file(path)
    edit(arrays)
    path.write_bytes(safetensors.numpy.save(arrays))
    seal(folder)


def test_round_trip_is_exact(original, model, encoder):
    keras.Sequential([layers.Dense(3), layers.Dense(3)]).build((1, 2))  # other names
    predictor = load(original, builders=allowed())
    assert predictor.labels == LABELS
    assert predictor.temperature == TEMPERATURE
    assert predictor.encoder.config == encoder.config
    assert not predictor.model.compiled
    before, after = values(model), values(predictor.model)
    assert before.keys() == after.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(value, after[path])


def test_probabilities_follow_the_formula(original, model, encoder):
    w = values(model)
    for text, found in zip(
        TEXTS, load(original, builders=allowed()).answers(TEXTS), strict=True
    ):
        ids = encoder.encode([text])["tokens"][0]
        mean = w["embedding/embeddings"][ids].sum(0) / max(len(ids), 1)
        deviation = np.sqrt(w["norm/moving_variance"] + 1e-3)
        x = (mean - w["norm/moving_mean"]) / deviation
        x = x * w["norm/gamma"] + w["norm/beta"]
        odds = np.exp((x @ w["logits/kernel"] + w["logits/bias"]) / TEMPERATURE)
        np.testing.assert_allclose(found, odds / odds.sum(), atol=1e-5)


# Each pair is tried both ways by the one that comes first.
BACKENDS = ("jax", "torch", "tensorflow")
LATER = BACKENDS[BACKENDS.index(keras.backend.backend()) + 1 :]


@pytest.mark.parametrize("elsewhere", LATER)
def test_same_probabilities_on_another_backend(original, tmp_path, elsewhere):
    if importlib.util.find_spec(elsewhere) is None:
        pytest.skip(f"needs {elsewhere}")
    here = load(original, builders=allowed()).answers(TEXTS)
    paths = [str(Path(__file__).parent), str(Path(kerasdl.__path__[0]).parent)]
    changes = {"PYTHONPATH": os.pathsep.join(paths), "KERAS_BACKEND": elsewhere}
    child = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, original, tmp_path / "there"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | changes,
    )
    there, modules = json.loads(child.stdout.splitlines()[-1])
    np.testing.assert_allclose(there, here, atol=1e-5, rtol=0)
    assert elsewhere == "tensorflow" or "tensorflow" not in modules
    assert values(load(tmp_path / "there", builders=allowed()).model).keys()


def test_keras_copy_opens_in_keras(original, model):
    copy = keras.models.load_model(original / bundle.KERAS_COPY)
    tokens = np.array([[2, 3, 4, 0]], np.int32)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(copy(tokens)), ops.convert_to_numpy(model(tokens))
    )
    assert not copy.compiled


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_smaller_storage_stays_close(tmp_path, encoder, storage):
    model = randomise(tiny(4096, width=16))
    table = model.get_layer("embedding").embeddings
    table.assign(np.random.default_rng(1).normal(0, 1, table.shape))
    folder = save(tmp_path / "b", model, encoder, storage=storage, keras_copy=False)
    exact = save(tmp_path / "exact", model, encoder, keras_copy=False)
    sizes = [(path / bundle.WEIGHTS).stat().st_size for path in (folder, exact)]
    assert sizes[0] < sizes[1] / {"float16": 1.9, "int8": 3.8}[storage]
    restored = values(load(folder, builders=allowed()).model)
    for path, value in values(model).items():
        tolerance = np.abs(value) * 2.0**-11
        if storage == "int8" and path == "embedding/embeddings":
            tolerance = np.abs(value).max(axis=0) / 127 / 2 * 1.001
        assert (np.abs(restored[path] - value) <= tolerance).all(), path
        assert restored[path].dtype == np.float32


def test_int8_holds_tables_of_any_rank(tmp_path, encoder):
    model = randomise(tiny(14, width=70_000))
    folder = save(tmp_path / "b", model, encoder, storage="int8", keras_copy=False)
    restored = values(load(folder, builders=allowed()).model)
    for path, value in values(model).items():
        tolerance = np.abs(value).max() / 127 / 2 * 1.001
        np.testing.assert_allclose(restored[path], value, atol=tolerance, rtol=0)


def test_int8_keeps_zeros_vectors_and_scale_of_each_column():
    value = np.zeros((70_000, 2), np.float32)
    value[:, 1] = np.linspace(-3, 3, 70_000)
    packed = pack_float("w", value, "int8")
    assert packed["w"].dtype == np.int8
    assert not packed["w"][:, 0].any()
    np.testing.assert_allclose(packed["w.scale"], [1, 3 / 127], rtol=1e-6)
    assert pack_float("w", value.ravel(), "int8")["w.scale"].shape == ()


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e6])
def test_weights_that_storage_cannot_hold_are_not_saved(tmp_path, encoder, number):
    model = tiny()
    model.get_layer("logits").bias.assign([number, 0])
    with pytest.raises(ValueError, match="'logits/bias' is not finite as float16"):
        save(tmp_path / "b", model, encoder, storage="float16")
    assert not list(tmp_path.iterdir())


def test_unknown_storage_is_named(tmp_path, model, encoder):
    with pytest.raises(ValueError, match="float12"):
        save(tmp_path / "b", model, encoder, storage="float12")


def test_one_logit_serves_two_labels(tmp_path, encoder):
    model = randomise(tiny(num_classes=1))
    arguments = {"num_classes": 1}
    folder = save(tmp_path / "b", model, encoder, arguments=arguments)
    predictor = load(folder, builders=allowed())
    z = predictor.outputs(TEXTS)[:, 0].astype(float)
    expected = 1 / (1 + np.exp(-z / TEMPERATURE))
    np.testing.assert_allclose(predictor.answers(TEXTS)[:, 1], expected)


@pytest.mark.parametrize("name", FILES)
def test_any_changed_byte_is_refused(folder, name):
    path = folder / name
    content = path.read_bytes()
    random = np.random.default_rng(len(name))
    positions = range(len(content))
    if name != bundle.MANIFEST and len(content) > 60:
        inner = random.integers(0, len(content), 58).tolist()
        positions = [0, *inner, len(content) - 1]
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        refused(folder, name)
    path.write_bytes(content)
    read_bundle(folder)


@pytest.mark.parametrize("name", FILES)
def test_any_cut_or_grown_file_is_refused(folder, name):
    content = (folder / name).read_bytes()
    for size in {0, 1, len(content) // 2, len(content) - 1}:
        (folder / name).write_bytes(content[:size])
        refused(folder, name)
    (folder / name).write_bytes(content + b"\n")
    refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_link_in_place_of_a_file_is_refused(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    refused(folder, name)


@pytest.mark.parametrize("name", ["../x.json", "/etc/hostname", "..", "a\\b", ".x", ""])
def test_manifest_cannot_reach_outside(folder, name):
    (folder.parent / "x.json").write_text("{}")
    table = json.loads((folder / bundle.MANIFEST).read_text())["files"]
    table[name] = {"sha256": "0" * 64, "size": 2}
    (folder / bundle.MANIFEST).write_bytes(manifest._manifest(table))
    refused(folder, "is no plain file name")


def test_manifest_must_list_what_is_read(folder):
    table = json.loads((folder / bundle.MANIFEST).read_text())["files"]
    del table[bundle.WEIGHTS]
    (folder / bundle.MANIFEST).write_bytes(manifest._manifest(table))
    refused(folder, "does not list weights.safetensors")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 2}, r"made by a newer kerasdl \(format 2\); upgrade kerasdl"),
        ({"format": "1"}, "the format is not a number"),
        ({"format": 0}, "the format is not a number"),
        ({"task": "chess"}, "task='chess'"),
        ({"labels": ["same", "same"]}, "labels="),
        ({"labels": ["a", "b", "c"]}, "3 labels do not fit the model's 2 outputs"),
        ({"labels": [1, 2]}, "labels="),
        ({"answer": {"temperature": 0}}, "answer="),
        ({"answer": {"temperature": float("nan")}}, "NaN is no number"),
        ({"answer": {}}, "answer="),
        ({"storage": "pickle"}, "storage='pickle'"),
        ({"arguments": [1]}, "arguments="),
        ({"surprise": 1}, "'surprise' is missing or unknown"),
        ({"arguments": {"wdith": 4}}, "do not fit the builder.*wdith"),
        ({"arguments": {"width": -1}}, "do not fit the builder"),
        ({"arguments": {"width": "wide"}}, "do not fit the builder"),
        ({"arguments": {"width": 5}}, "'embedding/embeddings' is F32"),
        ({"arguments": {"vocabulary_size": 10**12}}, "larger than its stored weights"),
        ({"preprocessing": {}}, "tokenizer"),
        ({"preprocessing": {"ngram_orders": [], "odd": 1}}, "tokenizer"),
    ],
)
def test_spec_that_does_not_fit_is_refused(folder, changes, match):
    edit_spec(folder, **changes)
    refused(folder, match)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", [bundle.SPEC, bundle.MANIFEST])
def test_file_that_is_no_json_is_refused(folder, name, content):
    (folder / name).write_bytes(content)
    if name != bundle.MANIFEST:
        seal(folder)
    refused(folder, name)


def test_tokenizer_that_is_none_is_refused(folder):
    (folder / "tokenizer.json").write_text("{}")
    seal(folder)
    refused(folder, "tokenizer")


def test_builder_must_be_on_the_list(folder, monkeypatch):
    monkeypatch.setattr(bundle, "BUILDERS", {"tiny": tiny})
    load(folder)
    edit_spec(folder, builder="os.system")
    refused(folder, "'os.system' is not on the list")


def test_optimizer_among_the_arguments_is_not_built(folder):
    edit_spec(folder, arguments={"optimizer": "no such optimizer"})
    assert not load(folder, builders=allowed()).model.compiled


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda a: a.pop("logits/bias"), "'logits/bias' is None"),
        (lambda a: a.update(extra=np.zeros(2)), "the model has no weight 'extra'"),
        (lambda a: a.update({"logits/bias": np.zeros(3, "f")}), r"F32 \(3,\)"),
        (lambda a: a.update({"logits/bias": np.zeros(2)}), "'logits/bias' is F64"),
        (lambda a: a.update({"logits/bias": np.zeros(2, "i1")}), "'logits/bias' is I8"),
        (
            lambda a: a.update({"logits/bias.scale": np.ones(2, "f")}),
            "'logits/bias' is F32",
        ),
        (
            lambda a: a.update(
                {"logits/bias": np.zeros(2, "i1"), "logits/bias.scale": np.ones(9, "f")}
            ),
            r"'logits/bias.scale' is F32 \(9,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, edit, match):
    edit_weights(folder, edit)
    refused(folder, match)


def test_weights_in_another_format_are_refused(folder):
    (folder / bundle.WEIGHTS).write_bytes(b"\x80\x04not safetensors" * 20)
    seal(folder)
    refused(folder, "weights.safetensors has 340 bytes and claims a header")


def test_refused_model_leaves_nothing_for_keras_to_create(folder):
    edit_spec(folder, arguments={"vocabulary_size": 10**12})
    refused(folder, "larger than its stored weights")
    with keras.StatelessScope():
        pass  # leaving it would take the memory of the refused model


@pytest.mark.parametrize("failing", ["write", "sync", "rename", "interrupt"])
def test_failed_save_keeps_the_earlier_bundle(folder, encoder, monkeypatch, failing):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    error = KeyboardInterrupt if failing == "interrupt" else OSError
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fail(*_):
        raise error(28, "No space left on device")

    if failing == "sync":
        monkeypatch.setattr(os, "fsync", fail)
    if failing == "interrupt":
        monkeypatch.setattr(bundle, "seal", fail)
    if failing == "rename":
        rename = Path.rename
        monkeypatch.setattr(
            Path,
            "rename",
            lambda old, new: (
                fail() if new == folder and old.suffix != ".old" else rename(old, new)
            ),
        )
    if failing == "write":
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(error):
            save(folder, randomise(tiny(), seed=5), encoder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_saving_again_replaces_the_bundle(folder, encoder):
    model = randomise(tiny(), seed=5)
    save(folder, model, encoder, keras_copy=False)
    assert not (folder / bundle.KERAS_COPY).exists()
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    restored = values(load(folder, builders=allowed()).model)
    np.testing.assert_array_equal(restored["logits/bias"], values(model)["logits/bias"])


def test_save_never_replaces_other_files(tmp_path, model, encoder):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        save(tmp_path, model, encoder)
    assert (tmp_path / "thesis.tex").exists()


def test_find_bundle_takes_run_bundle_or_shipped_name(original, tmp_path, monkeypatch):
    assert find_bundle(original.parent) == original
    assert find_bundle(str(original)) == original
    monkeypatch.setattr(bundle, "shipped_bundles", lambda: {"reviews": original})
    monkeypatch.chdir(tmp_path)
    assert find_bundle("reviews") == original
    with pytest.raises(InputError, match=r"no bundle 'revews'.*reviews"):
        find_bundle("revews")
    with pytest.raises(InputError, match=r"is no bundle: it holds no manifest\.json"):
        find_bundle(tmp_path)


def test_empty_texts_and_no_texts_have_defined_answers(original):
    predictor = load(original, builders=allowed())
    assert predictor([]) == []
    assert predictor.answers([]).shape == (0, 2)
    empty, blank = predictor(["", " \n\t "])
    assert np.isfinite(empty.probability)
    assert empty.probabilities == blank.probabilities


def test_prediction_is_the_most_probable_label(original):
    predictor = load(original, builders=allowed())
    (prediction,) = predictor("a good film")
    probabilities = predictor.answers("a good film")[0]
    best = int(np.argmax(probabilities))
    assert prediction.example == "a good film"
    assert prediction.label == LABELS[best]
    assert prediction.probability == probabilities[best]
    assert prediction.probabilities == dict(zip(LABELS, probabilities, strict=True))
    assert probabilities.dtype == np.float64


def test_a_text_does_not_depend_on_its_batch(original):
    predictor = load(original, builders=allowed())
    random = np.random.default_rng(3)
    words = ["good", "bad", "film", "not", "a", "zebra"]
    texts = [" ".join(random.choice(words, random.integers(0, 25))) for _ in range(150)]
    together = predictor.answers(texts)
    alone = np.concatenate([predictor.answers(text) for text in texts[::7]])
    np.testing.assert_allclose(together[::7], alone, atol=1e-6, rtol=0)


def test_text_that_is_no_string_is_named(original):
    with pytest.raises(InputError, match="text 1 is float"):
        load(original, builders=allowed())(["fine", float("nan")])
