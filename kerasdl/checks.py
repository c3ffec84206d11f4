"""Argument checks of the builders: a `ValueError` names the argument and its value."""

import difflib
from collections.abc import Iterable
from numbers import Integral


def check_choice(name: str, value, choices: Iterable[str]) -> None:
    """Refuse a value outside `choices`, suggesting the nearest.

    Raises:
        ValueError: If `value` is none of `choices`.
    """
    choices = sorted(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}={value!r}; expected one of {choices}{hint}")


def check_positive(**sizes) -> None:
    """Refuse sizes, or sequences of sizes, that are not positive integers.

    Raises:
        ValueError: If a size is not an integer of at least 1.
    """
    for name, value in sizes.items():
        items = value if isinstance(value, (tuple, list)) else (value,)
        if not items or not all(
            isinstance(item, Integral) and not isinstance(item, bool) and item >= 1
            for item in items
        ):
            raise ValueError(f"{name}={value!r}; expected integers of at least 1")


def check_rates(**rates) -> None:
    """Refuse drop rates outside `[0, 1)`.

    Raises:
        ValueError: If a rate is not in `[0, 1)`.
    """
    for name, value in rates.items():
        if not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(f"{name}={value!r}; expected a rate in [0, 1)")


def check_classes(num_classes: int) -> None:
    """Refuse fewer than two classes.

    Raises:
        ValueError: If `num_classes` is below 2.
    """
    check_positive(num_classes=num_classes)
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}; expected at least 2")
