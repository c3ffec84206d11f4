"""Variables to arrays and back: weights, seeds, optimizer slots, metrics."""

import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kerasdl.errors import InputError
from kerasdl.untrusted import brief


def training_variables(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Return all variables that training changes, by kind."""
    return {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metric": [v for metric in model.metrics for v in metric.variables],
    }


def read_variables(
    kind: str, variables: Sequence[keras.Variable]
) -> tuple[dict[str, np.ndarray], list[list]]:
    """Copy the values of variables to the host.

    Paths of variables may collide, so that an array goes by its kind and place.

    Args:
        kind: What the names of the arrays begin with.
        variables: The variables.

    Returns:
        The arrays by name, and for each its path, shape and type.
    """
    arrays, table = {}, []
    for place, variable in enumerate(variables):
        # A copy: on PyTorch the array is the variable's own memory, on JAX the next
        # step may be given it.
        # By way of a tensor: on TensorFlow it may be one value for each device.
        value = keras.ops.convert_to_tensor(variable)
        value = np.array(keras.ops.convert_to_numpy(value), order="C")
        if value.dtype.kind == "V":  # bfloat16 and smaller, which NumPy has not
            value = value.astype("float32")
        dtype = keras.backend.standardize_dtype(variable.dtype)
        table.append([variable.path, list(value.shape), dtype])
        arrays[f"{kind}/{place}"] = value
    return arrays, table


def write_variables(
    kind: str,
    variables: Sequence[keras.Variable],
    arrays: Mapping[str, np.ndarray],
    table: list[list],
) -> None:
    """Give variables the values that `read_variables` has read.

    Nothing is written unless all fit.

    Raises:
        InputError: If there are more or fewer of them, or one is of another shape,
            type or name, but for the numbers that Keras gives to names.
    """
    if len(variables) != len(table):
        raise InputError(
            f"the checkpoint has {len(table)} {kind} variables and the model "
            f"{len(variables)}; resume with the model that was trained"
        )
    for variable, (path, shape, dtype) in zip(variables, table, strict=True):
        _check(kind, variable, path, tuple(shape), dtype)
    for place, variable in enumerate(variables):
        variable.assign(arrays[f"{kind}/{place}"])


def _check(kind: str, variable, path: str, shape: tuple, dtype: str) -> None:
    found = keras.backend.standardize_dtype(variable.dtype)
    # Backends differ in the integers of counters and seeds.
    same_type = found == dtype or (_is_int(found) and _is_int(dtype))
    stored_name = path.rpartition("/")[2]
    same_name = kind == "metric" or _unnumbered(stored_name) == _unnumbered(
        variable.name
    )
    if not (same_type and same_name and tuple(variable.shape) == shape):
        stored = brief(f"{path} {dtype} {shape}")
        raise InputError(
            f"the checkpoint has {stored} where the model has "
            f"{variable.path} {found} {tuple(variable.shape)}; resume with the model "
            "that was trained"
        )


def _unnumbered(name: str) -> str:
    # A model that is built again in one process has other numbers: `dense_1`, whose
    # name is in those of its slots, or `variable_1`.
    return re.sub(r"_\d+(?=_|$)", "", name)


def _is_int(dtype: str) -> bool:
    return "int" in dtype


def is_finite(arrays: Mapping[str, np.ndarray]) -> bool:
    """Say whether the floating-point arrays hold numbers alone."""
    return all(
        np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"
    )
