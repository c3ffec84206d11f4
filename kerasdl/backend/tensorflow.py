"""The TensorFlow side of `kerasdl.backend`."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasdl.backend import tensorflow_replicas
from kerasdl.backend.tensorflow_batches import handed_over as handed_over
from kerasdl.backend.tensorflow_layers import fused as fused
from kerasdl.backend.tensorflow_layers import lay_out as lay_out

# Take memory of a GPU as it is needed, not most of it at once; read when the first
# tensor is put there.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

_summed_over_replicas = keras.optimizers.Optimizer._all_reduce_sum_gradients


def _sum_over_replicas(optimizer, grads_and_vars) -> list:
    """Sum gradients over the replicas, if there are several.

    TensorFlow makes the sum itself differentiable. For that it registers a function,
    for ever, which holds the graph of the whole step: of the smallest model 150 kB more
    after each training in one process.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync > 1:
        return _summed_over_replicas(optimizer, grads_and_vars)
    return list(grads_and_vars)


keras.optimizers.Optimizer._all_reduce_sum_gradients = _sum_over_replicas


def set_seed(seed: int) -> None:
    """Seed everything that new layers, NumPy and TensorFlow draw from.

    Args:
        seed: Any integer from 0 to 2**32 - 1.
    """
    keras.utils.set_random_seed(seed)


