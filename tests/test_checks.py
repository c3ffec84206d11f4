"""The checks that every builder shares: what they refuse, and in which words."""

import numpy as np
import pytest

from kerasdl.checks import check_classes, check_rates, check_shape

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize("value", [1, 0, -3, 2.0, True, "10", None, (10,), [2, 3]])
def test_classes_are_an_integer_of_at_least_two(value):
    with pytest.raises(ValueError, match=r"num_classes=.*an integer of at least 2$"):
        check_classes(value)


@pytest.mark.parametrize(
    "value", [1, 1.0, -0.1, float("nan"), True, False, "x", None, (0.1,)]
)
def test_rates_are_numbers_in_their_range(value):
    with pytest.raises(ValueError, match=r"dropout=.*in \[0, 1\)$"):
        check_rates(dropout=value)


def test_numbers_of_numpy_are_numbers():
    check_classes(np.int64(2))
    check_rates(dropout=np.float32(0.5), word_dropout=0)


def test_the_length_alone_may_be_none():
    check_shape((None, 3), ("length", "channels"), any_length=True)
    for shape in ((None, None), (3, None), (None,), (None, 3, 3)):
        with pytest.raises(ValueError, match="input_shape="):
            check_shape(shape, ("length", "channels"), any_length=True)
    with pytest.raises(ValueError, match=r"input_shape=\(None, 3\)"):
        check_shape((None, 3), ("length", "channels"))
