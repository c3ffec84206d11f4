"""Argument checks of the builders: a `ValueError` names the argument and its value.

A builder checks everything before its first layer, so that nothing is allocated.
"""

import difflib
import inspect
from collections.abc import Iterable, Sequence
from numbers import Integral, Real


def check_choice(
    name: str,
    value,
    choices: Iterable[str],
    *,
    error: type[Exception] = ValueError,
) -> None:
    """Refuse a value outside `choices`, suggesting the nearest.

    Raises:
        ValueError: If `value` is none of `choices`; or `error`, where one is given.
    """
    choices = sorted(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise error(f"{name}={value!r}; expected one of {choices}{hint}")


def check_positive(**sizes) -> None:
    """Refuse sizes, or sequences of sizes, that are not positive integers.

    Raises:
        ValueError: If a size is not an integer of at least 1.
    """
    for name, value in sizes.items():
        items = value if isinstance(value, (tuple, list)) else (value,)
        if not items or not all(_is_size(item) for item in items):
            raise ValueError(f"{name}={value!r}; expected integers of at least 1")


def check_sizes(**sizes) -> None:
    """Refuse anything but single positive integers.

    Raises:
        ValueError: If a size is not an integer of at least 1.
    """
    for name, value in sizes.items():
        if not _is_size(value):
            raise ValueError(f"{name}={value!r}; expected an integer of at least 1")


def check_sequences(**sequences) -> None:
    """Refuse anything but sequences of positive integers, one item at least.

    Raises:
        ValueError: If a value is no tuple or list, or an item not a positive integer.
    """
    for name, value in sequences.items():
        if not isinstance(value, (tuple, list)):
            raise ValueError(f"{name}={value!r}; expected a sequence of integers")
        check_positive(**{name: value})


def check_rates(**rates) -> None:
    """Refuse drop rates outside `[0, 1)`.

    Raises:
        ValueError: If a rate is not in `[0, 1)`.
    """
    for name, value in rates.items():
        if not is_number(value) or not 0 <= value < 1:
            raise ValueError(f"{name}={value!r}; expected a rate in [0, 1)")


def check_classes(num_classes: int) -> None:
    """Refuse fewer than two classes.

    Raises:
        ValueError: If `num_classes` is not an integer of at least 2.
    """
    if not _is_size(num_classes) or num_classes < 2:
        raise ValueError(
            f"num_classes={num_classes!r}; expected an integer of at least 2"
        )


def check_outputs(num_classes: int, num_outputs: int | None) -> None:
    """Refuse sizes that fit neither a classifier nor a regressor.

    Args:
        num_classes: Number of classes, of a classifier.
        num_outputs: Number of predicted values, or `None` for a classifier.

    Raises:
        ValueError: If `num_outputs` is below 1, or `None` and `num_classes` below 2.
    """
    if num_outputs is None:
        check_classes(num_classes)
    else:
        check_sizes(num_outputs=num_outputs)


def check_shape(
    input_shape: Sequence[int | None], axes: Sequence[str], *, any_length: bool = False
) -> None:
    """Refuse an input shape that is not one positive integer per axis.

    Args:
        input_shape: The shape.
        axes: What each axis is.
        any_length: Whether the first axis may be `None`.

    Raises:
        ValueError: If `input_shape` has other axes or a size below 1.
    """
    sizes = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    fixed = sizes[1:] if any_length and sizes[:1] == (None,) else sizes
    if len(sizes) != len(axes) or not all(_is_size(size) for size in fixed):
        raise ValueError(
            f"input_shape={input_shape!r}; expected positive integers "
            f"({', '.join(axes)})"
        )


def check_image(input_shape: Sequence[int], *, smallest: int = 1) -> None:
    """Refuse anything but an image shape `(height, width, channels)`.

    Args:
        input_shape: The shape.
        smallest: Height and width below which the network has no pixels left.

    Raises:
        ValueError: If the shape is none, or height or width is below `smallest`.
    """
    check_shape(input_shape, ("height", "width", "channels"))
    if min(input_shape[:2]) < smallest:
        raise ValueError(
            f"input_shape={tuple(input_shape)}; expected a height and width of at "
            f"least {smallest}"
        )


def check_activation(activation: str) -> None:
    """Refuse an activation that Keras does not know, suggesting the nearest.

    Raises:
        ValueError: If `keras.activations` has no function of that name.
    """
    # Builders pass names only: a bundle has to store them.
    import keras  # noqa: PLC0415 - this module is imported where no backend may be

    check_choice("activation", activation, _names_of_functions(keras.activations))


def is_number(value) -> bool:
    """Tell whether a value is a real number, which `True` is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _names_of_functions(module) -> list[str]:
    # The latter two halve the width or want arguments of their own.
    helpers = {"deserialize", "get", "serialize", "glu", "threshold"}
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and name not in helpers
    ]


def _is_size(value) -> bool:
    return (
        isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
    )
