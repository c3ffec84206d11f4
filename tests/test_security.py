"""Bundles from strangers: nothing runs, nothing is read outside, limits come first."""

import inspect
import json
import os
import resource
import shutil
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from cases import CASES
from hostile import (
    KINDS,
    WATCH,
    edit_json,
    edit_spec,
    gadgets,
    image_bundle,
    payloads,
    safetensors_file,
    stored,
    text_bundle,
)

import kerasdl
from kerasdl import bundle
from kerasdl.bundle import load
from kerasdl.data.text import TextEncoder
from kerasdl.errors import InputError
from kerasdl.manifest import seal

SECONDS, MEGABYTES = 30, 500
TOKENIZER = "tokenizer.json"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """One tiny bundle of each kind; all of them load and answer."""
    root = tmp_path_factory.mktemp("bundles")
    made = {kind: write(root / kind) for kind, (write, _) in KINDS.items()}
    for kind, folder in made.items():
        assert np.isfinite(load(folder).answers(KINDS[kind][1])).all()
    return made


@pytest.fixture
def copy(bundles, tmp_path):
    """Return a function that copies a bundle into a folder of this test."""

    def make(kind="text"):
        folder = tmp_path / kind
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(bundles[kind], folder))

    return make


def peak() -> float:
    """Return the largest memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def refused(folder, match=None, action=load):
    """Check for a refusal in one sentence, in bounded time and memory, nothing run."""
    before, start = peak(), time.process_time()  # the machine may be busy
    with WATCH(Path(folder)), pytest.raises(InputError, match=match) as caught:
        action(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 1000
    assert time.process_time() - start < SECONDS
    assert peak() - before < MEGABYTES
    return sentence


def canary_of(folder: Path) -> Path:
    return folder.parent / "canary"


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_of_a_bundle_is_executed(copy, kind):
    folder = copy(kind)
    canary = canary_of(folder)
    names = [path.name for path in folder.iterdir() if path.name != bundle.MANIFEST]
    for payload in payloads(canary).values():
        for name in names:
            folder = copy(kind)
            (folder / name).write_bytes(payload)
            seal(folder)
            if name in (bundle.CARD, bundle.METRICS):  # which nobody reads
                with WATCH(folder):
                    load(folder)
            else:
                refused(folder, name)
    assert not canary.exists()
    assert not list(folder.parents[1].rglob("escaped"))


def test_the_copy_for_keras_is_never_opened(copy):
    folder = copy("image")
    for payload in payloads(canary_of(folder)).values():
        (folder / bundle.KERAS_COPY).write_bytes(payload)
        seal(folder)
        with WATCH(folder):
            load(folder)
    assert not canary_of(folder).exists()


def test_the_canary_would_sing(tmp_path):
    import pickle

    with pytest.raises(AssertionError, match=r"pickle\.find_class"), WATCH(tmp_path):
        pickle.loads(payloads(tmp_path / "canary")["pickle"])
    assert (tmp_path / "canary").exists()
    with pytest.raises(AssertionError, match="hostname"), WATCH(tmp_path):
        Path("/etc/hostname").read_text()


def test_serialised_objects_are_settings_of_nothing(copy):
    """The advisories' gadgets, wherever a spec could hold one."""
    kinds = {"text": "pool", "image": "kernel_size", "table": "activation"}
    for kind, argument in {**kinds, "series": "cell"}.items():
        folder = copy(kind)
        spec = json.loads((folder / bundle.SPEC).read_text())
        (folder.parent / "secret").write_text("a secret")
        for gadget in gadgets(canary_of(folder)).values():
            for changes in (
                {"arguments": {**spec["arguments"], argument: gadget}},
                {"arguments": {**spec["arguments"], "name": gadget}},
                {"arguments": gadget},
                {"preprocessing": gadget},
                {"builder": gadget},
                {"builder": "keras.saving.load_model"},
                {"answer": gadget},
                {"labels": [gadget, gadget]},
                {"task": gadget},
                {"storage": gadget},
            ):
                edit_spec(folder, **{**spec, **changes})
                refused(folder, bundle.SPEC if "preprocessing" not in changes else None)
        assert not canary_of(folder).exists()


