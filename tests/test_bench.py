"""`kerasdl bench` and `train --backend auto`: measured, stored, chosen, taken."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasdl import machine
from kerasdl.bench import choice, speed, stored, trials
from kerasdl.bench.examples import NGRAMS, random_examples
from kerasdl.bench.speed import Speed
from kerasdl.errors import InputError
from kerasdl_apps import (
    bench_command,
    cli,
    images,
    images_commands,
    options,
    sentiment,
    sentiment_commands,
    tabular,
    training,
)

BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder of Keras's own, so that the user's results are neither read nor lost."""
    folder = tmp_path / "keras"
    monkeypatch.setenv("KERAS_HOME", str(folder))
    return folder


def measured(backend="jax", precision="float32", rate=100.0, **changes):
    """Return a speed as if it had been measured here and now, for images' default."""
    fields = {
        "app": "images",
        "model": "cnn",
        "settings": speed.settings_of(images.recipe()),
        "backend": backend,
        "precision": precision,
        "per_second": (rate, 0.98 * rate, 1.02 * rate),
        "start_up": 5.0,
        "device": "CPU",
        "machine": machine.machine(),
        "versions": speed.versions(backend),
        "measured": "2026-01-31 12:00",
    }
    return Speed(**{**fields, **changes})


@pytest.fixture
def all_installed(monkeypatch):
    """Let every backend count as installed, whatever is."""
    for module in (stored, bench_command, options):
        monkeypatch.setattr(module, "is_installed", lambda _: True)


# What is chosen.


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("jax", "float32", 100, 9)], ("jax", "float32")),
        (
            [("jax", "float32", 100, 9), ("torch", "float32", 200, 9)],
            ("torch", "float32"),
        ),
        # As good as equally fast: what starts sooner.
        (
            [("jax", "float32", 100, 9), ("torch", "float32", 96, 4)],
            ("torch", "float32"),
        ),
        ([("jax", "float32", 100, 9), ("torch", "float32", 94, 4)], ("jax", "float32")),
        # 16 bits must be 1.1 times as fast as the best of float32, whichever it is.
        (
            [("jax", "float32", 100, 9), ("torch", "mixed_bfloat16", 109, 9)],
            ("jax", "float32"),
        ),
        (
            [("jax", "float32", 100, 9), ("torch", "mixed_bfloat16", 111, 9)],
            ("torch", "mixed_bfloat16"),
        ),
        ([("jax", "mixed_bfloat16", 7, 9)], ("jax", "mixed_bfloat16")),
    ],
)
def test_choice(rows, expected):
    rows = [
        measured(backend, precision, rate, start_up=start_up)
        for backend, precision, rate, start_up in rows
    ]
    for order in (rows, rows[::-1]):
        chosen = choice.choose(order).speed
        assert (chosen.backend, chosen.precision) == expected


@pytest.mark.backend_free
def test_choice_says_below_how_many_examples_another_is_done_first():
    slow = measured("torch", rate=100, start_up=4)
    fast = measured("jax", rate=300, start_up=14)
    reason = choice.choose([slow, fast]).reason
    assert "jax in float32: 300 examples/s, 3.00 times as fast as torch" in reason
    assert "torch in float32 is done first: it starts 10 s sooner" in reason
    count = float(reason.partition("Up to about ")[2].split()[0].replace(",", ""))
    totals = [row.start_up + count / row.rate for row in (slow, fast)]
    assert totals[0] == pytest.approx(totals[1], rel=0.1)
    assert "overlap" not in reason


@pytest.mark.backend_free
def test_choice_says_when_noise_may_have_decided():
    noisy = measured("torch", per_second=(80, 100, 160))
    reason = choice.choose([noisy, measured("jax", rate=150)]).reason
    assert "rounds overlap" in reason


# Where it is stored.


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend", "numpy"),
        ("precision", "auto"),
        ("per_second", []),
        ("per_second", [0]),
        ("per_second", [True]),
        ("per_second", ["fast"]),
        ("per_second", [1] * 2000),
        ("per_second", 5),
        ("start_up", -1),
        ("machine", 5),
        ("measured", "2026-01-31 12:00\x1b[2J"),
        ("versions", []),
        ("settings", None),
    ],
)
def test_a_stored_row_that_is_none_is_refused(field, value):
    content = json.loads(json.dumps(measured().to_json()))
    assert Speed.from_json(content) == measured()
    with pytest.raises(ValueError, match=field):
        Speed.from_json({**content, field: value})


