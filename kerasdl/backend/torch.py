"""The PyTorch side of `kerasdl.backend`."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
import optree
import torch

from kerasdl.backend.handed_over import HandedOver
from kerasdl.backend.torch_layers import attention as attention
from kerasdl.backend.torch_layers import fused as fused
from kerasdl.backend.torch_layers import lay_out as lay_out
from kerasdl.backend.torch_recurrent import recurrent as recurrent
from kerasdl.backend.torch_steps import quick_step as quick_step
from kerasdl.backend.torch_traces import Replayed

# What cuBLAS needs to be deterministic, read when it is first used.
CUBLAS, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
# Of arrays that can be tensors as they are.
SHARED_TYPES = {
    np.dtype(name) for name in ("float32", "int32", "int64", "uint8", "bool")
}


def set_seed(seed: int) -> None:
    """Seed everything that new layers, NumPy and PyTorch draw from.

    Keras seeds initializers and dropout layers from Python's `random`. Unlike
    `keras.utils.set_random_seed` this leaves TensorFlow unimported. The generator
    behind unseeded `keras.random` calls has no public reset: give those a seed or a
    `keras.random.SeedGenerator`.

    Args:
        seed: Any integer from 0 to 2**32 - 1.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global one is what must be seeded
    torch.manual_seed(seed)


@contextmanager
def deterministic() -> Iterator[None]:
    """Let the same training give the same weights every time, while the block runs.

    PyTorch raises where a GPU has no such kernel, naming the operation.
    """
    mode = torch.get_deterministic_debug_mode()
    benchmark, given = torch.backends.cudnn.benchmark, os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, WORKSPACE)
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.set_deterministic_debug_mode(mode)
        if given is None:
            del os.environ[CUBLAS]


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a step needs more memory than there is."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error)


