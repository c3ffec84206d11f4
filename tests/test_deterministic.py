"""Same seed, same weights: what each backend is told, and that it holds."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from kerasdl import backend
from kerasdl.errors import InputError

BACKEND = keras.backend.backend()

# Dropout, every augmentation, a shuffled order, images decoded by so many threads.
TRAINING = """
import hashlib, sys
import keras, kerasdl
from kerasdl import backend, training
from kerasdl.data import pixels

data, out, workers = sys.argv[1:]
pixels.num_cores = lambda: int(workers)
training.write_results = lambda *parts: None
entered = []
deterministic = backend.deterministic
backend.deterministic = lambda: entered.append(1) or deterministic()
recipe = kerasdl.Recipe(
    build="cnn",
    kind="image",
    data=data,
    arguments={"filters": (4, 8), "dropout": 0.4},
    encoder={"image_size": 12, "cache_mb": 0},
    augment="strong",
    epochs=2,
    batch_size=16,
    deterministic=True,
)
run = kerasdl.train(recipe, out=out)
assert entered == [1]
digest = hashlib.sha256(str(run.history["loss"]).encode())
for weight in run.predictor.model.weights:
    digest.update(keras.ops.convert_to_numpy(weight.value).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_processes_with_1_and_3_workers_give_the_same_weights(tmp_path):
    random = np.random.default_rng(0)
    images, labels = (
        random.integers(0, 256, (48, 16, 16, 3), "uint8"),
        np.arange(48) % 2,
    )
    data, found = tmp_path / "data.npz", []
    np.savez(
        data,
        x_train=images[8:],
        y_train=labels[8:],
        x_test=images[:8],
        y_test=labels[:8],
    )
    for workers in ("1", "3"):
        done = subprocess.run(
            [sys.executable, "-c", TRAINING, data, tmp_path / workers, workers],
            env={**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONHASHSEED": workers},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split()[-1])
    assert found[0] == found[1]


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch")
def test_pytorch_is_as_before_afterwards(monkeypatch):
    import torch

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with backend.deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_jax_that_has_computed_on_a_gpu_is_refused(monkeypatch):
    import jax

    monkeypatch.delenv("XLA_FLAGS", raising=False)
    keras.ops.ones(())
    with backend.deterministic():
        assert "XLA_FLAGS" not in os.environ  # on a CPU there is nothing to do
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(InputError, match="XLA_FLAGS=--xla"), backend.deterministic():
        pass
    assert "XLA_FLAGS" not in os.environ
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true --more=1")
    with backend.deterministic():
        assert os.environ["XLA_FLAGS"].endswith("--more=1")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_tensorflow_is_told(monkeypatch):
    import tensorflow as tf

    told = []
    monkeypatch.setattr(
        tf.config.experimental, "enable_op_determinism", lambda: told.append(1)
    )
    with backend.deterministic():
        assert told == [1]