@pytest.mark.backend_free
def test_a_measurement_takes_the_place_of_an_earlier_one_of_the_same():
    other = measured("torch")
    elsewhere = measured(machine="another")
    stored.write(stored.merged([measured(rate=1), other, elsewhere]))
    stored.write(stored.merged([measured(rate=2)]))
    assert stored.read() == [other, elsewhere, measured(rate=2)]


@pytest.mark.backend_free
@pytest.mark.usefixtures("all_installed")
def test_what_does_not_hold_here_and_now_is_left_out():
    settings = speed.settings_of(images.recipe())
    holds = measured()
    rows = [
        holds,
        measured("torch", machine="a bigger one"),
        measured("tensorflow", versions={**speed.versions("tensorflow"), "keras": "2"}),
        measured("torch", settings={**settings, "batch_size": 7}),
    ]
    found, doubts = stored.find(rows, settings)
    assert found == [holds]
    assert doubts == [
        "measured on another machine (a bigger one)",
        f"measured with keras 2, now {keras.__version__}",
    ]


@pytest.mark.backend_free
def test_a_backend_that_is_gone_is_left_out(monkeypatch):
    monkeypatch.setattr(stored, "is_installed", lambda name: name != "jax")
    settings = speed.settings_of(images.recipe())
    _, doubts = stored.find([measured()], settings)
    assert doubts == ["jax is no longer installed"]


@pytest.mark.backend_free
def test_the_machine_has_the_gpus_that_are_not_hidden(tmp_path, monkeypatch):
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        text = "Model: \t\t NVIDIA H100\nIRQ: 5\n"
        (tmp_path / f"{number}" / "information").write_text(text)
    monkeypatch.setattr(machine, "NVIDIA", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.machine().endswith(" cores, NVIDIA H100, NVIDIA H100")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.machine().endswith(" cores")


# What is measured.


def test_random_texts_have_the_shape_of_reviews():
    encoder, inputs, data = random_examples(sentiment.recipe(), 400)
    tokens, ngrams = inputs["tokens"], inputs["ngrams"]
    assert len(tokens) == len(ngrams) == len(data) == 400
    assert 170 < np.median(tokens.lengths) < 230
    assert tokens.lengths.max() == 400
    assert 1 <= tokens.values.min() <= tokens.values.max() < 40_000
    assert ngrams.values.max() < encoder.sizes["num_ngrams"] == NGRAMS
    # Zipf: half of the draws lie below the square root of the number of words.
    assert np.mean(tokens.values < 200) == pytest.approx(0.5, abs=0.02)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("recipe", "inputs", "shape"),
    [
        (sentiment.recipe("text_cnn"), {"tokens"}, None),
        (sentiment.recipe("ngram_classifier"), {"ngrams"}, None),
        (images.recipe(), {"image"}, (28, 28, 1)),
        (images.recipe(image_size=40), {"image"}, (40, 40, 3)),
        (tabular.recipe("", ""), {"features"}, (16 + 4 * 5,)),
    ],
)
def test_random_examples_fit_each_recipe(recipe, inputs, shape):
    encoder, found, data = random_examples(recipe, 100)
    assert set(found) == inputs
    assert set(encoder.encode(encoder.no_examples)) == inputs
    assert len(data) == len(found[inputs.pop()]) == 100
    if shape:
        assert encoder.sizes["input_shape"] == shape


def test_the_steps_count_and_validation_does_not(monkeypatch):
    from kerasdl.bench import measuring

    rows = measuring.BatchSource.rows

    def slow(self, index):
        time.sleep(0.02 if self.seed is not None else 0.4)
        return rows(self, index)

    monkeypatch.setattr(measuring.BatchSource, "rows", slow)
    recipe = tabular.recipe("", "", batch_size=8)
    found = measuring.measure(recipe, seconds=0.01, began=time.time() - 100)
    # Four steps take longer than all rounds shall.
    assert len(found["per_second"]) == measuring.FEWEST_ROUNDS
    steps = measuring.FEWEST_STEPS
    assert 8 * steps / (0.02 * steps + 0.4) < max(found["per_second"]) < 8 / 0.02
    assert 100 < found["start_up"] < 400


