"""A loss that is no number: back, slower, on, and in the end finite weights."""

import csv
import io
import json
import os

import keras
import numpy as np
import pytest
from resuming import tiny_data, tiny_model
from rich.console import Console

from kerasdl import backend
from kerasdl.callbacks import NanGuard, PromptCallbacks, StochasticAverage, averaging
from kerasdl.callbacks.state import captured
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.data.rows import Columns, load_rows
from kerasdl.errors import InputError
from kerasdl.optimizers import make_optimizer

BAD_ROW = 17
shown_by_the_loss = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="there the ReLU hides it"
)


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
    # On TensorFlow the ReLU hides it from the loss.
    assert f" batch {bad[0][1] + 1} of epoch 1: back by 1 step, and on" in lines[0]
    assert lines[0].endswith("; its examples are in not_finite.csv")
    rate = keras.ops.convert_to_numpy(model.optimizer.iterations)
    assert rate == 12  # of 14 steps, two were undone


def fit_promptly(model, source, callbacks, epochs=2):
    """Train as `kerasdl.train` does: a step is under way when logs are read."""
    prompt = PromptCallbacks(callbacks, model, epochs=epochs, steps=source.num_batches)
    return model.fit(source, epochs=epochs, callbacks=prompt, verbose=0).history


def test_prompt_callbacks_change_nothing(out):
    x, y = tiny_data()
    seen, found = [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, dict(logs)))

    for fit in (
        lambda model, source, given: (
            model.fit(source, epochs=2, callbacks=given, verbose=0).history
        ),
        fit_promptly,
    ):
        source = BatchSource({"x": Dense(x)}, y, batch_size=8, seed=0)
        backend.set_seed(0)
        model = tiny_model()
        callbacks = [guard(source, None, out), Watch()]
        found.append((fit(model, source, callbacks), model.get_weights()))
    (history, weights), (prompt_history, prompt_weights) = found
    assert history == prompt_history
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    for one, other in zip(weights, prompt_weights, strict=True):
        np.testing.assert_array_equal(one, other)


@shown_by_the_loss
@pytest.mark.parametrize("place", range(7))
def test_a_loss_that_is_read_late_costs_one_step_more(place, tmp_path, out):
    source, model = poisoned(), tiny_model()
    plan = source.plan(0)
    bad = plan.pop(next(i for i, rows in enumerate(plan) if BAD_ROW in rows))
    plan.insert(place, bad)
    source.plan = lambda _: plan
    callback = guard(source, tmp_path, out)
    history = fit_promptly(model, source, [callback], epochs=1)
    assert are_finite(model)
    assert np.isfinite(history["loss"]).all()
    steps = min(place + 2, len(plan))  # the logs of the last batch are read at once
    (line,) = out.getvalue().splitlines()
    assert f" batch {place + 1} of epoch 1: back by {steps} step" in line
    with (tmp_path / "not_finite.csv").open() as file:
        rows = [int(row["row"]) for row in csv.DictReader(file)]
    assert rows == sorted(bad)
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    assert done == len(plan) - steps


@shown_by_the_loss
def test_what_is_saved_was_looked_at(out):
    source, model = poisoned(), tiny_model()
    callback = guard(source, None, out)
    states = []

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states.append(captured(self.model, [callback], []))

    fit_promptly(model, source, [callback, Save()])
    for _, arrays in states:
        assert all(np.isfinite(values).all() for values in arrays.values())
    assert states[-1][0]["callbacks"][0][1]["tries"] == 2
    assert len(out.getvalue().splitlines()) == 2


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


class Spoil(keras.callbacks.Callback):
    """Note weights and rate after each step, then lose the weights after some."""

    def __init__(self, *steps):
        super().__init__()
        self.steps = steps
        self.begin, self.end, self.rates = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.begin.append(self.model.get_weights())
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        self.rates.append(float(rate))

    def on_train_batch_end(self, batch, logs=None):
        self.end.append(self.model.get_weights())
        if len(self.end) in self.steps:
            weight = self.model.trainable_variables[0]
            weight.assign(keras.ops.full(weight.shape, np.nan))


def linear(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mean_squared_error")
    return model


def four_batches():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return BatchSource({"x": Dense(x)}, x.sum(1, keepdims=True), batch_size=16, seed=0)


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("kind", ["ema", "swa", "schedule_free_adamw"])
def test_it_goes_back_to_the_weights_of_the_training_not_to_an_average(
    kind, validated, out
):
    source = four_batches()
    if kind == "schedule_free_adamw":
        model = linear(make_optimizer(kind, 0.1))
    else:
        model = linear(make_optimizer("sgd", 0.01, ema=0.9 if kind == "ema" else 0.0))
    averages = averaging(model.optimizer) or [StochasticAverage(source, start=0)]
    # In the second epoch the loss shows it, at the end of the third only the weights.
    spoil = Spoil(6, 12)
    history = model.fit(
        source,
        validation_data=four_batches() if validated else None,
        epochs=5,
        callbacks=[spoil, guard(source, None, out), *averages],
        verbose=0,
    ).history
    assert len(out.getvalue().splitlines()) == 2
    for begin, end in ((7, 3), (12, 7)):
        for value, other in zip(spoil.begin[begin], spoil.end[end], strict=True):
            np.testing.assert_array_equal(value, other)
    assert are_finite(model)
    assert np.isfinite(history["val_loss"] if validated else 0.0).all()


@pytest.mark.parametrize("kind", ["ema", "schedule_free_adamw"])
def test_no_average_is_validated_where_every_step_was_undone(kind, out):
    is_ema = kind == "ema"
    optimizer = make_optimizer("sgd" if is_ema else kind, 0.01, ema=0.9 * is_ema)
    source, model = four_batches(), linear(optimizer)
    spoil, kept = Spoil(4), []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: kept.append(model.get_weights())
    )
    callbacks = [spoil, guard(source, None, out), *averaging(optimizer), keep]
    model.fit(source, validation_data=source, epochs=2, callbacks=callbacks, verbose=0)
    for value, other in zip(kept[0], spoil.begin[0], strict=True):
        np.testing.assert_array_equal(value, other)


