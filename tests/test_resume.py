"""Runs that were cut short: what `train` goes on with, and what it refuses."""

import inspect
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from resuming import Killed
from test_training import CNN, NGRAM, make_texts, weights, write_tsv

import kerasdl
from kerasdl import runs
from kerasdl.callbacks import StopOnSignal
from kerasdl.errors import InputError
from kerasdl.fit import fit
from kerasdl.lock import LOCK_FILE, locked
from kerasdl.phases import Phases
from kerasdl_apps import (
    images,
    images_commands,
    sentiment_commands,
    tabular,
    tabular_commands,
)
from kerasdl_apps.resuming import (
    IN_DATA_OPTIONS,
    IN_ENCODER,
    NO_SETTINGS,
    resumed_recipe,
)


@pytest.fixture
def few(tmp_path):
    """So few texts that the metrics are cross-validated: six trainings."""
    data = write_tsv(tmp_path / "few.tsv", make_texts(40, noise=0.2))
    return replace(NGRAM, data=data, batch_size=8)


@pytest.fixture
def recipe(tmp_path):
    """As many texts as one training needs."""
    data = write_tsv(tmp_path / "texts.tsv", make_texts(210, noise=0.2))
    return replace(NGRAM, data=data, batch_size=32)


def left(folder) -> dict:
    """Return all that a run leaves, times apart."""
    rows = (folder / "history.csv").read_text().splitlines()
    place = rows[0].split(",").index("seconds")
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        "weights": (folder / "bundle" / "weights.safetensors").read_bytes(),
        "metrics": {**metrics, "seconds": 0},
        "file": [row.split(",")[:place] for row in rows],
        "best": (folder / runs.CHECKPOINT_FILE).read_bytes(),
        "names": sorted(path.name for path in folder.rglob("*")),
    }


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_phase_it_was_in(few, kill, run_cli, tmp_path):
    kerasdl.train(few, out=tmp_path / "a")
    out = tmp_path / "run"
    # 36 texts are 5 steps an epoch; the sixth training ends after about 54 steps.
    resume = False
    for steps in (7, 10, 17):  # in the main training, in its end, in some fold
        kill(steps)
        with pytest.raises(Killed):
            kerasdl.train(few, out=out, resume=resume, every_steps=1)
        resume = True
    kill(-1)
    code, printed, err = run_cli(
        *("sentiment", "train", "--resume", out, "--epochs", 2, "--json")
    )
    assert code == 0, err
    assert "resuming after" in err
    assert json.loads(printed)["run"] == str(out)
    assert left(out) == left(tmp_path / "a")
    assert [path.name for path in (out / "checkpoints").iterdir()] == [
        "best.safetensors"
    ]


@pytest.fixture
def send(monkeypatch):
    """Return a function that sends a signal after the n-th step from now on.

    It returns a list of the steps, which grows with each.
    """
    original = StopOnSignal.on_train_batch_end

    def send(number, step):
        steps = []

        def on_train_batch_end(self, batch, logs=None):
            steps.append(batch)
            if len(steps) == step:
                signal.raise_signal(number)
            original(self, batch, logs)

        monkeypatch.setattr(StopOnSignal, "on_train_batch_end", on_train_batch_end)
        return steps

    return send


@pytest.mark.slow
def test_a_signal_ends_a_cross_validation_that_then_goes_on(few, send, tmp_path):
    steps = send(signal.SIGTERM, 0)
    kerasdl.train(few, out=tmp_path / "a")
    expected, all_steps = left(tmp_path / "a"), len(steps)
    out, done = tmp_path / "run", 0
    # 36 texts are 5 steps an epoch: in the main training, at its end, and in folds.
    for number, step in ((signal.SIGINT, 3), (signal.SIGTERM, 7), (signal.SIGINT, 13)):
        steps = send(number, step)
        run = kerasdl.train(few, out=out, resume=done > 0)
        assert run.interrupted == number
        assert len(steps) == step  # none after the signal
        done += step
        assert runs.is_unfinished(out)
        assert "cross-validation was cut short" in run.metrics["set"]
        assert run.metrics["count"] == 4
        assert "interrupted" in (out / "report.html").read_text()
        kerasdl.load(out)
    steps = send(signal.SIGTERM, 0)
    run = kerasdl.train(few, out=out, resume=True)
    assert run.interrupted is None
    assert done + len(steps) == all_steps  # nothing was done twice
    assert left(out) == expected