def test_epochs_grow_until_they_are_long_enough(monkeypatch):
    from kerasdl.bench import measuring

    batches = []

    def run(*arguments, **_):
        clock, source = measuring.Clock(1), arguments[2]
        batches.append(source.batches_per_epoch)
        # A tenth of a second, whatever the number of steps.
        clock.seconds = [9.0, 0.1 + 1e-3 * batches[-1]]
        clock.ends = [time.perf_counter() + 9]
        return clock

    monkeypatch.setattr(measuring, "_run", run)
    recipe = tabular.recipe("", "", batch_size=10)
    found = measuring.measure(recipe, seconds=5, began=time.time())
    assert batches[:2] == [measuring.FEWEST_STEPS, 8 * measuring.FEWEST_STEPS]
    assert batches[-1] == batches[-2]
    assert 0.5 < 0.1 + 1e-3 * batches[-1] <= 1
    assert found["per_second"] == [
        pytest.approx(10 * batches[-1] / (0.1 + 1e-3 * batches[-1]), rel=1e-3)
    ]


def test_bfloat16_is_left_out_where_the_device_has_none(monkeypatch):
    from kerasdl.bench import measuring

    monkeypatch.setattr(measuring, "has_bfloat16", lambda _: False)
    recipe = tabular.recipe("", "", precision="mixed_bfloat16")
    with pytest.raises(InputError, match="no instructions for bfloat16"):
        measuring.measure(recipe, seconds=1, began=time.time())


TRAIN = """
import sys
from kerasdl_apps import cli, options, tabular_commands

def train_recipe(recipe, **_):
    options.load_backend()
    from keras import backend
    print(backend.backend())

tabular_commands.train_recipe = train_recipe
sys.argv = ["kerasdl", "tabular", "train", "--data", "a.csv", "--target", "y"]
sys.argv += ["--backend", "auto"]
cli.main()
"""


@pytest.mark.slow
def test_bench_measures_and_train_takes_what_it_found(run_cli, home):
    code, out, err = run_cli(
        *("bench", "tabular", "--backends", BACKEND, "--precisions", "float32"),
        *("--seconds", 0.01, "--json"),
    )
    assert code == 0, err
    found = json.loads(out)
    assert (found["backend"], found["precision"]) == (BACKEND, "float32")
    assert found["machine"] == machine.machine()
    [row] = found["speeds"]
    assert len(row["per_second"]) in (3, 4, 5)
    assert err.startswith(f"{BACKEND} in float32: ")
    assert (home / "kerasdl-bench.json").is_file()
    # In a process that has not imported Keras, and would take another backend.
    other = "jax" if BACKEND != "jax" else "torch"
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        env={**os.environ, "KERAS_BACKEND": other},
        capture_output=True,
        check=True,
        text=True,
        timeout=900,
    )
    assert done.stdout == f"{BACKEND}\n"
    assert done.stderr.startswith(f"backend: {BACKEND} in float32, ")


# Trials that fail.


