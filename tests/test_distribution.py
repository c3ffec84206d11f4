"""Many devices train as one does, step for step, on each backend."""

import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import replicas

import kerasdl
from kerasdl.backend.parts import bounds
from kerasdl.distribution import STRATEGIES, Distribution, current, distribute

pytestmark = pytest.mark.usefixtures("full_compilation_of_module")

SCRIPT = Path(replicas.__file__)
BACKEND = keras.backend.backend()


def run(action, devices, out, *arguments, processes=BACKEND == "torch"):
    """Do something on some devices; return the exit code and what was said."""
    command = [sys.executable, str(SCRIPT), action, str(devices), str(out), *arguments]
    if processes and devices > 1:
        launch = [sys.executable, "-m", "kerasdl_apps", "launch"]
        command = [*launch, "--nproc", str(devices), "--", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, done.stdout + done.stderr


def result(action, devices, out, *arguments, **options):
    code, said = run(action, devices, out, *arguments, **options)
    assert code == 0, said
    return json.loads(out.read_text(encoding="utf-8"))


def assert_alike(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.fixture(scope="module")
def alone(full_compilation_of_module):  # noqa: ARG001 - as the other devices
    return replicas.losses(Distribution())


@pytest.mark.slow
def test_each_step_is_that_of_one_device(alone, tmp_path):
    found = result("losses", 2, tmp_path / "out.json")
    for name, expected in alone.items():
        assert_alike(found[name], expected)


@pytest.mark.slow
def test_replicas_without_an_example_count_for_nothing(alone, tmp_path):
    found = result("losses", 4, tmp_path / "out.json", "normed-one")
    assert_alike(found["normed-one"], alone["normed-one"])


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere processes are the only devices")
def test_processes_are_devices_as_well(alone, tmp_path):
    found = result("losses", 2, tmp_path / "out.json", "normed", processes=True)
    assert_alike(found["normed"], alone["normed"])


@pytest.mark.skipif(BACKEND != "jax", reason="others refuse it")
def test_a_model_in_parts_trains_as_a_whole_one(alone, tmp_path, monkeypatch):
    monkeypatch.setenv("STRATEGY", "model_parallel")
    found = result("losses", 2, tmp_path / "out.json", "transformer")
    assert_alike(found["transformer"], alone["transformer"])


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_replicas(tmp_path):
    whole = replicas.fit(Distribution(), *replicas.CASES["normed"], epochs=3)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    found = [
        result("resume", devices, tmp_path / "out.json", str(folder), str(epochs))
        for epochs, devices in ((1, 2), (2, 1), (3, 4))
    ]
    steps = [loss for part in found for loss in part["losses"]]
    np.testing.assert_allclose(steps, whole["losses"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[-1]["weights"], whole["weights"], rtol=1e-5)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it trains in one process")
def test_a_killed_process_ends_the_others(tmp_path):
    start = time.monotonic()
    code, said = run("die", 2, tmp_path / "out.json", processes=True)
    assert code == 137
    assert "process 1" in said or "worker 1" in said
    assert time.monotonic() - start < 60
    assert not (tmp_path / "out.json").exists()


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it trains in one process")
def test_all_processes_go_back_from_a_bad_batch_that_the_chief_saves(tmp_path):
    found = result("spoil", 2, tmp_path / "out.json", str(tmp_path), processes=True)
    assert found["said"].count("the loss is not finite") == 2  # once in each epoch
    assert len(found["val_loss"]) == 2
    assert np.isfinite(found["val_loss"]).all()


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it trains in one process")
def test_processes_that_would_train_something_else_are_refused(tmp_path):
    code, said = run("differ", 2, tmp_path / "out.json", processes=True)
    assert code == 1
    assert "process 1 has another recipe than process 0: epochs is 1, not 0" in said


@pytest.mark.backend_free
def test_every_row_is_computed_by_one_replica():
    for count in range(40):
        for number in range(1, 9):
            parts = [range(*bounds(count, place, number)) for place in range(number)]
            assert [row for part in parts for row in part] == list(range(count))
            sizes = {len(part) for part in parts}
            assert max(sizes) - min(sizes) <= 1


def test_the_block_is_the_current_distribution():
    assert current().devices == 1
    with distribute("data_parallel", devices=1) as distribution:
        assert current() is distribution
        assert distribution.is_chief
    assert current() is not distribution


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_strategy_of_other_backends_says_where_it_runs(strategy):
    if BACKEND in STRATEGIES[strategy]:
        pytest.skip("it is one of this backend")
    with pytest.raises(kerasdl.InputError, match=f"{STRATEGIES[strategy][0]}.*not"):
        distribute(strategy)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"strategy": "data_paralel"}, "data_parallel"),
        ({"devices": 0}, "devices=0"),
    ],
)
def test_bad_arguments_are_named(arguments, sentence):
    with pytest.raises(kerasdl.InputError, match=sentence):
        distribute(**arguments)


def test_devices_that_come_too_late_are_refused():
    keras.ops.ones(3) + 1  # the devices are taken up
    sentence = "launch" if BACKEND == "torch" else "call distribute first"
    with pytest.raises(kerasdl.InputError, match=sentence):
        distribute(devices=64)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others train in many processes")
def test_tensorflow_refuses_many_processes(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(kerasdl.InputError, match="jax or torch"):
        distribute()


def test_a_batch_must_divide():
    with pytest.raises(kerasdl.InputError, match=r"batch of 10 .* 4 replicas.* 8"):
        Distribution(devices=4).check_batch_size(10)


def test_what_trains_is_said():
    line = Distribution(devices=4, processes=2).describe(64, 1e-3)
    assert "4 devices in 2 processes" in line
    assert "64, 16 a replica" in line
    assert "0.001" in line
