"""Who this process is among those that train together, as the environment says."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kerasdl.errors import InputError

# Where TF_CONFIG's processes stand in the order of ranks.
TRAINING = ("chief", "worker")
# JAX takes a SLURM job's port from the same range, above what Linux hands out.
FIRST_PORT, PORTS = 61_440, 4_096
LARGEST = 10**9


@dataclass(frozen=True)
class Cluster:
    """The place of this process among all that train together.

    Attributes:
        rank: Number of this process, from 0; process 0 is the chief.
        size: Number of processes.
        local_rank: Number of this process on its host, from 0.
        local_size: Number of processes on this host.
        address: `host:port` where process 0 listens; an IPv6 host is in brackets.
        source: The variable that gave the rank, for messages.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    source: str


def find_cluster(environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """Return what the environment says of this process.

    The first that speaks is believed:

    1. `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and
       `MASTER_PORT`, as `kerasdl launch`, `torchrun` and Ray Train set them. Both local
       ones may be absent: one process per host, as in Kubeflow's jobs.
    2. SLURM, in a process that `srun` started. `MASTER_ADDR` and `MASTER_PORT` go
       before the step's first host and a port made from the job's number.
    3. `TF_CONFIG`: the chief, where there is one, then the workers.
    4. `JOB_COMPLETION_INDEX` of an indexed Kubernetes job, one process per pod.
       Kubernetes does not tell the number of pods: `WORLD_SIZE`, `MASTER_ADDR` and
       `MASTER_PORT` come from the manifest. Without `WORLD_SIZE` the pods are taken as
       independent.

    Args:
        environ: The environment variables.

    Returns:
        The place of this process, or `None` if it trains alone.

    Raises:
        InputError: If variables are missing, malformed, or contradict each other.
    """
    variables = _Variables(environ)
    for names, read in _SOURCES:
        if all(name in environ for name in names):
            return read(variables)
    return None


class _Variables:
    """Environment variables, read as what they should be."""

    def __init__(self, environ: Mapping[str, str]):
        self._environ = environ

    def __contains__(self, name: str) -> bool:
        return name in self._environ

    def text(self, *names: str) -> str:
        """Return the first of some variables that is set."""
        for name in names:
            if value := self._environ.get(name, "").strip():
                return value
        raise InputError(
            f"{names[0]} is not set, but the rest of the environment says that "
            f"several processes train together; set {names[0]}"
        )

    def number(self, *names: str, least: int = 0, most: int = LARGEST) -> int:
        """Return the first of some variables that is set, a whole number."""
        text = self.text(*names)
        if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
            name = next(name for name in names if self._environ.get(name, "").strip())
            up_to = f" to {most}" if most < LARGEST else ""
            raise InputError(f"{name}={text!r}; expected a number from {least}{up_to}")
        return int(text)

    def address(self) -> str:
        """Return where the environment's `MASTER_` variables say process 0 listens."""
        port = self.number("MASTER_PORT", least=1, most=65_535)
        return _address(self.text("MASTER_ADDR"), port)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}"


def _from_ranks(variables: _Variables) -> Cluster | None:
    size = variables.number("WORLD_SIZE", least=1)
    rank = variables.number("RANK", most=size - 1)
    if size == 1:
        return None
    local_rank, local_size = 0, 1
    if "LOCAL_RANK" in variables or "LOCAL_WORLD_SIZE" in variables:
        local_size = variables.number("LOCAL_WORLD_SIZE", least=1, most=size)
        most = min(rank, local_size - 1)
        local_rank = variables.number("LOCAL_RANK", most=most)
    return Cluster(rank, size, local_rank, local_size, variables.address(), "RANK")


