"""In which numbers a model computes: float32, or half of that where it is faster.

Weights, logits, losses and metrics stay float32 under every precision; what is between
computes in 16 bits under the mixed ones. bfloat16 has the range of float32 and needs
nothing besides; float16 has not, and the loss is scaled for it, which Keras does when a
model is compiled.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import keras
import numpy as np
from keras import ops

from kerasdl import backend
from kerasdl.machine import cpu_facts
from kerasdl.recipe import LEAST_GAIN, check_precision

# What `auto` chooses between.
PLAIN, HALF = "float32", "mixed_bfloat16"
# A trial takes so many seconds, and no fewer or more steps of each.
SECONDS, FEWEST_STEPS, MOST_STEPS = 1.0, 4, 50
# So many products in a row are measured.
PRODUCTS = 10
# Flags of a processor that multiplies bfloat16, as Linux names them.
CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
# First NVIDIA GPU that multiplies bfloat16: Ampere.
GPU_CAPABILITY = 8, 0


@dataclass(frozen=True)
class Choice:
    """What `auto` has chosen.

    Attributes:
        precision: `"float32"` or `"mixed_bfloat16"`.
        reason: Why, in a few words.
    """

    precision: str
    reason: str

    def __str__(self) -> str:
        return f"precision: {self.precision} ({self.reason})"


@contextmanager
def precision(name: str) -> Iterator[str]:
    """Build, compile and train models in a precision; afterwards all is as before.

    A model remembers the precision that it was built in.

    Args:
        name: One of `kerasdl.recipe.PRECISIONS`; `"auto"` is what `choose` says.

    Yields:
        The precision, `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.

    Raises:
        InputError: If there is no such precision.

    Example:
        >>> with precision("mixed_bfloat16") as name:
        ...     layer = keras.layers.Dense(1)
        >>> name, layer.compute_dtype, layer.variable_dtype
        ('mixed_bfloat16', 'bfloat16', 'float32')
        >>> keras.layers.Dense(1).compute_dtype
        'float32'
    """
    check_precision(name)
    chosen = choose().precision if name == "auto" else name
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(chosen)
    try:
        yield chosen
    finally:
        keras.config.set_dtype_policy(before)


def in_float32(model: keras.Model, build: Callable[[], keras.Model]) -> keras.Model:
    """Return a model with the same weights that computes in float32, on one device.

    Args:
        model: Model that was built in any precision, on any devices.
        build: Builds another of the same shape.
    """
    with precision(PLAIN), backend.replicas.apart():
        plain = build()
    plain.set_weights(model.get_weights())
    return plain


def choose(make_step: Callable[[], Callable[[], object]] | None = None) -> Choice:
    """Choose between float32 and bfloat16, by the device and by what is faster on it.

    A GPU or TPU with bfloat16 takes it. A CPU that has instructions for it must be
    faster with it, too: first in a product of matrices and a convolution, which are
    measured once per process, then, if there is one, in a training step.

    Args:
        make_step: Builds and compiles a model, in the precision that is set when it is
            called, and returns a function that does one step; `None` goes by the device
            alone.

    Returns:
        The choice.
    """
    choice = _by_device()
    kind = backend.devices()[0]["kind"]
    if kind != "cpu" or choice.precision == PLAIN or make_step is None:
        return choice
    gain = _gain(make_step)
    return _by_gain(gain, "a training step of this model")


@cache
def _by_device() -> Choice:
    device = backend.devices()[0]
    if not has_bfloat16(device):
        return Choice(PLAIN, f"{device['name']} has no instructions for bfloat16")
    if device["kind"] != "cpu":
        return Choice(HALF, f"{device['name']} has instructions for bfloat16")
    return _by_gain(_gain(_product_and_convolution), "matrices and convolutions")


def has_bfloat16(device: dict) -> bool:
    """Say whether a device multiplies bfloat16 by instructions of its own.

    Args:
        device: As `kerasdl.backend.devices` describes it.
    """
    if device["kind"] == "gpu":
        return tuple(device["capability"] or ()) >= GPU_CAPABILITY
    return device["kind"] == "tpu" or not CPU_FLAGS.isdisjoint(
        cpu_facts().get("flags", "").split()
    )


def _by_gain(gain: float, what: str) -> Choice:
    if gain >= LEAST_GAIN:
        return Choice(HALF, f"{what}: {gain:.2f} times as fast as in float32")
    return Choice(PLAIN, f"{what}: {gain:.2f} times as fast in bfloat16")


def _gain(make_step: Callable[[], Callable[[], object]]) -> float:
    """Return how many times as fast a step is in bfloat16, in turns, best of several.

    What else the machine does slows single steps of both, never the best of many.
    """
    steps, best = {}, dict.fromkeys((PLAIN, HALF), float("inf"))
    for name in best:
        with precision(name):
            steps[name] = make_step()
            steps[name]()  # compiles
    start, count = time.perf_counter(), 0
    while count < FEWEST_STEPS or (
        count < MOST_STEPS and time.perf_counter() - start < SECONDS
    ):
        for name, step in steps.items():
            before = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - before)
        count += 1
    return best[PLAIN] / best[HALF]


def peak(dtype: str) -> float:
    """Measure how many operations per second the first device does in large matrices.

    Args:
        dtype: `"float32"` or `"bfloat16"`.

    Returns:
        Multiplications and additions per second, at best.
    """
    size = 1024 if backend.devices()[0]["kind"] == "cpu" else 8192
    random = np.random.default_rng(0)
    # Scaled so that products of products stay as large as they are.
    matrix = random.normal(0, size**-0.5, (size, size)).astype("float32")
    matrix = ops.cast(matrix, dtype)
    best = float("inf")
    for _ in range(5):
        product = ops.matmul(matrix, matrix)
        _finish(product)
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            product = ops.matmul(product, matrix)
        _finish(product)
        best = min(best, time.perf_counter() - start)
    return PRODUCTS * 2 * size**3 / best


def _finish(tensor) -> None:
    """Wait until a tensor is computed: one of its numbers goes to the host."""
    ops.convert_to_numpy(ops.cast(ops.ravel(tensor)[:1], "float32"))


def _product_and_convolution() -> Callable[[], object]:
    """Return what multiplies matrices and convolves images in the precision now set."""
    dtype = keras.config.dtype_policy().compute_dtype
    random = np.random.default_rng(0)
    shapes = (1024, 1024), (1024, 1024), (16, 32, 32, 64), (3, 3, 64, 64)
    left, right, images, kernel = (
        ops.cast(random.normal(size=shape).astype("float32"), dtype) for shape in shapes
    )

    def step():
        product = ops.matmul(left, right)
        convolved = ops.conv(images, kernel, padding="same")
        _finish(product)
        _finish(convolved)

    return step
