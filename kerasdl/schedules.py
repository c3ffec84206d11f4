"""Learning-rate schedules by name, over a whole training.

Keras's own classes, where it has the shape; the others are written here.
"""

import itertools
import math
from dataclasses import asdict, dataclass

import keras
from keras import ops
from keras.optimizers import schedules

from kerasdl.checks import check_choice, check_sizes, is_number

Schedule = schedules.LearningRateSchedule


def learning_rate_schedule(
    name: str, peak: float, steps: int, *, warmup: float = 0.0, **options
) -> float | Schedule:
    """Return the learning rate, or its schedule over a whole training.

    Every schedule but `one_cycle`, which has a rise of its own, can start with a
    linear rise from zero.

    Args:
        name: A key of `SHAPES`; each says there what its options are.
        peak: Highest learning rate.
        steps: Optimizer steps of the training.
        warmup: Share of the steps in which the rate rises from zero to its peak.
        **options: Options of the shape.

    Returns:
        A float for the constant rate without warm-up, otherwise a Keras schedule.

    Raises:
        ValueError: If `name` or an option is unknown, or a value out of its range.

    Example:
        >>> schedule = learning_rate_schedule("linear", 0.1, 100)
        >>> round(float(schedule(50)), 6)
        0.05
    """
    check_choice("schedule", name, SHAPES)
    shape = SHAPES[name]
    for option in options:
        check_choice("schedule option", option, shape.__kwdefaults__ or ())
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup={warmup!r}; expected a share of the steps, 0 to 1")
    rise = 0 if name == "one_cycle" else int(warmup * steps)
    rest = max(steps - rise, 1)
    if name == "inverse_sqrt":
        return shape(peak, max(rise, 1), **options)
    schedule = shape(peak, rest, **options)
    return WarmUp(schedule, peak, rise) if rise else schedule


def _constant(peak, steps):  # noqa: ARG001 - the signature of all shapes
    """Stay at the peak."""
    return peak


def _step(peak, steps, *, drops=(0.5, 0.75), factor=0.1):
    """Fall by a factor after each of these shares of the steps (He et al. 2015)."""
    _check_drops(drops)
    _check_shares(factor=factor, is_above_zero=True)
    # Keras holds a value up to its boundary and on it.
    ends = [round(share * steps) - 1 for share in drops]
    values = [peak * factor**done for done in range(len(drops) + 1)]
    return schedules.PiecewiseConstantDecay(ends, values)


def _exponential(peak, steps, *, end=0.01):
    """Fall by the same factor at each step, to this share of the peak."""
    _check_shares(end=end, is_above_zero=True)
    return schedules.ExponentialDecay(peak, steps, end)


def _cosine(peak, steps):
    """Fall to zero along a half cosine (Loshchilov & Hutter 2017)."""
    return schedules.CosineDecay(peak, steps)


def _linear(peak, steps):
    """Fall to zero along a line."""
    return schedules.PolynomialDecay(peak, steps, end_learning_rate=0.0)


def _inverse_sqrt(peak, steps):
    """Fall with the root of the step, after the warm-up (Vaswani et al. 2017)."""
    return InverseSquareRoot(peak, steps)


def _triangular(peak, steps, *, cycles=4, lowest=0.1):
    """Rise and fall along lines, several times, from this share of the peak."""
    check_sizes(cycles=cycles)
    _check_shares(lowest=lowest)
    return Cyclic(peak, steps / cycles, lowest=lowest)


def _exp_range(peak, steps, *, cycles=4, lowest=0.1, end=0.1):
    """As `triangular`, with a height that falls to this share at the end."""
    check_sizes(cycles=cycles)
    _check_shares(lowest=lowest)
    _check_shares(end=end, is_above_zero=True)
    return Cyclic(peak, steps / cycles, lowest=lowest, decay=end ** (1 / steps))


def _one_cycle(peak, steps, *, rise=0.3, start=0.04, end=4e-6):
    """Rise and fall once, along half cosines; the momentum does the reverse."""
    _check_shares(rise=rise, start=start, end=end)
    return OneCycle(peak, steps, rise=rise, start=start, end=end)


