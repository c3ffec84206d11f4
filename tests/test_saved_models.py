"""The bundles that come with kerasdl."""

import json

import pytest

import kerasdl
from kerasdl.bundle import read_bundle, shipped_bundles
from kerasdl.data.image_sources import load_images
from kerasdl.data.imdb import is_prepared
from kerasdl.data.sources import imdb

# Ours, not from any review set.
SENTENCES = {
    "A delight from the first scene to the last, and superbly acted.": "positive",
    "One of the best films of the year; I loved every minute.": "positive",
    "Not bad at all, I was pleasantly surprised.": "positive",
    "Dull, badly written and far too long.": "negative",
    "A complete waste of time, I want my two hours back.": "negative",
    "It tries hard to be funny and never is, what a disappointment.": "negative",
}


@pytest.fixture(scope="module")
def predictor():
    return kerasdl.load("sentiment-imdb")


@pytest.mark.parametrize("name", sorted(shipped_bundles()))
def test_shipped_bundles_are_whole_and_small(name):
    folder = shipped_bundles()[name]
    read_bundle(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
    assert not (folder / "model.keras").exists()


def test_plain_sentences_get_their_label(predictor):
    found = {p.example: p.label for p in predictor(list(SENTENCES))}
    assert found == SENTENCES


@pytest.mark.slow
@pytest.mark.skipif(not is_prepared(), reason="IMDB is not prepared")
def test_imdb_accuracy_is_the_measured_one(predictor):
    test = imdb().test.subset(range(0, 25000, 20))
    right = predictor.answers(test.examples).argmax(axis=1) == test.labels
    # Three standard errors of 1,250 reviews below the 92.0 % that is promised.
    assert right.mean() > 0.92 - 3 * (0.92 * 0.08 / 1250) ** 0.5


@pytest.mark.slow
def test_fashion_accuracy_is_the_measured_one():
    """The sample's test images are of the official test split."""
    predictor = kerasdl.load("fashion-mnist")
    promised = read_metrics("fashion-mnist")["accuracy"]
    test = load_images("sample").test
    right = predictor.answers(test.examples).argmax(axis=1) == test.labels
    deviation = (promised * (1 - promised) / len(test)) ** 0.5
    assert abs(right.mean() - promised) < 3 * deviation
    folder = shipped_bundles()["fashion-mnist"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6


def read_metrics(name):
    return json.loads((shipped_bundles()[name] / "metrics.json").read_text())