@pytest.mark.slow
def test_a_teacher_that_is_done_is_not_trained_again(kill, tmp_path):
    texts, more = make_texts(40), make_texts(40, seed=1).examples
    recipe = replace(NGRAM, batch_size=16)
    builder = kerasdl.BUILDERS["ngram_classifier"]

    def train(folder):
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        phases = Phases(folder, saving={"every_steps": 1})
        return fit(recipe, builder, texts, more, phases=phases)

    expected = train(tmp_path / "a")
    kill(14)  # 36 and 76 texts: two epochs of 3 steps, then two of 5, twice
    with pytest.raises(Killed):
        train(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "b" / "checkpoints").iterdir())
    assert names == ["best.safetensors", "student-1", "teacher"]
    kill(12)  # what is left: 2 steps of the first student, and 10 of the second
    with pytest.raises(Killed):
        train(tmp_path / "b")
    kill(-1)
    found = train(tmp_path / "b")
    for path, value in weights(found.predictor.model).items():
        assert (value == weights(expected.predictor.model)[path]).all()
    assert found.history["loss"] == expected.history["loss"]


def test_a_run_that_is_not_as_it_was_is_refused(recipe, kill, tmp_path):
    out = tmp_path / "run"
    kill(6)
    with pytest.raises(Killed):
        kerasdl.train(recipe, out=out, every_steps=1)
    kill(-1)
    with pytest.raises(InputError, match=f"continue it with --resume {out}, or add"):
        kerasdl.train(recipe, out=out)
    stored = json.loads((out / "recipe.json").read_text())
    del stored["deterministic"]  # as an earlier version has written it
    (out / "recipe.json").write_text(json.dumps(stored))
    other = replace(recipe, learning_rate=0.2)
    with pytest.raises(InputError, match=r"settings: learning_rate was 0.1, now 0.2"):
        kerasdl.train(other, out=out, resume=True)
    with pytest.raises(InputError, match="resume needs the folder"):
        kerasdl.train(recipe, resume=True)
    with pytest.raises(InputError, match="holds no run"):
        kerasdl.train(recipe, out=tmp_path / "none", resume=True)
    before = (tmp_path / "texts.tsv").read_text()
    write_tsv(tmp_path / "texts.tsv", make_texts(210, noise=0.2, seed=5))
    with pytest.raises(InputError, match="the training data; the test data; leave"):
        kerasdl.train(recipe, out=out, resume=True)
    (tmp_path / "texts.tsv").write_text(before)
    half = out / ".bundle.0123abcd"  # as if it had been killed while it wrote it
    half.mkdir()
    run = kerasdl.train(other, out=out, force_resume=True)
    assert not half.exists()
    assert json.loads((out / "recipe.json").read_text())["learning_rate"] == 0.2
    assert len(run.history["loss"]) == 2
    with pytest.raises(InputError, match="is finished"):
        kerasdl.train(recipe, out=out, resume=True)


