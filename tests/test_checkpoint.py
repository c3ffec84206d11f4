"""Checkpoints with plain `model.fit`: exact, whole, refused where they do not fit."""

import io
import math
import shutil
import signal

import keras
import numpy as np
import pytest
import resuming
from resuming import STEPS
from rich.console import Console

from kerasdl.callbacks import Checkpoint, StopOnSignal
from kerasdl.checkpoint import (
    Saved,
    Store,
    Writer,
    join,
    read_variables,
    split,
    step_name,
    write_variables,
)
from kerasdl.errors import InputError


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return resuming.run(tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("kill", [STEPS - 1, STEPS])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    kill, uninterrupted, tmp_path
):
    assert resuming.run(tmp_path, kill=kill) is None
    assert resuming.run(tmp_path) == uninterrupted


def test_a_finished_training_is_not_trained_on(uninterrupted, tmp_path):
    assert resuming.run(tmp_path) == uninterrupted
    out = io.StringIO()
    assert resuming.run(tmp_path, out=out) == uninterrupted
    assert out.getvalue() == f"resuming after epoch 3 ({3 * STEPS} steps)\n"


class Scripted(keras.callbacks.Callback):
    """Replace the validation loss: the second epoch is the best."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = (3.0, 1.0, 2.0, 2.0, 0.0)[epoch]


@pytest.mark.parametrize(
    "kill", [3 * STEPS + 2, pytest.param(4 * STEPS, marks=pytest.mark.slow)]
)
def test_early_stopping_ends_a_resumed_training_when_it_would_have(kill, tmp_path):
    def run(folder, **options):
        before = [Scripted()]
        return resuming.run(folder, epochs=5, patience=2, before=before, **options)

    expected = run(tmp_path / "a")
    assert len(expected["history"]["loss"]) == 4
    assert run(tmp_path / "b", kill=kill) is None
    assert run(tmp_path / "b") == expected
    assert run(tmp_path / "b") == expected  # not one epoch too many


class Send(keras.callbacks.Callback):
    """Send this process a signal after some batch of the second epoch."""

    def __init__(self, number, batch):
        super().__init__()
        self.number = number
        self.batch = batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, self.batch):
            signal.raise_signal(self.number)


@pytest.mark.parametrize("batch", [3, pytest.param(STEPS - 1, marks=pytest.mark.slow)])
def test_a_signal_that_ends_the_training_in_order_loses_nothing(
    batch, uninterrupted, tmp_path
):
    with StopOnSignal() as stop:
        before = [Send(signal.SIGTERM, batch), stop]
        cut = resuming.run(tmp_path, before=before, every_steps=None, stop=stop)
    assert stop.received == signal.SIGTERM
    assert len(cut["history"]["loss"]) == 2
    assert resuming.run(tmp_path) == uninterrupted


def test_a_signal_that_nobody_catches_does_what_it_does_after_a_save(
    uninterrupted, tmp_path
):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        resuming.run(tmp_path, before=[Send(signal.SIGINT, 3)], every_steps=None)
    assert signal.getsignal(signal.SIGINT) == before
    assert (tmp_path / "checkpoints" / step_name(STEPS + 4)).is_dir()
    assert resuming.run(tmp_path) == uninterrupted


def test_damaged_checkpoints_are_named_and_left_out(uninterrupted, tmp_path):
    resuming.run(tmp_path, kill=STEPS + 3)
    folder = tmp_path / "checkpoints"
    *_, third, before, last = sorted(folder.glob("step-*"))
    arrays = last / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1])
    (before / "state.json").unlink()
    (folder / ".step-00000099.0123abcd").mkdir()
    out = io.StringIO()
    assert resuming.run(tmp_path, out=out) == uninterrupted
    lines = out.getvalue().splitlines()
    assert f"{last.name} is damaged" in lines[0]
    assert "bytes instead of" in lines[0]
    assert f"{before.name} is damaged" in lines[1]
    assert "state.json is missing" in lines[1]
    assert f"({int(third.name[5:])} steps)" in lines[2]
    kept = {path.name for path in folder.iterdir() if path.is_dir()}
    assert step_name(3 * STEPS) in kept
    assert ".step-00000099.0123abcd" not in kept
    assert 3 <= len(kept) <= 4
    for path in folder.glob("step-*"):
        (path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"no checkpoint in .* can be used: step-"):
        resuming.run(tmp_path)


def test_another_model_other_callbacks_and_another_epoch_are_refused(tmp_path):
    resuming.run(tmp_path, kill=3)
    folder, (source, _) = tmp_path / "checkpoints", resuming.sources()
    quiet = {"source": source, "console": Console(quiet=True)}
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def fit(model, checkpoint):
        try:
            model.fit(source, epochs=3, callbacks=[checkpoint], verbose=0)
        finally:
            checkpoint._stop.release()

    with pytest.raises(InputError, match="resume with the model that was trained"):
        fit(model, Checkpoint(folder, **quiet))
    with pytest.raises(InputError, match="other callbacks"):
        fit(resuming.tiny_model(), Checkpoint(folder, **quiet))
    with pytest.raises(InputError, match="give Checkpoint the source"):
        Checkpoint(folder)
    with pytest.raises(InputError, match="it belongs to another run"):
        Checkpoint(folder, run="other", **quiet)
    shutil.rmtree(folder)
    resuming.run(tmp_path, epochs=1)
    with pytest.raises(InputError, match="give fit initial_epoch="):
        resuming.run(tmp_path, initial_epoch=0)


class Scale(keras.layers.Layer):
    """A layer whose weight has no name but a number."""

    def build(self, input_shape):
        self.scale = self.add_weight(input_shape[1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


def test_a_model_that_is_built_again_in_one_process_goes_on(tmp_path):
    """As in a notebook whose cell is run twice: Keras numbers the names anew."""

    def fit(folder, epochs):
        resuming.backend.set_seed(0)
        source, _ = resuming.sources()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        layers = [keras.layers.Dense(4), Scale(), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile("adam", loss)
        checkpoint = Checkpoint(folder, source=source, console=Console(quiet=True))
        try:
            model.fit(
                source,
                initial_epoch=checkpoint.initial_epoch,
                epochs=epochs,
                callbacks=[checkpoint],
                verbose=0,
            )
        finally:
            checkpoint._stop.release()
        return [w.tobytes() for w in model.get_weights()]

    expected = fit(tmp_path / "a", 3)
    fit(tmp_path / "b", 2)
    assert fit(tmp_path / "b", 3) == expected


@pytest.mark.parametrize(
    ("names", "width", "optimizer"),
    [
        (("b", "a"), 4, keras.optimizers.Adam),
        (("a", "b"), 5, keras.optimizers.Adam),
        (("a", "b"), 4, lambda: keras.optimizers.RMSprop(momentum=0.9)),
        (("a", "b"), 4, keras.optimizers.Adamax),
    ],
    ids=["order", "shapes", "slots in another order", "slots"],
)
def test_slots_of_another_optimizer_are_refused(names, width, optimizer):
    def slots(names, width, optimizer):
        layers = [keras.layers.Dense(width, name=name) for name in names]
        model = keras.Sequential([keras.Input((width,)), *layers])
        optimizer.build(model.trainable_variables)
        return optimizer.variables

    stored = read_variables("o", slots(("a", "b"), 4, keras.optimizers.Adam()))
    write_variables("o", slots(("a", "b"), 4, keras.optimizers.Adam()), *stored)
    with pytest.raises(InputError, match="resume with the model that was trained"):
        write_variables("o", slots(names, width, optimizer()), *stored)


def test_other_data_go_on_from_the_end_of_an_epoch(tmp_path):
    (x, y), out = resuming.tiny_data(), io.StringIO()

    def fit(folder, epochs):
        keras.utils.clear_session(free_memory=False)
        resuming.backend.set_seed(0)
        model = resuming.tiny_model()
        checkpoint = Checkpoint(folder, every_steps=1, console=Console(file=out))
        history = model.fit(
            x,
            y,
            epochs=epochs,
            initial_epoch=checkpoint.initial_epoch,
            shuffle=False,
            callbacks=[checkpoint],
            verbose=0,
        )
        return history.history, [w.tobytes() for w in model.get_weights()]

    expected = fit(tmp_path / "a", 4)
    fit(tmp_path / "b", 2)
    assert fit(tmp_path / "b", 4) == expected
    assert out.getvalue().count("goes on from the end of an epoch") == 3


def test_states_come_back_as_they_were_given():
    weights = [np.arange(3.0), np.float32([[np.nan]])]
    state = {
        "best": -math.inf,
        "weights": weights,
        "wait": 2,
        "nothing": None,
        "s": "ü",
    }
    arrays = {}
    found = join(split(state, "callback", arrays), arrays)
    np.testing.assert_equal(found, state)
    with pytest.raises(TypeError, match="cannot hold a set"):
        split({"names": {1}}, "callback", arrays)


def test_the_newest_save_wins_and_errors_are_raised_in_the_end():
    writer, done = Writer(), []
    gate = [True]

    def slow():
        while gate:
            pass
        done.append("slow")

    writer.submit(slow)
    while writer._waiting:
        pass
    writer.submit(lambda: done.append("never"))
    writer.submit(lambda: done.append("newest"))
    gate.clear()
    writer.flush()
    assert done == ["slow", "newest"]
    writer.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.flush()
    writer.flush()


def test_the_last_three_and_the_best_stay(tmp_path):
    store = Store(tmp_path)
    for step, score in enumerate([3.0, 1.0, None, 2.0, 2.0, 2.0, None]):
        store.write(step_name(step), Saved({"step": step}, {}), score=score)
    names = [step_name(step) for step in (1, 4, 5, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    again = Store(tmp_path)
    assert again.newest().state["step"] == 6
    again.write(step_name(7), Saved({"step": 7}, {}))
    names = [step_name(step) for step in (1, 5, 6, 7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert again.final() is None
    again.write("final", Saved({"step": 8}, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert again.final().state["step"] == 8


@pytest.mark.parametrize("batch", [3, STEPS - 1])
def test_a_handler_that_returns_lets_the_training_go_on(batch, uninterrupted, tmp_path):
    came = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    send = Send(signal.SIGTERM, batch)
    assert resuming.run(tmp_path, before=[send], every_steps=None) == uninterrupted
    assert came == [signal.SIGTERM]
    assert (tmp_path / "checkpoints" / step_name(STEPS + batch + 1)).is_dir()


def test_each_signal_to_a_handler_that_returns_is_a_save(uninterrupted, tmp_path):
    came = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    sends = [Send(signal.SIGTERM, 1), Send(signal.SIGTERM, 3)]
    assert resuming.run(tmp_path, before=sends, every_steps=None) == uninterrupted
    assert came == [signal.SIGTERM] * 2
    for batch in (1, 3):
        assert (tmp_path / "checkpoints" / step_name(STEPS + batch + 1)).is_dir()


@pytest.mark.parametrize("batch", [3, STEPS - 1])
def test_a_handler_that_ends_the_training_loses_nothing(batch, uninterrupted, tmp_path):
    def end(*_):
        send.model.stop_training = True

    signal.signal(signal.SIGTERM, end)
    send = Send(signal.SIGTERM, batch)
    cut = resuming.run(tmp_path, before=[send], every_steps=None)
    assert len(cut["history"]["loss"]) == 2
    assert resuming.run(tmp_path) == uninterrupted


def test_signals_are_not_caught_after_a_training_that_failed(tmp_path):
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert signal.getsignal(signal.SIGINT) not in before
            raise ZeroDivisionError

    came = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    (source, _), model = resuming.sources(), resuming.tiny_model()
    for failed in range(2):  # the second catches what the first has left
        checkpoint = Checkpoint(
            tmp_path / str(failed), source=source, console=Console(quiet=True)
        )
        with pytest.raises(ZeroDivisionError):
            model.fit(source, callbacks=[Fail(), checkpoint], verbose=0)
    signal.raise_signal(signal.SIGTERM)
    assert came == [signal.SIGTERM]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
