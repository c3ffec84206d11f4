"""The folder of a run: refused, lent and put back."""

import contextlib
import json
import subprocess
import sys

import pytest

from kerasdl.errors import InputError
from kerasdl.recipe import Recipe
from kerasdl.runs import (
    CHECKPOINT_FILE,
    RECIPE_FILE,
    STATE_FILE,
    begin,
    begun_recipe,
    check_folder,
    claimed_folder,
    default_folder,
    go_on,
    write_json,
)

pytestmark = pytest.mark.backend_free


class Failed(BaseException):
    """Not even an `Exception`, like Ctrl-C."""


@pytest.fixture
def earlier(tmp_path):
    """A folder that holds an earlier run."""
    folder = tmp_path / "run"
    (folder / "bundle").mkdir(parents=True)
    (folder / RECIPE_FILE).write_text("earlier")
    (folder / "bundle" / "spec.json").write_text("earlier")
    return folder


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_new_folder_is_made_with_its_parents_and_taken_back(tmp_path):
    folder = tmp_path / "a" / "b"
    with contextlib.suppress(Failed), claimed_folder(folder, overwrite=False):
        (folder / "plots").mkdir()
        (folder / "plots" / "one.png").touch()
        raise Failed
    assert not list(tmp_path.iterdir())
    with claimed_folder(folder, overwrite=False):
        (folder / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_an_empty_folder_stays(tmp_path):
    with pytest.raises(Failed), claimed_folder(tmp_path, overwrite=False):
        raise Failed
    assert tmp_path.is_dir()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_an_earlier_run_comes_back_unless_there_is_a_checkpoint(earlier, checkpoint):
    before = content(earlier)
    with contextlib.suppress(Failed), claimed_folder(earlier, overwrite=True):
        assert not (earlier / RECIPE_FILE).exists()
        write_json(earlier / RECIPE_FILE, {})
        if checkpoint:
            (earlier / CHECKPOINT_FILE).parent.mkdir()
            (earlier / CHECKPOINT_FILE).touch()
        raise Failed
    after = {RECIPE_FILE: "{}\n", CHECKPOINT_FILE: ""} if checkpoint else before
    assert content(earlier) == after


def test_an_earlier_run_is_replaced_in_full(earlier, monkeypatch):
    monkeypatch.chdir(earlier)
    with claimed_folder(earlier / ".", overwrite=True) as folder:
        write_json(folder / RECIPE_FILE, {"new": True})
    assert content(earlier) == {RECIPE_FILE: '{\n  "new": true\n}\n'}
    assert [path.name for path in earlier.iterdir()] == [RECIPE_FILE]


# Forks, as a process takes longer to start than all that it does here.
KILLED_AT_EACH_CALL = """
import os, shutil, sys
from pathlib import Path
from kerasdl import runs

def run(folder, mode, last):
    calls = 0

    def watch(name, arguments):
        nonlocal calls
        # Renames and deletions, and files that are opened to be written.
        names = "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"
        is_written = name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (name in names or is_written) and str(folder) in str(arguments[0]):
            calls += 1
            if calls == last:
                os._exit(9)

    sys.addaudithook(watch)
    with runs.claimed_folder(folder, overwrite=mode == "overwrite"):
        runs.begin(folder, {"build": "new"}, {})
        (folder / "checkpoints" / "training").mkdir()
        runs.write_json(folder / runs.METRICS_FILE, {})
        runs.end(folder)
    os._exit(0)

root = Path(sys.argv[1])
for mode in ("overwrite", "new"):
    code, last = 9, 0
    while code == 9:
        last += 1
        folder = root / f"{mode} {last}"
        if mode == "overwrite":
            shutil.copytree(root / "earlier", folder)
        if not (child := os.fork()):
            run(folder, mode, last)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, folder
"""


def test_a_kill_anywhere_leaves_the_earlier_run_or_the_new_one(tmp_path):
    """Also between the calls in which one takes the place of the other."""
    (tmp_path / "earlier" / "checkpoints").mkdir(parents=True)
    (tmp_path / "earlier" / RECIPE_FILE).write_text('{"build": "old"}')
    (tmp_path / "earlier" / "checkpoints" / "best").write_text("old")
    command = sys.executable, "-c", KILLED_AT_EACH_CALL, tmp_path
    subprocess.run(command, check=True)
    found = [state_after(path) for path in tmp_path.glob("* *")]
    assert len(found) > 30
    assert set(found) == {"earlier", "nothing", "unfinished", "finished"}


def state_after(folder) -> str:
    """Start once more after a kill; return what is there, which nothing has spoilt."""
    try:
        check_folder(folder, overwrite=False)
    except InputError as error:
        sentence = str(error)
    else:
        assert names(folder) == []
        return "nothing"
    assert "--overwrite" in sentence
    if json.loads((folder / RECIPE_FILE).read_text())["build"] == "old":
        assert names(folder) == ["best", "checkpoints", RECIPE_FILE]
        return "earlier"
    if "unfinished" in sentence:
        check_folder(folder, overwrite=False, resume=True)
        return "unfinished"
    assert names(folder) == ["checkpoints", "metrics.json", RECIPE_FILE]
    return "finished"


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name != ".lock")


