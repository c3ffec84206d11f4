"""What environments say of a process, and what contradicts itself."""

import contextlib
import json
import random

import pytest

from kerasdl.cluster import Cluster, find_cluster, first_host
from kerasdl.errors import InputError

pytestmark = pytest.mark.backend_free

MASTER = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def torchrun(rank, hosts):
    """Return the environment of a process under torchrun; hosts: processes on each."""
    host, local_rank = place(rank, hosts)
    return MASTER | {
        "RANK": f"{rank}",
        "WORLD_SIZE": f"{sum(hosts)}",
        "LOCAL_RANK": f"{local_rank}",
        "LOCAL_WORLD_SIZE": f"{hosts[host]}",
    }


def slurm(rank, hosts):
    host, local_rank = place(rank, hosts)
    return {
        "SLURM_JOB_ID": "4099",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": f"{sum(hosts)}",
        "SLURM_NTASKS": "99",  # of the job
        "SLURM_PROCID": f"{rank}",
        "SLURM_LOCALID": f"{local_rank}",
        "SLURM_NODEID": f"{host}",
        "SLURM_STEP_TASKS_PER_NODE": compressed(hosts),
        "SLURM_STEP_NODELIST": f"gpu[07-{7 + len(hosts):02d}]",
        "SLURM_JOB_NODELIST": "gpu[01-99]",
    }


def tf_config(rank, hosts, chief=False):
    names = [f"host{host}:{2000 + n}" for host, n in places(hosts)]
    cluster = {"chief": names[:1], "worker": names[1:]} if chief else {"worker": names}
    is_chief = chief and rank == 0
    task = {"type": "chief" if is_chief else "worker", "index": rank}
    task["index"] -= chief and not is_chief
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def kubernetes(rank, hosts):
    job = {"JOB_COMPLETION_INDEX": f"{rank}", "WORLD_SIZE": f"{len(hosts)}"}
    return MASTER | job


def places(hosts):
    return [(host, n) for host, count in enumerate(hosts) for n in range(count)]


def place(rank, hosts):
    return places(hosts)[rank]


def compressed(hosts):
    """Write numbers as SLURM does: `4(x2),3`."""
    runs = []
    for count in hosts:
        if runs and runs[-1][0] == count:
            runs[-1][1] += 1
        else:
            runs.append([count, 1])
    return ",".join(f"{count}(x{n})" if n > 1 else f"{count}" for count, n in runs)


LAYOUTS = [[2], [1, 1], [4, 4], [3, 1, 2], [1, 5], [8] * 4, [2, 2, 1, 1, 2]]


@pytest.mark.parametrize("hosts", LAYOUTS, ids=str)
@pytest.mark.parametrize("environment", [torchrun, slurm, tf_config])
def test_every_process_finds_its_place(environment, hosts):
    found = [find_cluster(environment(rank, hosts)) for rank in range(sum(hosts))]
    assert [cluster.rank for cluster in found] == list(range(sum(hosts)))
    assert {cluster.size for cluster in found} == {sum(hosts)}
    assert [cluster.local_rank for cluster in found] == [n for _, n in places(hosts)]
    sizes = [cluster.local_size for cluster in found]
    assert sizes == [hosts[host] for host, _ in places(hosts)]
    assert len({cluster.address for cluster in found}) == 1


def test_a_pod_is_a_process():
    assert [find_cluster(kubernetes(rank, [1] * 3)) for rank in range(3)] == [
        Cluster(rank, 3, 0, 1, "10.0.0.1:29500", "JOB_COMPLETION_INDEX")
        for rank in range(3)
    ]


def test_the_chief_comes_before_the_workers():
    found = [find_cluster(tf_config(rank, [2, 1], chief=True)) for rank in range(3)]
    assert [cluster.rank for cluster in found] == [0, 1, 2]
    assert {cluster.address for cluster in found} == {"host0:2000"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HOME": "/root", "WORLD_SIZE": "8"},
        torchrun(0, [1]),
        {"RANK": "0", "WORLD_SIZE": "1"},
        slurm(0, [1]),
        tf_config(0, [1]),
        kubernetes(0, [1]),
        # Pods of a sweep, which do not know of each other.
        {"JOB_COMPLETION_INDEX": "3"},
        # The batch script of a job for many tasks, before it calls srun.
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},
        # A shell of salloc.
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "a[1-2]"},
    ],
)
def test_a_process_alone_has_no_cluster(environ):
    assert find_cluster(environ) is None