# What decides the size of no weight, and so may be anything.
SIZELESS = {"pool", "max_tokens"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.builder)
def test_sizes_are_bounded_by_the_stored_weights(case, tmp_path):
    """2^31 units or layers in any argument are refused before memory is taken."""
    builder = kerasdl.BUILDERS[case.builder]
    with keras.StatelessScope(initialize_variables=False):
        shapes = {w.path: w.shape for w in case.build(optimizer=None).weights}
    arrays = {name: np.zeros(shape, "f") for name, shape in shapes.items()}
    (tmp_path / bundle.WEIGHTS).write_bytes(safetensors.numpy.save(arrays))
    usual = inspect.signature(builder).parameters
    tried = 0
    for name in set(usual) - {"input_shape", "optimizer", "learning_rate", "name"}:
        value = case.tiny.get(name, usual[name].default)
        for huge in _enlarged(value, name):
            arguments = {**case.tiny, name: huge}

            def rebuild(folder, arguments=arguments):
                return bundle._rebuild(builder, arguments, folder, resize=False)

            try:
                refused(tmp_path, action=rebuild)
            except pytest.fail.Exception:
                assert name in SIZELESS
            tried += 1
    assert tried


def _enlarged(value, name):
    """Yield a value's like with one number far too large."""
    if isinstance(value, bool):
        return
    if isinstance(value, int) or name in ("depth", "width", "growth_rate"):
        yield 2**31
    if isinstance(value, tuple | list) and value:
        yield [2**31, *value[1:]]
        yield [value[0]] * 100_000


def test_long_specs_and_deep_ones_are_refused(copy):
    folder = copy("table")
    path = folder / bundle.SPEC
    spec = path.read_text()
    for content, match in (
        (spec.replace("[", "[" * 10_000, 1), "no JSON"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "no JSON"),
        (" " * 2**24 + spec, "more than 16,777,216 bytes"),
        (spec.replace("{", '{"task": "text-classification", ', 1), "stands there tw"),
        (spec.replace("1.0", "NaN"), "NaN is no number"),
        (spec.replace("1.0", "-Infinity"), "-Infinity is no number"),
        (spec.replace("1.0", "1e999"), "1e999 is no number"),
        (spec.replace("1.0", "1" * 5000), "a number has 5000 digits"),
        (spec.replace('"yes"', '"\\ud800"'), "labels="),
        (spec.replace('"yes"', '"' + "y" * 10**6 + '"').replace('"no",', ""), "lab"),
    ):
        assert content != spec
        path.write_text(content)
        seal(folder)
        refused(folder, match)


