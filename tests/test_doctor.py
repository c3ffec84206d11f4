"""The doctor finds each planted fault, and nothing else."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from kerasdl.doctor import check_images, fast_check, write_page
from kerasdl.doctor.alike import alike_pairs, candidates
from kerasdl.doctor.labels import out_of_fold, wrong_labels
from kerasdl.errors import InputError

pytestmark = pytest.mark.backend_free

SIDE = 96


def picture(seed, label=0):
    """Draw soft blobs like no others; the class decides the grain and the tint."""
    random = np.random.default_rng(seed)
    soft = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
    pixels = np.asarray(soft.resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
    waves = np.sin(np.arange(SIDE) * (0.6, 1.2)[label])
    pixels = 0.6 * pixels + 25 * (waves[:, None] if label else waves)[..., None]
    tint = (30, 0, -30) if label else (-30, 0, 30)
    return Image.fromarray((pixels + 50 + tint).clip(0, 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Two classes in train/ and test/, with nothing wrong."""
    for split, first, count in (("train", 0, 24), ("test", 1000, 6)):
        for label, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            for seed in range(first + 100 * label, first + 100 * label + count):
                path = tmp_path / split / name / f"{seed}.jpg"
                picture(seed, label).save(path, quality=92)
    return tmp_path


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def found(findings):
    return {(fault.what, fault.path) for fault in findings.faults}


def test_nothing_is_found_where_nothing_is_wrong(folder):
    for full in (True, False):
        findings = check_images(folder, full=full)
        assert findings.lines() == []
        assert findings.images == 60
        assert not findings.stops_training