def _restarts(peak, steps, *, cycles=3, growth=2):
    """Fall along cosines, each so many times as long as the one before."""
    check_sizes(cycles=cycles)
    if not (is_number(growth) and 0 < growth < math.inf):
        raise ValueError(f"growth={growth!r}; expected a number above 0")
    shares = [growth**cycle for cycle in range(cycles)]
    ends = [round(steps * sum(shares[:n]) / sum(shares)) for n in range(cycles + 1)]
    return WarmRestarts(peak, ends)


def _wsd(peak, steps, *, decay=0.2):
    """Stay at the peak, then fall to zero along a line in this share of the steps."""
    _check_shares(decay=decay, is_above_zero=True)
    return StableThenDecay(peak, steps, decay=decay)


def _check_shares(*, is_above_zero: bool = False, **shares) -> None:
    for name, value in shares.items():
        is_share = is_number(value) and 0 <= value <= 1
        if not is_share or (is_above_zero and value == 0):
            least = "above 0 and up to 1" if is_above_zero else "from 0 to 1"
            raise ValueError(f"{name}={value!r}; expected a share {least}")


def _check_drops(drops) -> None:
    is_several = isinstance(drops, (tuple, list)) and len(drops) > 0
    if not is_several or not all(is_number(share) for share in drops):
        raise ValueError(f"drops={drops!r}; expected a sequence of numbers")
    if list(drops) != sorted(drops) or not 0 <= drops[0] <= drops[-1] <= 1:
        raise ValueError(f"drops={drops!r}; expected rising shares from 0 to 1")


SHAPES = {
    "constant": _constant,
    "cosine": _cosine,
    "exp_range": _exp_range,
    "exponential": _exponential,
    "inverse_sqrt": _inverse_sqrt,
    "linear": _linear,
    "one_cycle": _one_cycle,
    "restarts": _restarts,
    "step": _step,
    "triangular": _triangular,
    "wsd": _wsd,
}
SCHEDULES = tuple(SHAPES)


class _Configured(Schedule):
    """A schedule whose configuration is what it was made with."""

    def get_config(self) -> dict:
        """Return the arguments (Keras calls this)."""
        return asdict(self)


@keras.saving.register_keras_serializable(package="kerasdl")
class WarmUp(Schedule):
    """Rise along a line from zero, then go on with another schedule from its start.

    Args:
        schedule: What follows: a float or a schedule.
        peak: Learning rate at the end of the rise.
        steps: Steps of the rise.
    """

    def __init__(self, schedule: float | Schedule, peak: float, steps: int):
        self.schedule = schedule
        self.peak = peak
        self.steps = steps

    def __call__(self, step):
        """Return the learning rate at a step."""
        step = ops.cast(step, "float32")
        rise = self.peak * step / self.steps
        rest = self.schedule
        if isinstance(rest, Schedule):
            rest = rest(ops.maximum(step - self.steps, 0.0))
        return ops.where(step < self.steps, rise, rest)

    def get_config(self) -> dict:
        """Return the arguments (Keras calls this)."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "peak": self.peak, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict) -> "WarmUp":
        """Make one from its arguments (Keras calls this)."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})


@keras.saving.register_keras_serializable(package="kerasdl")
@dataclass(eq=False)
class InverseSquareRoot(_Configured):
    """Rise along a line in `warmup` steps, then fall with the root of the step.

    Reference:
        [Attention Is All You Need](https://arxiv.org/abs/1706.03762), section 5.3.
    """

    peak: float
    warmup: int

    def __call__(self, step):
        """Return the learning rate at a step."""
        step = ops.cast(step, "float32")
        fall = ops.sqrt(self.warmup / ops.maximum(step, float(self.warmup)))
        return self.peak * ops.minimum(step / self.warmup, 1.0) * fall


