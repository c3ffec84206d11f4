"""The JAX side of `kerasdl.backend`."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kerasdl.backend.jax_batches import handed_over as handed_over
from kerasdl.backend.jax_layers import fused as fused
from kerasdl.backend.jax_layers import lay_out as lay_out
from kerasdl.errors import InputError

# What XLA needs to be deterministic on a GPU, read before it first computes.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# Take memory of a GPU as it is needed, not most of it at once; read when the first
# tensor is put there.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def set_seed(seed: int) -> None:
    """Seed everything that new layers and NumPy draw from.

    Keras seeds initializers and dropout layers from Python's `random`; JAX itself
    holds no generator. Unlike `keras.utils.set_random_seed` this leaves TensorFlow
    unimported. The generator behind unseeded `keras.random` calls has no public
    reset: give those a seed or a `keras.random.SeedGenerator`.

    Args:
        seed: Any integer from 0 to 2**32 - 1.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global one is what must be seeded


@contextmanager
def deterministic() -> Iterator[None]:
    """Let the same training give the same weights every time.

    On a CPU JAX always does. On a GPU it is a flag of XLA, and stays to the end of the
    process.

    Raises:
        InputError: If JAX has already computed on a GPU without the flag.
    """
    given = os.environ.get("XLA_FLAGS")
    if DETERMINISTIC not in (given or ""):
        is_late = _has_computed()
        os.environ["XLA_FLAGS"] = f"{given or ''} {DETERMINISTIC}".strip()
        is_needed = jax.default_backend() == "gpu"
        if is_late or not is_needed:
            _restore("XLA_FLAGS", given)
        if is_late and is_needed:
            raise InputError(
                "JAX has already computed in this process, and cannot be deterministic "
                f"any more; start it with XLA_FLAGS={DETERMINISTIC}"
            )
    yield


def _has_computed() -> bool:
    """Say whether JAX has taken up its devices: some settings are refused then."""
    count = jax.config.jax_num_cpu_devices
    try:
        jax.config.update("jax_num_cpu_devices", count + 2)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", count)
    return False


def _restore(name: str, value: str | None) -> None:
    if value is None:
        del os.environ[name]
    else:
        os.environ[name] = value


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a step needs more memory than there is."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def random_state() -> dict[str, np.ndarray]:
    """Return nothing: all that Keras draws on JAX goes by variables."""
    return {}


def set_random_state(state: dict[str, np.ndarray]) -> None:
    """Go on drawing from what `random_state` has returned: nothing."""


def device_memory() -> int | None:
    """Return the most bytes that the first device has held, if it tells."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")


def devices() -> list[dict]:
    """Describe what the backend computes on, the first one being what it takes.

    Returns:
        For each device its `name`, its `kind` (`"cpu"`, `"gpu"` or `"tpu"`), its
        `memory` in bytes, `None` where it does not tell, and its `capability`, two
        numbers that NVIDIA gives to a generation of GPUs, `None` for others.
    """
    return [
        {
            "name": device.device_kind if device.platform != "cpu" else "CPU",
            "kind": device.platform,
            "memory": (device.memory_stats() or {}).get("bytes_limit"),
            "capability": _capability(device),
        }
        for device in jax.local_devices()
    ]


def _capability(device) -> tuple[int, ...] | None:
    numbers = str(getattr(device, "compute_capability", "")).split(".")
    return tuple(map(int, numbers)) if all(n.isdigit() for n in numbers) else None


def forward(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """Make a quick inference function of a model.

    Every new input shape compiles once, so keep the shapes few. The weights are read
    at each call: training the model further is seen.

    Args:
        model: A built model with one output.

    Returns:
        Function from the model's inputs (an array, or a dict or tuple of arrays) to its
        float32 output as a NumPy array.
    """
    variables = model.variables  # a walk over all layers

    @jax.jit
    def apply(values, inputs):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return model(inputs, training=False)

    def call(inputs):
        values = [variable.value for variable in variables]
        return np.asarray(apply(values, inputs), dtype="float32")

    return call


def input_gradients(
    model: keras.Model,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Make a quick function of how a model's output changes with its input.

    In inference mode; the model's state stays as it is. Every new input shape compiles
    once. The weights are read at each call: training the model further is seen.

    Args:
        model: A built functional model with one float input and one output.

    Returns:
        Function from an input and an array like the output, both NumPy arrays, to the
        gradient of the sum of their products, output times array, with respect to the
        input: float32 like the input.
    """

    @jax.jit
    def apply(trainable, fixed, inputs, weights):
        def outputs_of(inputs):
            return model.stateless_call(trainable, fixed, inputs, training=False)[0]

        outputs, pull_back = jax.vjp(outputs_of, inputs)
        (gradient,) = pull_back(weights.astype(outputs.dtype))
        return gradient

    def call(inputs, weights):
        trainable = [variable.value for variable in model.trainable_variables]
        fixed = [variable.value for variable in model.non_trainable_variables]
        return np.asarray(apply(trainable, fixed, inputs, weights), dtype="float32")

    return call


def dense(gradient):
    """Return a gradient as a tensor, which it is on JAX."""
    return keras.ops.convert_to_tensor(gradient)


