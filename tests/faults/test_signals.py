"""Rows 6 and 7 of the table of faults: SIGTERM and Ctrl-C, through the command line."""

import json
import signal
import time

import pytest
from processes import finish, run_result, start
from recording import record
from test_training import make_texts, write_tsv

from kerasdl import runs
from kerasdl.checkpoint import Store

pytestmark = pytest.mark.faults

ROWS = {signal.SIGTERM: "6 SIGTERM", signal.SIGINT: "7 Ctrl-C"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tsv(tmp_path_factory.mktemp("data") / "data.tsv", make_texts(240))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """So few texts that the metrics are cross-validated."""
    return write_tsv(tmp_path_factory.mktemp("few") / "few.tsv", make_texts(60))


def begin(out, data, epoch, **more):
    """Start a run, and return it as it has ended its epoch."""
    small = "--model", "text_cnn", "--batch-size", 8, "--epochs", 60
    process = start("sentiment", "train", "--data", data, *small, "--out", out, **more)
    for line in process.stderr:
        if line.startswith(f"epoch {epoch}/"):
            break
    return process


@pytest.mark.parametrize("number", ROWS)
def test_a_signal_through_the_cli(number, data, tmp_path):
    out = tmp_path / "run"
    process = begin(out, data, epoch=1)
    begun, sent = time.time(), time.monotonic()
    process.send_signal(number)
    while not is_saved_since(begun, out):
        assert time.monotonic() - sent < 10
        time.sleep(0.01)
    seconds = time.monotonic() - sent
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert (out / "report.html").exists()
    assert (out / runs.CHECKPOINT_FILE).exists()
    assert runs.is_unfinished(out)
    code, errors = finish("sentiment", "train", "--resume", out)
    assert code == 0, errors
    assert run_result(out) == whole(data, tmp_path)
    record(
        f"{ROWS[number]} in mid-epoch",
        1,
        exit_code=process.returncode,
        saved_after_seconds=round(seconds, 2),
        resumed_to_the_same_result=1,
    )


@pytest.mark.parametrize("number", ROWS)
def test_a_signal_in_a_fold_through_the_cli(number, few, tmp_path):
    out = tmp_path / "run"
    process = begin(out, few, epoch=1)
    for line in process.stderr:
        if line.startswith("epoch 1/"):  # of the first fold
            break
    sent = time.monotonic()
    process.send_signal(number)
    printed, errors = process.communicate()
    seconds = time.monotonic() - sent
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert "error:" not in errors
    assert "epoch 1/" not in errors  # of another fold
    assert "accuracy" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert "cross-validation was cut short" in metrics["set"]
    assert (out / "report.html").exists()
    assert runs.is_unfinished(out)
    code, errors = finish("sentiment", "train", "--resume", out)
    assert code == 0, errors
    assert run_result(out) == whole(few, tmp_path)
    record(
        f"{ROWS[number]} in a fold",
        1,
        exit_code=process.returncode,
        ended_after_seconds=round(seconds, 2),
        resumed_to_the_same_result=1,
    )


def whole(data, tmp_path, made={}):  # noqa: B006 - two tests each want the same run
    if data not in made:
        process = begin(tmp_path / "whole", data, epoch=1)
        process.communicate()
        made[data] = run_result(tmp_path / "whole")
    return made[data]


def is_saved_since(begun, out):
    """Say whether a checkpoint was written since: a slow epoch may not be over yet."""
    steps = (out / "checkpoints" / "training").glob("step-*/state.json")
    return any(path.stat().st_mtime >= begun for path in steps)


def test_a_second_signal_during_the_save(data, tmp_path):
    ended = []
    for wait in (0, 0.005, 0.02, 0.1):
        out = tmp_path / str(wait)
        process = begin(out, data, epoch=2)
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
    record("6 a second SIGTERM during the save", len(ended), undamaged=4, steps=ended)
