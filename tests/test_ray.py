"""Ray Train: the program of docs/scaling.md on a local cluster."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import kerasdl

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the program is of PyTorch"
)
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
# Without dropout, so that there is one result to reach.
QUICK = {
    "data": "sample",
    "epochs": 2,
    "max_examples": 400,
    "arguments": {"dropout": 0.0, "word_dropout": 0.0},
}


def test_the_program_of_the_page_trains_as_one_process_does(tmp_path):
    pytest.importorskip("ray")
    program = re.search(r"### Ray Train.*?```python\n(.*?)```", PAGE.read_text(), re.S)[
        1
    ]
    changes = {
        "/runs/": f"{tmp_path}/",
        'data="sample", epochs=3': ", ".join(f"{k}={v!r}" for k, v in QUICK.items()),
    }
    for old, new in changes.items():
        assert old in program
        program = program.replace(old, new)
    (tmp_path / "program.py").write_text(program)
    subprocess.run(
        [sys.executable, tmp_path / "program.py"],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        check=True,
        timeout=1600,
    )
    recipe = kerasdl.Recipe(build="text_cnn", **QUICK)
    alone = kerasdl.train(recipe, out=tmp_path / "alone")
    found = json.loads((tmp_path / "texts" / "metrics.json").read_text())
    for name in ("accuracy", "log_loss"):
        assert found[name] == pytest.approx(alone.metrics[name], abs=1e-4)
    assert kerasdl.load(tmp_path / "texts")(["A quiet, moving film."])
