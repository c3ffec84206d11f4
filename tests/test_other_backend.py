"""A training that begins on one backend and goes on upon another."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import resuming

from kerasdl.checkpoint import Store, join
from kerasdl.installed import BACKENDS

BACKEND = keras.backend.backend()
OTHERS = [name for name in BACKENDS if name != BACKEND]
# Dropout draws other numbers on each backend.
EXACT = functools.partial(resuming.tiny_model, dropout=0.0)
# After 11 of 21 steps elsewhere; weights are about 1, and a step changes some by 0.1.
TOLERANCE = 1e-4

RESUME = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import conftest, test_other_backend as test
test.resuming.tiny_model = test.EXACT
test.resuming.run(pathlib.Path(sys.argv[2]), out=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS)
def test_a_training_goes_on_upon_another_backend(other, tmp_path, monkeypatch):
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"needs {other}")
    monkeypatch.setattr(resuming, "tiny_model", EXACT)
    resuming.run(tmp_path / "whole")
    assert resuming.run(tmp_path / "moved", kill=10) is None
    done = subprocess.run(
        [sys.executable, "-c", RESUME, Path(__file__).parent, tmp_path / "moved"],
        env={**os.environ, "KERAS_BACKEND": other},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "resuming after batch 3 of epoch 2 (10 steps)" in done.stderr
    assert f"it was saved on {BACKEND}" in done.stderr
    expected, found = (
        Store(tmp_path / name / "checkpoints").newest() for name in ("whole", "moved")
    )
    assert found.state["backend"] == other
    assert found.state["step"] == expected.state["step"] == 3 * resuming.STEPS
    values, others = (
        {k: v for k, v in one.arrays.items() if k.startswith(("model/", "optimizer/"))}
        for one in (expected, found)
    )
    assert values.keys() == others.keys()
    for name, array in values.items():
        np.testing.assert_allclose(others[name], array, atol=TOLERANCE)
    # Loss and accuracy of the epoch that was cut are those of all its examples.
    logs = [join(one.state["history"], one.arrays) for one in (expected, found)]
    for name in ("loss", "accuracy", "val_loss", "learning_rate"):
        np.testing.assert_allclose(logs[1][name], logs[0][name], atol=TOLERANCE)
