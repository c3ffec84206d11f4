"""Rows 9 to 11 of the table of faults: losses, inputs and memory that go wrong."""

import csv
import io

import keras
import numpy as np
import pytest
from processes import finish, run_result
from recording import record
from resuming import BATCH_SIZE, STEPS, tiny_data, tiny_model
from rich.console import Console
from test_whole_runs import rows

import kerasdl
from kerasdl.callbacks import NanGuard
from kerasdl.data.batches import BatchSource, Dense

pytestmark = pytest.mark.faults

# Too large for float16 alone, and no number in any precision.
VALUES = {"float32": np.nan, "mixed_float16": 1e30}
SMALL = "--epochs", 5, "--batch-size", 16
# As if no batch fitted that is not computed in four parts.
LITTLE_MEMORY = """
import kerasdl.fit as module
run_epochs = module.run_epochs
def limited(model, recipe, *others, **options):
    if recipe.accumulate < 4:
        raise MemoryError
    return run_epochs(model, recipe, *others, **options)
module.run_epochs = limited
"""


class Poisoned(Dense):
    """Features whose check finds nothing, though one row is bad in training."""

    def __init__(self, values, row, value):
        super().__init__(values)
        self.row, self.value = row, value

    def take(self, rows):
        values = self.values[rows]
        values[rows == self.row] = self.value
        return Dense(values)


@pytest.fixture(params=VALUES)
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def test_a_bad_batch(policy, tmp_path):
    x, y = tiny_data()
    bad = (0, 7, 17, 31, 49)  # in other batches each
    for row in bad:
        features = Poisoned(x, row, VALUES[policy])
        source = BatchSource({"x": features}, y, batch_size=BATCH_SIZE, seed=0)
        model, out = tiny_model(), Console(file=io.StringIO())
        guard = NanGuard(tmp_path, source=source, every_steps=1, console=out)
        history = model.fit(source, epochs=1, callbacks=[guard], verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert all(np.isfinite(value).all() for value in model.get_weights())
        with (tmp_path / "not_finite.csv").open() as file:
            named = {int(line["row"]) for line in csv.DictReader(file)}
        assert row in named
        assert len(named) <= BATCH_SIZE
        iterations = keras.ops.convert_to_numpy(model.optimizer.iterations)
        # In float16 the loss scale leaves out a step or two of its own.
        assert STEPS - (1 if policy == "float32" else 3) <= iterations < STEPS
        (tmp_path / "not_finite.csv").unlink()
    record(f"9 a bad batch, {policy}", len(bad), went_on=len(bad))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    _, path, *_ = rows(tmp_path_factory.mktemp("data"))
    return path


def train(data, out, *options, **more):
    where = "--data", data, "--target", "class", "--out", out
    return finish("tabular", "train", *where, *SMALL, *options, **more)


def test_too_high_a_rate(table, tmp_path):
    rates = ("1e20", "1e30", "1e37")
    for rate in rates:
        out = tmp_path / rate
        code, errors = train(table, out, "--learning-rate", rate)
        assert code == 0, errors
        assert "at a learning rate 0.1 times as high" in errors
        assert (out / "not_finite.csv").exists()
        model = kerasdl.load(out).model
        assert all(np.isfinite(value).all() for value in model.get_weights())
    record("9 too high a rate", len(rates), ended_finite=len(rates))


@pytest.mark.parametrize("value", ["inf", "-inf", "1e999"])
def test_an_infinite_input(value, table, tmp_path):
    lines = table.read_text().splitlines()
    lines[100] = f"{value},0,0,high"
    data = tmp_path / "bad.csv"
    data.write_text("\n".join(lines) + "\n")
    code, errors = train(data, tmp_path / "run")
    assert code == 2
    (sentence,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert "bad.csv" in sentence
    assert "101" in sentence
    assert not (tmp_path / "run").exists()
    record(f"10 {value} in a table", 1, refused_naming_the_line=1)


def test_memory_that_runs_out(table, tmp_path):
    code, errors = train(table, tmp_path / "limited", before=LITTLE_MEMORY)
    assert code == 0, errors
    assert errors.count("Out of memory: each batch of 16 is now computed in") == 2
    code, errors = train(table, tmp_path / "parts", "--accumulate", 4)
    assert code == 0, errors
    assert run_result(tmp_path / "limited") == run_result(tmp_path / "parts")
    record("11 on the command line", 1, as_with_accumulation=1)
