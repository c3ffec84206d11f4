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