def test_folders_that_are_refused(earlier, tmp_path):
    with pytest.raises(InputError, match="--overwrite"):
        check_folder(earlier, overwrite=False)
    with pytest.raises(InputError, match="no run of kerasdl"):
        check_folder(earlier / "bundle", overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        check_folder(earlier / RECIPE_FILE, overwrite=True)
    with pytest.raises(InputError, match="too long"):
        check_folder(tmp_path / ("x" * 300), overwrite=True)


@pytest.fixture
def begun(tmp_path):
    """A run that has begun, and a function that edits a file of it."""
    recipe = Recipe(build="mlp", kind="table", arguments={"hidden": (8,)}).to_json()
    begin(tmp_path, recipe, {"training": "1", "validation": "2"})

    def edit(name, **changes):
        path = tmp_path / name
        fields = {**json.loads(path.read_text()), **changes}
        gone = [name for name, value in fields.items() if value == "gone"]
        path.write_text(json.dumps({k: v for k, v in fields.items() if k not in gone}))

    return tmp_path, recipe, edit


DATA = {"training": "1", "validation": "2"}


def test_a_recipe_that_was_changed_after_the_run_began_is_refused(begun):
    folder, recipe, edit = begun
    assert begun_recipe(folder, force=False)["arguments"] == {"hidden": [8]}
    edit(RECIPE_FILE, learning_rate=0.05, deterministic="gone")
    changed = f"{RECIPE_FILE} was changed since the run began: learning_rate was 0.001,"
    with pytest.raises(InputError, match=f"{changed} now 0.05; .* --force-resume"):
        begun_recipe(folder, force=False)
    with pytest.raises(InputError, match=changed):
        go_on(folder, recipe, DATA, force=False)
    forced = begun_recipe(folder, force=True)
    go_on(folder, forced, DATA, force=True)
    go_on(folder, forced, DATA, force=False)  # it is the run's own by now
    with pytest.raises(InputError, match=r"learning_rate was 0.05, now 0.001; leave"):
        go_on(folder, recipe, DATA, force=False)


def test_runs_of_earlier_versions_go_on(begun):
    folder, recipe, edit = begun
    edit(STATE_FILE, recipe="gone")
    edit(RECIPE_FILE, learning_rate=0.05, rematerialise="gone")
    go_on(folder, {**recipe, "learning_rate": 0.05}, DATA, force=False)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (RECIPE_FILE, {"epochs": "6"}),
        (RECIPE_FILE, {"epochs": True}),
        (RECIPE_FILE, {"learning_rate": "x"}),
        (RECIPE_FILE, {"learning_rate": None}),
        (RECIPE_FILE, {"kind": "nope"}),
        (RECIPE_FILE, {"seed": -1}),
        (RECIPE_FILE, {"seed": "a"}),
        (RECIPE_FILE, {"arguments": [1]}),
        (RECIPE_FILE, {"tta": 1}),
        (RECIPE_FILE, {"build": "gone"}),
        (STATE_FILE, {"recipe": {}}),
        (STATE_FILE, {"recipe": []}),
        (STATE_FILE, {"data": []}),
        (STATE_FILE, {"data": "gone"}),
        (STATE_FILE, {"run": 3}),
    ],
)
def test_damaged_files_of_a_run_are_named(begun, name, changes):
    folder, recipe, edit = begun
    edit(name, **changes)
    with pytest.raises(InputError, match=f"{name} is damaged"):
        go_on(folder, recipe, DATA, force=False)


def test_data_that_are_gone_are_a_change(begun):
    folder, recipe, _ = begun
    with pytest.raises(InputError, match="settings: the validation data; leave"):
        go_on(folder, recipe, {"training": "1"}, force=False)


def test_a_run_that_is_not_that_of_its_checkpoints_is_refused(begun):
    folder, recipe, edit = begun
    run = go_on(folder, recipe, DATA, force=False)
    for step, its in enumerate((run, "other")):
        path = folder / "checkpoints" / "training" / f"step-0000000{step}"
        path.mkdir(parents=True)
        write_json(path / "state.json", {"run": its})
    assert go_on(folder, recipe, DATA, force=False) == run
    write_json(path / "state.json", {"run": run})
    edit(STATE_FILE, run="x")
    with pytest.raises(
        InputError, match=f"run 'x', and all checkpoints are of '{run}'"
    ):
        go_on(folder, recipe, DATA, force=True)


def test_default_folders_are_never_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "now")
    names = []
    for _ in range(3):
        folder = default_folder("app")
        folder.mkdir(parents=True)
        names.append(folder.as_posix())
    assert names == ["runs/app-now", "runs/app-now-2", "runs/app-now-3"]


def test_json_is_written_in_full_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"name": "é"})
    for broken in ({"loss": float("nan")}, {"loss": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, broken)
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "é"}
    assert list(tmp_path.iterdir()) == [path]
