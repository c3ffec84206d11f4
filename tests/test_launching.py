"""Local processes that train together: who they are, and that none is left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kerasdl import launching
from kerasdl.cluster import Cluster, find_cluster
from kerasdl.errors import InputError

pytestmark = pytest.mark.backend_free

# Says that it is there, in a file with its process number, and sleeps.
SLEEP = """
import os, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
(folder / f"{rank}.tmp").write_text(str(os.getpid()))
(folder / f"{rank}.tmp").rename(folder / rank)
time.sleep(600)
"""
# Ends in order on a first signal, unless told not to, and writes what came.
PATIENT = """
import os, signal, sys, time
from pathlib import Path
log = Path(sys.argv[1], f"signals-{os.environ['RANK']}")
def note(number, frame):
    with log.open("a") as file:
        file.write(f"{number}\\n")
    if sys.argv[2] == "ends":
        time.sleep(float(os.environ["RANK"]) / 4)
        sys.exit(128 + number)
    if sys.argv[2] == "fails":
        sys.exit(9 if os.environ["RANK"] == "0" else 128 + number)
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
"""
LAUNCHER = (
    "import sys; from kerasdl_apps.cli import main\nsys.argv[0] = 'kerasdl'; main()"
)


def python(script, *arguments):
    return [sys.executable, "-c", script, *map(str, arguments)]


@pytest.fixture
def start():
    """Return a function that starts `kerasdl launch` in a process of its own."""
    started = []

    def start(processes, command, **options):
        launcher = python(LAUNCHER, "launch", "--nproc", processes, "--", *command)
        started.append(
            subprocess.Popen(
                launcher,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **options,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.02)
    return value


def process_ids(folder, names):
    """Return the process numbers that workers have written, once all have."""
    wait_until(lambda: all((folder / name).exists() for name in names))
    return [int((folder / name).read_text()) for name in names]


def is_running(process_id):
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


def test_each_process_is_told_its_place(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    script = (
        "import json, os, sys; from pathlib import Path\n"
        "Path(sys.argv[1], os.environ['RANK']).write_text(json.dumps({**os.environ}))"
    )
    assert launching.launch(python(script, tmp_path), processes=3) == 0
    environs = [json.loads((tmp_path / f"{rank}").read_text()) for rank in range(3)]
    address = f"127.0.0.1:{environs[0]['MASTER_PORT']}"
    assert [find_cluster(environ) for environ in environs] == [
        Cluster(rank, 3, rank, 3, address, "RANK") for rank in range(3)
    ]
    threads = max(1, len(os.sched_getaffinity(0)) // 3)
    assert {environ["OMP_NUM_THREADS"] for environ in environs} == {f"{threads}"}
    assert all(environ["PATH"] == os.environ["PATH"] for environ in environs)


def test_threads_that_the_user_chose_and_a_port_are_handed_on(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    script = "import os; assert os.environ['OMP_NUM_THREADS'] == '7'\n"
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    script += f"assert os.environ['MASTER_PORT'] == '{port}'"
    assert launching.launch(python(script), processes=2, port=port) == 0


def test_rank_0_speaks_and_the_others_are_named(start):
    script = (
        "import os, sys, time; rank = int(os.environ['RANK'])\n"
        "print('out', rank); print('bar 1\\rbar 2', file=sys.stderr)"
    )
    out, err = start(3, python(script)).communicate(timeout=60)
    assert out == "out 0\n"
    lines = err.splitlines()
    assert {line for line in lines if line.startswith("[1]")} == {
        "[1] out 1",
        "[1] bar 2",
    }
    assert {line for line in lines if line.startswith("[2]")} == {
        "[2] out 2",
        "[2] bar 2",
    }
    assert len(lines) == 4 + len("bar 1\rbar 2".splitlines())


def test_the_command_kerasdl_is_this_version_wherever_it_is(run_cli, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = run_cli("launch", "--nproc", 2, "--", "kerasdl", "launch", "--help")
    assert code == 0
    assert "[1] Usage: kerasdl launch " in err


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("sys.exit(3)", 3, "worker 1 ended with exit code 3"),
        ("raise SystemError", 1, "worker 1 ended with exit code 1"),
        ("os.kill(os.getpid(), 9)", 137, "worker 1 was killed by signal 9"),
    ],
)
def test_the_first_failure_stops_the_others(end, code, words, start, tmp_path):
    wait = (
        "while not all(Path(sys.argv[1], r).exists() for r in '02'): time.sleep(0.01)"
    )
    script = (
        "import os, sys, time; from pathlib import Path\n"
        f"if os.environ['RANK'] == '1':\n  {wait}\n  {end}\n{SLEEP}"
    )
    process = start(3, python(script, tmp_path))
    others = process_ids(tmp_path, "02")
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < launching.GRACE
    assert process.returncode == code
    assert err.splitlines()[-1] == f"error: {words}; the others are stopped"
    assert not any(map(is_running, others))


def test_who_does_not_stop_is_killed(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(launching, "GRACE", 0.3)
    script = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.environ['RANK'] == '0':\n"
        "  while not Path(sys.argv[1], '1').exists(): time.sleep(0.01)\n"
        f"  sys.exit(5)\n{SLEEP}"
    )
    assert launching.launch(python(script, tmp_path), processes=2) == 5
    assert "worker 0 ended with exit code 5; the others" in capfd.readouterr().err
    assert not is_running(int((tmp_path / "1").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_worker_once_and_they_end_in_order(
    number, start, tmp_path
):
    process = start(3, python(PATIENT + SLEEP, tmp_path, "ends"), process_group=0)
    workers = process_ids(tmp_path, "012")
    os.killpg(process.pid, number)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")
    for rank in range(3):
        assert (tmp_path / f"signals-{rank}").read_text() == f"{number.value}\n"
    assert not any(map(is_running, workers))


def test_a_second_signal_kills(start, tmp_path):
    process = start(2, python(PATIENT + SLEEP, tmp_path, "goes on"))
    workers = process_ids(tmp_path, "01")
    process.send_signal(signal.SIGINT)
    wait_until(lambda: all((tmp_path / f"signals-{n}").exists() for n in range(2)))
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not any(map(is_running, workers))


def test_a_failure_while_ending_in_order_is_one(start, tmp_path):
    """A worker that fails after Ctrl-C, in saving, say, is not taken for done."""
    process = start(2, python(PATIENT + SLEEP, tmp_path, "fails"))
    process_ids(tmp_path, "01")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 9
    assert "worker 0 ended with exit code 9" in err


def test_a_killed_launcher_leaves_nothing_behind(start, tmp_path):
    """Neither workers, nor what they started, nor the guard that ended them."""
    child = f"import os; os.environ['RANK'] += 'child'\n{SLEEP}"
    script = (
        f"import subprocess, sys\nsubprocess.Popen({python(child)} + sys.argv[1:])\n"
    )
    process = start(2, python(script + SLEEP, tmp_path))
    started = process_ids(tmp_path, ["0", "1", "0child", "1child"])
    guards = children(process.pid) - set(started)
    assert len(guards) == 1
    process.kill()
    wait_until(lambda: not any(map(is_running, [*started, *guards])))


def children(process_id):
    """Return the numbers of the processes that a process has started."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:  # it has just ended
            continue
        if re.search(rf"^PPid:\t{process_id}$", text, re.MULTILINE):
            found.add(int(status.parent.name))
    return found


