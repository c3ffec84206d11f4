"""Rows 1 and 2 of the table of faults: `kill -9` at any instant, and in any call."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from processes import KILLED, Server, leftovers, run_result
from recording import KILLS, record
from test_training import make_texts, write_tsv

from kerasdl.checkpoint import Saved, Store, step_name

faults = pytest.mark.faults


@pytest.fixture(scope="module")
def server(tmp_path_factory, users_environment):
    server = Server(tmp_path_factory.mktemp("cache"), users_environment)
    yield server
    server.process.communicate()


def kill_and_resume(server, what, tmp_path, kills, result):
    """Kill trainings at random instants, resume each; compare what they leave."""
    assert server.ask(what, tmp_path / "warm")["code"] == 0  # compiles
    done = server.ask(what, tmp_path / "whole")
    assert done["code"] == 0
    expected, draw = result(tmp_path / "whole"), random.Random(0)
    counts = {"within_a_save": 0, "with_a_checkpoint": 0, "equal": 0}
    for number in range(kills):
        folder = tmp_path / str(number)
        # Not all in the first half: the end of a training is more than its steps.
        seconds = draw.uniform(0.1, 1.0) * done["seconds"]
        ended = server.ask(what, folder, kill=seconds)
        counts["within_a_save"] += bool(leftovers(folder))
        counts["with_a_checkpoint"] += any(folder.rglob("step-*"))
        if ended["code"] != 0:
            again = server.ask(what, folder)
            assert again["code"] == 0, (folder / "output.txt").read_text()
        assert result(folder) == expected, f"killed after {seconds:.3f} s"
        assert not leftovers(folder)
        counts["equal"] += 1
        shutil.rmtree(folder)
    return counts


def fit_result(folder):
    best = (folder / "checkpoints" / "best.safetensors").read_bytes()
    return json.loads((folder / "result.json").read_text()), best


def test_five_kills(server, tmp_path):
    kill_and_resume(server, "fit", tmp_path, 5, fit_result)


@faults
def test_kills_of_fit_at_any_instant(server, tmp_path):
    counts = kill_and_resume(server, "fit", tmp_path, KILLS, fit_result)
    record("1 model.fit", KILLS, **counts)


@faults
def test_kills_of_train_at_any_instant(server, tmp_path):
    write_tsv(tmp_path / "few.tsv", make_texts(40, noise=0.2))
    kills = max(KILLS // 5, 2)
    counts = kill_and_resume(
        *(server, "train", tmp_path, kills),
        lambda folder: run_result(folder / "run"),
    )
    record("1 train(recipe)", kills, **counts)


@faults
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_kill_between_any_two_system_calls_of_a_save(server, tmp_path):
    log = tmp_path / "log"
    assert traced_save(server, tmp_path / "whole", "-o", str(log)) == (0, 2)
    names = re.findall(r"^(?:[0-9]+ +)?(\w+)\(", log.read_text(), re.MULTILINE)
    outcomes = {1: 0, 2: 0}
    for name in sorted(set(names)):
        for number in range(1, names.count(name) + 1):  # counted by name
            inject = f"inject={name}:signal=SIGKILL:when={number}"
            folder = tmp_path / f"{name} {number}"
            code, step = traced_save(*(server, folder, "-o", os.devnull, "-e", inject))
            assert code == KILLED
            outcomes[step] += 1
    assert min(outcomes.values()) > 3
    counts = {f"step_{step}_loads": count for step, count in outcomes.items()}
    record("2", len(names), **counts)


def traced_save(server, folder, *options):
    """Save a second time under a tracer; return the exit code and the step found."""
    folder.mkdir()
    Store(folder).write(step_name(1), Saved({"step": 1}, {"a": np.zeros(1000)}))
    pid = server.ask("save", folder, tell=True)["pid"]
    wait_until_stopped(pid)
    tracer = ["strace", "-p", str(pid), "-e", "trace=%file,%desc", *options]
    with subprocess.Popen(tracer, stderr=subprocess.PIPE, text=True) as process:
        assert "attached" in process.stderr.readline()
        os.kill(pid, signal.SIGCONT)
        code = server.answer()["code"]
    store = Store(folder)
    step = store.newest().state["step"]
    assert not store.damaged
    assert not leftovers(folder)
    store.write(step_name(3), Saved({"step": 3}, {}))
    assert Store(folder).newest().state["step"] == 3
    return code, step


def wait_until_stopped(pid):
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.005)
