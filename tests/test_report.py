"""The page of a run: well-formed, escaped, self-contained, rendered by a browser."""

import base64
import io
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from kerasdl import evaluate, report

pytestmark = pytest.mark.backend_free

EVIL = "<script>alert('x')</script>"
VOID_TAGS = {"meta", "br", "link", "img", "input", "hr"}


def make_report(classes=2, epochs=3, count=200, **changes):
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count)
    logits = random.normal(0, 1, (count, classes))
    logits[np.arange(count), labels] += 2
    probabilities = evaluate.softmax(logits)
    names = [f"class {i}" for i in range(classes)]
    metrics = evaluate.classification_metrics(labels, probabilities, names)
    values = np.linspace(0.5, 0.1, epochs).tolist()
    made = report.RunReport(
        title="A run",
        summary={"backend": "none"},
        metrics=metrics | {"set": "the test split"},
        history={"loss": values, "val_loss": values, "learning_rate": values},
        labels=labels,
        answers=probabilities,
        label_names=names,
        errors=[
            report.ErrorExample("a fine, dull thing", "no", "yes", 0.9, [("fine", 1.0)])
        ],
        notes=["A remark."],
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def plain_page(tmp_path_factory):
    return written(tmp_path_factory.mktemp("plain"), make_report())


def written(folder, made):
    path = folder / "report.html"
    report.write_report(path, made)
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that tags balance, and collects the text and the attributes."""

    def __init__(self, source):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], "", [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def evil_report(**changes):
    made = make_report()
    per_class = dict.fromkeys((EVIL, "b"), made.metrics["per_class"]["class 0"])
    error = report.ErrorExample(
        f"before {EVIL} after & more", EVIL, EVIL, 0.99, [(EVIL, 2.0), ("after", -1.0)]
    )
    return replace(
        made,
        title=EVIL,
        summary={EVIL: EVIL},
        metrics=made.metrics | {"set": EVIL, "per_class": per_class},
        history={EVIL: [1.0, 0.5], f"val_{EVIL}": [1.0, 0.5]},
        label_names=[EVIL, "b"],
        errors=[error],
        notes=[EVIL],
        **changes,
    )


def pixels(count, side, channels=1):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, side, side, channels), np.uint8)


def picture_report(side=28, channels=1, errors=6):
    """Return the report of an image model, with names from a hostile folder."""
    shown = pixels(errors, side, channels)
    names = [f"{EVIL} {i}" for i in range(10)]
    batch = report.BatchPicture(report.mosaic(shown, 4), names[:errors])
    wrong = [
        report.ErrorExample(
            f"photos/{EVIL}.jpg",
            EVIL,
            f"no {EVIL}",
            0.9,
            picture=report.picture_bytes(image),
            heatmap=report.picture_bytes(np.repeat(image, 3 // channels, axis=-1)),
        )
        for image in shown
    ]
    return make_report(10, errors=wrong, batches=[batch])


def images_of(page):
    """Return the pictures of a page with their alternative texts."""
    sources = [value for name, value in page.attributes if name == "src"]
    texts = [value for name, value in page.attributes if name == "alt"]
    pictures = []
    for source in sources:
        kind, coded = re.fullmatch(r"data:image/(\w+);base64,(.*)", source).groups()
        picture = Image.open(io.BytesIO(base64.b64decode(coded)))
        assert picture.format.lower() == kind
        pictures.append(picture)
    return dict(zip(texts, pictures, strict=False)), len(sources)


def test_errors_show_image_and_heatmap_side_by_side(tmp_path):
    source = written(tmp_path, picture_report())
    page = Page(source)
    assert "script" not in page.tags
    assert not re.search(r"<\s*/?script", source, re.IGNORECASE)
    shown, count = images_of(page)
    assert count == 1 + 2 * 6
    image = f"{EVIL}, taken for no {EVIL}"
    assert set(shown) == {
        "6 training images",
        image,
        f"Heatmap over the image of {image}",
    }
    assert page.text.count(f"photos/{EVIL}.jpg") == 6
    assert "empty text" not in page.text
    assert "the lighter a place" in page.text
    assert "Row by row: " + ", ".join(f"{EVIL} {i}" for i in range(6)) in page.text


def test_small_images_keep_every_pixel():
    (image,) = pixels(1, 28, 3)
    picture = Image.open(io.BytesIO(report.picture_bytes(image)))
    np.testing.assert_array_equal(np.asarray(picture), image)
    assert 'class="exact"' in report.pictures.picture_tag(
        report.picture_bytes(image), ""
    )


def test_large_images_are_reduced():
    image = np.full((600, 1200, 3), (200, 30, 30), np.uint8)
    picture = Image.open(io.BytesIO(report.picture_bytes(image)))
    assert (picture.format, picture.size) == ("JPEG", (224, 112))
    assert np.abs(np.asarray(picture) - (200.0, 30, 30)).max() < 8
    tag = report.pictures.picture_tag(report.picture_bytes(image), "")
    assert "exact" not in tag


def test_a_page_of_large_images_stays_small(tmp_path):
    source = written(tmp_path, picture_report(side=500, channels=3, errors=10))
    assert len(source) < 2_000_000


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_holds_the_images_row_by_row(channels):
    images = pixels(5, 6, channels)
    sheet = np.asarray(Image.open(io.BytesIO(report.mosaic(images, 3))))
    assert sheet.shape[:2] == (6 + 2 + 6, 3 * 6 + 2 * 2)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        tile = sheet[8 * row : 8 * row + 6, 8 * column : 8 * column + 6]
        np.testing.assert_array_equal(tile.reshape(image.shape), image)
    assert (sheet[6:8] == 128).all()


def test_a_mosaic_of_large_images_is_a_small_picture():
    sheet = Image.open(io.BytesIO(report.mosaic(pixels(3, 300, 3), 8)))
    assert (sheet.format, sheet.size) == ("JPEG", (3 * 112 + 2 * 2, 112))


def test_classes_come_worst_first_each_with_a_bar(tmp_path):
    made = make_report(4)
    page = written(tmp_path, made)
    shares = [float(share) for share in re.findall(r"--share:([\d.]+)\"", page)]
    recalls = [row["recall"] for row in made.metrics["per_class"].values()]
    assert shares == [round(recall, 4) for recall in sorted(recalls)]
    assert len(set(shares)) == 4
    places = [page.index(f'<th scope="row">{name}</th>') for name in made.label_names]
    assert np.argsort(places).tolist() == np.argsort(recalls).tolist()


@pytest.mark.parametrize("classes", [2, 30])
def test_page_is_well_formed_and_says_what_was_measured(tmp_path, classes):
    made = make_report(classes)
    page = Page(written(tmp_path, made))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for key in ("accuracy", "accuracy_low", "accuracy_high", "f1", "ece"):
        assert f"{100 * made.metrics[key]:.2f} %" in text
    for key in ("log_loss", "roc_auc"):
        assert f"{made.metrics[key]:.3f}" in text
    assert "Measured on the test split" in text
    assert "200 examples" in text
    assert all(name in text for name in made.label_names)
    assert page.tags.count("svg") == 3
    alternatives = [value for name, value in page.attributes if name == "aria-label"]
    assert len(alternatives) == 4


def test_page_needs_nothing_from_outside(plain_page):
    page = Page(plain_page)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#")
        if name == "style" and "url(" in value:
            assert "url(#" in value
    assert "@import" not in report.style.STYLESHEET
    assert "url(" not in report.style.STYLESHEET


def test_everything_from_data_is_escaped(tmp_path):
    source = written(tmp_path, evil_report())
    assert not re.search(r"<\s*/?script", source, re.IGNORECASE)
    page = Page(source)
    # Title twice, set, fact and its name, note, class row, both labels of the error,
    # the coloured word, column heads and plots.
    assert page.text.count(EVIL) >= 11
    assert "script" not in page.tags


def test_equal_reports_are_equal_bytes(tmp_path, plain_page):
    assert written(tmp_path, make_report()) == plain_page


def test_colours_follow_the_scheme(plain_page):
    body = plain_page[plain_page.index("<body>") :]
    assert not any(colour in body for colour in report.drawing.COLOURS.values())
    defined = set(re.findall(r"--(\w+):", report.style.STYLESHEET))
    assert set(re.findall(r"var\(--(\w+)\)", plain_page)) <= defined
    assert "prefers-color-scheme: dark" in plain_page


@pytest.mark.parametrize(
    "changes",
    [
        {"history": {}, "errors": [], "notes": [], "summary": {}},
        {"history": {"loss": [], "val_loss": []}},
        {"history": {"val_loss": [0.2, 0.1], "loss": [0.3]}},
        {"history": {"loss": [np.nan] * 3, "val_loss": [1.0, np.inf, 2.0]}},
        {"label_names": ["$x^{", "好 🙂\x00\ud800"], "history": {"loss": [0.3]}},
    ],
    ids=["nothing", "no epoch", "uneven", "not finite", "odd labels"],
)
def test_edge_cases(tmp_path, changes):
    made = make_report(**changes)
    Page(written(tmp_path, made))
    report.summary_picture(tmp_path / "summary.png", made)
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_no_history_saves_no_curves(tmp_path):
    report.save_plots(tmp_path, make_report(history={}))
    assert len(list(tmp_path.iterdir())) == 2


def test_undefined_numbers_show_as_a_dash():
    made = make_report()
    metrics = made.metrics | {"roc_auc": None, "log_loss": float("nan")}
    source = report.page._header(replace(made, metrics=metrics))
    assert source.count(f"<dd>{report.UNKNOWN}</dd>") == 2


def coloured(text, words):
    return report.errors._coloured(text, words)


def marks(source):
    return re.findall(r'<mark class="(\w+)"[^>]*--push:([\d.]+)">(.*?)</mark>', source)


def test_words_are_coloured_by_push():
    source = coloured(
        "Not good: the goodness of GOOD&bad :)",
        [("good", 1.0), ("not good", -2.0), ("bad", 0.5), (":)", 0.4), ("odd", 0.0)],
    )
    assert marks(source) == [
        ("away", "1.00", "Not good"),
        ("towards", "0.50", "GOOD"),
        ("towards", "0.25", "bad"),
        ("towards", "0.20", ":)"),
    ]
    assert re.sub(r"<.*?>", "", source) == "Not good: the goodness of GOOD&amp;bad :)"


def test_a_word_listed_twice_shows_its_hardest_push():
    source = coloured("so so", [("so", 0.1), ("so", -0.4), ("", 9.0), ("x", np.nan)])
    assert marks(source) == [("away", "1.00", "so")] * 2


def test_long_texts_are_cut_around_the_strongest_words():
    text = f"weak {'filler ' * 500}strong then {'filler ' * 500}weak"
    source = coloured(text, [("weak", 0.1), ("strong", 1.0)])
    assert [word for _, _, word in marks(source)] == ["strong"]
    plain = re.sub(r"<.*?>", "", source)
    assert plain.startswith("… filler ")
    assert plain.endswith(" filler …")
    assert 500 < len(plain) <= report.errors.EXCERPT_CHARACTERS + 4


def test_the_excerpt_holds_the_most_push_a_search_can_find():
    random = np.random.default_rng(0)
    text = "x" * 5000
    starts = np.sort(random.choice(4900, 40, replace=False))
    found = [(int(s), int(s) + 4, float(random.normal())) for s in starts]
    start, end = report.errors._excerpt(text, found)

    def push(low, high):
        return sum(abs(p) for left, right, p in found if low <= left and right <= high)

    inner = report.errors.EXCERPT_CHARACTERS * 3 // 4
    assert end - start <= report.errors.EXCERPT_CHARACTERS
    assert push(start, end) >= max(push(s, s + inner) for s in range(5000 - inner))


def test_a_long_text_without_words_keeps_its_start():
    assert coloured("word " * 400, []).startswith("word word")
    assert len(coloured("y" * 10_000, [])) <= report.errors.EXCERPT_CHARACTERS + 2
    assert coloured("a<br />b<BR>c", []) == "a b c"
    assert "empty text" in coloured(" ", [])


def test_worst_errors_come_first():
    labels = np.array([0, 0, 1, 1, 0])
    positive = np.array([0.9, 0.2, 0.05, 0.8, 0.6])
    probabilities = np.stack([1 - positive, positive], axis=1)
    assert report.worst_errors(labels, probabilities, 9).tolist() == [2, 0, 4]
    assert report.worst_errors(labels, probabilities, 2).tolist() == [2, 0]


def test_plots_are_pictures(tmp_path):
    report.save_plots(tmp_path, make_report())
    names = ["confusion_matrix.png", "learning_curves.png", "reliability_diagram.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_confusion_matrix_shows_the_counts():
    made = make_report(3)
    figure = report.plots.confusion_matrix(made.labels, made.answers, made.label_names)
    (axes,) = figure.axes
    shown = [int(text.get_text().split("\n")[0]) for text in axes.texts]
    counts = evaluate.confusion(made.labels, made.answers)
    assert shown == counts.ravel().tolist()
    # The picture has row 0 on top: the true class reads downwards.
    assert axes.yaxis_inverted()


def test_learning_curves_show_the_history():
    history = {"loss": [3.0, 2.0], "val_loss": [4.0, np.inf], "learning_rate": [1, 1]}
    (axes,) = report.plots.learning_curves(history).axes
    train, held_out = (line.get_ydata().tolist() for line in axes.lines)
    assert train == [3.0, 2.0]
    assert held_out[0] == 4.0
    assert np.isnan(held_out[1])
    assert "not a number" in [text.get_text() for text in axes.texts]


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        report.write_report(page, make_report())
    assert list(tmp_path.iterdir()) == [page]
    assert page.read_text() == "before"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_renders_the_page_without_complaint(tmp_path):
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    pictures = picture_report()
    errors = [*evil_report().errors, *pictures.errors]
    report.write_report(
        page, replace(evil_report(), batches=pictures.batches, errors=errors)
    )
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync "
        "--enable-logging=stderr --v=0 --window-size=1200,1600"
    )
    done = subprocess.run(
        [
            "chromium",
            *options.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    # A page that shows nothing compresses to a few thousand bytes.
    assert picture.stat().st_size > 20_000
