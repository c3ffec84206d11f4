"""Runs and checkpoints from strangers: resumed, or refused in one sentence."""

import json
import os
import random
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from fuzzing import mutate
from hostile import WATCH, payloads, safetensors_file

from kerasdl.callbacks import Checkpoint
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.errors import InputError
from kerasdl.files import whole_file
from kerasdl.lock import LOCK_FILE, locked
from kerasdl.manifest import seal
from kerasdl.runs import RECIPE_FILE, STATE_FILE, check_folder

# Elsewhere a training takes half a second.
CASES = 60 if keras.backend.backend() == "torch" else 15
DATA = np.ones((8, 1), "float32")


def train(folder, epochs=2):
    """Train a tiny model, resuming it from a folder of checkpoints."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mean_squared_error", run_eagerly=True)
    source = BatchSource({"x": Dense(DATA)}, DATA, batch_size=4, seed=0)
    checkpoint = Checkpoint(folder, source=source, every_steps=1)
    model.fit(
        source,
        initial_epoch=checkpoint.initial_epoch,
        epochs=epochs,
        callbacks=[checkpoint],
        verbose=0,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    train(folder)
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """Return a function that copies the newest checkpoint into a folder of its own."""

    def make():
        folder = tmp_path / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        newest = max(path for path in trained.iterdir() if path.is_dir())
        return folder, Path(shutil.copytree(newest, folder / newest.name))

    return make


def refused(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        train(folder, epochs=3)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["state.json", "arrays.safetensors"])
def test_no_file_of_a_checkpoint_is_executed(copy, tmp_path, name):
    canary = tmp_path / "canary"
    bomb = safetensors_file(b"{}", claimed=100 * 10**9)
    for payload in (*payloads(canary).values(), bomb, b"", b"{}", b"[" * 10**5):
        folder, step = copy()
        (step / name).write_bytes(payload)
        seal(step)
        refused(folder, "no checkpoint in .* can be used|no state of this training")
    assert not canary.exists()


def test_positions_that_no_training_has_are_refused(copy):
    for name, value in (("step", 0.5), ("step", 10**16), ("epoch", -1), ("batch", 2)):
        folder, step = copy()
        path = step / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        seal(step)
        refused(folder, f"no state of this training .ValueError: {name} ")


def test_refusals_stay_short(copy):
    long = "x" * 5000

    def damage_format(state):
        state["format"] = long

    def damage_path(state):
        state["variables"]["model"][0][0] = long

    for damage in (damage_format, damage_path):
        folder, step = copy()
        state = json.loads((step / "state.json").read_text())
        damage(state)
        (step / "state.json").write_text(json.dumps(state))
        seal(step)
        refused(folder, "format .x|the checkpoint has x")


def test_mutated_checkpoints_resume_or_are_refused(copy):
    outcomes, sentences = set(), {}
    for number in range(CASES):
        folder, step = copy()
        chance = random.Random(number)
        mutate(step, chance)
        if all(path.is_file() for path in step.iterdir()):
            seal(step)
        try:
            train(folder, epochs=3)
            outcomes.add("resumed")
        except InputError as error:
            outcomes.add("refused")
            sentences[number] = str(error)
        except BaseException as error:
            error.add_note(f"in case {number}")
            raise
    assert outcomes == {"resumed", "refused"}
    for number, sentence in sentences.items():
        assert "\n" not in sentence, number
        assert len(sentence) < 1000, number


def test_a_folder_of_checkpoints_clears_its_own_leftovers_only(copy):
    folder, _ = copy()
    (folder / ".ssh").mkdir()
    (folder / ".step-00000002.0123abcd").mkdir()
    train(folder, epochs=3)
    assert (folder / ".ssh").exists()
    assert not (folder / ".step-00000002.0123abcd").exists()


def test_links_lead_no_training_out_of_its_folder(copy, tmp_path):
    folder, step = copy()
    step.rename(tmp_path / "elsewhere")
    step.symlink_to(tmp_path / "elsewhere")
    refused(folder, "leads out of")
    run, home = tmp_path / "run", tmp_path / "home"
    for made in (run, home / ".ssh"):
        made.mkdir(parents=True)
    for name in (RECIPE_FILE, STATE_FILE):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("{}")
    check_folder(run, overwrite=False, resume=True)
    names = "checkpoints/new", "history.csv", "plots/x.png", "metrics.json.partial"
    for name in names:
        link = run / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(home)
        with pytest.raises(InputError, match="leads out of"):
            check_folder(run, overwrite=False, resume=True)
        link.unlink()
    assert (home / ".ssh").exists()


def test_what_is_written_over_is_no_file_behind_a_link(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("years of work")
    for make in (os.symlink, os.link):
        make(mine, tmp_path / "metrics.json.partial")
        with whole_file(tmp_path / "metrics.json") as partial:
            partial.write_text(json.dumps({}))
        lock = tmp_path / LOCK_FILE
        make(mine, lock)
        with pytest.raises((InputError, OSError)), locked(tmp_path):
            pass
        lock.unlink()
    assert mine.read_text() == "years of work"
    with WATCH(tmp_path):
        mine.read_text()
