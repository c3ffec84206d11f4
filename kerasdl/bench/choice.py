"""What to take, of backends and precisions that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from kerasdl.bench.speed import Speed
from kerasdl.recipe import LEAST_GAIN

PLAIN = "float32"
# What is slower by less than this share counts as equally fast.
ALIKE = 0.05
# A start-up that is shorter by fewer seconds is not worth a word.
NOTICEABLE = 2.0


@dataclass(frozen=True)
class Choice:
    """What to take.

    Attributes:
        speed: The measurement that was chosen.
        reason: Why, in one sentence or two.
    """

    speed: Speed
    reason: str


def choose(speeds: Sequence[Speed]) -> Choice:
    """Choose by speed; of those that are equally fast, what starts soonest.

    16 bits must be `LEAST_GAIN` times as fast as float32 on its fastest backend.

    Args:
        speeds: Measurements of one recipe on one machine, one at least.

    Returns:
        The choice.
    """
    plain = [speed for speed in speeds if speed.precision == PLAIN]
    half = [speed for speed in speeds if speed.precision != PLAIN]
    least = LEAST_GAIN * max((speed.rate for speed in plain), default=0)
    fast = [speed for speed in half if speed.rate >= least]
    candidates = fast or plain
    best = max(speed.rate for speed in candidates)
    alike = [speed for speed in candidates if speed.rate >= (1 - ALIKE) * best]
    chosen = min(alike, key=lambda speed: speed.start_up)
    return Choice(chosen, _reason(chosen, speeds))


def _reason(chosen: Speed, speeds: Sequence[Speed]) -> str:
    others = [speed for speed in speeds if speed is not chosen]
    took = f"{_named(chosen)}: {chosen.rate:,.0f} examples/s"
    if not others:
        return f"Only this was measured: {took}."
    following = max(others, key=lambda speed: speed.rate)
    ratio = chosen.rate / following.rate
    if abs(ratio - 1) <= ALIKE:
        words = f"as fast as {_named(following)}, within {ALIKE:.0%}"
        if chosen.start_up < following.start_up:
            words += ", and it starts sooner"
    else:
        words = f"{ratio:.2f} times as fast as {_named(following)}"
    if 1 < 1 / ratio < LEAST_GAIN and following.precision != PLAIN:
        words += f", whose gain is below the {LEAST_GAIN} that 16 bits must bring"
    return f"Take {took}, {words}.{_noise(chosen, following)}{_sooner(chosen, others)}"


def _noise(chosen: Speed, following: Speed) -> str:
    """Say that other work on the machine may have decided."""
    is_clear = min(chosen.per_second) > max(following.per_second)
    if is_clear or chosen.rate <= following.rate * (1 + ALIKE):
        return ""
    return " Their rounds overlap: a quieter machine or more --seconds would tell."


def _sooner(chosen: Speed, others: Sequence[Speed]) -> str:
    """Say below how many examples another is done first, as it starts sooner."""
    turns = {
        round((chosen.start_up - other.start_up) / saved): other
        for other in others
        if chosen.start_up - other.start_up >= NOTICEABLE
        and (saved := 1 / other.rate - 1 / chosen.rate) > 0
    }
    if not turns:
        return ""
    most = max(turns)
    return (
        f" Up to about {float(f'{most:.2g}'):,.0f} examples in all, epochs times"
        f" examples, {_named(turns[most])} is done first: it starts"
        f" {chosen.start_up - turns[most].start_up:.0f} s sooner."
    )


def _named(speed: Speed) -> str:
    return f"{speed.backend} in {speed.precision}"