@keras.saving.register_keras_serializable(package="kerasdl")
@dataclass(eq=False)
class Cyclic(_Configured):
    """Rise and fall along lines; the height may shrink by `decay` at each step.

    Reference:
        [Cyclical Learning Rates](https://arxiv.org/abs/1506.01186), section 3.2.
    """

    peak: float
    period: float
    lowest: float = 0.1
    decay: float = 1.0

    def __call__(self, step):
        """Return the learning rate at a step."""
        step = ops.cast(step, "float32")
        place = step / self.period
        height = 1 - ops.abs(2 * (place - ops.floor(place)) - 1)
        low = self.lowest * self.peak
        return low + (self.peak - low) * height * ops.power(self.decay, step)


@keras.saving.register_keras_serializable(package="kerasdl")
@dataclass(eq=False)
class OneCycle(_Configured):
    """Rise and fall once along half cosines, from `start` over 1 to `end`.

    Args:
        peak: Value after the rise.
        steps: Steps in all.
        rise: Share of the steps in which it rises.
        start: First value, as a share of the peak.
        end: Last value, as a share of the peak.

    Reference:
        [Super-Convergence](https://arxiv.org/abs/1708.07120). Differs: cosines instead
        of lines, as has become usual.
    """

    peak: float
    steps: int
    rise: float = 0.3
    start: float = 0.04
    end: float = 4e-6

    def __call__(self, step):
        """Return the learning rate at a step."""
        # The last step of the training has the last value.
        last = max(self.steps - 1, 1)
        top = max(self.rise * last, 1e-3)
        step = ops.minimum(ops.cast(step, "float32"), float(last))
        up = _between(self.start, 1.0, step / top)
        down = _between(1.0, self.end, (step - top) / max(last - top, 1e-3))
        return self.peak * ops.where(step < top, up, down)

    def momentum(self, high: float = 0.95, low: float = 0.85) -> "OneCycle":
        """Return the schedule of the momentum, which is lowest at the peak.

        Args:
            high: Momentum at the first and the last step.
            low: Momentum at the peak of the learning rate.
        """
        share = high / low
        return OneCycle(low, self.steps, rise=self.rise, start=share, end=share)


@keras.saving.register_keras_serializable(package="kerasdl")
@dataclass(eq=False)
class WarmRestarts(_Configured):
    """Fall to zero along a half cosine between each two of the steps in `ends`.

    Keras's `CosineDecayRestarts` finds the cycle by a logarithm, whose rounding can
    put the first step of a cycle at the end of the one before.

    Reference:
        [SGDR](https://arxiv.org/abs/1608.03983), section 3.
    """

    peak: float
    ends: list[int]

    def __call__(self, step):
        """Return the learning rate at a step."""
        step = ops.cast(step, "float32")
        rate = 0.0
        for first, end in itertools.pairwise(self.ends):
            share = (step - first) / max(end - first, 1)
            rate = ops.where(step < first, rate, _between(1.0, 0.0, share))
        return self.peak * rate


@keras.saving.register_keras_serializable(package="kerasdl")
@dataclass(eq=False)
class StableThenDecay(_Configured):
    """Stay at the peak, then fall to zero along a line in the share `decay`.

    Reference:
        [MiniCPM](https://arxiv.org/abs/2404.06395), section 4.2;
        [Scaling Laws and Compute-Optimal Training Beyond Fixed Training
        Durations](https://arxiv.org/abs/2405.18392), section 3.
    """

    peak: float
    steps: int
    decay: float = 0.2

    def __call__(self, step):
        """Return the learning rate at a step."""
        left = (self.steps - ops.cast(step, "float32")) / (self.decay * self.steps)
        return self.peak * ops.clip(left, 0.0, 1.0)


@keras.saving.register_keras_serializable(package="kerasdl")
@dataclass(eq=False)
class ExponentialRise(_Configured):
    """Rise by the same factor at each step, from the step `first` on."""

    lowest: float
    highest: float
    steps: int
    first: int = 0

    def __call__(self, step):
        """Return the learning rate at a step."""
        share = (ops.cast(step, "float32") - self.first) / (self.steps - 1)
        return self.lowest * ops.exp(math.log(self.highest / self.lowest) * share)


def _between(first: float, last: float, share):
    """Go from one value to another along a half cosine."""
    share = ops.clip(share, 0.0, 1.0)
    return last + (first - last) * 0.5 * (1 + ops.cos(math.pi * share))
