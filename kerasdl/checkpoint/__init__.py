"""The state of a training on disk: whole, checked, and never lost to a fault."""

from kerasdl.checkpoint.randomness import random_state, set_random_state
from kerasdl.checkpoint.store import FINAL, Saved, Store, step_name
from kerasdl.checkpoint.trees import join, split
from kerasdl.checkpoint.variables import (
    is_finite,
    read_variables,
    training_variables,
    write_variables,
)
from kerasdl.checkpoint.weights import write_weights
from kerasdl.checkpoint.writer import Writer

__all__ = [
    "FINAL",
    "Saved",
    "Store",
    "Writer",
    "is_finite",
    "join",
    "random_state",
    "read_variables",
    "set_random_state",
    "split",
    "step_name",
    "training_variables",
    "write_variables",
    "write_weights",
]
