"""What every test starts from: seeded generators and a clean Keras state."""

import io
import signal
import sys

import keras
import pytest

from kerasdl import backend
from kerasdl_apps import cli

if keras.backend.backend() == "torch":
    import torch

    torch.set_num_threads(1)  # the models are tiny: more threads only wait


@pytest.fixture(autouse=True)
def seeded():
    """Seed each test by itself, so that its result does not depend on the others."""
    keras.utils.clear_session(free_memory=False)
    backend.set_seed(0)


@pytest.fixture(scope="module")
def quick_compilation():
    """Let JAX compile without optimisations: a model of a test runs for a moment."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", val=True)
    yield
    jax.config.update("jax_disable_most_optimizations", val=False)


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Call `main` with arguments; return exit code, standard output and error."""
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments, stdin=b""):
        if isinstance(stdin, bytes):
            stdin = io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr(sys, "argv", ["kerasdl", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", stdin)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(run_cli):
    """Check that arguments are refused by one sentence holding all of some words."""

    def check(*arguments, words=(), stdin=b""):
        code, out, err = run_cli(*arguments, stdin=stdin)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        for word in words:
            assert word in err

    return check


@pytest.fixture
def kill(monkeypatch):
    """Return a function that lets the n-th step from now on be the last."""
    from resuming import Killed

    from kerasdl.callbacks import Checkpoint

    original = Checkpoint.on_train_batch_end

    def kill(step):
        left = [step]

        def on_train_batch_end(self, batch, logs=None):
            original(self, batch, logs)
            left[0] -= 1
            if left[0] == 0:
                self._writer.flush()
                raise Killed

        monkeypatch.setattr(Checkpoint, "on_train_batch_end", on_train_batch_end)

    return kill


@pytest.fixture(autouse=True)
def handlers():
    """Put signal handlers back that a training leaves when a test cuts it short."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