def test_what_is_validated_outside_of_fit_changes_nothing(out):
    source, model = four_batches(), linear(make_optimizer("sgd", 0.01))
    callback = guard(source, None, out)
    model.evaluate(source, callbacks=[callback], verbose=0)
    model.fit(source, callbacks=[callback], verbose=0)
    model.set_weights([np.full((4, 1), np.nan), np.zeros(1)])
    model.evaluate(source, callbacks=[callback], verbose=0)
    assert np.isnan(model.get_weights()[0]).all()
    assert out.getvalue() == ""


def test_each_time_the_rate_falls_by_the_factor_alone(out):
    source, model = four_batches(), linear(make_optimizer("sgd", 0.01))
    spoil, callback = Spoil(2, 6, 8), guard(source, None, out)
    model.fit(source, epochs=3, callbacks=[spoil, callback], verbose=0)
    rates = [0.01] * 3 + [0.001] * 4 + [0.0001] + [0.00001] * 4
    np.testing.assert_allclose(spoil.rates, rates, rtol=1e-5)
    assert out.getvalue().count("at a learning rate 0.1 times as high") == 3
    assert callback.state_dict() == {"tries": 3}


def test_a_resumed_training_lowers_its_rate_by_the_factor_alone(out):
    class Resume(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            callback.load_state_dict({"tries": 2})

    source, model = four_batches(), linear(make_optimizer("sgd", 0.01))
    spoil, callback = Spoil(1), guard(source, None, out)
    callbacks = [spoil, callback, Resume()]
    model.fit(source, epochs=2, callbacks=callbacks, verbose=0)
    np.testing.assert_allclose(spoil.rates, [0.01] * 2 + [0.001] * 6, rtol=1e-5)
    assert callback.state_dict() == {"tries": 3}


def test_weights_that_are_lost_blame_no_examples(tmp_path, out):
    source, model = four_batches(), linear(make_optimizer("sgd", 0.01))
    callback = guard(source, tmp_path, out)
    model.fit(source, epochs=1, callbacks=[Spoil(4), callback], verbose=0)
    assert out.getvalue() == (
        "the weights are not finite after batch 4 of epoch 1: back by 4 steps, and on "
        "at a learning rate 0.1 times as high\n"
    )
    assert list(tmp_path.iterdir()) == []


def bad_rows(folder):
    with (folder / "not_finite.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_batches_are_counted_from_the_start_of_a_resumed_epoch(tmp_path, out):
    source = poisoned()
    place = next(i for i, rows in enumerate(source.plan(0)) if BAD_ROW in rows)
    assert place > 0
    source.start(0, place)
    callback = guard(source, tmp_path, out, every_steps=1)
    tiny_model().fit(source, epochs=1, callbacks=[callback], verbose=0)
    assert {row["batch"] for row in bad_rows(tmp_path)} == {str(place)}
    assert f" batch {place + 1} of epoch 1" in out.getvalue()


def test_rows_of_a_table_are_written_as_json(tmp_path, out):
    columns = {"a": np.arange(50) / 2, "b": [None, "ä"] * 25}
    options = {"examples": Columns.of(columns), "every_steps": 1}
    callback = guard(poisoned(), tmp_path, out, **options)
    tiny_model().fit(callback.source, epochs=1, callbacks=[callback], verbose=0)
    rows = bad_rows(tmp_path)
    assert rows
    for row in rows:
        number = int(row["row"])
        expected = {"a": number / 2, "b": [None, "ä"][number % 2]}
        assert json.loads(row["example"]) == expected


def test_the_file_is_not_written_through_a_hard_link(tmp_path, out):
    victim, run = tmp_path / "victim", tmp_path / "run"
    run.mkdir()
    victim.write_text("epoch,batch,row,example\n7,8,9,of before\n")
    os.link(victim, run / "not_finite.csv")
    source = poisoned()
    callback = guard(source, run, out, every_steps=1)
    tiny_model().fit(source, callbacks=[callback], verbose=0)
    assert victim.read_text() == "epoch,batch,row,example\n7,8,9,of before\n"
    first, *others = bad_rows(run)
    assert list(first.values()) == ["7", "8", "9", "of before"]
    assert str(BAD_ROW) in [row["row"] for row in others]
    assert [path.name for path in run.iterdir()] == ["not_finite.csv"]


def test_what_cannot_be_written_does_not_end_the_training(tmp_path, out):
    (tmp_path / "not_finite.csv").mkdir()
    callback = guard(poisoned(), tmp_path, out, every_steps=1)
    history = tiny_model().fit(
        callback.source, epochs=2, callbacks=[callback], verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert all("; its examples are not in not_finite.csv: " in line for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["not_finite.csv"]


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
