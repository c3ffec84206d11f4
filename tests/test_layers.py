"""Layers with formulas of their own, against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import log_softmax, softmax

from kerasdl import backend
from kerasdl.data.batches import Ragged
from kerasdl.layers import (
    Blend,
    NgramBag,
    PositionEmbedding,
    SelfAttention,
    WordDropout,
)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def randomise(layer, scale=0.5):
    random = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(random.normal(0, scale, weight.shape))
    return layer


def angles(length, width):
    """Angle of each position and pair, one by one."""
    pairs = -(-width // 2)
    return np.array(
        [[t / 10_000 ** (i / pairs) for i in range(pairs)] for t in range(length)]
    )


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoidal_positions_follow_the_formula(width):
    waves = angles(9, width)
    expected = np.hstack([np.sin(waves), np.cos(waves)])[:, :width]
    x = np.random.default_rng(0).normal(size=(2, 9, width)).astype("float32")
    found = numpy(PositionEmbedding("sinusoidal")(x))
    np.testing.assert_allclose(found - x, np.stack([expected] * 2), atol=1e-5)


def test_learned_positions_share_the_last_beyond_the_table():
    layer = PositionEmbedding("learned", max_length=4)
    x = np.zeros((1, 6, 3), "float32")
    layer.build(x.shape)
    randomise(layer)
    table = numpy(layer.table.value)
    np.testing.assert_array_equal(numpy(layer(x))[0], table[[0, 1, 2, 3, 3, 3]])


def attend(x, mask, kernel, bias, out_kernel, out_bias, heads, *, rotary):
    """Compute attention head by head, as in Vaswani et al., over real positions."""
    length, width = x.shape
    size = width // heads
    query, key, value = np.split(x @ kernel + bias, 3, axis=1)
    mixed = np.zeros((length, width))
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        q, k, v = query[:, part], key[:, part], value[:, part]
        if rotary:
            q, k = (rotate(vectors) for vectors in (q, k))
        scores = q @ k[mask].T / np.sqrt(size)
        mixed[:, part] = softmax(scores, axis=1) @ v[mask]
    return mixed @ out_kernel + out_bias


def rotate(vectors):
    """Turn each pair as a complex number by the angle of its position."""
    half = vectors.shape[1] // 2
    pairs = vectors[:, :half] + 1j * vectors[:, half:]
    turned = pairs * np.exp(1j * angles(*vectors.shape))
    return np.hstack([turned.real, turned.imag])


@pytest.mark.parametrize("rotary", [False, True])
def test_attention_follows_the_formula(rotary):
    layer = SelfAttention(2, rotary=rotary)
    x = np.random.default_rng(1).normal(size=(2, 7, 8)).astype("float32")
    mask = np.arange(7) < np.array([[7], [4]])
    layer.build(x.shape)
    randomise(layer)
    weights = [numpy(w.value).astype(float) for w in layer.weights]
    found = numpy(layer(x, mask))
    for row in range(2):
        expected = attend(x[row], mask[row], *weights, 2, rotary=rotary)
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_attention_in_16_bits_is_that_of_numpy(dtype):
    random = np.random.default_rng(0)
    parts = [
        ops.cast(random.normal(size=(2, 5, 3, 4)).astype("float32"), dtype)
        for _ in range(3)
    ]
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    mixed = backend.attention(*parts, ops.convert_to_tensor(mask[:, None, None]))
    assert keras.backend.standardize_dtype(mixed.dtype) == dtype
    query, key, value = (numpy(ops.cast(part, "float32")) for part in parts)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / 2
    scores = np.where(mask[:, None, None], scores, -np.inf)
    expected = np.einsum("bhqk,bkhd->bqhd", softmax(scores, -1), value)
    found = numpy(ops.cast(mixed, "float32"))
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_text_without_tokens_attends_to_no_nan():
    layer = SelfAttention(2)
    x = np.ones((1, 3, 4), "float32")
    assert np.isfinite(numpy(layer(x, np.zeros((1, 3), bool)))).all()


@pytest.mark.parametrize("rotary", [False, True])
def test_rotary_scores_depend_on_distance_alone(rotary):
    """Shifting a text within constant surroundings must not change its scores."""
    from kerasdl.layers.attention import _rotate

    random = np.random.default_rng(2)
    q, k = (random.normal(size=4).astype("float32") for _ in range(2))
    rows = np.tile(q, (1, 12, 1, 1)), np.tile(k, (1, 12, 1, 1))  # BLHD
    q, k = (numpy(_rotate(row) if rotary else row)[0, :, 0] for row in rows)
    scores = q @ k.T
    for gap in range(-5, 6):
        np.testing.assert_allclose(np.ptp(np.diagonal(scores, gap)), 0, atol=1e-5)
    varies = np.ptp(scores[0]) > 0.1
    assert varies == rotary


def naive_bag(rows, kernel, bias, ratio, scale):
    """Score each text by Wang and Manning's formula on its unit-length vector."""
    scores = []
    for row in rows:
        vector = np.zeros_like(kernel)
        vector[row] = ratio[row]
        norm = np.sqrt((vector**2).sum(0))
        norm[norm == 0] = 1
        scores.append(scale * (vector / norm * kernel).sum(0) + bias)
    return np.array(scores)


