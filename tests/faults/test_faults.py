"""The table of faults, each through a real process: `pytest -m faults`.

The everyday suite runs five kills. With `KERASDL_FAULTS=FILE` the counts are added to a
JSON file.
"""

import fcntl
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import resuming
from resuming import Killed
from test_images_app import pictures
from test_training import make_texts, weights, write_tsv

import kerasdl
from kerasdl import backend, runs
from kerasdl.checkpoint import Saved, Store, step_name
from kerasdl.errors import InputError
from kerasdl.fit import fit
from kerasdl.phases import Phases
from kerasdl.recipe import Recipe

BACKEND = keras.backend.backend()
KILLS = int(os.environ.get("KERASDL_KILLS", "50"))
faults = pytest.mark.faults


def record(row, **counts):
    """Add what was counted to the file of results."""
    if path := os.environ.get("KERASDL_FAULTS"):
        with Path(path).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another worker may write, too
            file.seek(0)
            content = json.loads(file.read() or "{}")
            content.setdefault(BACKEND, {})[row] = counts
            file.truncate(0)
            file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")


class Server:
    """One warm process that forks trainings."""

    def __init__(self, cache, environment):
        environment = {
            **environment,
            "KERAS_BACKEND": BACKEND,
            # What the first child compiles, the others read.
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.answer()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, what, folder, **options):
        command = {"what": what, "folder": str(folder), **options}
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.answer()


@pytest.fixture(scope="module")
def server(tmp_path_factory, many_threads):
    server = Server(tmp_path_factory.mktemp("cache"), many_threads)
    yield server
    server.process.communicate()


def leftovers(folder):
    return [path for path in folder.rglob(".*") if path.is_dir()]


def kill_and_resume(server, what, tmp_path, kills, result):
    """Kill trainings at random instants, resume each; compare what they leave."""
    assert server.ask(what, tmp_path / "warm")["code"] == 0  # compiles
    done = server.ask(what, tmp_path / "whole")
    assert done["code"] == 0
    expected, draw = result(tmp_path / "whole"), random.Random(0)
    counts = {"kills": kills, "within a save": 0, "with a checkpoint": 0, "equal": 0}
    for number in range(kills):
        folder = tmp_path / str(number)
        # Not all in the first half: the end of a training is more than its steps.
        seconds = draw.uniform(0.1, 1.0) * done["seconds"]
        ended = server.ask(what, folder, kill=seconds)
        counts["within a save"] += bool(leftovers(folder))
        counts["with a checkpoint"] += any(folder.rglob("step-*"))
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


def train_result(folder):
    out = folder / "run"
    rows = (out / "history.csv").read_text().splitlines()
    place = rows[0].split(",").index("seconds")
    metrics = json.loads((out / "metrics.json").read_text())
    return (
        [row.split(",")[:place] for row in rows],
        {**metrics, "seconds": 0},
        (out / "bundle" / "weights.safetensors").read_bytes(),
        (out / runs.CHECKPOINT_FILE).read_bytes(),
        sorted(path.name for path in out.rglob("*")),
    )


def test_five_kills(server, tmp_path):
    kill_and_resume(server, "fit", tmp_path, 5, fit_result)


@faults
def test_kills_of_fit_at_any_instant(server, tmp_path):
    record("1 fit", **kill_and_resume(server, "fit", tmp_path, KILLS, fit_result))


