"""Numbers as the page of a run writes them."""

import math

UNKNOWN = "\N{EN DASH}"


def number(value: float | None) -> str:
    """Return a number with three decimals; a dash for what is missing."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Return a share in per cent with two decimals; a dash for what is missing."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{100 * value:.2f}\N{NO-BREAK SPACE}%"
