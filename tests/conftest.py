"""What every test starts from: seeded generators, a clean Keras state, one thread."""

import atexit
import io
import os
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager

import pytest

import kerasdl  # noqa: F401 - before Keras: it chooses TensorFlow's kernels

# The workers keep the cores busy, and the models are tiny: more threads only wait.
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
os.environ |= dict.fromkeys(THREADS, "1")
# On JAX they take longer to compile than to run.
JAX_QUICKLY = "JAX_DISABLE_MOST_OPTIMIZATIONS"
os.environ.setdefault(JAX_QUICKLY, "1")

# What JAX has compiled once, later tests and their child processes read. Its files are
# not written at a stroke, so each worker has its own folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="kerasdl-tests-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{worker}"


def pytest_configure(config):
    """Import the backend while its warnings are no errors yet.

    The process that only hands tests to the workers does without, and starts sooner.
    """
    # A job in the background ignores Ctrl-C, which tests send to themselves.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if worker or config.option.collectonly or not config.option.tx:
        import keras  # noqa: F401


def pytest_collection_modifyitems(config, items):
    """Leave out, on other backends than the default, what no backend changes."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return
    free = [item for item in items if item.get_closest_marker("backend_free")]
    config.hook.pytest_deselected(items=free)
    items[:] = [item for item in items if not item.get_closest_marker("backend_free")]


@pytest.fixture(autouse=True)
def seeded():
    """Seed each test by itself, so that its result does not depend on the others."""
    import keras

    from kerasdl import backend

    keras.utils.clear_session(free_memory=False)
    backend.set_seed(0)


@pytest.fixture(scope="session", autouse=True)
def traced_once():
    """Build optimizers before TensorFlow traces a step, as `kerasdl.train` does.

    It traces a step again that has made variables, which is most of many a test.
    """
    import keras

    make = keras.Model.make_train_function

    def make_train_function(self, force=False):
        optimizer = self.optimizer
        if self.built and optimizer and not optimizer.built:
            with self.distribute_strategy.scope():
                optimizer.build(self.trainable_variables)
        return make(self, force)

    if keras.backend.backend() == "tensorflow":
        keras.Model.make_train_function = make_train_function
    yield
    keras.Model.make_train_function = make


@pytest.fixture(scope="session")
def users_environment():
    """The environment of a process that computes as a user's: by all that there is."""
    taken = *THREADS, JAX_QUICKLY
    return {name: v for name, v in os.environ.items() if name not in taken}


@pytest.fixture
def full_compilation():
    """Let JAX optimise: else the gradient of a maximum may be wrong, or no number."""
    with _full_compilation():
        yield


@pytest.fixture(scope="module")
def full_compilation_of_module():
    """Let JAX optimise in all tests of a module, and in their child processes."""
    with _full_compilation():
        yield


@contextmanager
def _full_compilation():
    import keras

    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    name = JAX_QUICKLY.lower()
    before = jax.config.read(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JAX_QUICKLY, "0")
        jax.config.update(name, val=False)
        yield
    jax.config.update(name, before)


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Call `main` with arguments; return exit code, standard output and error."""
    import keras

    from kerasdl_apps import cli

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
