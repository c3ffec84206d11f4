"""Callbacks with plain `model.fit`, and weights on disk."""

import csv
import io
import os
import re
import signal

import keras
import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console

from kerasdl.callbacks import (
    BestCheckpoint,
    Meter,
    ProgressDisplay,
    StopOnSignal,
    standard_callbacks,
)
from kerasdl.checkpoint import write_weights
from kerasdl.data.batches import BatchSource, Dense


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
    return model


@pytest.fixture
def data():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def arrays(model):
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


def fit(model, data, callbacks, epochs=3, **options):
    options = {"verbose": 0, "batch_size": 16, "validation_data": data, **options}
    return model.fit(*data, epochs=epochs, callbacks=callbacks, **options).history


class Scripted(keras.callbacks.Callback):
    """Replace the validation loss by given values, and keep each epoch's weights."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.losses[epoch]
        self.weights.append(arrays(self.model))


def test_standard_callbacks_with_plain_fit(model, data, tmp_path):
    script = Scripted([3.0, 1.0, float("nan"), 2.0, 2.0, 2.0])
    callbacks = [script, *standard_callbacks(tmp_path, patience=2)]
    history = fit(model, data, callbacks, epochs=6)
    assert len(history["loss"]) == 4  # the best epoch and two without a better one
    best = script.weights[1]
    stored = safetensors.numpy.load_file(tmp_path / "checkpoints/best.safetensors")
    assert stored.keys() == best.keys()
    for path, value in arrays(model).items():
        np.testing.assert_array_equal(value, best[path])
        np.testing.assert_array_equal(stored[path], best[path])
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["val_loss"]) for row in rows][:2] == [3.0, 1.0]
    assert all(float(row["learning_rate"]) == 0.5 for row in rows)
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_without_a_folder_nothing_is_written(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(model, data, standard_callbacks(None))
    assert not list(tmp_path.iterdir())


def test_a_rising_accuracy_is_better(model, tmp_path):
    path = tmp_path / "best.safetensors"
    best = BestCheckpoint(path, monitor="val_accuracy")
    best.set_model(model)
    best.on_train_begin()
    for accuracy, written in ((0.5, True), (0.4, False), (0.6, True)):
        best.on_epoch_end(0, {"val_accuracy": accuracy})
        assert path.exists() == written
        path.unlink(missing_ok=True)


def test_a_failed_write_keeps_the_earlier_weights(model, tmp_path, monkeypatch):
    def fail(_):
        raise OSError("full")

    path = tmp_path / "best.safetensors"
    write_weights(path, model)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_weights(path, model)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Raise(keras.callbacks.Callback):
    """Raise a signal at some batches of the first epoch."""

    def __init__(self, number, batches):
        super().__init__()
        self.number = number
        self.batches = batches
        self.seen = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.seen += 1
        if batch in self.batches:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_after_its_batch(model, data, number):
    before = signal.getsignal(number)
    with StopOnSignal() as stop:
        raiser = Raise(number, {1})
        history = fit(model, data, [raiser, stop], epochs=9)
        assert stop.received == number
    assert raiser.seen == 2
    assert len(history["val_loss"]) == 1
    assert signal.getsignal(number) == before


def test_a_second_signal_does_what_it_did_before(model, data):
    before = signal.getsignal(signal.SIGINT)
    with StopOnSignal() as stop:
        fit(model, data, [Raise(signal.SIGINT, {0}), stop])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.received == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) == before


def test_signals_before_the_training_are_not_caught():
    with pytest.raises(KeyboardInterrupt), StopOnSignal():
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_line_per_epoch_and_a_bar_on_a_terminal(model, data, terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=60)
    meter = Meter(64)
    progress = ProgressDisplay(console, epochs=3, steps=4, meter=meter)
    fit(model, data, [meter, progress])
    shown = out.getvalue()
    assert ("\x1b[" in shown) == terminal
    assert ("training" in shown) == terminal
    if terminal:
        assert "12/12" in shown
        assert "left" in shown
    else:
        lines = shown.splitlines()
        assert [line[:9] for line in lines] == [f"epoch {i}/3" for i in (1, 2, 3)]
        for line in lines:
            for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
                assert name in line
            assert re.search(r" s · [\d,]+ examples/s · [\d,]+ MB", line)


class Bar(keras.callbacks.Callback):
    """Note how far the bar is at the begin and end of each batch."""

    def __init__(self, progress):
        super().__init__()
        self.progress = progress
        self.begin, self.end = [], []

    def on_train_batch_begin(self, batch, logs=None):
        (task,) = self.progress._bar.tasks
        self.begin.append(task.completed)

    def on_train_batch_end(self, batch, logs=None):
        (task,) = self.progress._bar.tasks
        self.end.append(task.completed)


@pytest.mark.parametrize("within", [0, 3])
def test_the_bar_of_a_resumed_training_begins_where_it_was(model, data, within):
    x, y = data
    source = BatchSource({"x": Dense(x)}, y, batch_size=16, seed=0)

    class Position(keras.callbacks.Callback):  # as a checkpoint does
        def on_epoch_begin(self, epoch, logs=None):
            source.start(epoch, within if epoch == 8 else 0)

    console = Console(file=io.StringIO(), force_terminal=True)
    meter = Meter(64)
    progress = ProgressDisplay(console, epochs=10, steps=4, meter=meter, source=source)
    bar = Bar(progress)
    callbacks = [meter, progress, bar, Position()]
    model.fit(source, initial_epoch=8, epochs=10, callbacks=callbacks, verbose=0)
    assert bar.begin == list(range(32 + within, 40))
    assert bar.end == list(range(33 + within, 41))


def test_the_bar_is_gone_when_the_training_fails(model, data):
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise ZeroDivisionError

    console = Console(file=io.StringIO(), force_terminal=True)
    progress = ProgressDisplay(console, epochs=1, steps=4, meter=Meter(64))
    with pytest.raises(ZeroDivisionError), progress:
        fit(model, data, [progress, Fail()])
    with console.status("the terminal is free again"):
        pass


def test_a_stop_over_several_fits_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGINT)
    with StopOnSignal() as stop:
        stop.on_train_begin()
        stop.on_train_begin()
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
