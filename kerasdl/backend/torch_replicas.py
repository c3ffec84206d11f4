"""Replicas on PyTorch: a process for each device.

Every process has the whole model and is handed whole batches. It computes its part;
gradients and metrics are then added up over the processes, and batch norms have their
statistics from all of them. `DistributedDataParallel` would add up what `backward` has
found alone: it knows neither parts of different size nor steps that take gradients
twice.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import keras
import torch
from torch import distributed

from kerasdl.backend.parts import bounds
from kerasdl.backend.torch import training_step
from kerasdl.cluster import Cluster
from kerasdl.errors import InputError
from kerasdl.roll_call import roll_call

# Seconds that a process waits for what another one computes or writes.
PATIENCE = 600


def prepare(
    strategy: str,  # noqa: ARG001 - for TPUs
    devices: int | None,
    cluster: Cluster | None,
    timeout: float,
) -> int:
    """Take up the device of this process, and join the other processes.

    Args:
        strategy: A name in `kerasdl.distribution.STRATEGIES`.
        devices: Devices of this process: one.
        cluster: The processes, if there are several.
        timeout: Seconds to wait for them.

    Returns:
        The number of processes.

    Raises:
        InputError: If this process asks for several devices, there are fewer GPUs than
            processes, or a process does not join.
    """
    if devices and devices > 1 and not (cluster and devices == cluster.local_size):
        raise InputError(
            f"{devices} devices were asked for, but on torch each device has a process "
            f"of its own; start them by kerasdl launch --nproc {devices} -- COMMAND"
        )
    if not cluster:
        return 1
    gpus = torch.cuda.device_count()
    # One alone may be that of this process: a cluster can hide the others.
    if gpus > 1 and cluster.local_size > gpus:
        raise InputError(
            f"{cluster.local_size} processes on this machine, but torch has {gpus} "
            "GPUs; start no more processes"
        )
    if gpus > 1:
        torch.cuda.set_device(cluster.local_rank)
    if not distributed.is_initialized():
        # Under torchrun its agent has called the processes, and holds their store.
        has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if not has_agent:
            roll_call(cluster, timeout)
        distributed.init_process_group(
            "nccl" if gpus else "gloo",
            init_method="env://" if has_agent else f"tcp://{cluster.address}",
            rank=cluster.rank,
            world_size=cluster.size,
            timeout=timedelta(seconds=PATIENCE),
        )
    return cluster.size


def scope(strategy: str, replicas: int):  # noqa: ARG001
    """Change nothing: a process has a model of its own."""
    return nullcontext()


def apart():
    """Change nothing: a process has a model of its own."""
    return nullcontext()


def share(model: keras.Model, step, objective, testing, sources) -> None:  # noqa: ARG001
    """Let the steps of a compiled model compute the part of this process.

    Args:
        model: The model, in each process.
        step: Its training step, if it has one of `kerasdl.steps`.
        objective: Of the training step.
        testing: Objective of the evaluation.
        sources: What it is trained and validated on.

    Raises:
        InputError: If a batch norm would see micro-batches.
    """
    micro_batches, radius = (step.micro_batches, step.radius) if step else (1, 0.0)
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if norms and micro_batches > 1:
        raise InputError(
            "accumulate above 1: on torch several processes cannot compute a model with"
            " batch norms in micro-batches; leave it at 1"
        )
    for norm in norms:
        norm._moments = functools.partial(_moments, norm, objective)
    for variable in model.variables:
        distributed.broadcast(variable.value.detach(), 0)
    step = training_step(model, objective, micro_batches, radius, combine=summed)
    model.train_step = _on_a_part(model, step, objective, _Spread(model))
    model.test_step = _on_a_part(model, testing, testing)


class _Spread:
    """Lets each process draw dropout and augmentation of its own, from the first step.

    The chief draws as one process would, so that what it saves serves any number.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.is_done = False

    def __call__(self) -> None:
        if self.is_done:
            return
        self.is_done = True
        for variable in self.model.variables:
            if variable.path.endswith("seed_generator_state"):
                variable.assign(variable + torch.tensor([distributed.get_rank(), 0]))


def _on_a_part(model: keras.Model, step, objective, prepare=lambda: None):
    """Make a step that computes a part, and returns the metrics of the whole."""

    def shared_step(data):
        prepare()
        data, objective.share = _part(data)
        variables = [v for metric in model.metrics for v in metric.variables]
        before = [variable.value.detach().clone() for variable in variables]
        step(data)
        # Metrics are sums, over processes as over batches.
        gains = [
            objective.share * (variable.value - old)
            for variable, old in zip(variables, before, strict=True)
        ]
        for variable, old, gain in zip(variables, before, summed(gains), strict=True):
            variable.assign(old + gain)
        return model.get_metrics_result()

    return shared_step


def _part(data):
    """Return the part of a whole batch that this process computes.

    Of fewer examples than processes, the first stands in for none.

    Returns:
        The part, and 1.0, or 0.0 where it only stands in.
    """
    count = len(keras.tree.flatten(data)[0])
    rank, size = distributed.get_rank(), distributed.get_world_size()
    start, end = bounds(count, rank, size)
    stop = max(end, start + 1)
    rows = keras.tree.map_structure(
        lambda x: None if x is None else x[start:stop], data
    )
    return rows, float(end > start)


def summed(tensors: list) -> list:
    """Add up tensors over the processes, in one go; `None` stays.

    Raises:
        ConnectionError: If another process has ended.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    flat = torch.cat([tensor.detach().float().flatten() for tensor in given])
    _all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in given])
    sums = iter(
        part.view_as(tensor).to(tensor.dtype)
        for part, tensor in zip(parts, given, strict=True)
    )
    return [None if tensor is None else next(sums) for tensor in tensors]


def _all_reduce(tensor, operation=distributed.ReduceOp.SUM) -> None:
    with _named_end():
        distributed.all_reduce(tensor, operation)


@contextmanager
def _named_end() -> Iterator[None]:
    """Say what it means that another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this training has ended, and so does this one; start "
            "all of them again with --resume"
        ) from error


class _Sum(torch.autograd.Function):
    """The sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(context, tensor):  # noqa: ARG004
        """Return the sum."""
        tensor = tensor.contiguous().clone()
        _all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(context, gradient):  # noqa: ARG004
        """Return the sum of the gradients."""
        gradient = gradient.contiguous().clone()
        _all_reduce(gradient)
        return gradient


def _moments(layer, objective, inputs, mask):
    """Return mean and variance over the batches of all processes.

    In place of `BatchNormalization._moments`, which Keras cannot compute over processes
    on PyTorch.
    """
    axes = layer._reduction_axes
    counts = objective.share * torch.ones_like(inputs)
    if mask is not None:
        counts = counts * mask[..., None]
    sums = [counts, counts * inputs, counts * inputs**2]
    count, total, squares = _Sum.apply(torch.stack([s.sum(axes) for s in sums]))
    mean = total / count
    return mean, squares / count - mean**2  # as Keras has it on PyTorch


def gathered(text: str) -> list[str]:
    """Return what each process says, in their order; waits for all of them."""
    if not distributed.is_initialized():
        return [text]
    texts = [None] * distributed.get_world_size()
    with _named_end():
        distributed.all_gather_object(texts, text)
    return texts


def largest(number: int) -> int:
    """Return the largest number that any process has."""
    if not distributed.is_initialized():
        return number
    value = torch.tensor(number)
    if torch.cuda.is_available():
        value = value.cuda()
    _all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def close() -> None:
    """Leave the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