def random_state() -> dict[str, np.ndarray]:
    """Return the generators that unseeded dropout draws from, by device."""
    state = {"cpu": torch.get_rng_state().numpy()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy()
    return state


def set_random_state(state: dict[str, np.ndarray]) -> None:
    """Go on drawing from what `random_state` has returned."""
    if "cpu" in state:
        torch.set_rng_state(torch.from_numpy(state["cpu"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(state["cuda"]))


def device_memory() -> int | None:
    """Return the most bytes that the GPU has held for tensors, if there is one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def devices() -> list[dict]:
    """Describe what the backend computes on, the first one being what it takes.

    Returns:
        For each device its `name`, its `kind` (`"cpu"`, `"gpu"` or `"tpu"`), its
        `memory` in bytes, `None` where it does not tell, and its `capability`, two
        numbers that NVIDIA gives to a generation of GPUs, `None` for others.
    """
    if not torch.cuda.is_available():
        return [{"name": "CPU", "kind": "cpu", "memory": None, "capability": None}]
    return [
        {
            "name": torch.cuda.get_device_name(place),
            "kind": "gpu",
            "memory": torch.cuda.get_device_properties(place).total_memory,
            "capability": torch.cuda.get_device_capability(place),
        }
        for place in range(torch.cuda.device_count())
    ]


def forward(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """Make a quick inference function of a model.

    The weights are read at each call: training the model further is seen.

    Args:
        model: A built model with one output.

    Returns:
        Function from the model's inputs (an array, or a dict or tuple of arrays) to its
        float32 output as a NumPy array; of a model that changes nothing it may be the
        memory of the input.
    """

    def compute(inputs):
        # Not inference_mode: what a layer keeps from it can never be trained through.
        with torch.no_grad():
            return model(inputs, training=False).float()

    replayed = Replayed(compute, model.variables)

    def call(inputs):
        if isinstance(inputs, np.ndarray):  # the way through a tree takes microseconds
            inputs = _as_tensor(inputs)
        else:
            inputs = optree.tree_map(_as_tensor, inputs)
        return replayed(inputs).numpy(force=True)

    return call


def _as_tensor(array) -> torch.Tensor:
    """Return a tensor of an array, on a processor in the same memory.

    Keras copies it, which takes a small model as long as to compute.
    """
    is_known = isinstance(array, np.ndarray) and array.dtype in SHARED_TYPES
    if not is_known or torch.cuda.is_available():
        return keras.ops.convert_to_tensor(array)
    # PyTorch takes no mirrored lines, and nothing that it must not write to.
    if not (array.flags.c_contiguous and array.flags.writeable):
        array = array.copy(order="C")
    return torch.from_numpy(array)


def input_gradients(
    model: keras.Model,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Make a quick function of how a model's output changes with its input.

    In inference mode; the model's state stays as it is. The weights are read at each
    call: training the model further is seen.

    Args:
        model: A built functional model with one float input and one output.

    Returns:
        Function from an input and an array like the output, both NumPy arrays, to the
        gradient of the sum of their products, output times array, with respect to the
        input: float32 like the input.
    """

    def call(inputs, weights):
        inputs = keras.ops.convert_to_tensor(inputs).detach().requires_grad_()
        weights = keras.ops.convert_to_tensor(weights)
        with torch.enable_grad():
            outputs = model(inputs, training=False)
            # Unlike backward() it adds nothing to the gradients of the weights.
            (gradient,) = torch.autograd.grad(outputs, inputs, weights)
        return gradient.float().numpy(force=True)

    return call


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
    states = list(states)
    outputs, after = torch.utils.checkpoint.checkpoint(
        lambda: compute(tensors, states), use_reentrant=False
    )
    # Keras will write the new ones over those, from which is computed again.
    for i, value in enumerate(after):
        if value is not states[i]:
            states[i] = states[i].detach().clone()
    return outputs, after


@contextmanager
def handed_over(
    model: keras.Model,  # noqa: ARG001
    source: keras.utils.PyDataset,
    steps: int,  # noqa: ARG001
) -> Iterator:
    """Let `fit` take the batches of a source without PyTorch's loader and copies.

    Args:
        model: Compiled model.
        source: A `kerasdl.data.batches.BatchSource`.
        steps: Steps of the whole training.

    Yields:
        What `fit` is to be given.
    """
    yield HandedOver(source, partial(optree.tree_map, _as_tensor))


def training_step(
    model: keras.Model, objective, micro_batches: int, radius: float, *, combine=None
):
    """Make a training step that adds up gradients, perhaps at the worst point nearby.

    Args:
        model: Compiled model.
        objective: Function from a batch to its loss and how much this counts.
        micro_batches: Parts of a batch, at most.
        radius: How far the weights are moved for the gradient.
        combine: Adds up tensors over the processes that share each batch.

    Returns:
        Function to be the `train_step` of the model.
    """

    def gradients_of(data, **options):
        """Return the mean gradient of the parts; `None` for an unused weight."""
        weights = [variable.value for variable in model.trainable_variables]
        sums, all_counts = [None] * len(weights), 0.0
        count = len(keras.tree.flatten(data)[0])
        size = -(-count // micro_batches)
        for start in range(0, count, size):
            rows = slice(start, start + size)
            part = keras.tree.map_structure(
                lambda x, rows=rows: None if x is None else x[rows], data
            )
            loss, counts = objective(part, **options)
            # Before the gradient, which may lead through what processes share, and so
            # in the same unit in all of them.
            counts = counts if combine else counts / count
            loss = model.optimizer.scale_loss(loss) * counts
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            sums = [_plus(*pair) for pair in zip(sums, gradients, strict=True)]
            all_counts = all_counts + counts
        if combine:
            *sums, all_counts = combine([*sums, all_counts])
        return [None if total is None else total / all_counts for total in sums]

    def step(data):
        weights, others = model.trainable_variables, model.non_trainable_variables
        before = _values(others) if radius else []
        gradients = gradients_of(data)
        if radius:
            here, after = _values(weights), _values(others)
            used = [gradient for gradient in gradients if gradient is not None]
            share = radius / torch.nn.utils.get_total_norm(used).clamp(min=1e-12)
            moves = [None if g is None else share * g for g in gradients]
            worst = [_plus(*pair) for pair in zip(here, moves, strict=True)]
            _assign([*weights, *others], [*worst, *before])  # the same dropout
            gradients = gradients_of(data, update_metrics=False)
            _assign([*weights, *others], [*here, *after])
        with torch.no_grad():
            model.optimizer.apply(gradients, weights)
        return model.get_metrics_result()

    return step


def _plus(total, value):
    """Add two tensors; `None` counts as zero."""
    if total is None or value is None:
        return value if total is None else total
    return total + value


def _values(variables) -> list[torch.Tensor]:
    return [variable.value.detach().clone() for variable in variables]


def _assign(variables, values) -> None:
    with torch.no_grad():
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def dense(gradient):
    """Return a gradient as a tensor, which it is on PyTorch."""
    return keras.ops.convert_to_tensor(gradient)


def check_attention(dtype: str) -> None:
    """Refuse nothing: PyTorch computes attention in every floating-point type."""
