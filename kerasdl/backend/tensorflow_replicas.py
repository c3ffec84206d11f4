"""Replicas on TensorFlow: the devices of one machine, by a strategy.

Every replica is handed the whole batch and computes its part. Gradients count by the
examples that they come from, so that parts may be of different size, and batch norms
have their statistics from all replicas.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import keras
import tensorflow as tf

from kerasdl.backend.parts import bounds
from kerasdl.cluster import Cluster
from kerasdl.errors import InputError


def prepare(
    strategy: str,
    devices: int | None,
    cluster: Cluster | None,
    timeout: float,  # noqa: ARG001 - of one process
) -> int:
    """Take up the devices.

    Args:
        strategy: A name in `kerasdl.distribution.STRATEGIES`.
        devices: Devices; `None` takes all accelerators, or one CPU. On a machine
            without accelerators, so many virtual ones are made of its CPU.
        cluster: The processes, of which TensorFlow can have one.
        timeout: Seconds to wait for others.

    Returns:
        The number of devices.

    Raises:
        InputError: If there are several processes, or fewer devices.
    """
    if cluster:
        # keras issue 20585: `fit` fails under MultiWorkerMirroredStrategy.
        raise InputError(
            f"{cluster.source} asks for {cluster.size} processes, but on TensorFlow "
            "kerasdl trains on the devices of one process; take --backend jax or torch"
        )
    if strategy == "tpu":
        return _tpu().num_replicas_in_sync
    gpus = len(tf.config.list_physical_devices("GPU"))
    if not gpus and devices and devices > 1:
        _make_virtual(devices)
    elif gpus and devices and devices > gpus:
        raise InputError(
            f"{devices} devices were asked for, but TensorFlow has {gpus}; ask for no "
            "more"
        )
    return devices or gpus or 1


def _make_virtual(devices: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    virtual = [tf.config.LogicalDeviceConfiguration()] * devices
    try:
        tf.config.set_logical_device_configuration(cpu, virtual)
    except RuntimeError as error:  # it has computed
        there = len(tf.config.list_logical_devices("CPU"))
        if there < devices:
            raise InputError(
                "TensorFlow has already computed in this process, on "
                f"{there} device(s); call distribute first"
            ) from error


@contextmanager
def scope(strategy: str, replicas: int) -> Iterator[None]:
    """Mirror the variables that are made in the block on all devices.

    Args:
        strategy: A name in `kerasdl.distribution.STRATEGIES`.
        replicas: Devices that take part.
    """
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if strategy == "tpu":
        mirrored = _tpu()
    else:
        mirrored = tf.distribute.MirroredStrategy(
            [f"{kind}:{place}" for place in range(replicas)]
        )
    with mirrored.scope():
        yield


@functools.cache
def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(
            "strategy='tpu': TensorFlow finds no TPU here; take data_parallel"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def apart():
    """Build models as in the scope: a strategy cannot be left within it."""
    return nullcontext()


def share(model: keras.Model, step, objective, testing, sources) -> None:
    """Let the steps of a compiled model compute a part of the batch on each device.

    Args:
        model: Model that was built within the scope.
        step: Its training step, if it has one of `kerasdl.steps`.
        objective: Of the training step.
        testing: Objective of the evaluation.
        sources: What it is trained and validated on.

    Raises:
        InputError: If the step needs the gradient of the whole batch in between, as
            sharpness-aware minimisation does, and clipping of scaled gradients.
    """
    if step and step.radius:
        raise InputError(
            "sam above 0 on several devices: TensorFlow cannot move weights within a "
            "step there; take --backend jax or torch"
        )
    inner = getattr(model.optimizer, "inner_optimizer", None)
    if inner and any(_clips(inner)):
        raise InputError(
            "clip with mixed_float16 on several devices: TensorFlow would clip scaled "
            "parts of the gradient; take mixed_bfloat16, or --backend jax or torch"
        )
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    for source in sources:
        source.copies = replicas
    _build(model, sources[0])
    objective.replicas = testing.replicas = replicas
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer._moments = functools.partial(_moments, layer, objective)
    step = step or _plain_step(model, objective)
    model.train_step = _on_a_part(model, step, objective)
    model.test_step = _on_a_part(model, testing, testing)


def _build(model: keras.Model, source) -> None:
    """Make the variables that the first step would make.

    Keras would take a batch from the source for that, and so an epoch out of order.
    """
    model._symbolic_build(data_batch=source[0])
    model._maybe_symbolic_build = lambda *_, **__: None


def _plain_step(model: keras.Model, objective):
    """Make a step whose gradients of tables stay the few rows that occur."""

    def step(data):
        context = tf.distribute.get_replica_context()
        with tf.GradientTape() as tape:
            loss, count = objective(data)
            share = count / context.all_reduce("sum", count)
            # Keras has divided the loss by the replicas.
            loss *= share * context.num_replicas_in_sync
            loss = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            loss,
            model.trainable_variables,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        update(model, gradients)

    return step


def _on_a_part(model: keras.Model, step, objective):
    """Make a step that computes a part, and returns the metrics of the whole."""

    def shared_step(data):
        context = tf.distribute.get_replica_context()
        data, objective.share = _part(data)
        variables = [v for metric in model.metrics for v in metric.variables]
        before = [tf.identity(variable) for variable in variables]
        step(data)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(tf.where(objective.share > 0, variable, value))
        sums = [context.all_reduce("sum", variable.value) for variable in variables]
        with keras.StatelessScope(list(zip(variables, sums, strict=True))):
            return model.get_metrics_result()

    return shared_step


def _moments(layer, objective, inputs, mask):
    """Return mean and variance over the parts of all replicas.

    In place of `BatchNormalization._moments`, which with `synchronized` counts examples
    that only stand in, and loses digits where the variance is small.
    """
    context = tf.distribute.get_replica_context()
    axes = layer._reduction_axes
    counts = tf.ones_like(inputs)
    if mask is not None:
        counts *= tf.cast(mask[..., None], inputs.dtype)
    counts *= objective.share

    def sum_of(values):
        return context.all_reduce("sum", tf.reduce_sum(values, axes, keepdims=True))

    count = sum_of(counts)
    mean = sum_of(counts * inputs) / count
    variance = sum_of(counts * (inputs - mean) ** 2) / count
    return tf.squeeze(mean, axes), tf.squeeze(variance, axes)


def _clips(optimizer: keras.optimizers.Optimizer) -> tuple:
    return optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue


def update(model: keras.Model, gradients: list) -> None:
    """Change the weights by gradients, whose sum over the replicas is the batch's.

    Keras clips before it sums up, and so that each replica clips as it likes.
    """
    weights, optimizer = model.trainable_variables, model.optimizer
    context = tf.distribute.get_replica_context()
    if any(_clips(optimizer)) and context.num_replicas_in_sync > 1:
        sums = [context.all_reduce("sum", tf.convert_to_tensor(g)) for g in gradients]
        clipped = optimizer._clip_gradients(sums)
        gradients = [gradient / context.num_replicas_in_sync for gradient in clipped]
    optimizer.apply_gradients(zip(gradients, weights, strict=True))


def _part(data):
    """Return the part of a whole batch that this replica computes.

    Of fewer examples than replicas, the first stands in for none.

    Returns:
        The part, and 1.0, or 0.0 where it only stands in.
    """
    context = tf.distribute.get_replica_context()
    place, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    count = tf.shape(keras.tree.flatten(data)[0])[0]
    start, end = bounds(count, place, replicas)
    stop = tf.maximum(end, start + 1)

    def rows(values):
        if values is None:
            return None
        return tf.ensure_shape(values[start:stop], [None, *values.shape[1:]])

    return keras.tree.map_structure(rows, data), tf.cast(end > start, "float32")


def gathered(text: str) -> list[str]:
    """Return what each process says: the only one."""
    return [text]


def largest(number: int) -> int:
    """Return the largest number that any process has: the only one."""
    return number


def close() -> None:
    """Leave no other processes."""