def test_what_a_worker_started_ends_with_it(tmp_path):
    child = f"import os; os.environ['RANK'] += 'child'\n{SLEEP}"
    script = (
        f"import subprocess, sys, time; from pathlib import Path\n"
        f"subprocess.Popen({python(child)} + sys.argv[1:])\n"
        "while not Path(sys.argv[1], '0child').exists(): time.sleep(0.01)"
    )
    assert launching.launch(python(script, tmp_path), processes=1) == 0
    left = int((tmp_path / "0child").read_text())
    wait_until(lambda: not is_running(left))
    assert not children(os.getpid())


def test_signal_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert launching.launch(python(""), processes=1) == 0
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_port_in_use_is_refused(refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(
            *("launch", "--nproc", 2, "--port", port, "--", sys.executable, "-c", "0"),
            words=[f"port {port}", "in use", "--port"],
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--nproc", 2), ["no command", "-- "]),
        (("--nproc", 0, "--", "true"), ["0 processes", "1 or more"]),
        (("--nproc", 2, "--port", 70_000, "--", "true"), ["port 70000", "65535"]),
        (
            ("--nproc", 2, "--", "no-such-command"),
            ["'no-such-command'", "no such file"],
        ),
        (("--nproc", 2, "/"), ["'/'", "permission denied"]),
        (("--", "true"), ["--nproc"]),
    ],
)
def test_what_cannot_be_launched_is_refused_in_one_sentence(arguments, words, refused):
    refused("launch", *arguments, words=words)


def test_nothing_runs_on_where_a_later_worker_cannot_start(tmp_path, monkeypatch):
    start = subprocess.Popen

    def fails_for_rank_1(command, env=None, **options):
        if env and env["RANK"] == "1":
            process_ids(tmp_path, "0")
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return start(command, env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", fails_for_rank_1)
    with pytest.raises(InputError, match="temporarily unavailable"):
        launching.launch(python(SLEEP, tmp_path), processes=2)
    assert not is_running(int((tmp_path / "0").read_text()))


def test_importing_the_launcher_imports_no_backend():
    code = "import sys, kerasdl.launching; sys.exit('keras' in sys.modules)"
    assert subprocess.run(python(code), check=False).returncode == 0
