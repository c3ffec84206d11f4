"""What every test starts from: seeded generators and a clean Keras state."""

import keras
import pytest

from kerasdl import backend

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
