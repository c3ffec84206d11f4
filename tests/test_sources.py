import csv
import hashlib
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from pyarrow import parquet
from tensorflow_datasets.proto import tf_example_pb2

from kerasdl.data import imdb as imdb_module
from kerasdl.data import sources
from kerasdl.data import tfds as tfds_module
from kerasdl.data.labelled import Labelled, check_trainable, hold_out
from kerasdl.data.sources import (
    load_texts,
)
from kerasdl.errors import InputError
from kerasdl.quiet import quiet_stderr

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).parents[1]
SNIPPETS = ROOT.parent / "shared" / "data" / "reviews_sample"


def labelled(texts, labels, names=("a", "b")):
    return Labelled("data", list(texts), np.array(labels, np.int64), names)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def refusal(data, **options):
    """Return the sentence with which the data is refused."""
    with pytest.raises(InputError) as caught:
        load_texts(str(data), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The result type


def test_fingerprint_tells_texts_labels_names_and_boundaries_apart():
    variants = [
        labelled(["ab", "c"], [0, 1]),
        labelled(["a", "bc"], [0, 1]),
        labelled(["ab", "c"], [1, 0]),
        labelled(["ab", "c"], [0, 1], ("a", "c")),
        labelled(["ab"], [0]),
    ]
    assert len({texts.fingerprint for texts in variants}) == len(variants)
    assert variants[0].fingerprint == labelled(["ab", "c"], [0, 1]).fingerprint


def test_subset_takes_rows_in_the_order_given():
    part = labelled(["x", "y", "z"], [0, 1, 1]).subset(np.array([2, 0]))
    assert part.examples == ["z", "x"]
    assert part.labels.tolist() == [1, 0]
    assert len(part) == 2


# The embedded sample


def test_sample_has_two_balanced_classes_and_disjoint_splits():
    splits = load_texts("sample")
    assert (len(splits.train), len(splits.test)) == (7337, 1834)
    assert splits.train.label_names == ("negative", "positive")
    for part in (splits.train, splits.test):
        assert part.labels.dtype == np.int64
        assert abs(part.labels.mean() - 0.5) < 0.01
    keys = [
        " ".join(text.casefold().split())
        for text in splits.train.examples + splits.test.examples
    ]
    assert len(set(keys)) == len(keys)


def test_sample_is_small_and_carries_its_licence():
    folder = ROOT / "kerasdl" / "data" / "samples"
    assert (folder / "reviews.tsv.xz").stat().st_size < 1_500_000
    licence = (folder / "LICENSE-reviews.txt").read_text()
    assert "C.J. Hutto" in licence
    assert "Permission is hereby granted" in licence


@pytest.mark.skipif(not SNIPPETS.exists(), reason="needs ../shared/data/reviews_sample")
def test_sample_is_what_its_script_makes_and_its_labels_follow_the_scores():
    script = ROOT / "benchmarks" / "make_reviews_sample.py"
    spec = importlib.util.spec_from_file_location("make_reviews_sample", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = Counter(
        tuple(line.split("\t")) for line in module.make_sample(SNIPPETS).splitlines()
    )
    splits = sources.sample()
    read = Counter(
        (split, part.label_names[label], text)
        for split, part in (("train", splits.train), ("test", splits.test))
        for text, label in zip(part.examples, part.labels, strict=True)
    )
    assert made == read
    scores = {}
    source = SNIPPETS / "movieReviewSnippets_GroundTruth.txt"
    for line in source.read_text("utf-8").splitlines():
        _, score, text = line.split("\t")
        scores.setdefault(text, float(score))
    for text, label in zip(splits.test.examples, splits.test.labels, strict=True):
        assert scores[text] >= 1 if label else scores[text] <= -1


# IMDB


@pytest.mark.skipif(not imdb_module.is_prepared(), reason="IMDB is not prepared")
def test_imdb_has_its_official_split():
    splits = load_texts("imdb")
    assert (len(splits.train), len(splits.test)) == (25_000, 25_000)
    for part in (splits.train, splits.test):
        assert np.bincount(part.labels).tolist() == [12_500, 12_500]
        assert part.label_names == ("negative", "positive")
    shared = set(splits.train.examples) & set(splits.test.examples)
    assert len(shared) == 123  # counted independently, in ../shared/README.md
    assert splits.unlabelled == []


def example(text, label):
    """A serialized tf.train.Example, written with TFDS's own message classes."""
    message = tf_example_pb2.Example()
    message.features.feature["text"].bytes_list.value.append(text.encode())
    message.features.feature["label"].int64_list.value.append(label)
    return message.SerializeToString()


@pytest.fixture
def tiny_imdb(tmp_path, monkeypatch):
    """A prepared IMDB of made-up reviews, in a folder as TFDS writes it."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder = tmp_path / "imdb_reviews" / "plain_text" / "1.0.0"
    reviews = {
        "train": [("good", 1), ("bad", 0), ("naïve", 1)],
        "test": [("so-so", 0)],
        "unsupervised": [("what", -1), ("", -1)],
    }

    def write_set(file_format):
        feature = "tensorflow_datasets.core.features."
        features = {
            "pythonClassName": f"{feature}features_dict.FeaturesDict",
            "featuresDict": {
                "features": {
                    "label": {
                        "classLabel": {"numClasses": "2"},
                        "pythonClassName": f"{feature}class_label_feature.ClassLabel",
                    },
                    "text": {
                        "text": {},
                        "pythonClassName": f"{feature}text_feature.Text",
                    },
                }
            },
        }
        info = {
            "name": "imdb_reviews",
            "version": "1.0.0",
            "configName": "plain_text",
            "fileFormat": file_format,
            "moduleName": "tensorflow_datasets.datasets.imdb_reviews."
            "imdb_reviews_dataset_builder",
            "splits": [
                {
                    "name": name,
                    "shardLengths": [str(len(rows))],
                    "numBytes": "100",
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                }
                for name, rows in reviews.items()
            ],
        }
        write(folder / "dataset_info.json", json.dumps(info))
        write(folder / "features.json", json.dumps(features))
        write(folder / "label.labels.txt", "neg\npos\n")
        for name, rows in reviews.items():
            path = folder / f"imdb_reviews-{name}.{file_format}-00000-of-00001"
            records = [example(*row) for row in rows]
            if file_format == "tfrecord":
                framed = (
                    struct.pack("<Qi", len(record), 0) + record + bytes(4)
                    for record in records
                )
                write(path, b"".join(framed))
            else:
                writer = ArrayRecordWriter(str(path), "group_size:1")
                for record in records:
                    writer.write(record)
                writer.close()
        return folder

    return write_set


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_prepared_imdb_is_read_in_both_of_its_formats(tiny_imdb, file_format):
    tiny_imdb(file_format)
    splits = load_texts("imdb", unlabelled=True)
    assert splits.train.examples == ["good", "bad", "naïve"]
    assert splits.train.labels.tolist() == [1, 0, 1]
    assert splits.test.examples == ["so-so"]
    assert splits.unlabelled == ["what", ""]


def test_auto_takes_imdb_only_where_it_is_prepared(tiny_imdb):
    said = []
    assert load_texts("auto", notify=said.append).train.name == "sample train"
    assert "--data imdb" in said.pop()
    tiny_imdb("tfrecord")
    assert load_texts("auto", notify=said.append).train.name == "IMDB train"
    assert len(said) == 1
    assert "IMDB" in said[0]


@pytest.mark.parametrize("length", [0, 5, 30, 60, -20])
def test_damaged_imdb_is_refused(tiny_imdb, length):
    path = tiny_imdb("tfrecord") / "imdb_reviews-train.tfrecord-00000-of-00001"
    path.write_bytes(path.read_bytes()[:length])
    assert "damaged" in refusal("imdb")


def test_no_network_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    message = refusal("imdb")
    assert "Name or service not known" in message
    assert "--data sample" in message
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_leaves_nothing_but_what_was_there(
    tmp_path, monkeypatch, capsys
):
    class Builder:
        def download_and_prepare(self, download_dir):
            sys.stdout.write("Downloading")
            write(Path(download_dir) / "part", "x")
            write(tmp_path / "imdb_reviews" / ".config" / "metadata.json", "{}")
            raise RuntimeError("connection\nreset")

    class Answer:
        def close(self):
            pass

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer())
    monkeypatch.setattr(tfds_module.importlib, "import_module", lambda _: None)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write(tmp_path / "mnist" / "data", "x")
    with pytest.raises(InputError, match="connection reset"):
        tfds_module.download(imdb_module.IMDB, Builder())
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]
    assert capsys.readouterr().out == ""  # a JSON document may be due there


# Folders


def make_folder(root, files):
    for name, text in files.items():
        write(root / name, text)
    return str(root)


def test_acl_imdb_layout(tmp_path):
    files = {
        "train/pos/1_9.txt": "good",
        "train/pos/0_9.txt": "fine",
        "train/neg/0_1.txt": "bad",
        "train/unsup/0_0.txt": "what",
        "test/neg/0_2.txt": "dull",
        "test/pos/.hidden.txt": "never",
        "test/pos/0_8.txt": "great",
        "train/.cache/x.txt": "never",
        "README.txt": "never",
    }
    data = make_folder(tmp_path / "aclImdb", files)
    splits = load_texts(data, unlabelled=True)
    assert splits.train.label_names == ("neg", "pos")
    assert splits.train.examples == ["bad", "fine", "good"]
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert splits.test.examples == ["dull", "great"]
    assert splits.test.name == "aclImdb test"
    assert splits.unlabelled == ["what"]
    assert load_texts(data).unlabelled == []


def test_class_folders_without_a_split_in_the_order_of_their_numbers(tmp_path):
    files = {f"{stars}/{i}.TXT": f"{stars} {i}" for stars in (10, 9, 1) for i in "ba"}
    splits = load_texts(make_folder(tmp_path, files))
    assert splits.test is None
    assert splits.train.label_names == ("1", "9", "10")
    assert splits.train.examples == ["1 a", "1 b", "9 a", "9 b", "10 a", "10 b"]


def test_links_that_loop_are_not_followed(tmp_path):
    make_folder(tmp_path, {"a/1.txt": "x", "b/1.txt": "y"})
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    texts = load_texts(str(tmp_path)).train
    assert texts.label_names == ("a", "b")
    assert texts.examples == ["x", "y"]


def test_folders_that_are_refused(tmp_path):
    assert "no class folders" in refusal(make_folder(tmp_path / "0", {"a.txt": "x"}))
    one = refusal(make_folder(tmp_path / "1", {"joy/a.txt": "x"}))
    assert "only one class folder, 'joy'" in one
    (tmp_path / "1" / "void").mkdir()
    assert "'void'" in refusal(tmp_path / "1")
    files = {"train/a/1.txt": "", "train/b/1.txt": "", "test/c/1.txt": ""}
    assert "'c'" in refusal(make_folder(tmp_path / "2", files))
    assert "for tables" in refusal(tmp_path / "2", text_column="text")


def test_a_file_in_another_encoding_is_named_with_its_offset(tmp_path):
    data = make_folder(tmp_path, {"a/1.txt": "x", "b/é.txt": b"caf\xe9"})
    message = refusal(data)
    assert str(tmp_path / "b" / "é.txt") in message
    assert "offset 3" in message
    assert "--encoding-errors" in message
    assert load_texts(data, encoding="latin-1").train.examples == ["x", "café"]
    assert load_texts(data, encoding_errors="replace").train.examples == [
        "x",
        "caf\ufffd",
    ]


# Tables

ROWS = [("good, really", "pos"), ('she said "no"\nand left', "neg"), ("", "pos")]


def write_table(path, rows=ROWS, header=("Review", "Sentiment")):
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
        return write(path, "\n".join(lines))
    if path.suffix == ".parquet":
        columns = zip(*rows, strict=True)
        table = pa.table(dict(zip(header, map(list, columns), strict=True)))
        parquet.write_table(table, path)
        return str(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        separator = "\t" if path.suffix == ".tsv" else ","
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])
def test_every_format_gives_the_same_texts(tmp_path, suffix):
    texts = load_texts(write_table(tmp_path / f"reviews{suffix}")).train
    assert texts.name == f"reviews{suffix}"
    assert texts.examples == [text for text, _ in ROWS]
    assert texts.label_names == ("neg", "pos")
    assert texts.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", [int, float, str])
def test_stars_are_classes_as_they_stand_or_two(tmp_path, suffix, kind):
    stars = [1, 10, 3, 2, 10, 1]
    rows = [(f"text {i}", kind(star)) for i, star in enumerate(stars)]
    data = write_table(tmp_path / f"t{suffix}", rows, ("sentence", "stars"))
    texts = load_texts(data).train
    assert texts.label_names == ("1", "2", "3", "10")
    assert [int(texts.label_names[label]) for label in texts.labels] == stars
    texts = load_texts(data, positive_from=3).train
    assert texts.label_names == ("negative", "positive")
    assert texts.labels.tolist() == [star >= 3 for star in stars]


def test_columns_are_chosen_by_name_or_refused_with_a_list(tmp_path):
    data = write(tmp_path / "t.csv", "id,Body,Mood\n1,x,sad\n2,y,glad\n")
    texts = load_texts(data, text_column="Body", label_column="mood").train
    assert texts.examples == ["x", "y"]
    assert texts.label_names == ("glad", "sad")
    message = refusal(data, label_column="Mood")
    assert "--text-column" in message
    assert "id, Body, Mood" in message
    message = refusal(data, text_column="Body", label_column="moods")
    assert "no column 'moods'" in message
    assert "id, Body, Mood" in message
    both = refusal(data, text_column="Body", label_column="Body")
    assert "cannot both be" in both
    assert "'text'" in refusal(write(tmp_path / "u.csv", "text,text,label\na,b,c\n"))


@pytest.mark.parametrize("missing", ["", " ", "nan", "NaN"])
def test_missing_labels_are_counted_and_located(tmp_path, missing):
    rows = f'text,label\n"two\nlines",a\nx,{missing}\ny,b\nz,{missing}\n'
    message = refusal(write(tmp_path / "t.csv", rows))
    assert "missing in 2 of 4 rows, first at line 4" in message


def test_missing_labels_in_jsonl_and_parquet(tmp_path):
    lines = '{"text": "x", "label": 1}\n\n{"text": "y"}\n{"text": "z", "label": NaN}\n'
    message = refusal(write(tmp_path / "t.jsonl", lines))
    assert "in 2 of 3 rows, first at line 3" in message
    rows = [("x", 1), ("y", None)]
    message = refusal(write_table(tmp_path / "t.parquet", rows, ("text", "label")))
    assert "in 1 of 2 rows, first at row 2" in message


def test_too_many_labels_are_refused_but_a_small_file_is_not(tmp_path):
    def data(labels):
        rows = [("x", f"label {label}") for label in labels]
        return write_table(tmp_path / "t.csv", rows, ("text", "label"))

    assert "10,000 different labels" in refusal(data(range(10_000)))
    assert "1,001 different labels" in refusal(data(i % 1001 for i in range(9000)))
    assert "30 different labels" in refusal(data(i % 30 for i in range(59)))
    assert len(load_texts(data(range(3))).train.label_names) == 3
    assert len(load_texts(data(i % 30 for i in range(60))).train.label_names) == 30


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("t.csv", "", ["is empty"]),
        ("t.csv", "  \n", ["is empty"]),
        ("t.csv", "text,label\n", ["no rows"]),
        ("t.csv", "text,label\nx,a\n\ny,b,c\n", ["3 fields", "line 4", "has 2"]),
        ("t.csv", 'text,label\n"a\nb",x\ny\n', ["1 fields", "line 4"]),
        ("t.csv", 'text,label\nx,a\n"y,b\nz,c\n', ["badly quoted", "line 3"]),
        ("t.csv", "text,label\nx\0,a\n", ["NUL", "offset 12"]),
        ("t.csv", b"text,label\nx,a\n\xff,b\n", ["offset 15", "--encoding"]),
        ("t.csv", b"\xef\xbb\xbftext,label\n\xff,b\n", ["offset 14"]),
        ("t.jsonl", '{"text": 1}\n{"text"\n', ["no valid JSON", "line 2"]),
        ("t.jsonl", '{"text": 1}\n[1]\n', ["JSON list", "line 2"]),
        ("t.jsonl", '{"text": ["x"], "label": 1}\n', ["a list instead", "line 1"]),
        ("t.parquet", "", ["is empty"]),
        ("t.parquet", "PAR1 and no more", ["as Parquet"]),
        ("t.docx", "text", [".csv, .tsv, .jsonl, .ndjson, .parquet"]),
    ],
)
def test_broken_files_are_refused_by_name_and_place(tmp_path, name, content, parts):
    message = refusal(write(tmp_path / name, content))
    for part in [str(tmp_path / name), *parts]:
        assert part in message


def test_a_label_that_is_no_number_cannot_be_positive_from(tmp_path):
    data = write(tmp_path / "t.csv", "text,label\nx,1\ny,good\n")
    message = refusal(data, positive_from=3)
    assert "line 3" in message
    assert "'good'" in message


def test_what_is_handled_rather_than_refused(tmp_path):
    long = "word " * 2_000_000
    rows = [("\ufeffx", "a"), ("   ", "b"), (long, "a")]
    data = write_table(tmp_path / "t.csv", rows, ("\ufefftext", "label"))
    assert load_texts(data).train.examples == [text for text, _ in rows]
    data = write(tmp_path / "s.csv", "text;label\r\na, b;1\r\nc;2\r\n")
    assert load_texts(data).train.examples == ["a, b", "c"]
    data = write(tmp_path / "q.tsv", 'text\tlabel\n"so" he said\t1\n"open\t2\n')
    assert load_texts(data).train.examples == ['"so" he said', '"open']
    data = write(tmp_path / "w.csv", "text,label\nx,1\ny,2\n".encode("utf-16"))
    assert load_texts(data, encoding="utf-16").train.examples == ["x", "y"]
    lines = '{"text": "a\\ud800", "label": true}\n{"text": null, "label": false}\n'
    texts = load_texts(write(tmp_path / "t.jsonl", lines)).train
    assert texts.examples == ["a?", ""]
    assert len(texts.fingerprint) == 64


def test_bad_encoding_options_are_refused(tmp_path):
    data = write_table(tmp_path / "t.csv")
    assert "'utf-88'" in refusal(data, encoding="utf-88")
    assert "'base64'" in refusal(data, encoding="base64")
    assert "'strickt'" in refusal(data, encoding_errors="strickt")


def test_unreadable_files_are_refused(tmp_path, monkeypatch):
    data = write_table(tmp_path / "t.csv")

    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", locked)
    assert "Permission denied" in refusal(data)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("imbd", "'imdb'"),
        ("Sample", "'sample'"),
        ("revews.csv", "reviews.csv"),
        ("", "auto, imdb, sample"),
        ("xyzzy", "auto, imdb, sample"),
    ],
)
def test_unknown_data_is_refused_with_the_nearest_name(
    tmp_path, monkeypatch, data, hint
):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "reviews.csv")
    assert hint in refusal(data)


# Checks and cuts


def test_check_trainable_names_the_class_and_its_count():
    check_trainable(labelled("abcdef", [0, 0, 0, 1, 1, 1]))
    with pytest.raises(InputError, match="class 'b' has 2 examples"):
        check_trainable(labelled("abcde", [0, 0, 0, 1, 1]))
    with pytest.raises(InputError, match="class 'b' has 0 examples"):
        check_trainable(labelled("abc", [0, 0, 0]))
    with pytest.raises(InputError, match="'a' only"):
        check_trainable(labelled("abc", [0, 0, 0], ("a",)))


def test_hold_out_is_stratified_and_repeats_by_seed():
    labels = np.repeat([0, 1, 2], [700, 280, 20])
    texts = labelled(map(str, range(1000)), labels, ("a", "b", "c"))
    kept, held = hold_out(texts, 0.15, seed=1)
    assert np.bincount(held.labels).tolist() == [105, 42, 3]
    assert sorted(kept.examples + held.examples) == sorted(texts.examples)
    for part in (kept, held):
        assert all(labels[int(t)] == i for t, i in zip(part.examples, part.labels))  # noqa: B905
    again = hold_out(texts, 0.15, seed=1)[1]
    assert again.fingerprint == held.fingerprint
    assert hold_out(texts, 0.15, seed=2)[1].fingerprint != held.fingerprint


def test_hold_out_keeps_copies_together_across_classes():
    random = np.random.default_rng(0)
    numbers = random.integers(100, size=400)
    texts = [f"Text  {n}" if i % 2 else f"text {n} " for i, n in enumerate(numbers)]
    data = labelled(texts, random.integers(2, size=400))
    kept, held = hold_out(data, 0.2, seed=0)
    words = [
        {re.sub(r"\D", "", text) for text in part.examples} for part in (kept, held)
    ]
    assert not words[0] & words[1]
    assert 60 <= len(held) <= 90


def test_hold_out_puts_each_class_on_both_sides_or_refuses():
    small = labelled("abcdef", [0, 0, 0, 1, 1, 1])
    for fraction in (0.01, 0.99):
        for part in hold_out(small, fraction, seed=0):
            assert set(part.labels) == {0, 1}
    pairs = labelled("aabbccdd", [0, 0, 0, 0, 1, 1, 1, 1])
    kept, held = hold_out(pairs, 0.1, seed=0)
    assert (len(kept), len(held)) == (4, 4)
    with pytest.raises(InputError, match="class 'b'"):
        hold_out(labelled("abccc", [0, 0, 1, 1, 1]), 0.15, seed=0)
    with pytest.raises(ValueError, match=r"1\.5"):
        hold_out(small, 1.5, seed=0)


def test_hold_out_is_the_same_in_every_process():
    """A fingerprint taken once; Python's own hashes change from run to run."""
    texts = labelled((f"text {i}" for i in range(50)), [i % 2 for i in range(50)])
    held = hold_out(texts, 0.2, seed=7)[1]
    digest = hashlib.sha256(" ".join(held.examples).encode()).hexdigest()
    code = (
        "import hashlib, numpy as np\n"
        "from kerasdl.data.labelled import Labelled, hold_out\n"
        "texts = Labelled('data', [f'text {i}' for i in range(50)],"
        " np.arange(50) % 2, ('a', 'b'))\n"
        "held = hold_out(texts, 0.2, seed=7)[1]\n"
        "print(hashlib.sha256(' '.join(held.examples).encode()).hexdigest())\n"
        "import sys; assert not {'keras', 'tensorflow', 'pandas'} & set(sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"},
    )
    assert run.stdout.strip() == digest


# Native chatter


def test_quiet_stderr_hides_chatter_and_replays_it_on_failure(capfd):
    with quiet_stderr():
        os.write(2, b"banner")
    os.write(2, b"after ")
    with pytest.raises(ValueError, match="broken"), quiet_stderr():  # noqa: PT012
        os.write(2, b"cause")
        raise ValueError("broken")
    assert capfd.readouterr().err == "after cause"
