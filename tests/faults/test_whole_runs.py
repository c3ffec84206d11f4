"""Row 1 of the table of faults by the real command line, on all three apps."""

import csv
import random
import shutil
import time

import numpy as np
import pytest
from processes import KILLED, finish, leftovers, run_result, start
from recording import CLI_KILLS, record
from test_images_app import pictures
from test_training import make_texts, write_tsv

from kerasdl import runs
from kerasdl.errors import InputError

pytestmark = pytest.mark.faults

# By default a run of seconds is saved once in a while; so it is after each epoch.
OFTEN = "import kerasdl.callbacks.checkpoint as c; c.SHARE = 1e9\n"

EPOCHS = 12
# Seconds after the end of an epoch: some epochs, or what comes after the last.
LONGEST_WAIT = 0.5


def epochs_ended(out):
    """Return how many epochs of a run are in its history."""
    path = out / "history.csv"
    return max(len(path.read_text().splitlines()) - 1, 0) if path.exists() else 0


def texts(folder):
    data = write_tsv(folder / "texts.tsv", make_texts(240, noise=0.2))
    return "--data", data, "--model", "text_cnn"


def images(folder):
    shown = pictures(240)
    np.savez(folder / "images.npz", images=shown.examples, labels=shown.labels)
    return "--data", folder / "images.npz"


def rows(folder):
    values = np.random.default_rng(0).normal(size=(240, 3))
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "class"])
        writer.writerows([*row, "high" if row[0] > row[1] else "low"] for row in values)
    return "--data", folder / "rows.csv", "--target", "class"


@pytest.mark.parametrize(
    ("app", "data"), [("sentiment", texts), ("images", images), ("tabular", rows)]
)
def test_kills_of_the_command_line_at_any_instant(app, data, tmp_path):
    options = (app, "train", *data(tmp_path), "--quick", "--epochs", EPOCHS)
    out = tmp_path / "whole"
    code, errors = finish(*options, "--out", out)
    assert code == 0, errors
    expected, draw = run_result(out), random.Random(0)
    counts = {"within_a_save": 0, "with_a_checkpoint": 0, "done_before": 0, "equal": 0}
    for number in range(CLI_KILLS):
        out = tmp_path / str(number)
        before = OFTEN if number % 4 else ""
        process = start(*options, "--out", out, before=before)
        # By epochs, not by seconds: how long a run takes to start and to compile
        # changes too much from one to the next for a kill to meet the training.
        while not (out / runs.RECIPE_FILE).exists():
            time.sleep(0.005)
        epoch = draw.randrange(EPOCHS)
        while process.poll() is None and epochs_ended(out) < epoch:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, LONGEST_WAIT))
        process.kill()
        process.communicate()
        assert process.returncode in (KILLED, 0)
        counts["within_a_save"] += bool(leftovers(out))
        counts["with_a_checkpoint"] += any(out.glob("checkpoints/*/step-*"))
        if runs.is_unfinished(out):
            code, errors = finish(app, "train", "--resume", out)
            assert code == 0, errors
        else:
            with pytest.raises(InputError, match="already holds a run"):
                runs.check_folder(out, overwrite=False)  # clears up
            counts["done_before"] += 1
        assert run_result(out) == expected
        counts["equal"] += 1
        shutil.rmtree(out)
    record(f"1 kerasdl {app} train", CLI_KILLS, **counts)
