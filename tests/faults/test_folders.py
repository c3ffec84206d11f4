"""Rows 3, 4 and 12 of the table of faults: no space, no folder, odd place or time."""

import io
import resource
import shutil
import subprocess
import time

import keras
import pytest
import resuming
from processes import can_mount, finish, run_result, start
from recording import record
from test_training import make_texts, write_tsv

from kerasdl import runs

pytestmark = pytest.mark.faults
needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs leave to mount")


class FullDisk(keras.callbacks.Callback):
    """Let no file grow beyond 2 kB for the second epoch's first five steps."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.02)  # quicker steps would be over before the one save is
        if self.epoch == 1 and batch in (0, 5):
            limit = 2000 if batch == 0 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def test_a_full_disk_costs_a_warning(tmp_path):
    expected, out = resuming.run(tmp_path / "a"), io.StringIO()
    before = [FullDisk()]
    assert resuming.run(tmp_path / "b", before=before, out=out) == expected
    assert "could not be saved (File too large); the training goes on" in out.getvalue()
    folder = tmp_path / "b" / "checkpoints"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    warnings = out.getvalue().count("could not be saved")
    record("3 limited file size, model.fit", 1, warnings=warnings, result_equal=True)


def options(data, *more):
    small = "--model", "text_cnn", "--batch-size", 32
    return "sentiment", "train", "--data", data, *small, *more


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return write_tsv(folder / "data.tsv", make_texts(240, noise=0.2))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Return the folder of a run that nothing has disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, errors = finish(*options(data, "--out", out))
    assert code == 0, errors
    return out


def refused(code, errors, *words):
    """Check an error: one sentence, before anything was trained."""
    said = [line for line in errors.splitlines() if not line.startswith("data.tsv")]
    assert len(said) == 1, errors
    assert said[0].startswith("error: ")
    assert "epoch 1/" not in errors
    for word in words:
        assert word in errors
    return code


@needs_mounts
def test_a_disk_that_runs_full_under_the_command_line(whole, data, tmp_path):
    """A run ends with a sentence; what was saved before is whole, and goes on."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=%s none {disk}"
    out = disk / "run"
    code, errors = finish(*options(data, "--out", out), shell=mount % "4k")
    assert code in (1, 2)
    assert "No space left on device" in errors.splitlines()[-1]
    assert "epoch 1/" not in errors
    # Enough for some saves and for the results, not for all saves.
    best = (whole / runs.CHECKPOINT_FILE).stat().st_size
    before = OFTEN + AFTERWARDS.format(disk=str(disk), kept=str(kept))
    shell = mount % f"{8 * best // 1024}k"
    code, errors = finish(*options(data, "--out", out), before=before, shell=shell)
    assert code == 0, errors
    warnings = errors.count("could not be saved (No space left on device); the ")
    assert warnings > 0
    assert run_result(kept / "run") == run_result(whole)
    shutil.rmtree(kept)
    # Full when the results are written.
    code, errors = finish(
        *options(data, "--out", out),
        before=before + FULL_IN_THE_END.format(disk=str(disk)),
        shell=shell,
    )
    assert code == 1, errors
    assert errors.splitlines()[-1].startswith("error: No space left on device")
    assert "Traceback" not in errors
    code, errors = finish("sentiment", "train", "--resume", kept / "run")
    assert code == 0, errors
    assert run_result(kept / "run") == run_result(whole)
    record(
        "3 full tmpfs, command line",
        3,
        warnings=warnings,
        ended_with_one_sentence=2,
        results_equal=2,
    )


# Saves after each epoch, not only where that is cheap.
OFTEN = "import kerasdl.callbacks.checkpoint as c; c.SHARE = 1e9\n"
# The disk is gone with the process.
AFTERWARDS = """
import atexit, shutil
atexit.register(shutil.copytree, {disk!r}, {kept!r})
"""
FULL_IN_THE_END = """
import contextlib, os
from kerasdl import training

def write(*arguments, original=training.write_results):
    with open({disk!r} + "/rest", "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
    return original(*arguments)

training.write_results = write
"""


