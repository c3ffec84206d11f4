"""What the three backends do differently, behind one set of functions.

The module that matches `keras.backend.backend()` is imported, the others are not.
"""

import importlib

import keras

from kerasdl.errors import InputError
from kerasdl.installed import BACKENDS

if keras.backend.backend() not in BACKENDS:
    raise InputError(
        f"kerasdl runs on {', '.join(BACKENDS)}, not on the Keras backend "
        f"'{keras.backend.backend()}'; set KERAS_BACKEND to one of them."
    )

_backend = importlib.import_module(f"{__name__}.{keras.backend.backend()}")
# Several devices and processes: what `kerasdl.distribute` stands on.
replicas = importlib.import_module(f"{__name__}.{keras.backend.backend()}_replicas")

attention = _backend.attention
check_attention = _backend.check_attention
dense = _backend.dense
deterministic = _backend.deterministic
device_memory = _backend.device_memory
devices = _backend.devices
forward = _backend.forward
fused = _backend.fused
handed_over = _backend.handed_over
input_gradients = _backend.input_gradients
is_out_of_memory = _backend.is_out_of_memory
lay_out = _backend.lay_out
quick_step = _backend.quick_step
random_state = _backend.random_state
recomputed = _backend.recomputed
recurrent = _backend.recurrent
set_random_state = _backend.set_random_state
set_seed = _backend.set_seed
training_step = _backend.training_step

__all__ = [
    "attention",
    "check_attention",
    "dense",
    "deterministic",
    "device_memory",
    "devices",
    "forward",
    "fused",
    "handed_over",
    "input_gradients",
    "is_out_of_memory",
    "lay_out",
    "quick_step",
    "random_state",
    "recomputed",
    "recurrent",
    "replicas",
    "set_random_state",
    "set_seed",
    "training_step",
]
