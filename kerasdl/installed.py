"""The backends, and which of them are installed, without importing any."""

import importlib.util

BACKENDS = ("tensorflow", "jax", "torch")


def is_installed(backend: str) -> bool:
    """Say whether a backend can be imported."""
    return importlib.util.find_spec(backend) is not None