def plant(folder):
    """Plant a fault of each kind; return what should be found."""
    here = folder / "train" / "a"
    whole = encoded(picture(5000))
    (here / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (here / "none.jpg").write_bytes(b"")
    (here / "text.jpg").write_text("no image at all\n")
    (here / "bomb.png").write_bytes(encoded(Image.new("1", (12_000, 12_000)), "PNG"))
    (here / "link.jpg").symlink_to("nowhere.jpg")
    (here / "really_png.jpg").write_bytes(encoded(picture(5001), "PNG"))
    frames = [picture(5002 + n) for n in range(3)]
    frames[0].save(here / "moving.webp", save_all=True, append_images=frames[1:])
    picture(5005).convert("P").save(here / "still.gif")
    Image.new("RGB", (SIDE, SIDE), "grey").save(here / "blank.png")
    picture(5006).resize((20, 20)).save(here / "icon.png")
    picture(5007).resize((480, SIDE)).save(here / "strip.png")
    (here / "loop").symlink_to(folder)
    (here / ".hidden.jpg").write_bytes(b"x")
    (here / "Thumbs.db").write_bytes(b"x")
    (folder / "train" / "c").mkdir()
    return {
        ("corrupt", "cut.jpg"),
        ("empty_file", "none.jpg"),
        ("not_image", "text.jpg"),
        ("bomb", "bomb.png"),
        ("unreadable", "link.jpg"),
        ("wrong_extension", "really_png.jpg"),
        ("animation", "moving.webp"),
        ("odd_format", "still.gif"),
        ("blank", "blank.png"),
        ("odd_size", "icon.png"),
        ("odd_size", "strip.png"),
        ("loop", "loop"),
        ("empty_class", ""),
    }


def test_each_planted_fault_is_found(folder):
    planted = {
        (what, f"train/a/{name}" if name else "train/c") for what, name in plant(folder)
    }
    findings = check_images(folder)
    assert found(findings) == planted
    assert not findings.copies
    assert findings.stops_training
    assert "2 that are no images" in findings.ignored
    assert findings.classes["train"] == {"a": 30, "b": 24, "c": 0}
    serious = ("empty_class", "unreadable", "empty_file", "corrupt", "not_image")
    assert tuple(findings.counts)[:5] == serious
    document = json.loads(json.dumps(findings.to_json(), allow_nan=False))
    assert document["counts"] == findings.counts

    quick = check_images(folder, full=False)
    seen_quickly = {*serious, "bomb", "odd_format", "loop"}
    assert found(quick) == {fault for fault in planted if fault[0] in seen_quickly}


def test_copies_are_told_by_what_follows_from_them(folder):
    original = (folder / "train" / "a" / "3.jpg").read_bytes()
    (folder / "train" / "a" / "again.jpg").write_bytes(original)
    leaked = (folder / "train" / "a" / "5.jpg").read_bytes()
    (folder / "test" / "a" / "leaked.jpg").write_bytes(leaked)
    torn = (folder / "train" / "a" / "7.jpg").read_bytes()
    (folder / "train" / "b" / "torn.jpg").write_bytes(torn)
    expected = [
        ("two_labels", {"train/a/7.jpg", "train/b/torn.jpg"}),
        ("across_splits", {"train/a/5.jpg", "test/a/leaked.jpg"}),
        ("copies", {"train/a/3.jpg", "train/a/again.jpg"}),
    ]
    for full in (True, False):
        findings = check_images(folder, full=full)
        assert [(c.what, set(c.paths)) for c in findings.copies] == expected
        assert all(c.detail.startswith("the same file") for c in findings.copies)


def test_pictures_that_differ_in_the_file_only_or_a_little(folder):
    train, test = folder / "train" / "b", folder / "test" / "b"
    picture(9000, 1).save(train / "png.png")
    picture(9000, 1).save(train / "tiff.tif")
    image = Image.open(train / "100.jpg")
    image.resize((60, 60)).save(test / "small.jpg", quality=40)
    image = Image.open(train / "105.jpg")
    bright = ImageEnhance.Brightness(image.crop((3, 2, 94, 93))).enhance(1.1)
    bright.save(train / "crop.jpg", quality=30)
    findings = check_images(folder)
    assert {(c.what, frozenset(c.paths)) for c in findings.copies} == {
        ("copies", frozenset({"train/b/png.png", "train/b/tiff.tif"})),
        ("across_splits", frozenset({"train/b/100.jpg", "test/b/small.jpg"})),
        ("copies", frozenset({"train/b/105.jpg", "train/b/crop.jpg"})),
    }
    (exact,) = (c for c in findings.copies if "train/b/png.png" in c.paths)
    assert exact.detail == "the same pixels"
    # The content of files says nothing of it.
    assert not check_images(folder, full=False).copies


def test_blank_pictures_are_not_alike(folder):
    for grey in (10, 100, 200):
        path = folder / "train" / "a" / f"{grey}.png"
        Image.new("L", (SIDE, SIDE), grey).save(path)
    findings = check_images(folder)
    assert findings.counts == {"blank": 3}


def test_candidates_are_all_the_near_pairs():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2500, 4)) * (3, 1, 1, 1)
    vectors[100] = vectors[2300] + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors[np.abs(vectors[:, 0]) < 0.9]
    # In four dimensions neighbours abound: only the nearest are kept.
    pairs = {frozenset(pair) for pair in candidates(vectors).tolist()}
    assert len(pairs) <= 8 * len(vectors)
    sparse = np.eye(24).repeat(50, 0) + random.normal(scale=0.3, size=(1200, 24))
    sparse /= np.linalg.norm(sparse, axis=1, keepdims=True)
    sparse = sparse[::7]
    distances = np.linalg.norm(sparse[:, None] - sparse, axis=-1)
    near = {frozenset(p) for p in np.argwhere(np.triu(distances <= 0.5, 1)).tolist()}
    assert {frozenset(p) for p in candidates(sparse).tolist()} == near


def test_where_all_are_alike_only_the_closest_are_copies():
    random = np.random.default_rng(0)
    base = np.asarray(picture(1).resize((32, 32)), float)
    alike = base + random.normal(scale=10, size=(200, 32, 32, 3))
    alike[7] = alike[150] + 1
    pairs, shared = alike_pairs(alike.clip(0, 255).astype(np.uint8))
    assert [set(pair) for pair in pairs.tolist()] == [{7, 150}]
    assert shared[0] > 0.99


def test_classes(folder):
    for path in (folder / "train" / "b").glob("*.jpg"):
        if path.stem != "100":
            path.unlink()
    (folder / "test" / "z").mkdir()
    picture(1).save(folder / "test" / "z" / "1.jpg")
    findings = check_images(folder, full=False)
    assert found(findings) >= {
        ("tiny_class", "train/b"),
        ("imbalance", "train/b"),
        ("unknown_class", "test/z"),
    }
    assert findings.stops_training


def test_one_class_is_an_error(tmp_path):
    (tmp_path / "only").mkdir()
    for seed in range(25):
        picture(seed).save(tmp_path / "only" / f"{seed}.png")
    findings = check_images(tmp_path)
    assert findings.counts == {"one_class": 1}
    assert findings.label_accuracy is None


