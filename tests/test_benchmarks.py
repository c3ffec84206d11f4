"""The scripts that time kerasdl beside raw frameworks run, in their quick form."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BACKEND = keras.backend.backend()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (("throughput.py", "--workloads", "mlp"), "jax"),
        (("forward.py",), "torch"),
        (("fixed_cost.py",), "tensorflow"),
    ],
)
def test_a_quick_run_measures(command, needs):
    pytest.importorskip(needs)
    results = {path: path.read_bytes() for path in BENCHMARKS.glob("results/*.json")}
    script, *options = command
    path = str(BENCHMARKS / script)
    done = subprocess.run(
        [sys.executable, path, "--quick", "--backends", BACKEND, *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    for row in rows if isinstance(rows, list) else [rows]:
        assert row["backend"] == BACKEND
        assert row.get("ratio", 1) > 0
    assert results == {path: path.read_bytes() for path in results}  # kept as they were