def test_a_failed_run_says_how_it_goes_on(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kerasdl.training.write_results", None)
    with pytest.raises(TypeError):
        kerasdl.train(recipe, out=tmp_path / "run")
    assert f"--resume {tmp_path / 'run'}" in capsys.readouterr().err.replace("\n", "")
    assert runs.is_unfinished(tmp_path / "run")


def test_options_that_disagree_with_a_run_are_refused(recipe, kill, refused, tmp_path):
    out = tmp_path / "run"
    recipe = replace(recipe, data_options={"text_column": "text"})
    kill(6)
    with pytest.raises(Killed):
        kerasdl.train(recipe, out=out, every_steps=1)
    command = "sentiment", "train", "--resume", out
    refused(*command, "--epochs", 9, words=["epochs was 2, now 9", "--force-resume"])
    refused(*command, "--text-column", "x", words=["'text_column': 'x'"])
    refused(*command, "--model", "text_cnn", words=["build was 'ngram_classifier'"])
    refused(*command, "--quick", words=["max_examples was None, now 2000"])
    refused(*command, "--rematerialise", words=["rematerialise was False, now True"])
    refused(*command, "--out", "x", words=["drop --out"])
    refused("tabular", "train", words=["--target"])


def unfinished(folder, recipe) -> dict:
    """Begin a run, and return the options that resume it."""
    folder.mkdir(exist_ok=True)
    runs.begin(folder, recipe.to_json(), {})
    return {"resume": folder}


def test_a_model_that_disagrees_with_a_run_is_refused(tmp_path):
    own = images.recipe("cnn", image_size=32, epochs=3, data_options={})
    options = unfinished(tmp_path, own)
    models = {"models": images.RECIPES}
    assert resumed_recipe({**options, "model": "cnn"}, **models) == own
    for name, words in (
        ("cnn_deep", "settings: arguments was .*'early_pools'.*; patience was 7"),
        ("vgg", "build was 'cnn', now 'vgg'.*encoder .* now .*'smallest': 32"),
        ("nope", "model='nope'; expected one of"),
    ):
        with pytest.raises(InputError, match=words):
            resumed_recipe({**options, "model": name}, **models)
    options |= {"model": "vgg", "force_resume": True}
    forced = resumed_recipe({**options, "patience": 2}, **models)
    vgg = images.recipe("vgg")
    assert (forced.build, forced.arguments) == ("vgg", vgg.arguments)
    assert forced.encoder == {"smallest": 32, "image_size": 32}
    assert (forced.epochs, forced.patience) == (3, 2)
    more = {"epochs": 4, "quick": True, "batch_size": 9}
    forced = resumed_recipe({**options, **more}, **models, quick=images.QUICK)
    assert (forced.epochs, forced.batch_size, forced.max_examples) == (4, 9, 500)


def test_an_option_is_compared_with_the_part_it_stands_in(tmp_path):
    options = unfinished(tmp_path, images.recipe("cnn", data_options={}))
    for name, value in (("skip_corrupt", True), ("label_column", "x")):
        with pytest.raises(InputError, match=r"settings: data_options was \{\}, now"):
            resumed_recipe({**options, name: value})
        forced = resumed_recipe({**options, "force_resume": True, name: value})
        assert (forced.data_options, forced.encoder) == ({name: value}, {})
    with pytest.raises(InputError, match=r"settings: encoder was \{\}, now"):
        resumed_recipe({**options, "image_size": 9})


def test_each_option_of_train_has_its_place():
    parts = NO_SETTINGS | IN_DATA_OPTIONS | IN_ENCODER | {"model", "quick", "out"}
    parts |= {"context", "overwrite", *vars(replace(NGRAM))}
    for app in (images_commands, sentiment_commands, tabular_commands):
        assert inspect.signature(app.train).parameters.keys() <= parts


def test_damaged_and_strange_runs_are_refused(refused, tmp_path):
    table = tabular.recipe("rows.csv", "class")
    unfinished(tmp_path, table)
    resume = "train", "--resume", tmp_path
    for app in ("sentiment", "images"):
        refused(app, *resume, words=[f"kerasdl tabular train --resume {tmp_path}"])
    path = tmp_path / runs.RECIPE_FILE
    path.write_text(json.dumps({**table.to_json(), "learning_rate": 1.0}))
    words = ["was changed since the run began: learning_rate was 0.005, now 1.0"]
    refused("tabular", *resume, words=words)
    (tmp_path / runs.STATE_FILE).write_text("{}")
    refused("tabular", *resume, words=["run.json is damaged: 'run'"])
    for changes, word in (
        ({"schedule": "nope"}, "schedule='nope'"),
        ({"schedule_options": {"a": 1}}, "schedule option='a'"),
        ({"optimizer": "nope"}, "optimizer='nope'"),
        ({"optimizer_options": {"a": 1}}, "optimizer='adam'"),
        ({"build": "nope"}, "build='nope'"),
        ({"arguments": {"a": 1}}, "argument of mlp='a'"),
    ):
        unfinished(tmp_path, replace(table, **changes))
        refused("tabular", *resume, words=["is damaged", word])


def test_one_process_per_folder(recipe, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    code = f"""
import os, pathlib
from kerasdl.lock import locked
with locked(pathlib.Path({str(out)!r})):
    print(os.getpid(), flush=True)
    input()
    os._exit(1)
"""
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipe) as other:
        pid = other.stdout.readline().strip()
        with pytest.raises(InputError, match=f"in use by process {pid};"):
            kerasdl.train(recipe, out=out)
        other.communicate("\n")
    # It was killed: its lock is still there, but nobody holds it.
    assert (out / LOCK_FILE).exists()
    with locked(out):
        assert (out / LOCK_FILE).read_text() == str(os.getpid())
    assert not (out / LOCK_FILE).exists()


def test_recipes_come_back_from_json():
    recipe = replace(CNN, encoder={"ngram_orders": (1, 2)}, data_options={"a": None})
    again = kerasdl.Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    with pytest.raises(InputError, match="'colour'"):
        kerasdl.Recipe.from_json({"build": "cnn", "colour": 1})