def test_swapped_labels_rank_first(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for seed in range(300):
        picture(seed, int(seed >= 150)).save(
            tmp_path / "ab"[seed >= 150] / f"{seed}.png"
        )
    swapped = set()
    for seed in range(0, 300, 30):
        given, other = ("b", "a") if seed >= 150 else ("a", "b")
        (tmp_path / given / f"{seed}.png").rename(tmp_path / other / f"{seed}.png")
        swapped.add(f"{other}/{seed}.png")
    findings = check_images(tmp_path)
    ranked = [doubt.path for doubt in findings.doubts]
    assert len(swapped & set(ranked[:15])) >= 8
    assert len(ranked) <= 15
    assert findings.label_accuracy > 0.9
    assert all(
        doubt.given == doubt.path[0] != doubt.suggested for doubt in findings.doubts
    )

    given = lambda paths: np.ones((len(paths), 3))  # noqa: E731
    assert not check_images(tmp_path, features=given).doubts


def test_wrong_labels_by_hand():
    probabilities = np.array(
        [[0.9, 0.1], [0.8, 0.2], [0.02, 0.98], [0.1, 0.9], [0.45, 0.55], [0.95, 0.05]]
    )
    labels = np.array([0, 0, 0, 1, 0, 1])
    # Thresholds: 0.5425 and 0.475. The fifth reaches that of 1 but is not sure enough.
    rows, suggested = wrong_labels(labels, probabilities)
    assert rows.tolist() == [2, 5]
    assert suggested.tolist() == [1, 0]


def test_no_model_has_seen_a_copy_of_what_it_predicts():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 100)
    features = random.normal(size=(100, 400)).astype(np.float32)
    # Each example twice: whoever has seen the copy knows the label.
    twice = np.tile(features, (2, 1)), np.tile(labels, 2)
    alone = out_of_fold(*twice, np.arange(200)).argmax(1) == twice[1]
    grouped = out_of_fold(*twice, np.tile(np.arange(100), 2)).argmax(1) == twice[1]
    assert alone.mean() > 0.8
    assert grouped.mean() < 0.65


def test_fast_check_takes_lists_of_files(tmp_path):
    paths = [tmp_path / f"{n}.bin" for n in range(60)]
    for n, path in enumerate(paths):
        path.write_bytes(bytes([n]) * 5000)
    paths[50].write_bytes(paths[0].read_bytes())
    findings = fast_check(
        {"train": {"a": paths[:25], "b": paths[25:50]}, "test": {"a": paths[50:]}},
        root=tmp_path,
    )
    assert findings.counts == {"across_splits": 1}
    assert findings.copies[0].paths == ("0.bin", "50.bin")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_files_and_folders(folder):
    (folder / "train" / "a" / "0.jpg").chmod(0)
    (folder / "train" / "b").chmod(0)
    findings = check_images(folder)
    (folder / "train" / "b").chmod(0o700)
    assert {("unreadable", "train/a/0.jpg"), ("unreadable", "train/b")} <= found(
        findings
    )


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    findings = check_images(folder)
    assert found(findings) == {("unreadable", "train/b"), ("empty_class", "train/b")}


def test_bad_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("missing", "does not exist"),
        ("file", "is a file"),
        ("empty", "no class folders"),
    ):
        with pytest.raises(InputError, match=words):
            check_images(tmp_path / name)


def test_page(folder, tmp_path):
    evil = folder / "train" / "<i>x"
    evil.mkdir()
    for seed in range(20):
        picture(seed + 400).save(evil / f"{seed}.png")
    picture(400).save(evil / "again & again.png")
    (evil / "cut.jpg").write_bytes(encoded(picture(1))[:900])
    page = tmp_path / "page.html"
    findings = check_images(folder)
    write_page(page, findings)
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") >= 2 + len(findings.doubts)
    assert "<i>x" not in text
    assert "&lt;i&gt;x/again &amp; again.png" in text
    assert "Damaged image" in text
    assert "http" not in text


def test_command(folder, run_cli, refused, tmp_path):
    pytest.importorskip("kerasdl_apps.images_commands")
    page = tmp_path / "page.html"
    code, out, _ = run_cli("images", "check", folder, "--out", page)
    assert (code, page.exists()) == (0, True)
    assert "60 readable images of 2 classes" in out
    plant(folder)
    code, out, _ = run_cli("images", "check", folder, "--fast", "--json")
    assert code == 1
    assert json.loads(out)["counts"]["corrupt"] == 1
    refused("images", "check", folder / "missing", words=["missing", "does not exist"])