@contextmanager
def deterministic() -> Iterator[None]:
    """Let the same training give the same weights every time.

    TensorFlow has no way back: the process computes like that to its end, and draws
    nothing without a seed.
    """
    tf.config.experimental.enable_op_determinism()
    yield


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a step needs more memory than there is."""
    return isinstance(error, MemoryError | tf.errors.ResourceExhaustedError)


def random_state() -> dict[str, np.ndarray]:
    """Return nothing: all that Keras draws on TensorFlow goes by variables."""
    return {}


def set_random_state(state: dict[str, np.ndarray]) -> None:
    """Go on drawing from what `random_state` has returned: nothing."""


def device_memory() -> int | None:
    """Return the most bytes that the first GPU has held, if there is one."""
    if not tf.config.list_logical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def devices() -> list[dict]:
    """Describe what the backend computes on, the first one being what it takes.

    Returns:
        For each device its `name`, its `kind` (`"cpu"`, `"gpu"` or `"tpu"`), its
        `memory` in bytes, `None` where it does not tell, and its `capability`, two
        numbers that NVIDIA gives to a generation of GPUs, `None` for others.
    """
    found = tf.config.list_physical_devices("GPU")
    described = map(tf.config.experimental.get_device_details, found)
    gpus = [
        {
            "name": details.get("device_name", gpu.name),
            "kind": "gpu",
            "memory": None,
            "capability": details.get("compute_capability"),
        }
        for gpu, details in zip(found, described, strict=True)
    ]
    cpu = {"name": "CPU", "kind": "cpu", "memory": None, "capability": None}
    return gpus or [cpu] * len(tf.config.list_logical_devices("CPU"))


def forward(model: keras.Model) -> Callable[[Any], np.ndarray]:
    """Make a quick inference function of a model.

    It is traced once, for the shapes of the model's own inputs, and serves all batch
    sizes and lengths. The weights are read at each call: training the model further is
    seen.

    Args:
        model: A built functional model with one output.

    Returns:
        Function from the model's inputs (an array, or a dict or tuple of arrays) to its
        float32 output as a NumPy array.
    """
    specs = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), model.input
    )

    @tf.function(input_signature=[specs], autograph=False)
    def apply(inputs):
        return model(inputs, training=False)

    def call(inputs):
        return np.asarray(apply(inputs), dtype="float32")

    return call


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
    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype)
        for tensor in (model.inputs[0], model.outputs[0])
    ]

    @tf.function(input_signature=specs, autograph=False)
    def apply(inputs, weights):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            outputs = model(inputs, training=False)
        return tape.gradient(
            outputs,
            inputs,
            output_gradients=weights,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def call(inputs, weights):
        return np.asarray(apply(inputs, weights), dtype="float32")

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
    # A variable would be read again, after Keras has written to it.
    tensors, states = (list(map(tf.identity, group)) for group in (tensors, states))
    places = [i for i, tensor in enumerate(tensors) if tensor.dtype.is_floating]
    after = []

    @tf.recompute_grad
    def outputs_of(*floating):
        given = list(tensors)
        for place, tensor in zip(places, floating, strict=True):
            given[place] = tensor
        outputs, new = compute(given, states)
        if not after:  # the first time; later, these are long in use
            after.extend(new)
        return outputs

    return list(outputs_of(*(tensors[i] for i in places))), after


def quick_step(model: keras.Model, objective) -> None:
    """Return None: Keras makes a graph of it anyway."""


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

    def gradients_of(data, **options):
        """Return the mean gradient of the parts."""
        weights = model.trainable_variables
        replicas = tf.distribute.get_strategy().num_replicas_in_sync

        def add(start, size, totals, all_counts):
            part = keras.tree.map_structure(lambda x: _rows(x, start, size), data)
            with tf.GradientTape() as tape:
                loss, counts = objective(part, **options)
                loss = model.optimizer.scale_loss(loss)
            gradients = tape.gradient(
                loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            totals = [
                total + tf.cast(counts, total.dtype) * tf.convert_to_tensor(gradient)
                for total, gradient in zip(totals, gradients, strict=True)
            ]
            return start + size, totals, all_counts + counts

        count = tf.shape(keras.tree.flatten(data)[0])[0]
        size = -(-count // micro_batches)
        full = count - count % size
        totals = [tf.zeros(variable.shape, variable.dtype) for variable in weights]
        # A loop of the graph: unrolled, the parts would run side by side.
        start, totals, all_counts = tf.while_loop(
            lambda start, *_: start < full,
            lambda start, *sums: add(start, size, *sums),
            (tf.constant(0), totals, tf.constant(0.0)),
            parallel_iterations=1,
        )
        _, totals, all_counts = tf.cond(
            full < count,
            lambda: add(start, count - full, totals, all_counts),
            lambda: (start, totals, all_counts),
        )
        if replicas > 1:
            context = tf.distribute.get_replica_context()
            all_counts = context.all_reduce("sum", all_counts) / replicas
        return [total / tf.cast(all_counts, total.dtype) for total in totals]

    def step(data):
        weights, others = model.trainable_variables, model.non_trainable_variables
        before = [tf.identity(variable) for variable in others] if radius else []
        gradients = gradients_of(data)
        if radius:
            here, after = (
                [tf.identity(x) for x in group] for group in (weights, others)
            )
            share = radius / tf.maximum(tf.linalg.global_norm(gradients), 1e-12)
            for variable, gradient in zip(weights, gradients, strict=True):
                variable.assign_add(tf.cast(share, gradient.dtype) * gradient)
            _assign(others, before)  # the same dropout
            gradients = gradients_of(data, update_metrics=False)
            _assign(weights, here)
            _assign(others, after)
        tensorflow_replicas.update(model, gradients)
        return model.get_metrics_result()

    return step


def _rows(values, start, size):
    """Return some rows; the number may only depend on shapes, for XLA."""
    if values is None:
        return None
    values = tf.convert_to_tensor(values)
    rest = tf.shape(values)[1:]
    first = tf.concat([[start], tf.zeros_like(rest)], 0)
    rows = tf.slice(values, first, tf.concat([[size], rest], 0))
    return tf.ensure_shape(rows, [None, *values.shape[1:]])


def _assign(variables, values) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def dense(gradient):
    """Return a gradient as a tensor, rows that occur twice in a table added up.

    The gradient of an embedding comes as the rows that occur, each as often as it does.
    """
    return tf.convert_to_tensor(gradient)


def check_attention(dtype: str) -> None:
    """Refuse nothing: TensorFlow computes attention in every floating-point type."""


def attention(query, key, value, mask=None):
    """Attend as Keras does: the compiler fuses it."""
    return keras.ops.dot_product_attention(query, key, value, mask=mask)


def recurrent(layer, sequences, initial_state, mask, training) -> None:
    """Return None: on TensorFlow Keras's own loop is a compiled `while_loop`."""