def naive_ratio(rows, labels, size, classes):
    """Log-count ratio of each class against the rest, add-one smoothed."""
    counts = np.zeros((size, classes))
    for row, label in zip(rows, labels, strict=True):
        counts[row, label] += 1
    ratio = np.zeros((size, classes))
    for c in range(classes):
        p = counts[:, c] + 1
        q = counts.sum(1) - counts[:, c] + 1
        ratio[:, c] = np.log((p / p.sum()) / (q / q.sum()))
    ratio[counts.sum(1) == 0] = 0
    return ratio


@pytest.mark.parametrize("classes", [2, 3])
def test_bag_follows_the_paper(classes):
    random = np.random.default_rng(0)
    rows = [
        np.sort(random.choice(np.arange(1, 25), n, replace=False))
        for n in random.integers(1, 12, 20)
    ]
    rows.append(np.zeros(0, int))
    labels = np.arange(21) % classes
    ragged = Ragged.from_lengths(
        np.concatenate(rows).astype("int32"), np.array([len(row) for row in rows])
    )
    layer = NgramBag(27, classes, scale=3.0)
    layer.build((None, None))
    layer.adapt(ragged, labels)
    ratio = naive_ratio(rows, labels, 27, classes)
    ratio = ratio[:, 1:] if classes == 2 else ratio
    np.testing.assert_allclose(numpy(layer.ratio.value), ratio, atol=1e-5)
    kernel = random.normal(size=ratio.shape)
    bias = random.normal(size=ratio.shape[1])
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    expected = naive_bag(rows, kernel, bias, ratio, 3.0)
    if classes == 2:
        expected = np.hstack([-expected, expected])
    padded = ragged.pad(16)
    found = numpy(layer(padded))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    parts = numpy(layer.contributions(padded)).sum(1) + bias
    np.testing.assert_allclose(parts, expected[:, -parts.shape[1] :], atol=1e-4)
    assert not numpy(layer.contributions(padded))[padded == 0].any()


def blended(weight=(0.3, 0.9)):
    layer = Blend(["wide", "deep"])
    branches = [np.random.default_rng(i).normal(size=(4, 3)) for i in range(2)]
    branches = [ops.convert_to_tensor(b, dtype="float32") for b in branches]
    layer.build([b.shape for b in branches])
    layer.weight.assign(weight)
    return layer, branches


def test_blend_stacks_in_training_and_adds_up_otherwise():
    layer, branches = blended()
    wide, deep = (numpy(branch) for branch in branches)
    np.testing.assert_array_equal(
        numpy(layer(branches, training=True)), np.stack([wide, deep], axis=1)
    )
    np.testing.assert_allclose(
        numpy(layer(branches)), 0.3 * wide + 0.9 * deep, atol=1e-6
    )
    assert layer.weight_of("deep") == pytest.approx(0.9)


def test_blend_adapts_to_the_least_log_loss():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 400)
    truth = np.eye(3)[labels]
    logits = np.stack(
        [truth * 2 + random.normal(0, s, (400, 3)) for s in (1.0, 2.0)], axis=1
    )
    layer, _ = blended()
    layer.adapt(logits, labels)

    def log_loss(weights):
        mixed = np.einsum("nbc,b->nc", logits, weights)
        loss = -log_softmax(mixed, axis=1)[np.arange(400), labels].mean()
        return loss + ((np.array(weights) - 0.5) ** 2).sum() / 400  # the prior

    grid = np.linspace(0, 3, 61)
    best = min(log_loss((a, b)) for a in grid for b in grid)
    found = log_loss(numpy(layer.weight.value))
    assert found <= best + 1e-6
    assert found < log_loss((0.5, 0.5)) - 1e-3
    layer.adapt(logits * np.array([1, -1])[:, None], labels)
    assert layer.weight_of("deep") == pytest.approx(0, abs=1e-6)  # never negative


def test_word_dropout_hides_its_share_in_training_only():
    layer = WordDropout(0.3, unknown_id=1)
    tokens = np.tile(np.arange(2, 102, dtype="int32"), (400, 1))
    tokens[:, 50:] = 0
    found = numpy(layer(tokens, training=True))
    real = tokens > 0
    hidden = found[real] == 1
    # 20,000 draws: four standard deviations are 0.013.
    assert hidden.mean() == pytest.approx(0.3, abs=0.013)
    np.testing.assert_array_equal(found[real][~hidden], tokens[real][~hidden])
    assert not found[~real].any()
    assert keras.backend.standardize_dtype(layer(tokens).dtype) == "int32"
    np.testing.assert_array_equal(numpy(layer(tokens, training=False)), tokens)
    again = numpy(layer(tokens, training=True))
    assert (again != found).any()
    none = WordDropout(0.0)
    np.testing.assert_array_equal(numpy(none(tokens, training=True)), tokens)
