"""One training on many devices and processes, on the engines that the backends have.

The batch size of a recipe is that of the global batch, which the replicas share: the
training is that of one device, step for step, and only takes less time. So a run may
be resumed with another number of replicas.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import keras

from kerasdl import backend
from kerasdl.checks import check_choice
from kerasdl.cluster import find_cluster
from kerasdl.errors import InputError
from kerasdl.steps import Objective

# name: backends that have it
STRATEGIES = {
    "auto": ("tensorflow", "jax", "torch"),
    "data_parallel": ("tensorflow", "jax", "torch"),
    "model_parallel": ("jax",),
    "tpu": ("tensorflow",),
}
# Seconds to wait for processes that shall join.
TIMEOUT = 120.0


@dataclass
class Distribution:
    """The devices and processes of a training; a `with` block trains on them.

    Attributes:
        strategy: `"data_parallel"`, `"model_parallel"` or `"tpu"`.
        devices: Devices of all processes.
        processes: Number of processes.
        rank: Number of this process, from 0.
    """

    strategy: str = "data_parallel"
    devices: int = 1
    processes: int = 1
    rank: int = 0
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files and talks to people."""
        return self.rank == 0

    @property
    def replicas(self) -> int:
        """Copies of the model, which share each batch."""
        return 1 if self.strategy == "model_parallel" else self.devices

    def __enter__(self):
        if self.devices > 1 or self.strategy == "tpu":
            self._stack.enter_context(
                backend.replicas.scope(self.strategy, self.devices)
            )
        _entered.append(self)
        self._stack.callback(_entered.pop)
        return self

    def __exit__(self, *exception):
        self._stack.close()

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a global batch that the replicas cannot share evenly.

        Raises:
            InputError: If it does not divide.
        """
        if batch_size % self.replicas:
            less = batch_size - batch_size % self.replicas or self.replicas
            raise InputError(
                f"a batch of {batch_size} does not divide among {self.replicas} "
                f"replicas; take a batch size of {less}, or other devices"
            )

    def describe(self, batch_size: int, learning_rate: float) -> str:
        """Say in one line what trains, for people."""
        across = f" in {self.processes} processes" if self.processes > 1 else ""
        return (
            f"{self.strategy} on {self.devices} devices{across}: a global batch of "
            f"{batch_size}, {batch_size // self.replicas} a replica; learning rate "
            f"{learning_rate:g}, that of the global batch"
        )

    def share(self, model: keras.Model, *sources: keras.utils.PyDataset) -> None:
        """Let `fit` and `evaluate` of a compiled model run on all devices.

        Every example of an epoch is computed once, by one replica; a batch that does
        not divide evenly counts by its examples, and batch norms have their statistics
        from the whole batch.

        Args:
            model: Model that was built in the `with` block.
            *sources: The `BatchSource`s that it is trained and validated on.
        """
        step = model.__dict__.get("train_step")  # of kerasdl.steps, or of here
        if self.devices == 1 or hasattr(step, "is_shared"):
            return
        objective = step.objective if step else Objective(model)
        testing = Objective(model, training=False)
        backend.replicas.share(model, step, objective, testing, sources)
        model.train_step.is_shared = True
        model.train_function = model.test_function = None

    def agree(self, facts: Mapping[str, object]) -> None:
        """Refuse to train with processes that would train something else.

        Args:
            facts: What must be the same in all processes, JSON by name.

        Raises:
            InputError: If a process differs from the chief, naming the difference.
        """
        told = backend.replicas.gathered(json.dumps(facts))
        chief, *others = map(json.loads, told)
        for rank, other in enumerate(others, start=1):
            for name in chief:
                if chief[name] != other.get(name):
                    raise InputError(
                        f"process {rank} has another {name} than process 0: "
                        f"{_difference(chief[name], other.get(name))}; start all "
                        "processes alike"
                    )

    def from_chief(self, text: str) -> str:
        """Return what the chief says; every process waits for it."""
        return backend.replicas.gathered(text)[0]

    def any_signal(self, number: int | None) -> int | None:
        """Return a signal that any process has received; all must ask."""
        return backend.replicas.largest(number or 0) or None


# The innermost block comes last.
_entered = [Distribution()]


def current() -> Distribution:
    """Return the distribution of the innermost `with` block, or one device."""
    return _entered[-1]


def distribute(
    strategy: str = "auto",
    *,
    devices: int | None = None,
    timeout: float = TIMEOUT,
) -> Distribution:
    """Take up the devices to train on, and join the other processes, if there are any.

    Call it before anything is computed, and build, train or `kerasdl.train` in a `with`
    block. Processes are those that `kerasdl.cluster.find_cluster` finds: of `kerasdl
    launch`, torchrun, SLURM, TF_CONFIG, Kubernetes or Ray Train.

    Args:
        strategy: A key of `STRATEGIES`. `"data_parallel"` gives each device a copy of
            the model and a part of each batch, `"model_parallel"` a part of the wide
            layers of transformers (JAX); `"tpu"` is TensorFlow's `TPUStrategy`;
            `"auto"` is `"data_parallel"`.
        devices: Devices to take: by default all accelerators, or one CPU. On a machine
            without accelerators TensorFlow and JAX rehearse with so many virtual ones.
            On torch each device has a process of its own, started by `kerasdl launch`.
        timeout: Seconds to wait for other processes.

    Returns:
        The distribution.

    Raises:
        InputError: If the backend has no such strategy, there are fewer devices, or a
            process does not join.

    Example:
        >>> with distribute("data_parallel", devices=1) as devices:
        ...     devices.replicas
        1
    """
    check_choice("strategy", strategy, STRATEGIES, error=InputError)
    name = keras.backend.backend()
    if name not in STRATEGIES[strategy]:
        raise InputError(
            f"strategy={strategy!r} runs on {' and '.join(STRATEGIES[strategy])}, not "
            f"on {name}; change the backend or take data_parallel"
        )
    if devices is not None and devices < 1:
        raise InputError(f"devices={devices}; give a number above 0")
    cluster = find_cluster()
    found = backend.replicas.prepare(strategy, devices, cluster, timeout)
    return Distribution(
        strategy="data_parallel" if strategy == "auto" else strategy,
        devices=found,
        processes=cluster.size if cluster else 1,
        rank=cluster.rank if cluster else 0,
    )


def _difference(one, other) -> str:
    """Say where two values differ: in which field, if they have fields."""
    if isinstance(one, dict) and isinstance(other, dict):
        name = next(
            name for name in {**one, **other} if one.get(name) != other.get(name)
        )
        return f"{name} is {other.get(name)!r}, not {one.get(name)!r}"
    return f"{other!r}, not {one!r}"
