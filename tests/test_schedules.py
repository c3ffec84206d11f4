"""Schedules, against their formulas, step by step."""

import itertools

import keras
import numpy as np
import pytest

from kerasdl.schedules import SCHEDULES, OneCycle, learning_rate_schedule

PEAK, STEPS = 0.4, 100


def rates(schedule, steps=range(STEPS + 1)):
    if isinstance(schedule, float):
        return [schedule for _ in steps]
    # As an optimizer has it: an integer.
    return [
        float(schedule(keras.ops.convert_to_tensor(step, dtype="int32")))
        for step in steps
    ]


def half_cosine(share):
    return 0.5 * (1 + np.cos(np.pi * np.clip(share, 0, 1)))


def piecewise(step):
    return PEAK * (1 if step < 50 else 0.1 if step < 75 else 0.01)


def triangular(step, end=1.0):
    half = STEPS / 4 / 2
    cycle = np.floor(1 + step / (2 * half))  # Smith 2015, section 3.2
    place = abs(step / half - 2 * cycle + 1)
    height = max(0, 1 - place) * end ** (step / STEPS)
    return 0.1 * PEAK + 0.9 * PEAK * height


def one_cycle(step):
    # As torch.optim.lr_scheduler.OneCycleLR computes it, of 100 steps.
    top, last, step = 0.3 * STEPS - 0.3, STEPS - 1, min(step, STEPS - 1)
    if step < top:
        low = PEAK / 25
        return low + (PEAK - low) * (1 - half_cosine(step / top))
    low = PEAK / 25 / 1e4
    return low + (PEAK - low) * half_cosine((step - top) / (last - top))


def restarts(step):
    # Cycles of 1, 2 and 4 parts of seven.
    starts = [0, 14, 43, 100]
    for first, end in itertools.pairwise(starts):
        if first <= step < end:
            return PEAK * half_cosine((step - first) / (end - first))
    return 0.0


FORMULAS = {
    "constant": lambda step: PEAK,  # noqa: ARG005
    "cosine": lambda step: PEAK * half_cosine(step / STEPS),
    "exp_range": lambda step: triangular(step, end=0.1),
    "exponential": lambda step: PEAK * 0.01 ** (step / STEPS),
    "inverse_sqrt": lambda step: PEAK * min(step, 1 / np.sqrt(max(step, 1))),
    "linear": lambda step: PEAK * (1 - step / STEPS),
    "one_cycle": one_cycle,
    "restarts": restarts,
    "step": piecewise,
    "triangular": triangular,
    "wsd": lambda step: PEAK * min(1, (STEPS - step) / 20),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_is_that_of_the_formula(name):
    schedule = learning_rate_schedule(name, PEAK, STEPS)
    expected = [FORMULAS[name](step) for step in range(STEPS + 1)]
    np.testing.assert_allclose(rates(schedule), expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"one_cycle", "inverse_sqrt"}))
def test_warm_up_rises_along_a_line_and_goes_on_with_the_shape(name):
    schedule = learning_rate_schedule(name, PEAK, STEPS + 25, warmup=0.2)
    rise = [PEAK * step / 25 for step in range(25)]
    rest = [FORMULAS[name](step) for step in range(STEPS + 1)]
    found = rates(schedule, range(STEPS + 26))
    np.testing.assert_allclose(found, rise + rest, rtol=2e-5, atol=1e-7)


def test_inverse_square_root_after_its_warm_up():
    schedule = learning_rate_schedule("inverse_sqrt", PEAK, STEPS, warmup=0.16)
    rise = [PEAK * step / 16 for step in range(16)]
    fall = [PEAK * np.sqrt(16 / step) for step in range(16, STEPS + 1)]
    np.testing.assert_allclose(rates(schedule), rise + fall, rtol=1e-5)


def test_one_cycle_of_the_momentum_is_the_reverse():
    found = rates(OneCycle(PEAK, STEPS).momentum(0.95, 0.85))
    top, last = 29.7, 99
    expected = [
        0.95 - 0.1 * (1 - half_cosine(step / top))
        if step < top
        else 0.85 + 0.1 * (1 - half_cosine((min(step, last) - top) / (last - top)))
        for step in range(STEPS + 1)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_options_change_the_shape():
    schedule = learning_rate_schedule("step", 1.0, 10, drops=(0.2,), factor=0.5)
    np.testing.assert_allclose(rates(schedule, range(4)), [1, 1, 0.5, 0.5])


@pytest.mark.parametrize("name", SCHEDULES)
def test_training_of_no_steps_has_a_schedule(name):
    assert np.isfinite(rates(learning_rate_schedule(name, 0.4, 0), [0, 1])).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_config_makes_the_same_schedule(name):
    schedule = learning_rate_schedule(name, PEAK, STEPS, warmup=0.1)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    steps = [0, 5, 40, 99]
    assert rates(again, steps) == rates(schedule, steps)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, r"schedule='cosin'.*did you mean 'cosine'"),
        ("wsd", {"decoy": 0.1}, r"schedule option='decoy'.*did you mean 'decay'"),
        ("cosine", {"warmup": 2}, r"warmup=2; expected a share"),
        ("wsd", {"decay": 0}, r"decay=0; expected a share above 0"),
        ("wsd", {"decay": 1.5}, r"decay=1.5"),
        ("triangular", {"cycles": 0}, r"cycles=0; expected an integer"),
        ("triangular", {"lowest": -0.1}, r"lowest=-0.1"),
        ("exp_range", {"cycles": -1}, r"cycles=-1"),
        ("exp_range", {"end": 0.0}, r"end=0.0"),
        ("exp_range", {"lowest": 2}, r"lowest=2"),
        ("exponential", {"end": 0}, r"end=0; expected a share above 0"),
        ("exponential", {"end": float("nan")}, r"end=nan"),
        ("restarts", {"cycles": 0}, r"cycles=0"),
        ("restarts", {"growth": 0}, r"growth=0; expected a number above 0"),
        ("step", {"drops": (0.8, 0.2)}, r"drops=\(0.8, 0.2\); expected rising shares"),
        ("step", {"drops": [0.5, 1.5]}, r"drops=\[0.5, 1.5\]"),
        ("step", {"drops": ()}, r"drops=\(\)"),
        ("step", {"drops": 0.5}, r"drops=0.5; expected a sequence"),
        ("step", {"factor": 2.0}, r"factor=2.0"),
        ("one_cycle", {"rise": 2.0}, r"rise=2.0; expected a share from 0 to 1"),
        ("one_cycle", {"start": -1}, r"start=-1"),
        ("one_cycle", {"end": "low"}, r"end='low'"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        learning_rate_schedule(name, 0.1, 10, **options)