def test_the_first_that_speaks_is_believed():
    everything = {
        **kubernetes(1, [1] * 4),
        **tf_config(1, [5]),
        **slurm(1, [6]),
        **torchrun(1, [7]),
    }
    sources = []
    for name in ("RANK", "SLURM_PROCID", "TF_CONFIG", "JOB_COMPLETION_INDEX"):
        sources.append(find_cluster(everything).source)
        assert sources[-1] == name
        del everything[name]
    assert find_cluster(everything) is None


def test_where_process_0_listens():
    assert find_cluster(torchrun(1, [2])).address == "10.0.0.1:29500"
    # As JAX's own reading of SLURM: 65536 - 4096 + job modulo 4096.
    assert find_cluster(slurm(1, [1, 1])).address == "gpu07:61443"
    assert find_cluster({**slurm(1, [1, 1]), **MASTER}).address == "10.0.0.1:29500"
    six = {**torchrun(1, [2]), "MASTER_ADDR": "fd00::1"}
    assert find_cluster(six).address == "[fd00::1]:29500"


def test_local_names_may_be_absent_where_each_host_has_one_process():
    environ = torchrun(3, [1] * 4)
    del environ["LOCAL_RANK"], environ["LOCAL_WORLD_SIZE"]
    assert find_cluster(environ) == find_cluster(torchrun(3, [1] * 4))


