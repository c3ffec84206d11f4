"""Schedules, against their formulas."""

import numpy as np
import pytest

from kerasdl.schedules import learning_rate_schedule


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_constant_is_a_number():
    assert learning_rate_schedule("constant", 0.3, 10) == 0.3


def test_linear_falls_to_zero():
    schedule = learning_rate_schedule("linear", 0.4, 8)
    expected = [0.4 * (1 - step / 8) for step in range(9)]
    np.testing.assert_allclose(rates(schedule, range(9)), expected, atol=1e-6)


def test_cosine_rises_then_falls():
    schedule = learning_rate_schedule("cosine", 0.4, 20, warmup=0.25)
    rise = [0.4 * step / 5 for step in range(5)]
    fall = [0.2 * (1 + np.cos(np.pi * step / 15)) for step in range(16)]
    np.testing.assert_allclose(rates(schedule, range(21)), rise + fall, atol=1e-6)


def test_cosine_without_warmup_starts_at_the_peak():
    schedule = learning_rate_schedule("cosine", 0.4, 20)
    np.testing.assert_allclose(rates(schedule, [0, 10, 20]), [0.4, 0.2, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_training_of_no_steps_has_a_schedule(name):
    assert rates(learning_rate_schedule(name, 0.4, 0), [0]) == pytest.approx([0.4])


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"schedule='cosin'.*did you mean 'cosine'"):
        learning_rate_schedule("cosin", 0.1, 10)
