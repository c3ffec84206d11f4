"""Speed, memory, and what TensorBoard would show, with plain `model.fit`."""

import os
import struct
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image
from test_training import NGRAM, make_texts, write_tsv

import kerasdl
from kerasdl.absent import absent
from kerasdl.backend import device_memory
from kerasdl.callbacks import Meter, TensorBoard, standard_callbacks
from kerasdl.errors import InputError

X = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
Y = X[:, :1] * 2


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="out")])
    model.compile("sgd", "mean_squared_error")
    return model


class Clock(keras.callbacks.Callback):
    """Stands in for `time`, and goes on in every batch, and more after an epoch."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def on_train_batch_begin(self, batch, logs=None):
        self.now += 0.02

    def on_test_begin(self, logs=None):
        self.now += 0.5


def test_the_meter_counts_the_time_of_training_alone(model, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("kerasdl.callbacks.meter.time", clock)
    history = model.fit(
        *(X, Y),
        batch_size=16,
        epochs=3,
        validation_data=(X, Y),
        callbacks=[clock, Meter(len(X))],
        verbose=0,
    ).history
    # Four batches of 0.02 s; with validation it would be 110.
    assert history["examples_per_second"] == pytest.approx([64 / 0.08] * 3)
    assert 20 < history["memory_mb"][0] <= history["memory_mb"][-1] < 1e6
    assert ("device_memory_mb" in history) == (device_memory() is not None)


def test_the_meter_knows_a_part_of_an_epoch():
    meter = Meter(64)
    meter.set_params({"steps": 4})
    meter.on_epoch_begin(0)
    for batch in (2, 3):
        time.sleep(0.05)
        meter.on_train_batch_end(batch)
    logs = {}
    meter.on_epoch_end(0, logs)
    assert 32 / 0.3 < logs["examples_per_second"] <= 32 / 0.1


def events(folder):
    """Yield (step, tag, value) from event files, read by their format."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                yield event.step, value.tag, value


def test_curves_histograms_and_plots(model, tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path / "board", histograms_every=2)
    history = model.fit(
        *(X, Y), epochs=3, validation_data=(X, Y), callbacks=[board], verbose=0
    ).history
    (tmp_path / "plots").mkdir()
    Image.fromarray(np.full((4, 6, 3), 7, "uint8")).save(tmp_path / "plots" / "a.png")
    board.add_plots(tmp_path / "plots", epoch=3)
    training = list(events(tmp_path / "board" / "training"))
    validation = list(events(tmp_path / "board" / "validation"))
    for found, name in ((training, "loss"), (validation, "val_loss")):
        curve = [
            (step, value.simple_value)
            for step, tag, value in found
            if tag == "epoch/loss"
        ]
        assert [step for step, _ in curve] == [1, 2, 3]
        np.testing.assert_allclose([y for _, y in curve], history[name], rtol=1e-6)
    (histogram,) = (v for _, tag, v in training if tag.endswith("out/kernel"))
    assert histogram.histo.num == 3
    steps = [step for step, tag, _ in training if tag.endswith("out/kernel")]
    assert steps == [2]
    (picture,) = (value.image for _, tag, value in training if tag == "plots/a")
    assert (picture.height, picture.width) == (4, 6)


def test_weights_that_are_no_numbers_have_no_histogram(model, tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path)
    board.set_model(model)
    model.layers[0].bias.assign([np.nan])
    board.on_epoch_end(0, {"loss": float("nan")})
    board.close()
    tags = {tag for _, tag, _ in events(tmp_path / "training")}
    assert tags == {"epoch/loss", f"weights/{model.layers[0].kernel.path}"}


def test_the_usual_set_can_have_both(model, tmp_path):
    pytest.importorskip("tensorboardX")
    callbacks = standard_callbacks(tmp_path, examples=len(X), tensorboard=True)
    model.fit(X, Y, validation_data=(X, Y), callbacks=callbacks, verbose=0)
    assert "examples_per_second" in (tmp_path / "history.csv").read_text()
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {
        "training",
        "validation",
    }


def test_without_the_extra_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    with absent("tensorboardX"), pytest.raises(InputError, match=r"kerasdl\[tensorb"):
        TensorBoard(tmp_path)


def test_a_run_has_curves_speed_and_plots_if_it_is_asked_for_them(tmp_path):
    pytest.importorskip("tensorboardX")
    data = write_tsv(tmp_path / "data.tsv", make_texts(240))
    out = tmp_path / "run"
    run = kerasdl.train(replace(NGRAM, data=data), out=out, tensorboard=True)
    training = list(events(out / "tensorboard" / "training"))
    rates = [value.simple_value for _, tag, value in training if tag == "epoch/loss"]
    np.testing.assert_allclose(rates, run.history["loss"], rtol=1e-6)
    tags = {tag for _, tag, _ in training}
    assert {
        "epoch/examples_per_second",
        "epoch/memory_mb",
        "plots/learning_curves",
    } <= tags
    assert list(events(out / "tensorboard" / "validation"))
    # What is measured anew each time would make no two histories alike.
    assert not {"examples_per_second", "memory_mb"} & set(run.history)


def test_a_run_that_cannot_have_them_is_refused_before_it_begins(
    refused, tmp_path, monkeypatch
):
    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    command = ("sentiment", "train", "--tensorboard", "--out", tmp_path / "run")
    with absent("tensorboardX"):
        refused(*command, words=["pip install 'kerasdl[tensorboard]'"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_no_other_backend_is_imported(tmp_path):
    pytest.importorskip("tensorboardX")
    code = (
        "import sys, keras, numpy as np\n"
        "from kerasdl.callbacks import TensorBoard\n"
        "model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])\n"
        "model.compile('sgd', 'mse')\n"
        "x = np.ones((4, 1), 'float32')\n"
        f"model.fit(x, x, callbacks=[TensorBoard({str(tmp_path)!r})], verbose=0)\n"
        "print(*sys.modules)"
    )
    root = os.path.dirname(kerasdl.__path__[0])
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    loaded = set(process.stdout.splitlines()[-1].split())
    others = {"tensorflow", "torch"} - {keras.backend.backend()}
    assert not loaded & others, loaded & others
