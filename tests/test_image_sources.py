"""Labelled images by name, from folders, tables and archives; what is refused."""

import csv
import importlib.util
import json
import struct
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from kerasdl.data import image_files, image_sets
from kerasdl.data.image_sources import load_images
from kerasdl.data.images import read_image
from kerasdl.data.labelled import check_trainable, hold_out
from kerasdl.errors import InputError

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "kerasdl" / "data" / "samples"
FASHION = image_sets.TFDS_SETS["fashion_mnist"]


def write_image(path, colour=(1, 2, 3), size=(4, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def make_folder(root, files):
    """Write images, each of another colour; other content as it is given."""
    for i, name in enumerate(files):
        if isinstance(files, dict) and files[name] is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        else:
            write_image(root / name, (i, 2 * i, 3 * i))
    return str(root)


def loaded(data, **options):
    """Return the splits and the lines that were said."""
    said = []
    return load_images(str(data), notify=said.append, **options), said


def refusal(data, **options):
    with pytest.raises(InputError) as caught:
        load_images(str(data), notify=lambda _: None, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names_of(part):
    return [path.name for path in part.examples]


# Names


def test_the_sample_is_balanced_small_and_licensed():
    start = time.process_time()
    splits = load_images("sample")
    assert time.process_time() - start < 5  # ten times what it takes
    for part, count in ((splits.train, 10_000), (splits.test, 2_000)):
        assert part.examples.shape == (count, 28, 28, 1)
        assert part.examples.dtype == np.uint8
        assert np.bincount(part.labels).tolist() == [count // 10] * 10
        check_trainable(part)
    keys = [
        image.tobytes()
        for part in (splits.train, splits.test)
        for image in part.examples
    ]
    assert len(set(keys)) == 12_000
    assert (SAMPLES / "fashion.webp").stat().st_size < 5_000_000
    licence = (SAMPLES / "LICENSE-fashion-mnist.txt").read_text("utf-8")
    assert "2017 Zalando SE" in licence
    assert "Permission is hereby granted" in licence


@pytest.fixture(scope="module")
def fashion():
    if not FASHION.is_prepared():
        pytest.skip("needs Fashion-MNIST of TFDS")
    return load_images("fashion_mnist")


@pytest.mark.slow
def test_the_sample_is_part_of_fashion_mnist_split_by_split(fashion):
    sample, whole = load_images("sample"), fashion
    assert (len(whole.train), len(whole.test)) == (60_000, 10_000)
    assert whole.train.label_names == sample.train.label_names
    for few, all_ in ((sample.train, whole.train), (sample.test, whole.test)):
        known = {
            (image.tobytes(), label)
            for image, label in zip(all_.examples, all_.labels.tolist(), strict=True)
        }
        for image, label in zip(few.examples, few.labels.tolist(), strict=True):
            assert (image.tobytes(), label) in known


@pytest.mark.slow
def test_the_sample_is_chosen_as_its_script_says(fashion):
    script = ROOT / "benchmarks" / "make_fashion_sample.py"
    spec = importlib.util.spec_from_file_location("make_fashion_sample", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sample, seen = load_images("sample"), set()
    test = module.choose(fashion.test, 2000, seen)
    np.testing.assert_array_equal(test, sample.test.examples)
    train = module.choose(fashion.train, 10_000, seen)
    np.testing.assert_array_equal(train, sample.train.examples)


def tiny_set(root, name, sizes=((4, 4),), features=("image", "label"), version="1.0.0"):
    """Write a set as TFDS prepares it: PNG images of these sizes in TFRecord files."""
    from tensorflow_datasets.proto import tf_example_pb2

    core = "tensorflow_datasets.core.features."
    same = len(set(sizes)) == 1
    shape = [str(n) for n in (*sizes[0], 3)] if same else ["-1", "-1", "3"]
    kinds = {
        "image": {
            "image": {"dtype": "uint8", "shape": {"dimensions": shape}},
            "pythonClassName": f"{core}image_feature.Image",
        },
        "label": {
            "classLabel": {"numClasses": "2"},
            "pythonClassName": f"{core}class_label_feature.ClassLabel",
        },
    }
    folder = root / name / version
    folder.mkdir(parents=True)
    splits, images = [], {}
    for split in ("train", "test"):
        records, images[split] = [], []
        for i in range(6):
            height, width = sizes[i % len(sizes)]
            path = write_image(root / "one.png", (i, 9, len(split)), (width, height))
            message = tf_example_pb2.Example()
            feature = message.features.feature
            feature["image"].bytes_list.value.append(path.read_bytes())
            feature["label"].int64_list.value.append(i % 2)
            images[split].append(read_image(path))
            path.unlink()
            record = message.SerializeToString()
            records.append(struct.pack("<Qi", len(record), 0) + record + bytes(4))
        (folder / f"{name}-{split}.tfrecord-00000-of-00001").write_bytes(
            b"".join(records)
        )
        splits.append(
            {
                "name": split,
                "shardLengths": ["6"],
                "numBytes": "100",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {
        "name": name,
        "version": version,
        "fileFormat": "tfrecord",
        "moduleName": "tensorflow_datasets.image_classification.mnist",
        "splits": splits,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    document = {
        "featuresDict": {"features": {key: kinds[key] for key in features}},
        "pythonClassName": f"{core}features_dict.FeaturesDict",
    }
    (folder / "features.json").write_text(json.dumps(document))
    (folder / "label.labels.txt").write_text("cat\ndog\n")
    return images


def test_sets_of_tfds_are_read_with_their_class_names(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    images = tiny_set(tmp_path, "tiny_pets")
    splits, _ = loaded("tfds:tiny_pets")
    assert splits.train.label_names == ("cat", "dog")
    assert splits.test.name == "tiny_pets test"
    np.testing.assert_array_equal(splits.train.examples, np.stack(images["train"]))
    np.testing.assert_array_equal(splits.test.examples, np.stack(images["test"]))
    assert splits.test.labels.tolist() == [0, 1] * 3
    tiny_set(tmp_path, "plain_images", features=("image",))
    assert "has no images with one class each" in refusal("tfds:plain_images")


def test_sets_of_tfds_with_images_of_many_sizes_stay_encoded(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    images = tiny_set(tmp_path, "big_pets", sizes=((4, 4), (5, 7)))
    train = loaded("tfds:big_pets")[0].train
    for found, expected in zip(train.examples, images["train"], strict=True):
        np.testing.assert_array_equal(read_image(found), expected)
    assert (
        str(train.subset(np.array([2])).examples.paths[0]) == "big_pets train, image 2"
    )
    assert len(train.fingerprint) == 64
    assert {len(part) for part in hold_out(train, 0.34, seed=0)} == {2, 4}


def test_auto_takes_fashion_mnist_only_where_it_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    splits, said = loaded("auto")
    assert splits.train.name == "sample train"
    assert len(said) == 1
    assert "--data fashion_mnist" in said[0]
    tiny_set(tmp_path, "fashion_mnist", version="3.0.1")
    splits, said = loaded("auto")
    assert splits.train.name == "Fashion-MNIST train"
    assert len(said) == 1
    assert str(tmp_path) in said[0]


def test_no_network_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    message = refusal("cifar10")
    assert "CIFAR-10 cannot be downloaded (Name or service not known)" in message
    assert "--data sample" in message
    assert list(tmp_path.iterdir()) == []
    assert "no set 'no_such_set'" in refusal("tfds:no_such_set")


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("cifar_10", "'cifar10'"),
        ("photso", "photos"),
        ("", "auto, sample, cifar10"),
        ("xyzzy", "tfds:NAME"),
    ],
)
def test_unknown_data_is_refused_with_the_nearest_name(
    tmp_path, monkeypatch, data, hint
):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos", ["a/1.png", "b/1.png"])
    assert hint in refusal(data)


# Folders


def test_class_folders_in_the_order_of_their_names(tmp_path):
    files = [f"{name}/{i}.png" for name in ("10", "9") for i in "ba"]
    splits, said = loaded(make_folder(tmp_path / "set", [*files, "9/deep/c.png"]))
    assert said == []
    assert splits.test is None
    assert splits.validation is None
    assert splits.train.name == "set"
    assert splits.train.label_names == ("9", "10")
    assert names_of(splits.train) == ["a.png", "b.png", "c.png", "a.png", "b.png"]
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
def test_splits_that_are_given(tmp_path, name):
    make_folder(tmp_path, ["train/a/1.png", "train/b/2.png", f"{name}/b/3.png"])
    splits, _ = loaded(tmp_path)
    assert splits.validation is None
    assert names_of(splits.test) == ["3.png"]
    assert splits.test.labels.tolist() == [1]
    assert splits.test.name.endswith("validation")
    make_folder(tmp_path, ["test/a/4.png"])
    splits, _ = loaded(tmp_path)
    assert names_of(splits.validation) == ["3.png"]
    assert names_of(splits.test) == ["4.png"]
    assert splits.test.label_names == splits.validation.label_names == ("a", "b")


def test_what_is_no_image_is_ignored_with_one_line(tmp_path):
    text = b"text"
    files = dict.fromkeys(["a/1.png", "b/2.png", "a/deep/3.png"])
    files |= {"a/.DS_Store": text, "a/Thumbs.db": text, "b/desktop.ini": text}
    files |= {"b/notes.txt": text, "a/deep/x.JSON": text, "stray.png": text}
    files |= {".git/config": text, "README.md": text}
    splits, said = loaded(make_folder(tmp_path, files))
    assert len(splits.train) == 3
    assert len(said) == 1
    assert "5 that are no images by name (.DS_Store, Thumbs.db, desktop.ini)" in said[0]
    assert "2 outside the class folders" in said[0]


def test_links_that_loop_are_not_followed(tmp_path):
    make_folder(tmp_path, ["a/1.png", "b/2.png"])
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    splits, said = loaded(tmp_path)
    assert splits.train.label_names == ("a", "b")
    assert names_of(splits.train) == ["1.png", "2.png"]
    assert "1 links to folders" in said[0]
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    message = refusal(tmp_path)
    assert "self.png" in message
    assert "symbolic links" in message


def test_folders_that_are_refused(tmp_path):
    assert "no class folders" in refusal(make_folder(tmp_path / "0", ["a.png"]))
    (tmp_path / "bare").mkdir()
    assert "no class folders" in refusal(tmp_path / "bare")
    one = make_folder(tmp_path / "1", ["joy/a.png"])
    assert "only one class folder, 'joy'" in refusal(one)
    make_folder(tmp_path / "1", {"void/a.txt": b"x"})
    assert "void has no images" in refusal(one)
    unknown = make_folder(tmp_path / "2", ["train/a/1.png", "train/b/1.png"])
    for split in ("val", "test"):
        make_folder(tmp_path / "2", [f"{split}/c/1.png"])
        message = refusal(unknown)
        assert str(Path(unknown, split)) in message
        assert "'c'" in message
        (tmp_path / "2" / split / "c" / "1.png").unlink()
        (tmp_path / "2" / split / "c").rmdir()
    trainless = make_folder(tmp_path / "3", ["test/a/1.png", "val/a/1.png"])
    assert "no train/" in refusal(trainless)
    twice = [f"{split}/a/1.png" for split in ("train", "val", "valid")]
    assert "both" in refusal(make_folder(tmp_path / "4", twice))
    assert "for tables" in refusal(unknown, label_column="class")


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    make_folder(tmp_path, ["a/1.png", "b/2.png"])
    scandir = image_files.os.scandir

    def locked(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(image_files.os, "scandir", locked)
    message = refusal(tmp_path)
    assert str(tmp_path / "b") in message
    assert "Permission denied" in message


def test_bad_images_are_refused_or_listed(tmp_path):
    files = dict.fromkeys(["a/1.png", "a/2.png", "b/3.png", "b/4.png"])
    make_folder(tmp_path, files)
    whole = (tmp_path / "a/1.png").read_bytes()
    bad = {"a/cut.png": whole[:45], "b/empty.jpg": b"", "b/text.jpg": b"Dear all"}
    for name, content in bad.items():
        path = tmp_path / name
        path.write_bytes(content)
        message = refusal(tmp_path)
        assert message.startswith(str(path))
        assert "--skip-corrupt" in message
        path.unlink()
    make_folder(tmp_path, bad)
    assert "2 others" in refusal(tmp_path)
    splits, said = loaded(tmp_path, skip_corrupt=True)
    assert names_of(splits.train) == ["1.png", "2.png", "3.png", "4.png"]
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert "3 images" in said[0]
    for name, line in zip(bad, said[1:], strict=True):
        assert str(tmp_path / name) in line


def test_skipping_decodes_every_image_to_be_sure(tmp_path):
    make_folder(tmp_path, ["a/1.png", "b/2.png"])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = tmp_path / "b" / "broken.png"
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)
    splits, said = loaded(tmp_path, skip_corrupt=True)
    assert names_of(splits.train) == ["1.png", "2.png"]
    assert str(path) in said[1]
    path.rename(tmp_path / "broken.png")
    (tmp_path / "b" / "2.png").write_bytes(content)
    assert "no image of class 'b' can be read" in refusal(tmp_path, skip_corrupt=True)


def test_many_files_start_quickly(tmp_path):
    """100,000 files may take 5 s; here are 1,000."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    content = bytearray(write_image(tmp_path / "one.png").read_bytes())
    (tmp_path / "one.png").unlink()
    end = content.index(b"IDAT") - 4
    for i in range(1000):
        # Files of many lengths, as photos have; the chunk counts for nothing.
        extra = b"x" * (i % 500 + 1)
        text = b"tEXt" + b"k\0" + extra
        chunk = (
            struct.pack(">I", len(text) - 4)
            + text
            + struct.pack(">I", zlib.crc32(text))
        )
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.write_bytes(content[:end] + chunk + content[end:])
    seconds = []
    for _ in range(3):  # the least counts: the machine may be busy with other things
        start = time.process_time()
        splits, said = loaded(tmp_path)
        kept, held = hold_out(splits.train, 0.2, seed=0)
        assert len(splits.train.fingerprint) == 64
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5  # ten times what 5 s for 100,000 allow
    assert said == []
    assert len(kept) + len(held) == 1000


# Tables


def write_table(path, rows, header=("Path", "Label")):
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines))
    elif path.suffix == ".parquet":
        columns = map(list, zip(*rows, strict=True))
        table = pa.table(dict(zip(header, columns, strict=True)))
        parquet.write_table(table, path)
    else:
        with path.open("w", newline="") as file:
            separator = "\t" if path.suffix == ".tsv" else ","
            csv.writer(file, delimiter=separator).writerows([header, *rows])
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_of_paths_and_labels(tmp_path, suffix):
    make_folder(tmp_path, ["photos/1.png", "photos/2.png", "3.png"])
    elsewhere = str(tmp_path / "photos" / "2.png")
    rows = [("photos/1.png", "cat"), (elsewhere, "dog"), ("3.png", "cat")]
    train = loaded(write_table(tmp_path / f"pets{suffix}", rows))[0].train
    assert train.name == f"pets{suffix}"
    assert train.label_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 0]
    assert names_of(train) == ["1.png", "2.png", "3.png"]
    assert all(path.is_file() for path in train.examples)


def test_columns_and_rows_of_tables_that_are_refused(tmp_path):
    make_folder(tmp_path, ["1.png", "2.png"])
    rows = [("1.png", "a"), ("2.png", "b")]
    data = write_table(tmp_path / "t.csv", rows, ("where", "what"))
    assert "--path-column" in refusal(data)
    train = loaded(data, path_column="where", label_column="what")[0].train
    assert train.label_names == ("a", "b")
    both = refusal(data, path_column="where", label_column="where")
    assert "cannot both be" in both
    missing = write_table(tmp_path / "m.csv", [*rows, ("3.png", "a")])
    message = refusal(missing)
    assert str(tmp_path / "3.png") in message
    assert "No such file" in message
    splits, said = loaded(missing, skip_corrupt=True)
    assert names_of(splits.train) == ["1.png", "2.png"]
    assert "3.png" in said[1]
    assert "missing in 1 of 2" in refusal(
        write_table(tmp_path / "l.csv", [("1.png", "a"), ("2.png", "")])
    )
    assert "path is missing at line 3" in refusal(
        write_table(tmp_path / "p.csv", [("1.png", "a"), ("", "b")])
    )
    assert ".npz" in refusal(write_image(tmp_path / "photo.png"))


# Archives


def test_archives_of_arrays(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4), dtype=np.uint8)
    labels = np.arange(10) % 3
    path = tmp_path / "set.npz"
    np.savez(path, images=images, labels=labels)
    train = loaded(path)[0].train
    assert train.name == "set.npz"
    assert train.label_names == ("0", "1", "2")
    np.testing.assert_array_equal(train.examples, images[..., None])
    np.testing.assert_array_equal(train.labels, labels)
    np.savez_compressed(
        path,
        x_train=images[:6],
        y_train=np.array(["b", "a"] * 3)[:, None],
        x_test=images[6:].astype(np.int64),
        y_test=np.array(["a"] * 4),
        x_val=images[:1],
        y_val=np.array(["b"]),
    )
    splits, _ = loaded(path)
    assert splits.train.label_names == ("a", "b")
    assert splits.train.labels.tolist() == [1, 0] * 3
    assert splits.test.labels.tolist() == [0] * 4
    assert splits.validation.labels.tolist() == [1]
    np.testing.assert_array_equal(splits.test.examples, images[6:, ..., None])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": "images"}, ["pictures", "x_train"]),
        ({"images": "images", "labels": "short"}, ["6 train images", "5 labels"]),
        ({"images": "floats", "labels": "labels"}, ["float64", "0 to 255"]),
        ({"images": "labels", "labels": "labels"}, ["(6,)"]),
        ({"images": "images", "labels": "floats"}, ["(6, 2, 2)", "float64"]),
        ({"images": "images", "labels": "objects"}, ["cannot be read as .npz"]),
        (
            {
                "x_train": "images",
                "y_train": "labels",
                "x_test": "images",
                "y_test": "other",
            },
            ["the test labels have '9'"],
        ),
    ],
)
def test_archives_that_are_refused(tmp_path, arrays, words):
    values = {
        "images": np.zeros((6, 2, 2), np.uint8),
        "floats": np.zeros((6, 2, 2)),
        "labels": np.arange(6) % 2,
        "short": np.arange(5) % 2,
        "other": np.full(6, 9),
        "objects": np.array([None] * 6),
    }
    path = tmp_path / "set.npz"
    np.savez(path, **{name: values[value] for name, value in arrays.items()})
    message = refusal(path)
    for word in [str(path), *words]:
        assert word in message
    path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read as .npz" in refusal(path)
