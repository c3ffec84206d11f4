"""A loss that is no number: back, slower, on, and in the end finite weights."""

import csv
import io

import keras
import numpy as np
import pytest
from resuming import tiny_data, tiny_model
from rich.console import Console

from kerasdl.callbacks import NanGuard
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.data.rows import load_rows
from kerasdl.errors import InputError

BAD_ROW = 17


@pytest.fixture
def out():
    return io.StringIO()


def guard(source, folder, out, **options):
    console = Console(file=out, width=999)
    return NanGuard(folder, source=source, console=console, **options)


def are_finite(model):
    return all(np.isfinite(w).all() for w in model.get_weights())


class Poison(Dense):
    """Inputs whose check finds nothing, though one row is not finite in training."""

    def take(self, rows):
        values = self.values[rows]
        values[rows == BAD_ROW] = np.nan
        return Poison(values)


def poisoned(**options):
    x, y = tiny_data()
    return BatchSource({"x": Poison(x)}, y, batch_size=8, seed=0, **options)


def test_a_bad_batch_costs_its_steps_and_is_written_down(tmp_path, out):
    source, model = poisoned(), tiny_model()
    examples = [f"text {i}" for i in range(50)]
    callback = guard(source, tmp_path, out, examples=examples, every_steps=1)
    history = model.fit(source, epochs=2, callbacks=[callback], verbose=0).history
    assert are_finite(model)
    assert np.isfinite(history["loss"]).all()
    with (tmp_path / "not_finite.csv").open() as file:
        rows = list(csv.DictReader(file))
    bad = [
        (epoch, batch, plan.tolist())
        for epoch in range(2)
        for batch, plan in enumerate(source.plan(epoch))
        if BAD_ROW in plan
    ]
    found = {}
    for row in rows:
        key = int(row["epoch"]), int(row["batch"])
        found.setdefault(key, []).append(int(row["row"]))
        assert row["example"] == f"text {row['row']}"
    assert found == {(e, b): sorted(plan) for e, b, plan in bad}
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert f"in batch {bad[0][1] + 1} of epoch 1: back by 1 step, and on" in lines[0]
    rate = keras.ops.convert_to_numpy(model.optimizer.iterations)
    assert rate == 12  # of 14 steps, two were undone


def test_the_rate_falls_and_in_the_end_it_stops(out):
    x, y = tiny_data()
    source = BatchSource({"x": Poison(x)}, y, batch_size=50, seed=0)
    model = tiny_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss)
    before = model.get_weights()
    callback = guard(source, None, out, retries=2)
    history = model.fit(source, epochs=9, callbacks=[callback], verbose=0)
    assert len(history.history["loss"]) == 3
    assert are_finite(model)
    for value, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, other)
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert rate == pytest.approx(1e-3)
    assert "and the end, as that does not help" in out.getvalue()


def test_too_high_a_rate_is_found_by_the_weights_too(out):
    x, y = tiny_data()
    source = BatchSource({"x": Dense(x)}, y, batch_size=8, seed=0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e38), "mean_squared_error")
    callback = guard(source, None, out, retries=60, every_steps=1)
    model.fit(source, epochs=9, callbacks=[callback], verbose=0)
    assert are_finite(model)
    assert out.getvalue()


def test_inputs_that_are_not_finite_are_named_before_the_training(tmp_path, out):
    x, y = tiny_data()
    x[31, 2] = np.inf
    source = BatchSource({"x": Dense(x)}, y, batch_size=8)
    with pytest.raises(InputError, match=r"example 31 holds inf at \(2,\) in 'x'"):
        tiny_model().fit(source, callbacks=[guard(source, tmp_path, out)], verbose=0)
    source = BatchSource({"x": Dense(x[:9])}, np.full(9, np.nan), batch_size=8)
    with pytest.raises(InputError, match="example 0 holds nan in the targets"):
        source.check_finite()
    table = tmp_path / "table.csv"
    table.write_text("a,b,y\n1,x,0\n,y,1\n-inf,x,0\n2,inf,1\n")
    with pytest.raises(InputError, match=r"column 'a' has '-inf' at .*4"):
        load_rows(str(table), target="y", notify=print)
