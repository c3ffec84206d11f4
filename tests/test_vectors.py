"""Word vectors, against a dense computation written from the paper."""

import numpy as np
import pytest

from kerasdl.data.batches import Ragged
from kerasdl.data.vectors import word_vectors

pytestmark = pytest.mark.backend_free


def ragged(rows):
    lengths = np.array([len(row) for row in rows])
    return Ragged.from_lengths(np.concatenate(rows).astype(np.int32), lengths)


def dense_ppmi(rows, size, window):
    """Count pairs one by one; smoothed positive mutual information."""
    counts = np.zeros((size, size))
    for row in rows:
        for i, word in enumerate(row):
            for j, other in enumerate(row):
                if i != j and abs(i - j) <= window and min(word, other) > 1:
                    counts[word, other] += 1
    words = counts.sum(1)
    contexts = words**0.75 / (words**0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / (words[:, None] * contexts))
    return np.where(counts > 0, np.maximum(information, 0), 0)


def test_vectors_factorise_the_information():
    random = np.random.default_rng(0)
    rows = [random.integers(0, 12, random.integers(1, 15)) for _ in range(30)]
    rows = [*rows, np.zeros(0, int)]
    vectors = word_vectors(ragged(rows), 13, 12, window=3)
    left, strength, _ = np.linalg.svd(dense_ppmi(rows, 13, 3))
    expected = left[:, :12] * np.sqrt(strength[:12])
    expected[2:12] -= expected[2:12].mean(0)
    expected[[0, 1, 12]] = 0
    norms = np.linalg.norm(expected, axis=1)
    # Vectors are known up to the sign of each axis, cosines are not.
    cosine = expected @ expected.T / np.maximum(np.outer(norms, norms), 1e-9)
    np.testing.assert_allclose(vectors @ vectors.T, cosine, atol=1e-3)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths[2:12], 1, atol=1e-5)
    assert not vectors[[0, 1, 12]].any()  # padding, unknown, never seen
    assert vectors.shape == (13, 12)
    assert vectors.dtype == np.float32


def test_words_in_like_company_are_near():
    random = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        topic = random.integers(2)  # words 2 to 6 or 7 to 11
        rows.append(random.integers(0, 5, 10) + 2 + 5 * topic)
    vectors = word_vectors(ragged(rows), 12, 4)
    cosine = vectors @ vectors.T
    within = [cosine[2:7, 2:7].min(), cosine[7:12, 7:12].min()]
    assert min(within) > cosine[2:7, 7:12].max() + 0.5


def test_vectors_wider_than_the_vocabulary_end_in_zeros():
    vectors = word_vectors(ragged([np.array([2, 3, 2, 3, 4])]), 5, 9)
    assert vectors.shape == (5, 9)
    assert not vectors[:, 4:].any()
    assert vectors[2:].any(axis=1).all()


def test_same_seed_same_vectors():
    rows = ragged([np.random.default_rng(0).integers(0, 20, 200)])
    first, second = (word_vectors(rows, 20, 8, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_texts_without_neighbours_give_zeros():
    assert not word_vectors(ragged([np.array([2]), np.array([3])]), 4, 2).any()