@faults
def test_kills_of_train_at_any_instant(server, tmp_path):
    write_tsv(tmp_path / "few.tsv", make_texts(40, noise=0.2))
    kills = max(KILLS // 5, 2)
    counts = kill_and_resume(server, "train", tmp_path, kills, train_result)
    record("1 train", **counts)


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
            assert code == -signal.SIGKILL
            outcomes[step] += 1
    assert min(outcomes.values()) > 3
    record(
        "2",
        calls=len(names),
        **{f"loads step {step}": count for step, count in outcomes.items()},
    )


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


def saved_twice(folder, run="a"):
    store = Store(folder, run=run)
    for step in (1, 2):
        state, arrays = {"step": step}, {"a": np.arange(100.0) * step}
        store.write(step_name(step), Saved(state, arrays))
    return folder / step_name(2)


def cut(share):
    return lambda path: path.write_bytes(
        path.read_bytes()[: int(share * path.stat().st_size)]
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[random.Random(1).randrange(len(content))] ^= 4
    path.write_bytes(content)


DAMAGES = {
    **{f"cut at {share:.0%}": cut(share) for share in (0, 0.02, 0.3, 0.7, 0.99)},
    "flipped": flip,
    "deleted": Path.unlink,
}


@faults
def test_every_file_damaged_in_every_way(tmp_path):
    count = 0
    for name in ("arrays.safetensors", "state.json", "manifest.json"):
        for how, damage in DAMAGES.items():
            folder = tmp_path / f"{name} {how}"
            folder.mkdir()
            damage(saved_twice(folder) / name)
            store = Store(folder, run="a")
            assert store.newest().state["step"] == 1
            assert re.match(r"step-00000002 is damaged \(.+\)$", store.damaged[0])
            count += 1
        folder, other = tmp_path / f"{name} swapped", tmp_path / f"{name} other"
        folder.mkdir()
        other.mkdir()
        state = {"step": 2, "more": 1}
        Store(other, run="b").write(step_name(2), Saved(state, {"a": np.ones(100)}))
        shutil.copy(other / step_name(2) / name, saved_twice(folder) / name)
        assert Store(folder, run="a").newest().state["step"] == 1
        count += 1
    folder = tmp_path / "whole"
    folder.mkdir()
    shutil.rmtree(saved_twice(folder))
    shutil.copytree(other / step_name(2), folder / step_name(2))
    store = Store(folder, run="a")
    assert store.newest().state["step"] == 1
    assert "belongs to another run" in store.damaged[0]
    flip(folder / step_name(1) / "arrays.safetensors")
    with pytest.raises(InputError, match=r"can be used: step-00000002 .*step-00000001"):
        Store(folder, run="a").newest()
    record("5", damages=count + 2)


def command(out, data, *options):
    """Start the real command line."""
    code = "from kerasdl_apps.cli import main; main()"
    return subprocess.Popen(
        [
            *(sys.executable, "-c", code, "sentiment", "train", "--out", str(out)),
            *("--data", str(data), "--model", "text_cnn", "--batch-size", "8"),
            *("--epochs", "500", *options),
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": BACKEND},
    )


@faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_through_the_cli(number, tmp_path):
    data = write_tsv(tmp_path / "data.tsv", make_texts(240))
    out = tmp_path / "Übung mit Leerzeichen"
    process = command(out, data)
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            break
    time.sleep(1)
    start = time.time()
    process.send_signal(number)
    while not is_within_epoch(out):
        assert time.time() - start < 10
        time.sleep(0.01)
    seconds = time.time() - start
    process.communicate()
    assert process.returncode == 128 + number
    assert (out / "report.html").exists()
    assert (out / runs.CHECKPOINT_FILE).exists()
    assert runs.is_unfinished(out)
    record(f"6 and 7, signal {int(number)}", saved_after_seconds=round(seconds, 2))


def is_within_epoch(out):
    """Say whether the newest checkpoint is that of the signal."""
    steps = sorted((out / "checkpoints" / "training").glob("step-*/state.json"))
    return bool(steps) and json.loads(steps[-1].read_text())["batch"] > 0


@faults
def test_a_second_signal_during_the_save(tmp_path):
    data = write_tsv(tmp_path / "data.tsv", make_texts(240))
    ended = []
    for wait in (0, 0.005, 0.02, 0.1):
        out = tmp_path / str(wait)
        process = command(out, data)
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                break
        process.send_signal(signal.SIGTERM)
        time.sleep(wait)
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert process.returncode == 143
        store = out / "checkpoints" / "training"
        assert store.exists()
        run = json.loads((out / runs.STATE_FILE).read_text())["run"]
        found = Store(store, run=run)
        assert found.newest() is not None
        assert not found.damaged
        ended.append(found.newest().state["step"])
    record("6 twice", steps=ended)


class FullDisk(keras.callbacks.Callback):
    """Let no file grow beyond 2 kB for the second epoch's first five steps."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1 and batch in (0, 5):
            limit = 2000 if batch == 0 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@faults
def test_a_full_disk_costs_a_warning(tmp_path):
    expected, out = resuming.run(tmp_path / "a"), io.StringIO()
    before = [FullDisk()]
    assert resuming.run(tmp_path / "b", before=before, out=out) == expected
    assert "could not be saved (File too large); the training goes on" in out.getvalue()
    folder = tmp_path / "b" / "checkpoints"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    record("3", warnings=out.getvalue().count("could not be saved"))


class Vanish(keras.callbacks.Callback):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            shutil.rmtree(self.folder)


@faults
def test_a_folder_that_vanishes_is_an_error_and_does_not_come_back(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=str(folder)):
        resuming.run(folder, before=[Vanish(folder)])
    assert not folder.exists()
    with pytest.raises(InputError, match="too long"):
        runs.check_folder(tmp_path / "/".join(["x" * 200] * 20), overwrite=False)
    record("4 and 12, a path too long", passed=True)


@faults
def test_all_at_once_goes_on_as_if_nothing_had_happened(kill, tmp_path):
    """MixUp, an average of the weights, a plateau, a schedule, micro-batches."""
    recipe = Recipe(
        build="cnn",
        kind="image",
        arguments={"filters": (8,)},
        augment="strong",
        ema=0.9,
        plateau=1,
        accumulate=2,
        warmup=0.1,
        epochs=5,
        patience=3,
        batch_size=8,
        learning_rate=0.03,
    )
    fits = 0

    def train(folder):
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        backend.set_seed(0)
        phases = Phases(folder, saving={"every_steps": 1})
        fitted = fit(recipe, kerasdl.cnn, pictures(), phases=phases)
        values = weights(fitted.predictor.model)
        history = {**fitted.history, "seconds": 0}
        return {path: w.tobytes() for path, w in values.items()}, history

    expected = train(tmp_path / "whole")
    steps = -(-int(0.9 * len(pictures())) // 8)
    for step in (steps - 2, steps, 2 * steps + 3, 3 * steps, 4 * steps + 1):
        kill(step)
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            train(folder)
        kill(-1)
        assert train(folder) == expected
        fits += 1
    record("8", kills=fits)


@faults
def test_a_loss_scale_goes_on_as_it_was(tmp_path, monkeypatch):
    plain = resuming.tiny_model

    def scaled():
        model = plain()
        inner = keras.optimizers.Adam(0.05)
        optimizer = keras.optimizers.LossScaleOptimizer(
            inner, initial_scale=64.0, dynamic_growth_steps=4
        )
        model.compile(optimizer, model.loss, metrics=["accuracy"])
        return model

    monkeypatch.setattr(resuming, "tiny_model", scaled)
    expected = resuming.run(tmp_path / "whole")
    for step in (3, 6, 10):
        assert resuming.run(tmp_path / str(step), kill=step) is None
        assert resuming.run(tmp_path / str(step)) == expected
    record("8, loss scale", kills=3)
