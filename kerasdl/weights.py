"""Weights as arrays under their paths, in 32, 16 or 8 bits."""

import math
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from kerasdl.errors import InputError

STORAGES = ("float32", "float16", "int8")
# Below this size a float16 copy costs little and int8 would cost accuracy.
SMALLEST_INT8_TABLE = 65_536
# A builder may make weights that its model then leaves out, but not many.
SPARE_FACTOR, SPARE_TENSORS, SPARE_NUMBERS = 1.25, 100, 10**6
_building = threading.RLock()


def pack(model: keras.Model, storage: str) -> dict[str, np.ndarray]:
    """Return a model's weights by path, as they are stored.

    Args:
        model: The model.
        storage: One of `STORAGES`; `"int8"` stores large tables in 8 bits with a scale
            per column, everything else in float16.

    Raises:
        ValueError: If a weight is not finite, or not after the conversion.
    """
    packed = {}
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable.value)
        if variable.path in packed:
            raise ValueError(f"two weights have the same path {variable.path!r}")
        if not _is_float(variable):
            packed[variable.path] = value
            continue
        packed |= pack_float(variable.path, value.astype(np.float32), storage)
        if not np.isfinite(packed[variable.path]).all():
            raise ValueError(f"weight {variable.path!r} is not finite as {storage}")
    return {name: np.asarray(value, order="C") for name, value in packed.items()}


def pack_float(path: str, value: np.ndarray, storage: str) -> dict[str, np.ndarray]:
    """Return one float32 weight as it is stored, with its scale where it has one."""
    if storage == "float32":
        return {path: value}
    if storage == "float16" or value.size < SMALLEST_INT8_TABLE:
        with np.errstate(over="ignore"):  # the caller refuses infinities by name
            return {path: value.astype(np.float16)}
    rows = tuple(range(value.ndim - 1)) or None
    scale = np.abs(value).max(axis=rows) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1))
    return {path: np.rint(value / scale).astype(np.int8), _scale_path(path): scale}


def unpack(weights, path: str) -> np.ndarray:
    """Return a weight from an open safetensors file, as float where it was."""
    value = weights.get_tensor(path)
    if _scale_path(path) in weights.keys():  # noqa: SIM118 - a file, not a dict
        with np.errstate(over="ignore", invalid="ignore"):
            value = value * weights.get_tensor(_scale_path(path))
    return value


def check_finite(value: np.ndarray, name: str, path: Path) -> None:
    """Refuse a weight that is no number: every answer would be none.

    Raises:
        InputError: Names the weight and the file.
    """
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise InputError(f"{path}: {name!r} is not finite; get the bundle again")


def table_of_contents(weights) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape by name of the arrays in an open safetensors file."""
    slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
    return {
        name: (entry.get_dtype(), tuple(entry.get_shape()))
        for name, entry in slices.items()
    }


@contextmanager
def at_most(tensors: int, numbers: float) -> Iterator[None]:
    """Let this thread build a model only as large as its stored weights.

    What a stranger wrote decides the size: 2^31 units, or a billion layers. The weight
    that goes beyond is refused before it exists, so that neither memory nor time is
    taken for it. One model is built at a time.

    Args:
        tensors: Number of stored arrays.
        numbers: Number of numbers in them all.

    Raises:
        InputError: From within the block, where it builds more.
    """
    left = [
        SPARE_FACTOR * tensors + SPARE_TENSORS,
        SPARE_FACTOR * numbers + SPARE_NUMBERS,
    ]
    thread = threading.get_ident()
    layer = keras.layers.Layer

    def count(shape) -> None:
        left[0] -= 1
        left[1] -= math.prod(shape if isinstance(shape, (tuple, list)) else ())
        if min(left) < 0:
            raise InputError("the model is larger than its stored weights")

    with _building:
        add_weight = layer.add_weight
        layer.add_weight = _counting(add_weight, count, thread)
        try:
            yield
        finally:
            layer.add_weight = add_weight


def _counting(add_weight: Callable, count: Callable, thread: int) -> Callable:
    def counted(self, *args, **options):
        if threading.get_ident() == thread:
            count(args[0] if args else options.get("shape"))
        return add_weight(self, *args, **options)

    return counted


def check_weights(
    model: keras.Model, weights, path: Path, *, resized: Set[str] = frozenset()
) -> None:
    """Compare a file's table of contents with what the model needs.

    Args:
        model: Built model, its variables perhaps not yet in memory.
        weights: The open safetensors file.
        path: Its name, for the message.
        resized: Paths of weights whose stored shape may be another.

    Raises:
        InputError: If a weight is missing, unknown, or of another shape or type.
    """
    stored = table_of_contents(weights)
    for variable in model.weights:
        for name, dtypes, shape in _expected(variable, stored):
            dtype, found = stored.pop(name, (None, None))
            fits = found == shape or (
                variable.path in resized and found and found[2:] == shape[2:]
            )
            if dtype not in dtypes or not fits:
                raise InputError(
                    f"{path}: {name!r} is {dtype} {found}, but the model "
                    f"needs {' or '.join(dtypes)} {shape}; get the bundle again"
                )
    if stored:
        raise InputError(
            f"{path}: the model has no weight {min(stored)!r}; get the bundle again"
        )


def _expected(variable, stored: dict) -> Iterator[tuple[str, tuple[str, ...], tuple]]:
    path, shape = variable.path, tuple(variable.shape)
    if not _is_float(variable):
        dtype = np.dtype(variable.dtype)
        code = (
            "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"
        )
        yield path, (code,), shape
    elif _scale_path(path) in stored:
        yield path, ("I8",), shape
        yield _scale_path(path), ("F32",), shape[-1:] if len(shape) > 1 else ()
    else:
        yield path, ("F32", "F16"), shape


def _scale_path(path: str) -> str:
    return f"{path}.scale"


def _is_float(variable) -> bool:
    return "float" in keras.backend.standardize_dtype(variable.dtype)