def _from_slurm(variables: _Variables) -> Cluster | None:
    size = variables.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", least=1)
    rank = variables.number("SLURM_PROCID", most=size - 1)
    if size == 1:
        return None
    local_size = min(size, _tasks_here(variables))
    local_rank = variables.number("SLURM_LOCALID", most=min(rank, local_size - 1))
    if "MASTER_ADDR" in variables:
        host = variables.text("MASTER_ADDR")
    else:
        host = first_host(variables.text("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    if "MASTER_PORT" in variables:
        port = variables.number("MASTER_PORT", least=1, most=65_535)
    else:
        port = FIRST_PORT + variables.number("SLURM_JOB_ID") % PORTS
    address = _address(host, port)
    return Cluster(rank, size, local_rank, local_size, address, "SLURM_PROCID")


def _tasks_here(variables: _Variables) -> int:
    """Return the number of the step's tasks on this host: hosts may differ."""
    if "SLURM_STEP_TASKS_PER_NODE" not in variables:
        return variables.number("SLURM_NTASKS_PER_NODE", least=1)
    text = variables.text("SLURM_STEP_TASKS_PER_NODE")
    group = r"(\d+)(?:\(x(\d+)\))?"  # 4(x2) are two hosts of four tasks each
    host = variables.number("SLURM_NODEID")
    if re.fullmatch(f"{group}(,{group})*", text):
        for tasks, hosts in re.findall(group, text):
            host -= int(hosts or 1)
            if host < 0:
                return int(tasks)
    raise InputError(
        f"SLURM_STEP_TASKS_PER_NODE={text!r} does not say how many tasks the host "
        f"SLURM_NODEID={variables.text('SLURM_NODEID')} has"
    )


def first_host(hosts: str) -> str:
    """Return the first host of a SLURM list.

    Args:
        hosts: Names with ranges, such as `"node[003-005,9]-ib,other"`.

    Raises:
        InputError: If that is no such list.

    Example:
        >>> first_host("node[003-005,9]-ib,other")
        'node003-ib'
    """
    match = re.match(r"(?:[^\s,\[\]]|\[\d+[^\s\[\]]*\])+(?=,|$)", hosts)
    if match is None:
        raise InputError(f"SLURM's list of hosts {hosts!r} has no first host")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", match[0])


def _from_tf_config(variables: _Variables) -> Cluster | None:
    members, task = _tf_config(variables.text("TF_CONFIG"))
    places = [f"{name} {i}" for name in TRAINING for i in range(len(members[name]))]
    if task not in places:
        raise InputError(
            f"TF_CONFIG's task is {task!r}, but its cluster has "
            + " and ".join(f"{len(members[name])} of type {name}" for name in TRAINING)
        )
    if len(places) == 1:
        return None
    rank = places.index(task)
    addresses = [address for name in TRAINING for address in members[name]]
    hosts = [address.rpartition(":")[0] for address in addresses]
    return Cluster(
        rank=rank,
        size=len(addresses),
        local_rank=hosts[:rank].count(hosts[rank]),
        local_size=hosts.count(hosts[rank]),
        address=addresses[0],
        source="TF_CONFIG",
    )


def _tf_config(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the addresses of chief and workers, and this task as `worker 0`."""
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        members = {name: list(cluster.get(name, ())) for name in TRAINING}
        place = f"{task['type']} {task['index']}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            'TF_CONFIG is not JSON of the form {"cluster": {"worker": ["host:port", '
            '...]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    if cluster.get("ps"):
        raise InputError(
            "TF_CONFIG lists parameter servers ('ps'), which kerasdl does not use; "
            "list workers only"
        )
    addresses = [address for name in TRAINING for address in members[name]]
    for address in addresses:
        if not re.fullmatch(r"\S+:[1-9]\d{0,4}", str(address)):
            raise InputError(f"TF_CONFIG lists {address!r}; expected host:port")
    if len({*addresses}) < len(addresses):
        raise InputError("TF_CONFIG lists an address twice")
    return members, place


def _from_kubernetes(variables: _Variables) -> Cluster | None:
    size = variables.number("WORLD_SIZE", least=1)
    rank = variables.number("JOB_COMPLETION_INDEX", most=size - 1)
    if size == 1:
        return None
    return Cluster(rank, size, 0, 1, variables.address(), "JOB_COMPLETION_INDEX")


# Variables that say that an environment speaks, and who reads it.
_SOURCES = (
    (("RANK",), _from_ranks),
    (("SLURM_STEP_ID", "SLURM_PROCID"), _from_slurm),
    (("TF_CONFIG",), _from_tf_config),
    (("JOB_COMPLETION_INDEX", "WORLD_SIZE"), _from_kubernetes),
)