HEADERS = {
    "claims 100 GB": safetensors_file(b"{}", claimed=100 * 10**9),
    "claims 2^64": safetensors_file(b"{}", claimed=2**64 - 1),
    "empty": b"",
    "half a length": b"\x08\0\0",
    "twice": safetensors_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0" * 4,
    ),
    "deep": safetensors_file(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    **{
        name: safetensors_file(
            {"logits/bias": {"dtype": dtype, "shape": shape, "data_offsets": offsets}},
            b"\0" * 16,
        )
        for name, dtype, shape, offsets in (
            ("overflow", "F32", [2**62, 4], [0, 16]),
            ("negative", "F32", [-4], [0, 16]),
            ("no numbers of 2^62", "F32", [0, 2**62], [0, 0]),
            ("fractions", "F32", [1.5], [0, 16]),
            ("outside", "F32", [4], [10**15, 10**15 + 16]),
            ("backwards", "F32", [4], [16, 0]),
            ("half", "F32", [4], [0, 8]),
            ("unknown type", "PICKLE", [4], [0, 16]),
            ("bfloat16", "BF16", [8], [0, 16]),
            ("4 bits", "F4", [32], [0, 16]),
            ("64 bits", "F64", [2], [0, 16]),
        )
    },
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers_are_refused(copy, name):
    for file in (bundle.WEIGHTS, "ngrams.safetensors"):
        folder = copy("text")
        (folder / file).write_bytes(HEADERS[name])
        seal(folder)
        refused(folder, file)


def test_weights_that_are_no_numbers_are_refused(copy):
    folder = copy("image")
    for odd in (np.nan, np.inf):
        arrays = stored(folder)
        arrays["logits/bias"][0] = odd
        (folder / bundle.WEIGHTS).write_bytes(safetensors.numpy.save(arrays))
        seal(folder)
        refused(folder, "'logits/bias' is not finite")


def _swap_ids(fields):
    vocabulary = fields["model"]["vocab"]
    vocabulary["[PAD]"], vocabulary["[UNK]"] = 1, 0


def _bomb(fields):
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    fields["normalizer"]["normalizers"] += [double] * 40


TOKENIZERS = {
    "a regular expression without end": lambda f: f["pre_tokenizer"].update(
        pattern={"Regex": "(a|a|a?)*b" * 20}
    ),
    "replacements that double": _bomb,
    "ids beyond the embedding": lambda f: f["model"]["vocab"].update(good=2**31),
    "negative ids": lambda f: f["model"]["vocab"].update(good=-1),
    "ids that are texts": lambda f: f["model"]["vocab"].update(good="2"),
    "one id twice": lambda f: f["model"]["vocab"].update(good=3, film=3),
    "padding elsewhere": _swap_ids,
    "another model": lambda f: f["model"].update(type="Unigram"),
    "a model that is a list": lambda f: f.update(model=[]),
    "a prefix for long words": lambda f: f["model"].update(unk_token="x" * 10**6),
    "padding to 2^40": lambda f: f.update(
        padding={
            "strategy": {"Fixed": 2**40},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }
    ),
    "truncation": lambda f: f.update(truncation={"max_length": 0}),
    "a million special tokens": lambda f: f.update(added_tokens=[{}] * 10**6),
    "a template": lambda f: f.update(post_processor={"type": "TemplateProcessing"}),
    "another version": lambda f: f.update(version="9.9"),
    "merges without end": lambda f: f["model"].update(merges=[["a", "b"]] * 10),
    "something more": lambda f: f.update(auto_map={"AutoTokenizer": "evil.py"}),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_hostile_tokenizers_are_refused(copy, name):
    folder = copy("text")
    edit_json(folder, TOKENIZER, TOKENIZERS[name])
    refused(folder, TOKENIZER)


def test_hostile_files_of_tokenizers_are_refused(copy):
    folder = copy("text")
    for content, match in (
        (b"[" * 10**6, "no JSON"),
        (b" " * (2**25 + 1), "more than"),
        (b'{"model": {"vocab": {"a": 0, "a": 0}}}', "'a' stands there twice"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"{}", "vocabulary"),
    ):
        (folder / TOKENIZER).write_bytes(content)
        seal(folder)
        refused(folder, f"{TOKENIZER}.*{match}")


def test_subwords_are_held_to_their_merges(tmp_path):
    folder = text_bundle(tmp_path / "b", level="subword")
    assert load(folder).answers(["good"]).shape == (1, 2)
    for merges in ([["zz", "yy"]], [["a"]], ["a b"], {"a": "b"}, [[1, 2]]):
        edit_json(folder, TOKENIZER, lambda f, m=merges: f["model"].update(merges=m))
        refused(folder, TOKENIZER)


@pytest.mark.parametrize(
    ("kind", "preprocessing", "match"),
    [
        ("text", {"ngram_orders": [10**9]}, "settings of the tokenizer"),
        ("text", {"ngram_orders": [0]}, "settings of the tokenizer"),
        ("text", {"ngram_orders": ["1"]}, "settings of the tokenizer"),
        ("text", {"max_tokens": -1}, "settings of the tokenizer"),
        ("text", {"max_tokens": 1.5}, "settings of the tokenizer"),
        ("text", {"level": ["word"]}, "settings of the tokenizer"),
        ("text", {"max_tokens": 0, "ngram_orders": []}, "does not make"),
        ("image", {"size": [100_000, 100_000]}, "preparation of the images"),
        ("image", {"size": [9, 8]}, "input_shape"),
        ("image", {"std": [0, 1, 1]}, "preparation of the images"),
        ("image", {"interpolation": {}}, "preparation of the images"),
        ("series", {"shape": [2**31, 3]}, "shape of the inputs"),
        ("series", {"shape": [5, 4]}, "input_shape"),
        ("series", {"shape": [True, 3]}, "shape of the inputs"),
        ("series", {"name": "image"}, "does not make the model's input"),
        ("table", {"columns": []}, "columns of the bundle"),
        ("table", {"columns": {"age": 1}}, "columns of the bundle"),
        ("table", {"columns": [{"name": "age", "kind": "number"}]}, "columns of the"),
    ],
)
def test_hostile_settings_of_encoders_are_refused(copy, kind, preprocessing, match):
    folder = copy(kind)
    usual = json.loads((folder / bundle.SPEC).read_text())["preprocessing"]
    edit_spec(folder, preprocessing={**usual, **preprocessing})
    refused(folder, match)


def test_a_vocabulary_larger_than_the_embedding_is_refused(copy):
    folder = copy("text")
    encoder = TextEncoder.fit(
        ["more words than there are vectors", *TextEncoder.__doc__.split()],
        min_count=1,
    )
    (folder / TOKENIZER).write_bytes(encoder.contents()[TOKENIZER])
    seal(folder)
    refused(folder, "vocabulary_size=.* does not fit the encoder")


def test_a_model_of_another_kind_is_refused(copy):
    folder = copy("image")
    spec = json.loads((folder / bundle.SPEC).read_text())
    for changes in (
        {"task": "image-classification", "arguments": {"aux_heads": True}},
        {"arguments": {"filters": [4]}},  # of the builder's own size of images
        {"builder": "mlp"},
        {"builder": "rnn"},
        {"builder": "inception"},
        {"labels": ["a", "b", "c"]},
        {"task": "array-classification"},
        {"task": "text-classification"},
    ):
        edit_spec(folder, **{**spec, **changes})
        refused(folder)


def test_links_do_not_lead_out_of_a_bundle(copy, tmp_path):
    folder = copy("image")
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    folder.rename(elsewhere)
    run.mkdir()
    (run / "bundle").symlink_to(elsewhere)
    refused(run, "leads out of")
    (run / "bundle").unlink()
    elsewhere.rename(run / "real")
    (run / "bundle").symlink_to("real")  # within the run
    load(run)
    (tmp_path / "mine").symlink_to(run)  # what the caller names may be a link
    load(tmp_path / "mine")
    os.mkfifo(tmp_path / "pipe")
    for name in (bundle.SPEC, bundle.WEIGHTS):
        (run / "real" / name).unlink()
        os.mkfifo(run / "real" / name)
        refused(run / "real", "no plain file")


def test_hard_links_are_read_by_their_checksum_and_never_written(copy, tmp_path):
    folder = copy("image")
    outside = tmp_path / "outside"
    content = (folder / bundle.WEIGHTS).read_bytes()
    outside.write_bytes(content)
    (folder / bundle.WEIGHTS).unlink()
    (folder / bundle.WEIGHTS).hardlink_to(outside)
    load(folder)
    image_bundle(folder)  # saved over it
    assert outside.read_bytes() == content
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    (folder / bundle.SPEC).unlink()
    (folder / bundle.SPEC).hardlink_to(secret)
    assert "a secret" not in refused(folder, "spec.json has 8 bytes")


def test_names_that_are_none_are_refused(tmp_path):
    for name in ("x" * 5000, "a\0b", "", "/" * 300 + "nowhere"):
        with pytest.raises(InputError):
            load(tmp_path / name if name else tmp_path)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(InputError):
        load(loop)


def test_a_manifest_lists_what_a_bundle_can_hold(copy):
    folder = copy("image")
    (folder / "evil.py").write_text("raise SystemExit")
    seal(folder)
    refused(folder, "'evil.py', which is unknown")


def test_a_file_larger_than_the_memory_is_refused_unread(copy):
    folder = copy("image")
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + 1
    with (folder / bundle.WEIGHTS).open("r+b") as file:
        file.truncate(size)  # takes no space on disk
    from kerasdl.manifest import _manifest

    table = json.loads((folder / bundle.MANIFEST).read_text())["files"]
    table[bundle.WEIGHTS]["size"] = size
    (folder / bundle.MANIFEST).write_bytes(_manifest(table))
    refused(folder, "more than this machine's memory")


def test_class_names_cannot_command_the_terminal(copy, run_cli):
    folder = copy("text")
    edit_spec(folder, labels=["\x1b]0;owned\x07no", "\x1b[2Jyes\r\x9b"])
    code, out, err = run_cli("sentiment", "predict", "--bundle", folder, "good film")
    assert code == 0, err
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(out + err)
    edit_spec(folder, labels=["\x1b[2J", "\x1b[2J"])
    code, out, err = run_cli("sentiment", "predict", "--bundle", folder, "good film")
    assert code == 2
    assert "\x1b" not in err


def test_loading_leaves_keras_as_it_was(copy):
    add_weight = keras.layers.Layer.add_weight
    folder = copy("table")
    load(folder)
    edit_spec(folder, arguments={"hidden": [2**31]})
    refused(folder, "input_shape|larger than its stored weights")
    assert keras.layers.Layer.add_weight is add_weight
    assert keras.layers.Dense(3)(np.ones((1, 2), "f")).shape == (1, 3)
