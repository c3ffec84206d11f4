"""The folder of a run: refused, lent and put back."""

import contextlib
import json

import pytest

from kerasdl.errors import InputError
from kerasdl.runs import (
    CHECKPOINT_FILE,
    RECIPE_FILE,
    check_folder,
    claimed_folder,
    default_folder,
    write_json,
)


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


def test_folders_that_are_refused(earlier, tmp_path):
    with pytest.raises(InputError, match="--overwrite"):
        check_folder(earlier, overwrite=False)
    with pytest.raises(InputError, match="no run of kerasdl"):
        check_folder(earlier / "bundle", overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        check_folder(earlier / RECIPE_FILE, overwrite=True)
    with pytest.raises(InputError, match="too long"):
        check_folder(tmp_path / ("x" * 300), overwrite=True)


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
