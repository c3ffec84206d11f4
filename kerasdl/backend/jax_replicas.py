"""Replicas on JAX: one program, compiled for the devices of all processes.

Keras lays variables out by its distribution. Every process hands over whole batches,
and the compiled step computes a part of the batch on each device; a batch that does not
divide evenly is computed whole on each. So loss, metrics and batch norms are those of
one device, whatever the number.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from kerasdl.cluster import Cluster
from kerasdl.errors import InputError
from kerasdl.roll_call import roll_call
from kerasdl.untrusted import brief

# Wide layers in pairs, so that two devices talk once per pair: the first of each pair
# is cut by its outputs, the second by its inputs (Shoeybi et al. 2019, section 3).
LAYOUTS = {
    r".*(qkv|_expand)/kernel": (None, "model"),
    r".*(qkv|_expand)/bias": ("model",),
    r".*(out|_project)/kernel": ("model", None),
}


def prepare(
    strategy: str,  # noqa: ARG001 - for TPUs
    devices: int | None,
    cluster: Cluster | None,
    timeout: float,
) -> int:
    """Take up the devices, and join the other processes.

    Args:
        strategy: A name in `kerasdl.distribution.STRATEGIES`.
        devices: Devices of this process; `None` takes all accelerators, or one CPU. On
            a machine without accelerators, so many virtual ones are made of its CPU.
        cluster: The processes, if there are several.
        timeout: Seconds to wait for them.

    Returns:
        Devices of all processes.

    Raises:
        InputError: If there are fewer devices, or a process does not join.
    """
    if cluster:
        _join(cluster, timeout)
    elif devices and devices > 1:
        _make_virtual(devices)
    if cluster and devices not in (None, jax.local_device_count()):
        raise InputError(
            f"{devices} devices were asked for, but each of the {cluster.size} "
            f"processes has {jax.local_device_count()}; leave out --devices"
        )
    if (devices or 1) > jax.device_count():
        raise InputError(
            f"{devices} devices were asked for, but JAX has {jax.device_count()}; ask "
            "for no more"
        )
    return devices if devices and not cluster else jax.device_count()


def _make_virtual(devices: int) -> None:
    """Let JAX make several devices of a CPU, which accelerators stay unmoved by."""
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError as error:  # it has computed
        if jax.default_backend() == "cpu" and jax.device_count() < devices:
            raise InputError(
                f"JAX has already computed in this process, on {jax.device_count()} "
                "device(s); call distribute first"
            ) from error


def _join(cluster: Cluster, timeout: float) -> None:
    if jax.distributed.is_initialized():
        return
    roll_call(cluster, timeout)
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            cluster.address,
            cluster.size,
            cluster.rank,
            # Else each process would take all devices of the machine.
            local_device_ids=cluster.local_rank if cluster.local_size > 1 else None,
            initialization_timeout=round(timeout),
        )
    except RuntimeError as error:
        raise InputError(
            f"process {cluster.rank} of {cluster.size} could not join the others at "
            f"{cluster.address} in {timeout:.0f} s ({brief(error)}); start all of"
            " them, and see that the port is free"
        ) from error


@contextmanager
def scope(strategy: str, replicas: int) -> Iterator[None]:
    """Lay out the variables that are made in the block, and the steps run in it.

    Args:
        strategy: A name in `kerasdl.distribution.STRATEGIES`.
        replicas: Devices that take part.
    """
    devices = keras.distribution.list_devices()[:replicas]
    if strategy == "model_parallel":
        mesh = keras.distribution.DeviceMesh((1, replicas), ["batch", "model"], devices)
        layouts = keras.distribution.LayoutMap(mesh)
        for path, axes in LAYOUTS.items():
            layouts[path] = keras.distribution.TensorLayout(axes, mesh)
        chosen = _ModelParallel(
            layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
        )
    else:
        mesh = keras.distribution.DeviceMesh((replicas,), ["batch"], devices)
        chosen = _DataParallel(device_mesh=mesh, auto_shard_dataset=False)
    with chosen.scope():
        yield


@contextmanager
def apart() -> Iterator[None]:
    """Build models on one device in the block, within a scope."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


class _WholeBatches:
    """Hands every device the whole batch: the step takes its part."""

    def get_data_layout(self, data_shape):
        axes = [None] * len(data_shape)
        return keras.distribution.TensorLayout(axes, self.device_mesh)


class _DataParallel(_WholeBatches, keras.distribution.DataParallel):
    pass


class _ModelParallel(_WholeBatches, keras.distribution.ModelParallel):
    def get_variable_layout(self, variable):
        """Return the layout of the map, or none where it does not divide evenly."""
        layout = super().get_variable_layout(variable)
        sizes = dict(
            zip(self.device_mesh.axis_names, self.device_mesh.shape, strict=True)
        )
        if all(
            size % sizes.get(axis, 1) == 0
            for size, axis in zip(variable.shape, layout.axes, strict=False)
        ):
            return layout
        axes = [None] * len(variable.shape)
        return keras.distribution.TensorLayout(axes, self.device_mesh)


def share(model: keras.Model, step, objective, testing, sources) -> None:  # noqa: ARG001
    """Let the steps of a compiled model compute a part of the batch on each device.

    Args:
        model: Model that was built within the scope.
        step: Its training step, if it has one of `kerasdl.steps`.
        objective: Of the training step.
        testing: Objective of the evaluation.
        sources: What it is trained and validated on.
    """
    train_step, test_step = model.train_step, model.test_step
    model.train_step = lambda state, data: train_step(state, _shared(data))
    model.test_step = lambda state, data: test_step(state, _shared(data))


def _shared(data):
    """Cut a batch along its first axis, if it divides evenly."""
    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    def part(values):
        if not values.ndim or values.shape[0] % mesh.shape["batch"]:
            return values
        return jax.lax.with_sharding_constraint(values, layout)

    return jax.tree.map(part, data)


def gathered(text: str) -> list[str]:
    """Return what each process says, in their order; waits for all of them."""
    said = np.frombuffer(text.encode(), np.uint8)
    longest = int(_of_all(np.array([len(said)])).max())
    padded = np.zeros(longest, np.uint8)
    padded[: len(said)] = said
    lines = _of_all(padded)
    return [bytes(line).rstrip(b"\0").decode() for line in lines]


def _of_all(values: np.ndarray) -> np.ndarray:
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values))


def largest(number: int) -> int:
    """Return the largest number that any process has."""
    return int(_of_all(np.array([number])).max())


def close() -> None:
    """Leave the other processes."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
