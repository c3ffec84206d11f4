"""What is imported when: help needs no backend, and JAX and torch no TensorFlow."""

import json
import os
import platform
import resource
import subprocess
import sys

import keras
import pytest

BACKEND = keras.backend.backend()
HEAVY = ("keras", "tensorflow", "jax", "torch", "scipy", "sklearn", "numpy", "rich")


def python(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        check=False,
        text=True,
        timeout=900,  # for a child that hangs, however busy the machine
    )


@pytest.mark.backend_free
def test_importing_kerasdl_imports_no_backend():
    done = python(
        "import sys, kerasdl; kerasdl.Recipe, kerasdl.InputError, dir(kerasdl)\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.backend_free
@pytest.mark.skipif(platform.machine() != "x86_64", reason="has other kernels")
@pytest.mark.parametrize(("given", "are_taken"), [("", True), ("0", False)])
def test_tensorflow_takes_its_quicker_kernels_unless_told_not_to(given, are_taken):
    done = python(
        "import os, sys\n"
        "os.environ.pop('TF_ENABLE_ONEDNN_OPTS', None)\n"
        "os.environ |= {'TF_ENABLE_ONEDNN_OPTS': sys.argv[1]} if sys.argv[1] else {}\n"
        "import kerasdl\n"
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'])\n"
        "kerasdl.lr_find\n"
        "from kerasdl.backend import tensorflow_batches\n"
        "print(tensorflow_batches.has_onednn())",
        given,
    )
    assert done.stdout.split() == [given or "1", str(are_taken)], done.stderr


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "arguments",
    [[], ["bench"], ["sentiment"], ["sentiment", "train"], ["sentiment", "predict"]],
)
def test_help_is_quick_and_imports_nothing_heavy(arguments):
    help_of = (
        "import atexit, sys\n"
        f"heavy = lambda: print(sorted(set({HEAVY}) & set(sys.modules)))\n"
        "atexit.register(heavy)\n"
        "from kerasdl_apps.cli import main; main()"
    )
    # Processor time, beside that of what every command line here needs: the machine
    # may be slow, or busy with other things. On a quick one it is 0.3 s.
    done, seconds = timed(help_of, *(*arguments, "--help"))
    _, least = timed("import typer, rich.console, rich.table")
    assert "Usage:" in done.stdout
    assert done.stdout.endswith("\n[]\n")
    assert seconds < 4 * least


def timed(script, *arguments):
    """Run Python; return what it did, and its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python(script, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    return done, after.ru_utime - before.ru_utime


@pytest.mark.backend_free
def test_unknown_names_are_attribute_errors():
    import kerasdl

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kerasdl.nothing  # noqa: B018
    assert {"train", "load", "BUILDERS"} <= set(dir(kerasdl))


EVERYTHING = """
import sys
from pathlib import Path
import keras
import kerasdl
import kerasdl.heatmaps, kerasdl.report
import numpy as np
from kerasdl import backend, layers
from kerasdl_apps import models, sentiment, tabular
data, out = map(Path, sys.argv[1:])
for name in sentiment.RECIPES.keys() & kerasdl.BUILDERS.keys():
    recipe = sentiment.recipe(name, quick=True, data=str(data))
    run = kerasdl.train(recipe, out=out / name)
    assert (run.folder / "bundle" / "model.keras").is_file()
table = data.with_suffix(".csv")
table.write_text("\\n".join(["x,y", *(f"{i % 7},{i % 2}" for i in range(240))]))
recipe = tabular.recipe(str(table), "y", quick=True)
kerasdl.train(recipe, out=out / "table")
images = np.zeros((8, 16, 16, 1), "float32")
model = kerasdl.vit((16, 16, 1), 2, variant="cct_2_3x2", depth=1)
model.fit(images, np.arange(8) % 2, verbose=0)
backend.set_seed(0)
series = np.ones((4, 4, 3), "float32")
model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(2)])
model.compile("adam", "mse")
model.fit(series, np.ones((4, 2)), verbose=0)
backend.forward(model)(series)
backend.input_gradients(model)(series, np.ones((4, 2), "float32"))
kerasdl.load(out / name)(["good", ""])
sentiment.evaluate(str(out / name), str(data), notify=print)
assert len(models.describe()) == len(kerasdl.BUILDERS)
assert "tensorflow" not in sys.modules, "imported"
"""


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow needs TensorFlow")
def test_jax_and_torch_never_import_tensorflow(tmp_path):
    data = tmp_path / "data.tsv"
    rows = [f"{('bad', 'fair', 'good')[i % 3]} {i}\t{i % 3}" for i in range(240)]
    data.write_text("\n".join(["text\tlabel", *rows]))
    done = python(EVERYTHING, data, tmp_path / "runs")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.backend_free
def test_tensorflow_keeps_its_banner_to_itself(tmp_path, monkeypatch):
    data = tmp_path / "data.tsv"
    rows = [f"{'good' if i % 2 else 'bad'} {i}\t{i % 2}" for i in range(240)]
    data.write_text("\n".join(["text\tlabel", *rows]))
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    done = python(
        "from kerasdl_apps.cli import main; main()",
        *("sentiment", "train", "--backend", "tensorflow", "--quick", "--json"),
        *("--model", "ngram_classifier", "--data", data, "--out", tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == 36
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("epoch 1/1 ")