@contextlib.contextmanager
def python_that(script, folder, monkeypatch):
    """Put a program in the place of the interpreter that trials start."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(trials.sys, "executable", str(program))
    yield
    monkeypatch.undo()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -9 $$", "killed by signal 9, perhaps for lack of memory"),
        ("echo all is lost >&2; exit 3", "exit code 3: all is lost"),
        ("""echo '{"failed": "no luck"}'""", "no luck"),
        ("exec sleep 60", "not done in 1 s"),
    ],
)
def test_a_trial_that_fails_says_how(script, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "BESIDES", 0.8)
    recipe = tabular.recipe("", "")
    with (
        python_that(script, tmp_path, monkeypatch),
        pytest.raises(trials.NoResultError, match=reason) as error,
    ):
        trials.measure(
            recipe, "jax", "float32", app="tabular", model="mlp", seconds=0.01
        )
    assert error.value.is_failure


@pytest.mark.backend_free
def test_a_signal_at_the_start_of_a_trial_leaves_no_process(monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def _execute_child(self, *arguments):
            super()._execute_child(*arguments)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        trials.measure(
            tabular.recipe("", ""), "jax", "float32", app="", model="", seconds=9
        )
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.backend_free
@pytest.mark.usefixtures("all_installed")
def test_one_that_fails_does_not_stop_the_others(run_cli, monkeypatch):
    def found(recipe, backend, _):
        if backend == "jax":
            return {"failed": "RuntimeError: broken\n\x1b[2J"}
        if recipe.precision != "float32":
            return {"skipped": "no instructions for bfloat16"}
        rate = {"tensorflow": 50.0, "torch": 75.0}[backend]
        return {"per_second": [rate], "start_up": 3.0, "device": "CPU"}

    monkeypatch.setattr(trials, "_found", found)
    code, out, err = run_cli("bench", "images")
    assert code == 1
    assert "jax in float32: failed: RuntimeError: broken" in err
    assert "\x1b" not in err
    assert "torch in mixed_bfloat16: left out: no instructions" in err
    head, columns, *rows, reason = out.splitlines()
    assert head.startswith("images cnn, batches of 128, ")
    assert columns.startswith("backend\tprecision\texamples/s")
    assert [row.split("\t")[:3] for row in rows] == [
        ["tensorflow", "float32", "50"],
        ["torch", "float32", "75"],
    ]
    assert reason.startswith("Take torch in float32: 75 examples/s, 1.50 times as fast")


@pytest.mark.backend_free
@pytest.mark.usefixtures("all_installed")
def test_what_was_measured_before_an_end_is_stored(run_cli, monkeypatch):
    def found(_, backend, __):
        if backend == "jax":
            raise cli.Ended(130)
        return {"per_second": [50.0], "start_up": 3.0, "device": "CPU"}

    monkeypatch.setattr(trials, "_found", found)
    assert run_cli("bench", "images", "--precisions", "float32")[0] == 130
    assert [row.backend for row in stored.read()] == ["tensorflow"]


@pytest.mark.backend_free
@pytest.mark.usefixtures("all_installed")
def test_a_later_bench_is_seen_beside_an_earlier_one(run_cli, monkeypatch):
    stored.write([measured("torch", rate=500)])
    result = {"per_second": [50.0], "start_up": 3.0, "device": "CPU"}
    monkeypatch.setattr(trials, "_found", lambda *_: result)
    arguments = ("--backends", "jax", "--precisions", "float32", "--json")
    code, out, err = run_cli("bench", "images", *arguments)
    assert code == 0, err
    found = json.loads(out)
    assert [row["backend"] for row in found["speeds"]] == ["torch", "jax"]
    assert found["backend"] == "torch"
    code, out, err = run_cli("bench", "images", *arguments[:-1])
    assert "\ntorch in float32: of 2026-01-31 12:00\n" in out
    assert "jax in float32: of" not in out


@pytest.mark.backend_free
@pytest.mark.parametrize("damage", ["no JSON", '{"format": 2}', "[]"])
@pytest.mark.usefixtures("all_installed")
def test_a_result_that_cannot_be_stored_is_shown(damage, run_cli, monkeypatch, home):
    result = {"per_second": [50.0], "start_up": 3.0, "device": "CPU"}
    monkeypatch.setattr(trials, "_found", lambda *_: result)
    home.mkdir()
    (home / stored.FILE).write_text(damage)
    arguments = ("bench", "images", "--backends", "jax", "--precisions", "float32")
    assert run_cli(*arguments)[0] == 0
    assert [row.backend for row in stored.read()] == ["jax"]  # what was damaged is gone
    home.joinpath(stored.FILE).unlink()
    home.rmdir()
    home.write_text("a file")
    code, out, err = run_cli(*arguments)
    assert code == 0
    assert "Only this was measured: jax in float32" in out
    assert "not stored for --backend auto: " in err


@pytest.mark.backend_free
def test_what_is_not_installed_is_named_and_left_out(run_cli, monkeypatch):
    monkeypatch.setattr(
        bench_command, "is_installed", lambda name: name == "tensorflow"
    )
    result = {"per_second": [50.0], "start_up": 3.0, "device": "CPU"}
    monkeypatch.setattr(trials, "_found", lambda *_: result)
    code, out, err = run_cli("bench", "--precisions", "float32")
    assert code == 0
    assert "jax is not installed: pip install 'kerasdl[jax]'" in err
    assert "Only this was measured: tensorflow" in out
    monkeypatch.setattr(bench_command, "is_installed", lambda _: False)
    code, out, err = run_cli("bench", "--backends", "torch,jax")
    assert (code, out) == (2, "")
    assert "error: torch, jax: not installed" in err


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["image"], ["image", "did you mean 'images'"]),
        (["--backends", "tensorflow,jaxx"], ["jaxx", "did you mean 'jax'"]),
        (["--backends", ""], ["tensorflow"]),
        (["--precisions", "auto"], ["auto", "float32"]),
        (["--precisions", "bfloat16"], ["did you mean 'mixed_bfloat16'"]),
        (["--model", "resnet"], ["resnet", "text_cnn"]),
        (["tabular", "--model", "cnn"], ["cnn", "mlp"]),
        (["--seconds", "0"], ["--seconds 0", "up to 600"]),
        (["--seconds", "nan"], ["--seconds nan"]),
        (["--seconds", "1e9"], ["--seconds 1e+09"]),
        (["--image-size", "64"], ["only images"]),
        (["images", "--batch-size", "0"], ["batch_size=0"]),
    ],
)
def test_bad_input_is_refused(refused, arguments, words):
    refused("bench", *arguments, words=words)


# What `--backend auto` takes.


@pytest.fixture
def auto(run_cli, monkeypatch, request):
    """Call `images train --backend auto`; return recipe, backend, what was said."""
    request.getfixturevalue("all_installed")
    taken = []

    def train(recipe, **_):
        taken.append(recipe)
        return 0

    monkeypatch.setattr(images_commands, "train_recipe", train)
    monkeypatch.setattr(sentiment_commands, "train_recipe", train)

    def call(*arguments, app="images"):
        monkeypatch.setenv("KERAS_BACKEND", "as before")
        code, out, err = run_cli(app, "train", "--backend", "auto", *arguments)
        assert (code, out) == (0, ""), err
        assert err.count("\n") == 1
        return taken[-1], os.environ["KERAS_BACKEND"], err

    # run_cli has set it to the backend of the tests, and puts it back.
    return call


ROWS = (
    ("tensorflow", "float32", 100),
    ("jax", "float32", 150),
    ("torch", "float32", 90),
    ("torch", "mixed_bfloat16", 300),
)


@pytest.mark.backend_free
def test_auto_takes_backend_and_precision(auto):
    stored.write([measured(*row) for row in ROWS])
    recipe, backend, said = auto()
    assert (backend, recipe.precision) == ("torch", "mixed_bfloat16")
    assert said == (
        "backend: torch in mixed_bfloat16, 300 examples/s by kerasdl bench of "
        "2026-01-31 12:00\n"
    )
    recipe, backend, _ = auto("--precision", "auto")
    assert (backend, recipe.precision) == ("torch", "mixed_bfloat16")


@pytest.mark.backend_free
def test_auto_keeps_a_precision_that_is_asked_for(auto):
    stored.write([measured(*row) for row in ROWS])
    recipe, backend, said = auto("--precision", "float32")
    assert (backend, recipe.precision) == ("jax", "float32")
    assert "jax in float32, 150 examples/s" in said
    recipe, backend, said = auto("--precision", "mixed_float16")
    assert (backend, recipe.precision) == ("as before", "mixed_float16")
    assert "not measured in mixed_float16; `kerasdl bench images" in said


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("app", "arguments", "words"),
    [
        ("images", [], "not measured here; `kerasdl bench images --model cnn"),
        ("images", ["--image-size", 64], "--batch-size 128 --image-size 64` measures"),
        ("images", ["--batch-size", 7], "--model cnn --batch-size 7` measures it"),
        ("sentiment", ["--model", "text_cnn"], "`kerasdl bench sentiment --model text"),
    ],
)
def test_auto_without_a_result_goes_on_and_says_what_measures(
    auto, app, arguments, words
):
    if arguments:
        stored.write([measured()])
    recipe, backend, said = auto(*arguments, app=app)
    assert (backend, recipe.precision) == ("as before", "float32")
    assert said.startswith("backend: as without --backend auto (")
    assert words in said


@pytest.mark.backend_free
def test_auto_says_why_a_result_is_not_taken(auto):
    stored.write([measured(machine="old\x1b[2J one")])
    _, backend, said = auto()
    assert backend == "as before"
    assert "(measured on another machine (old" in said
    assert "\x1b" not in said
    versions = speed.versions("jax")
    older = measured(versions={**versions, "jax": "0.1"})
    stored.write([older, measured("torch")])
    _, backend, said = auto()
    assert backend == "torch"
    assert f"(left out: measured with jax 0.1, now {versions['jax']})" in said


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\x00", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"format": 1}', "is damaged"),
        (b'{"format": 1, "speeds": 5}', "is damaged"),
        (b'{"format": 1, "speeds": [{"backend": "jax"}]}', "is damaged"),
        (b'{"format": 9, "speeds": []}', "another version of kerasdl"),
        (b'{"format": 1, "format": 1}', "stands there twice"),
        (b" " * (stored.LARGEST_FILE + 1), "more than 1,048,576 bytes"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_auto_is_not_taken_in_by_a_damaged_file(auto, home, content, words):
    home.mkdir()
    (home / stored.FILE).write_bytes(content)
    _, backend, said = auto()
    assert backend == "as before"
    assert words in said


@pytest.mark.backend_free
def test_auto_does_not_wait_for_a_pipe(auto, home):
    home.mkdir()
    os.mkfifo(home / stored.FILE)
    assert "is no file" in auto()[2]


@pytest.mark.backend_free
def test_auto_is_refused_where_it_cannot_be_relied_on(refused, monkeypatch):
    train = ("images", "train", "--backend", "auto")
    refused(*train, "--deterministic", words=["--backend auto", "name the backend"])
    refused("images", "evaluate", "x", "--backend", "auto", words=["backend='auto'"])
    variables = {"RANK": "1", "WORLD_SIZE": "2"}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "5000"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused(*train, words=["--backend auto", "one process", "name the backend"])


@pytest.mark.backend_free
def test_auto_resumes_in_the_precision_of_the_run(auto, tmp_path):
    stored.write([measured(*row) for row in ROWS])
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "run.json").write_text('{"run": "1", "data": {}}')
    recipe = images.recipe(precision="float32", seed=5)
    (run / "recipe.json").write_text(json.dumps(recipe.to_json()))
    resumed, backend, said = auto("--resume", run)
    assert resumed == recipe
    assert backend == "jax"  # the fastest in float32
    assert "jax in float32" in said


@pytest.mark.backend_free
@pytest.mark.usefixtures("all_installed")
def test_processes_of_a_training_do_not_choose_again(run_cli, monkeypatch, tmp_path):
    stored.write([measured(*row) for row in ROWS])
    commands = []

    def start(command, **_):
        commands.append(command)
        return 0

    monkeypatch.setattr(training, "load_backend", lambda: None)
    monkeypatch.setattr(training, "_processes", int)
    monkeypatch.setattr(training, "launch", start)
    train = ("images", "train", "--backend", "auto", "--devices", "2")
    assert run_cli(*train, "--out", tmp_path / "run")[0] == 0
    settled = ["--backend", "torch", "--precision", "mixed_bfloat16"]
    assert commands[0][-4:] == settled


def test_fields_of_a_speed_are_plain():
    assert json.loads(json.dumps(measured().to_json())).keys() == {
        field.name for field in dataclasses.fields(Speed)
    }


@pytest.mark.backend_free
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_ctrl_c_ends_a_trial():
    command = [sys.executable, "-c", "from kerasdl_apps.cli import main; main()"]
    with subprocess.Popen(
        [*command, "bench", "tabular", "--backends", BACKEND],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        limit = time.monotonic() + 600
        while not (found := children.read_text().split()):
            assert time.monotonic() < limit
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert (process.returncode, out, err) == (130, "", "error: interrupt\n")
    assert not Path("/proc", found[0]).exists()
