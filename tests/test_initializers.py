"""Random starting values: their distribution, seeds and copies."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from kerasdl import backend
from kerasdl.initializers import HeNormal, TruncatedNormal

SHAPE = (300, 1001)  # not a multiple of the four numbers in a random word


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def test_numbers_are_truncated_normal():
    drawn = numpy(TruncatedNormal(0.02, seed=3)(SHAPE)) / 0.02
    assert drawn.shape == SHAPE
    assert drawn.dtype == np.float32
    assert abs(drawn).max() < 2
    expected = stats.truncnorm(-2, 2)
    assert drawn.mean() == pytest.approx(0, abs=4 * expected.std() / drawn.size**0.5)
    assert drawn.std() == pytest.approx(expected.std(), rel=5e-3)
    assert stats.kstest(drawn.ravel()[::7], expected.cdf).pvalue > 1e-3
    # Neighbours in memory come out of one random word.
    for gap in (1, 2, 3, 4):
        pairs = np.corrcoef(drawn.ravel()[:-gap], drawn.ravel()[gap:])
        assert abs(pairs[0, 1]) < 4 / drawn.size**0.5


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("shape", [(7, 7, 3, 64), (1, 1, 200, 100), (50, 400)])
def test_kernels_have_the_variance_of_he(shape, mode):
    drawn = numpy(HeNormal(mode, seed=1)(shape))
    fan = math.prod(shape[:-2]) * shape[-2 if mode == "fan_in" else -1]
    assert drawn.std() == pytest.approx(math.sqrt(2 / fan), rel=0.03)
    keras_own = keras.initializers.VarianceScaling(2.0, mode, "truncated_normal")
    keras_drawn = numpy(keras_own(shape))
    assert abs(drawn).max() == pytest.approx(abs(keras_drawn).max(), rel=0.01)


def test_seeds_decide():
    backend.set_seed(5)
    first, second = TruncatedNormal(), TruncatedNormal()
    backend.set_seed(5)
    again = TruncatedNormal()
    one, two, three = (numpy(x((4, 5))) for x in (first, second, again))
    np.testing.assert_array_equal(one, three)
    assert (one != two).all()
    assert (numpy(first.clone()((4, 5))) != one).all()
    seeded = TruncatedNormal(seed=2)
    np.testing.assert_array_equal(numpy(seeded.clone()((4, 5))), numpy(seeded((4, 5))))


def test_values_are_the_same_on_every_backend():
    expected = [0.000444, 0.019456, 0.025858, 0.006675, 0.018682]
    found = numpy(TruncatedNormal(0.02, seed=0)((5,)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "initializer", [TruncatedNormal(0.3, seed=1), HeNormal("fan_out")]
)
def test_config_round_trip(initializer):
    config = keras.initializers.serialize(initializer)
    again = keras.initializers.deserialize(config)
    assert type(again) is type(initializer)
    assert again.get_config() == initializer.get_config()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_dtypes(dtype):
    drawn = TruncatedNormal()((3, 2), dtype=dtype)
    assert keras.backend.standardize_dtype(drawn.dtype) == dtype


@pytest.mark.parametrize("shape", [(), (0, 2)])
def test_shapes_of_one_number_and_of_none(shape):
    assert tuple(TruncatedNormal()(shape).shape) == shape