@needs_mounts
def test_a_folder_that_cannot_be_written(data, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs none {disk}; mkdir {disk}/run"
    shell = f"{mount}; mount -o remount,ro {disk}"
    count = 0
    for out in (disk / "run", disk / "new" / "run"):
        code, errors = finish(*options(data, "--out", out), shell=shell)
        assert refused(code, errors, "not writable", "choose another --out") == 2
        count += 1
    immutable = tmp_path / "immutable"
    immutable.mkdir()
    if subprocess.run(["chattr", "+i", immutable], check=False).returncode == 0:
        try:
            code, errors = finish(*options(data, "--out", immutable / "run"))
        finally:
            subprocess.run(["chattr", "-i", immutable], check=True)
        assert refused(code, errors, "not writable") == 2
        count += 1
    # An unfinished run, moved to where nothing can be written.
    out = tmp_path / "run"
    interrupted(data, out)
    shell = f"mount --bind {out} {disk}; mount -o remount,bind,ro {disk}"
    code, errors = finish("sentiment", "train", "--resume", disk, shell=shell)
    assert refused(code, errors, str(disk)) == 2
    count += 1
    record("4 read-only", count, refused_in_one_sentence_before_the_first_step=count)


def interrupted(data, out):
    """Kill a run in its first epochs."""
    process = start(*options(data, "--epochs", 500, "--out", out), before=OFTEN)
    for line in process.stderr:
        if line.startswith("epoch 3/"):
            break
    process.kill()
    process.communicate()
    assert runs.is_unfinished(out)


class Vanish(keras.callbacks.Callback):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            vanish(self.folder)


def vanish(folder):
    """Take a folder away at once: a save may be about to write into it."""
    shutil.rmtree(folder.rename(folder.with_name("gone")), ignore_errors=True)


def test_a_folder_that_vanishes_is_an_error_and_does_not_come_back(data, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=str(folder)):
        resuming.run(folder, before=[Vanish(folder)])
    assert not folder.exists()
    out = tmp_path / "cli"
    process = start(*options(data, "--epochs", 500, "--out", out), before=OFTEN)
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    vanish(out)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: ")
    assert "No such file or directory" in errors
    assert "Traceback" not in errors
    assert not out.exists()
    code, errors = finish("sentiment", "train", "--resume", out)
    assert refused(code, errors, "holds no run") == 2
    here = tmp_path / "here"
    here.mkdir()
    code, errors = finish(
        *options(data),
        before=f"import os; os.chdir({str(here)!r}); os.rmdir({str(here)!r})\n",
    )
    assert refused(code, errors, "cannot") == 2
    record("4 vanished", 4, errors_in_one_sentence=4, folders_that_came_back=0)


# As on a machine whose clock somebody sets back while it trains.
CLOCK = """
import itertools, time
hours = itertools.count()
start = time.time()
time.time = lambda: start - 3600 * next(hours)
time.time_ns = lambda: int(1e9 * time.time())
time.localtime = lambda *at, old=time.localtime: old(*(at or (time.time(),)))
"""
GERMAN = """
import locale
locale.setlocale(locale.LC_ALL, "")
assert locale.localeconv()["decimal_point"] == ","
"""


def test_a_clock_that_goes_backwards_and_an_odd_place(whole, data, tmp_path):
    odd = tmp_path / "Übung mit  Leerzeichen, 学习 🙂 'und' \"mehr\""
    odd.mkdir()
    data, out = shutil.copy(data, odd), odd / "Lauf 1"
    code, errors = finish(*options(data, "--out", out), before=CLOCK)
    assert code == 0, errors
    assert run_result(out) == run_result(whole)
    code, errors = finish("runs", odd, before=CLOCK)
    assert (code, errors) == (0, "")
    record("12 clock set back; spaces, Unicode", 1, result_equal=1)


def test_a_locale_with_a_decimal_comma(whole, data, tmp_path):
    made = tmp_path / "de_DE.UTF-8"
    command = "localedef", "-i", "de_DE", "-f", "UTF-8", made
    if not shutil.which("localedef") or subprocess.run(command, check=False).returncode:
        pytest.skip("needs localedef and the source of de_DE")
    german = {"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.UTF-8"}
    out = tmp_path / "run"
    code, errors = finish(*options(data, "--out", out), before=GERMAN, **german)
    assert code == 0, errors
    assert run_result(out) == run_result(whole)
    code, out = finish("runs", tmp_path, before=GERMAN, **german)
    assert code == 0
    record("12 locale with a decimal comma", 1, result_equal=1)


def test_a_path_that_is_too_long(data, tmp_path):
    for out in (tmp_path / ("x" * 300), tmp_path / "/".join(["x" * 200] * 20)):
        code, errors = finish(*options(data, "--out", out))
        assert refused(code, errors, "too long", "choose another --out") == 2
    record("12 a path too long", 2, refused_in_one_sentence_before_the_first_step=2)
