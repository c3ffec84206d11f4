"""Layers of the image models, against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasdl.layers import (
    ClassToken,
    GridPositions,
    SelfAttention,
    StochasticDepth,
    resize_positions,
)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def test_stochastic_depth_drops_whole_examples_and_scales_the_rest():
    layer = StochasticDepth(0.25)
    x = np.random.default_rng(0).normal(size=(4000, 2, 3)).astype("float32")
    found = numpy(layer(x, training=True))
    kept = found.any(axis=(1, 2))
    # 4,000 draws: four standard deviations are 0.027.
    assert kept.mean() == pytest.approx(0.75, abs=0.027)
    np.testing.assert_allclose(found[kept], x[kept] / 0.75, rtol=1e-5)
    assert (numpy(layer(x, training=True)) != found).any()
    np.testing.assert_array_equal(numpy(layer(x, training=False)), x)
    np.testing.assert_array_equal(numpy(StochasticDepth(0.0)(x, training=True)), x)


def test_learned_positions_are_added_to_their_patch():
    layer = GridPositions("learned")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layer.build(x.shape)
    grid = np.random.default_rng(1).normal(size=(3, 4, 5)).astype("float32")
    layer.grid.assign(grid)
    np.testing.assert_allclose(numpy(layer(x)), x + grid, atol=1e-6)
    assert len(layer.trainable_weights) == 1


def test_sinusoidal_positions_are_waves_over_rows_and_columns():
    layer = GridPositions("sinusoidal")
    layer.build((None, 3, 5, 8))
    grid = numpy(layer.grid.value)
    for row in range(3):
        for column in range(5):
            expected = [
                wave(place / 10_000 ** (i / 2))
                for place in (row, column)
                for wave in (np.sin, np.cos)
                for i in range(2)
            ]
            np.testing.assert_allclose(grid[row, column], expected, atol=1e-6)
    assert not layer.trainable_weights


@pytest.mark.parametrize("has_position", [True, False])
def test_class_token_comes_first(has_position):
    layer = ClassToken(has_position=has_position)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    layer.build(x.shape)
    assert len(layer.trainable_weights) == 1 + has_position
    for i, weight in enumerate(layer.weights):
        weight.assign(np.full((1, 1, 4), i + 1.0))
    found = numpy(layer(x))
    np.testing.assert_array_equal(found[:, 1:], x)
    np.testing.assert_array_equal(
        found[:, 0], np.full((2, 4), 3 if has_position else 1)
    )


def ramp(height, width):
    """Return the places of the patches' centres in an image of height and width 1."""
    rows = (np.arange(height) + 0.5) / height
    columns = (np.arange(width) + 0.5) / width
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)


@pytest.mark.parametrize("size", [(14, 14), (24, 24), (28, 20), (10, 14)])
def test_a_ramp_stays_a_ramp(size):
    found = resize_positions(ramp(14, 14), size)
    assert found.shape == (*size, 2)
    assert found.dtype == np.float32
    inside = np.all(abs(ramp(*size) - 0.5) < 0.25, axis=-1)
    np.testing.assert_allclose(found[inside], ramp(*size)[inside], atol=1e-3)
    # Beyond the outermost centres there is nothing to tell how it goes on.
    np.testing.assert_allclose(found, ramp(*size), atol=0.05)


def test_positions_of_the_same_size_stay_as_they_are():
    grid = np.random.default_rng(0).normal(size=(5, 7, 3)).astype("float32")
    np.testing.assert_allclose(resize_positions(grid, (5, 7)), grid, atol=1e-6)


def test_channels_are_resized_apart():
    grid = np.random.default_rng(0).normal(size=(4, 4, 3)).astype("float32")
    found = resize_positions(grid, (7, 9))
    for i in range(3):
        alone = resize_positions(grid[..., i : i + 1], (7, 9))
        np.testing.assert_allclose(found[..., i], alone[..., 0], atol=1e-6)


@pytest.mark.parametrize("rotary", [False, True])
def test_attention_without_mask_sees_everything(rotary):
    layer = SelfAttention(2, rotary=rotary)
    x = np.random.default_rng(1).normal(size=(2, 7, 8)).astype("float32")
    found = numpy(layer(x))
    expected = numpy(layer(x, np.ones((2, 7), bool)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    part = np.array([[True] * 7, [True] * 4 + [False] * 3])
    assert np.abs(numpy(layer(x, part)) - found)[1].max() > 1e-3


def test_attention_without_biases_keeps_its_arguments():
    layer = SelfAttention(2, qkv_bias=False, kernel_initializer="zeros")
    x = np.ones((1, 3, 4), "float32")
    assert not numpy(layer(x)).any()
    assert [tuple(w.shape) for w in layer.weights] == [(4, 12), (4, 4), (4,)]
    again = SelfAttention.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_each_kernel_of_attention_draws_numbers_of_its_own():
    layer = SelfAttention(1, kernel_initializer=keras.initializers.RandomNormal())
    layer.build((None, 3, 4))
    kernels = [numpy(dense.kernel.value) for dense in (layer.qkv, layer.out)]
    assert (kernels[0][:, :4] != kernels[1]).all()