def test_slurm_tells_the_tasks_of_a_host_in_two_ways():
    environ = slurm(5, [4, 4])
    del environ["SLURM_STEP_TASKS_PER_NODE"], environ["SLURM_STEP_NUM_TASKS"]
    environ |= {"SLURM_NTASKS_PER_NODE": "4", "SLURM_NTASKS": "8"}
    assert find_cluster(environ) == find_cluster(slurm(5, [4, 4]))


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[003-005,9]-ib", "node003-ib"),
        ("node[9,003-005]", "node9"),
        ("a-1.b.example,c[1-3]", "a-1.b.example"),
        ("rack[1-2]n[07-09],x", "rack1n07"),
        ("[12-15]", "12"),
    ],
)
def test_the_first_host_of_a_list(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize("hosts", ["", ",a", "a[", "a[]", "a[x-y]", "a]1", "a b"])
def test_what_is_no_list_of_hosts(hosts):
    with pytest.raises(InputError, match="hosts"):
        first_host(hosts)


BAD = [
    (torchrun(0, [2]), "RANK", "2", "0 to 1"),
    (torchrun(0, [2]), "RANK", "-1", "'-1'"),
    (torchrun(0, [2]), "RANK", "one", "'one'"),
    (torchrun(0, [2]), "RANK", "", "is not set"),
    (torchrun(0, [2]), "RANK", "٣", "expected"),
    (torchrun(0, [2]), "WORLD_SIZE", None, "is not set"),
    (torchrun(0, [2]), "WORLD_SIZE", "0", "from 1"),
    (torchrun(0, [2]), "WORLD_SIZE", "9" * 5000, "from 1"),
    (torchrun(0, [2]), "LOCAL_WORLD_SIZE", "3", "1 to 2"),
    (torchrun(0, [2]), "LOCAL_WORLD_SIZE", None, "is not set"),
    (torchrun(0, [2]), "LOCAL_RANK", None, "is not set"),
    (torchrun(0, [2]), "LOCAL_RANK", "1", "0 to 0"),  # process 0 is its host's first
    (torchrun(1, [1, 1]), "LOCAL_RANK", "1", "0 to 0"),
    (torchrun(0, [2]), "MASTER_ADDR", None, "is not set"),
    (torchrun(0, [2]), "MASTER_PORT", None, "is not set"),
    (torchrun(0, [2]), "MASTER_PORT", "65536", "to 65535"),
    (kubernetes(0, [1, 1]), "JOB_COMPLETION_INDEX", "2", "0 to 1"),
    (kubernetes(0, [1, 1]), "WORLD_SIZE", "two", "'two'"),
    (kubernetes(0, [1, 1]), "MASTER_ADDR", None, "is not set"),
    (slurm(1, [2]), "SLURM_PROCID", "2", "0 to 1"),
    (slurm(1, [2]), "SLURM_LOCALID", "2", "0 to 1"),
    (slurm(1, [2]), "SLURM_LOCALID", None, "is not set"),
    (slurm(1, [2]), "SLURM_STEP_NUM_TASKS", "two", "'two'"),
    (slurm(1, [2]), "SLURM_STEP_TASKS_PER_NODE", "2(x", "does not say"),
    (slurm(1, [2]), "SLURM_STEP_TASKS_PER_NODE", None, "SLURM_NTASKS_PER_NODE"),
    (slurm(1, [2]), "SLURM_NODEID", "1", "does not say"),
    (slurm(1, [2]), "SLURM_JOB_ID", None, "is not set"),
    (slurm(1, [2]), "SLURM_STEP_NODELIST", "[", "hosts"),
    *(
        (tf_config(0, [2]), "TF_CONFIG", text, words)
        for text, words in [
            ("", "is not set"),
            ("{", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("[]", "is not JSON"),
            ("{}", "is not JSON"),
            ('{"cluster": [], "task": {"type": "worker", "index": 0}}', "not JSON"),
            ('{"cluster": {}, "task": {"type": "worker", "index": 0}}', "0 of type"),
            (tf_config(0, [2])["TF_CONFIG"].replace('x": 0', 'x": 2'), "'worker 2'"),
            (tf_config(0, [2])["TF_CONFIG"].replace('e": "w', 'e": "pow'), "2 of type"),
            (tf_config(0, [2])["TF_CONFIG"].replace(":2001", ""), "expected host:port"),
            (tf_config(0, [2])["TF_CONFIG"].replace("2001", "2000"), "twice"),
            (tf_config(0, [2])["TF_CONFIG"].replace('"host0:2001"', "7"), "lists 7"),
            (
                '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]},'
                ' "task": {"type": "worker", "index": 0}}',
                "parameter servers",
            ),
        ]
    ),
]


@pytest.mark.parametrize(
    ("environ", "name", "value", "words"),
    BAD,
    ids=[f"{name}={str(value)[:40]}" for _, name, value, _ in BAD],
)
def test_one_sentence_names_the_variable_that_cannot_be(environ, name, value, words):
    changed = {**environ, name: value}
    if value is None:
        del changed[name]
    with pytest.raises(InputError) as refused:
        find_cluster(changed)
    message = str(refused.value)
    assert "\n" not in message
    assert words in message
    assert name in message or "SLURM" in message


def test_damaged_environments_are_refused_or_consistent():
    """Whatever is cut, changed or lost: an `InputError`, or a place that can be."""
    pick = random.Random(0)
    values = ["", "-1", "0", "1", "7", "x", "4(x2)", "a[1", "{}", "null", "99999"]
    found = 0
    for _ in range(4000):
        environment = pick.choice([torchrun, slurm, tf_config, kubernetes])
        hosts = pick.choice([[2], [3, 1], [2, 2, 1]])
        environ = environment(pick.randrange(len(hosts)), hosts)
        name = pick.choice(sorted(environ))
        text = environ.pop(name)
        if pick.random() < 0.8:
            cut = pick.randrange(len(text) + 1)
            environ[name] = pick.choice([*values, text[:cut], text[cut:]])
        cluster = None
        with contextlib.suppress(InputError):
            cluster = find_cluster(environ)
        if cluster is not None:
            found += 1
            assert 0 <= cluster.rank < cluster.size
            assert 0 <= cluster.local_rank < cluster.local_size <= cluster.size
            assert cluster.local_rank <= cluster.rank
            host, _, port = cluster.address.rpartition(":")
            assert host
            assert 0 < int(port) < 2**16
    assert 0 < found < 4000
