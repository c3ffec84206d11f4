"""`kerasdl runs` and `kerasdl compare`, on folders written by hand."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kerasdl.lock import locked

pytestmark = pytest.mark.backend_free

SCORES = {
    "accuracy": 0.9,
    "accuracy_low": 0.88,
    "accuracy_high": 0.92,
    "log_loss": 0.25,
    "count": 100,
    "seconds": 12.3,
    "set": "held out",
    "temperature": 1.1,
}


def write_run(folder, *, hours=0, epochs=3, metrics=SCORES, **recipe):
    """Write what a run leaves, so many hours ago."""
    folder.mkdir(parents=True)
    content = {"build": "text_cnn", "kind": "text", "data": "sample", "epochs": 5}
    path = folder / "recipe.json"
    path.write_text(json.dumps({**content, **recipe}))
    os.utime(path, (1e9 - 3600 * hours,) * 2)
    with (folder / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["epoch", "loss", "val_loss", "accuracy", "val_accuracy"])
        rows.writerows([e, 1 / (e + 1), 1 / (e + 2), 0.8, 0.7] for e in range(epochs))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    write_run(root / "older", hours=2, learning_rate=1e-3, arguments={"filters": 6})
    write_run(root / "newer", hours=1, learning_rate=2e-3, arguments={"filters": 8})
    cut = write_run(root / "cut", hours=3, metrics=None, epochs=1)
    begun = write_run(root / "begun", hours=4, metrics=None, epochs=0)
    for folder in (cut, begun):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "run.json").write_text("{}")
    (cut / "checkpoints" / "best.safetensors").write_bytes(b"")
    (root / "no run").mkdir()
    return root


def test_runs_are_listed_newest_first(runs, run_cli):
    code, out, err = run_cli("runs", runs)
    assert code == 0
    assert err == (
        "cut goes on from its last save: kerasdl sentiment train --resume"
        f" {runs / 'cut'}\nbegun was cut short before its first save, and begins anew:"
        f" kerasdl sentiment train --resume {runs / 'begun'}\n"
    )
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header == ["run", "model", "data", "epochs", "metric", "seconds", "state"]
    assert rows == [
        ["newer", "text_cnn", "sample", "3/5", "accuracy 0.9", "12.3", "finished"],
        ["older", "text_cnn", "sample", "3/5", "accuracy 0.9", "12.3", "finished"],
        ["cut", "text_cnn", "sample", "1/5", "-", "-", "interrupted"],
        ["begun", "text_cnn", "sample", "0/5", "-", "-", "not saved"],
    ]
    code, out, _ = run_cli("runs", runs, "--json")
    found = json.loads(out)
    assert [row["state"] for row in found] == [row[-1] for row in rows]
    assert found[0]["metrics"] == SCORES
    assert json.loads(run_cli("runs", runs / "cut", "--json")[1])[0]["epochs"] == 1


def test_states_of_a_run_that_goes_on_or_was_stopped(runs, run_cli):
    def state(name):
        return json.loads(run_cli("runs", runs / name, "--json")[1])[0]["state"]

    with locked(runs / "begun"):
        assert state("begun") == "running"
    assert state("begun") == "not saved"
    # Stopped by Ctrl-C: measured, and yet not finished.
    (runs / "cut" / "metrics.json").write_text(json.dumps(SCORES))
    assert state("cut") == "interrupted"
    old = runs / "begun" / "checkpoints" / "run.json"
    old.unlink()
    assert "train it again, it cannot be resumed" in run_cli("runs", runs)[2]


def test_the_usual_folder_is_listed(runs, run_cli, monkeypatch, refused):
    monkeypatch.chdir(runs.parent)
    assert run_cli("runs")[1].count("\n") == 5
    monkeypatch.chdir(runs / "no run")
    refused("runs", words=["there is no folder runs"])
    code, out, err = run_cli("runs", ".")
    assert (code, out) == (0, "")
    assert "no runs in ." in err


def test_damaged_runs_are_named_and_left_out(runs, run_cli):
    (runs / "newer" / "metrics.json").write_text('{"accuracy": NaN}')
    (runs / "older" / "recipe.json").write_text("[]")
    (runs / "cut" / "history.csv").write_bytes(b"\xff\xfe")
    code, out, err = run_cli("runs", runs)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["run", "begun"]
    for name in ("newer/metrics.json", "older/recipe.json", "cut/history.csv"):
        assert err.count(name) == 1
    assert err.count("left out") == 3


def test_runs_are_compared_in_words_and_in_a_picture(runs, run_cli, tmp_path):
    picture = tmp_path / "both.png"
    folders = runs / "older", runs / "newer", runs / "cut"
    code, out, err = run_cli("compare", *folders, "--out", picture)
    assert code == 0, err
    rows = dict(line.split("\t", 1) for line in out.splitlines())
    assert rows[""] == "older\tnewer\tcut"
    assert rows["learning_rate"] == "0.001\t0.002\t-"
    assert rows["arguments.filters"] == "6\t8\t-"
    assert rows["epochs done"] == "3/5\t3/5\t1/5"
    assert "epochs" not in rows  # the same in all
    assert "build" not in rows  # the same in all
    assert rows["accuracy"] == "0.9 (0.88 to 0.92)\t0.9 (0.88 to 0.92)\t-"
    assert rows["seconds"] == "12.3\t12.3\t-"
    assert "temperature" not in rows
    assert str(picture) in err
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ("0072b2", "d55e00"):  # of the first run, and of the second
        wanted = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
        assert (pixels == wanted).all(axis=1).any()
    code, out, _ = run_cli("compare", *folders[:2], "--out", picture, "--json")
    document = json.loads(out)
    assert document["differences"] == {
        "learning_rate": [1e-3, 2e-3],
        "arguments.filters": [6, 8],
    }
    assert [run["metrics"] for run in document["runs"]] == [SCORES, SCORES]


def test_other_data_is_said_aloud(runs, run_cli, tmp_path):
    write_run(runs / "other", metrics={**SCORES, "set": "another"})
    code, _, err = run_cli(
        *("compare", runs / "older", runs / "other", "--out", tmp_path / "c.png")
    )
    assert code == 0
    assert "measured on different data" in err


def test_epochs_asked_for_are_told_from_those_that_are_done(runs, run_cli, tmp_path):
    more = write_run(runs / "more", epochs=2)
    (more / "recipe.json").write_text('{"build": "text_cnn", "epochs": 9}')
    out = run_cli("compare", runs / "older", more, "--out", tmp_path / "c.png")[1]
    rows = [line.split("\t", 1) for line in out.splitlines()]
    assert ["epochs", "5\t9"] in rows
    assert ["epochs done", "3/5\t2/9"] in rows


def test_what_no_training_writes_is_compared_all_the_same(runs, run_cli, tmp_path):
    odd = write_run(
        runs / "odd",
        metrics={"set": {"a": 1}, "log_loss": 1e308, "accuracy": 0.5},
    )
    (odd / "history.csv").write_text("epoch,loss,val_loss\n0,nan,inf\n1,1e308,-1e308\n")
    code, out, err = run_cli(
        *("compare", runs / "older", odd, "--out", tmp_path / "c.png")
    )
    assert code == 0, err
    assert "measured on different data" in err
    assert "0.25\t1e+308" in out
    assert (tmp_path / "c.png").stat().st_size


def test_runs_that_cannot_be_compared_are_refused(runs, refused, tmp_path):
    out = ("--out", tmp_path / "c.png")
    older = runs / "older"
    refused("compare", older, *out, words=["one run"])
    refused("compare", older, older, *out, words=["twice"])
    refused("compare", older, runs / "no run", *out, words=["no run", "recipe.json"])
    refused("compare", older, runs / "gone", *out, words=["gone"])
    rows = write_run(runs / "rows", metrics={"rmse": 1.0, "mae": 1.0})
    refused("compare", older, rows, *out, words=["classes", "values"])
    images = write_run(runs / "images", kind="image")
    refused("compare", older, images, *out, words=["text", "image"])
    refused("compare", older, runs / "newer", "--out", tmp_path, words=["folder"])
    (older / "recipe.json").write_text("{")
    refused("compare", older, runs / "newer", *out, words=["recipe.json", "no JSON"])
    assert not (tmp_path / "c.png").exists()


def test_strangers_runs_cannot_command_the_terminal(runs, run_cli):
    write_run(runs / "evil", build="\x1b[2J[bold]x[/bold]\nmore", data="\x9b")
    _, out, _ = run_cli("runs", runs)
    assert not {"\x1b", "\x9b"} & set(out)
    assert out.count("\n") == 6
    assert "[bold]x[/bold] more" in out


def test_a_terminal_shows_a_table(runs):
    import pty

    reader, writer = pty.openpty()
    command = "from kerasdl_apps.cli import main; main()"
    process = subprocess.run(
        [sys.executable, "-c", command, "runs", runs],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=True,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(writer)
    shown = os.read(reader, 2**16).decode()
    assert process.stderr.count(b"\n") == 2  # what to do with the unfinished ones
    assert "───" in shown
    assert "newer" in shown


def test_listing_and_comparing_need_no_backend(runs, tmp_path):
    code = (
        "import sys; from kerasdl_apps import cli\n"
        f"sys.argv = ['kerasdl', 'compare', {str(runs / 'older')!r},"
        f" {str(runs / 'newer')!r}, '--out', {str(tmp_path / 'c.png')!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(process.stdout.splitlines()[-1].split())
    assert not loaded & {"keras", "jax", "tensorflow", "torch"}