def check_attention(dtype: str) -> None:
    """Refuse attention that JAX cannot compute where it runs.

    Raises:
        InputError: If the numbers are float16 and there is no accelerator.
    """
    if dtype == "float16" and jax.default_backend() == "cpu":
        raise InputError(
            "dtype='float16': JAX computes no attention in float16 on a CPU; use the "
            "policy mixed_bfloat16, or TensorFlow or torch"
        )


def attention(query, key, value, mask=None):
    """Attend as Keras does: the compiler fuses it."""
    return keras.ops.dot_product_attention(query, key, value, mask=mask)


def recurrent(layer, sequences, initial_state, mask, training) -> None:
    """Return None: on JAX Keras's own loop is a compiled `scan`."""


def recomputed(compute, tensors: list, states: list) -> tuple[list, list]:
    """Compute something now, and again when its gradient is asked for.

    Args:
        compute: Function without side effects, from lists like the two others to a list
            of outputs and one of states.
        tensors: What gradients are taken of, if they are floating-point numbers.
        states: What else it computes from.

    Returns:
        What `compute` does.
    """
    places = [i for i, x in enumerate(tensors) if jnp.issubdtype(x.dtype, jnp.floating)]

    def outputs_of(floating, tensors, states):
        given = list(tensors)
        for place, tensor in zip(places, floating, strict=True):
            given[place] = tensor
        return compute(given, states)

    @jax.custom_vjp
    def once(floating, tensors, states):
        return outputs_of(floating, tensors, states)

    def forward(*given):
        return once(*given), given

    def backward(given, gradients):
        floating, *rest = given
        floating = _after(floating, gradients[0])
        _, pull_back = jax.vjp(lambda x: outputs_of(x, *rest)[0], floating)
        return *pull_back(gradients[0]), None, None

    once.defvjp(forward, backward)
    return once([tensors[i] for i in places], tensors, states)


def _after(tensors: list, others: list) -> list:
    """Return tensors that no compiler can have before the others.

    It may drop a barrier, as it does on a CPU, but cannot know whether a number is one.
    """
    number = jnp.ravel(others[0])[0]
    zero = jnp.where(number == number, 0.0, jnp.nan)
    return [tensor + zero.astype(tensor.dtype) for tensor in tensors]


def quick_step(model: keras.Model, objective) -> None:
    """Return None: Keras compiles it anyway."""


def training_step(model: keras.Model, objective, micro_batches: int, radius: float):
    """Make a training step that adds up gradients, perhaps at the worst point nearby.

    Args:
        model: Compiled model.
        objective: Function from a batch to its loss and how much this counts.
        micro_batches: Parts of a batch, at most.
        radius: How far the weights are moved for the gradient.

    Returns:
        Function to be the `train_step` of the model.
    """

    def loss_of(trainable, state, slots, part):
        mapping = [
            *zip(model.trainable_variables, trainable, strict=True),
            *zip(_stateful(model), state, strict=True),
            *zip(model.optimizer.variables, slots, strict=True),
        ]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            loss, weight = objective(part)
            loss = model.optimizer.scale_loss(loss)
            after = [
                scope.get_current_value(variable).astype(value.dtype)
                for variable, value in zip(_stateful(model), state, strict=True)
            ]
        return loss, (weight, after)

    def gradients_of(trainable, state, slots, data):
        """Return the mean gradient, and the state after all parts."""

        def add(carry, part):
            total, weight, state = carry
            gradient, (more, state) = jax.grad(loss_of, has_aux=True)(
                trainable, state, slots, part
            )
            total = jax.tree.map(
                lambda a, b: a + (more * b).astype(a.dtype), total, gradient
            )
            return (total, weight + more, state), None

        count = jax.tree.leaves(data)[0].shape[0]
        size = -(-count // micro_batches)
        full = count - count % size
        parts = jax.tree.map(lambda x: x[:full].reshape(-1, size, *x.shape[1:]), data)
        carry = [jnp.zeros_like(value) for value in trainable], jnp.zeros(()), state
        # A loop of the compiled program: unrolled, the parts might all be in memory.
        carry, _ = jax.lax.scan(add, carry, parts)
        if full < count:
            carry, _ = add(carry, jax.tree.map(lambda x: x[full:], data))
        total, weight, state = carry
        return [(gradient / weight).astype(gradient.dtype) for gradient in total], state

    def step(state, data):
        trainable, fixed, slots, metrics = state
        before = [*fixed, *metrics]
        gradients, after = gradients_of(trainable, before, slots, data)
        if radius:
            norm = jnp.sqrt(sum(jnp.sum(jnp.square(value)) for value in gradients))
            share = radius / jnp.maximum(norm, 1e-12)
            worst = jax.tree.map(
                lambda a, b: a + (share * b).astype(a.dtype), trainable, gradients
            )
            # From the state before: the same dropout.
            gradients, _ = gradients_of(worst, before, slots, data)
        trainable, slots = model.optimizer.stateless_apply(slots, gradients, trainable)
        fixed, metrics = after[: len(fixed)], after[len(fixed) :]
        scope = keras.StatelessScope(
            list(zip(model.metrics_variables, metrics, strict=True))
        )
        with scope:
            logs = model.get_metrics_result()
        return logs, (trainable, fixed, slots, metrics)

    return step


def _stateful(model: keras.Model) -> list[keras.Variable]:
    """Return what a training step changes besides weights and optimizer."""
    return [*model.non_trainable_variables, *model.metrics_variables]
