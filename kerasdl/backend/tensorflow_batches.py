"""Batches handed to TensorFlow's graph as they are made.

Keras takes those of a `PyDataset` through a generator of tf.data: a thread that waits
for the training's Python and is waited for, and several small calls around each step.
Of a small model that is a third of the time.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

# It has no public way to ask.
from tensorflow.python.util import _pywrap_util_port

from kerasdl.backend.handed_over import HandedOver

# XLA compiles for each shape of a batch, in the time of so many steps; those of a model
# of fewer weights take no time at all.
FEWEST_STEPS, FEWEST_WEIGHTS = 300, 20_000
# Layers of models that XLA trains no faster on a processor (docs/performance.md), and
# more such where TensorFlow computes without oneDNN's kernels.
SLOW = keras.layers.Conv1D, keras.layers.DepthwiseConv2D, keras.layers.RNN
SLOW_WITHOUT_ONEDNN = keras.layers.MaxPooling1D, keras.layers.MaxPooling2D


@contextmanager
def handed_over(
    model: keras.Model, source: keras.utils.PyDataset, steps: int
) -> Iterator:
    """Let `fit` take the batches of a source with little in between.

    XLA compiles the step of a model that it suits, if there are steps enough.

    Args:
        model: Compiled model.
        source: A `kerasdl.data.batches.BatchSource`.
        steps: Steps of the whole training, so that it is the same when it goes on.

    Yields:
        What `fit` is to be given: the source itself where Keras deals its batches out
        to several devices, takes several steps at once, or makes batches while a GPU
        computes.
    """
    if (
        tf.distribute.has_strategy()
        or model.distribute_strategy is not tf.distribute.get_strategy()
        or tf.config.list_logical_devices("GPU")
        or model.run_eagerly
        or model.steps_per_execution > 1
    ):
        yield source
        return
    shapes = source.num_shapes + 1  # that of the last batch
    pays = steps >= FEWEST_STEPS * shapes and _suits_xla(model)
    model.train_function = TrainFunction(model, source, xla=model.jit_compile or pays)
    try:
        yield HandedOver(source)
    finally:
        model.train_function = None


class TrainFunction:
    """What Keras makes of the model's training step, for batches of NumPy arrays.

    As on tf.data any number of examples fits, and any width that the first two batches
    differ in: one trace serves all.

    Args:
        model: Compiled model.
        source: A `kerasdl.data.batches.BatchSource`.
        xla: Compile the step, if all that it computes can be.
    """

    def __init__(self, model: keras.Model, source: keras.utils.PyDataset, *, xla: bool):
        self.model = model
        self.xla = xla
        batches = [source[i] for i in range(min(2, len(source.order)))]
        self._specs = keras.tree.map_structure(_spec, *batches)
        self._step = self._trace()

    def _trace(self):
        step = tf.autograph.experimental.do_not_convert(self.model.train_step)
        # The outer function takes all shapes; XLA compiles the inner one for each.
        step = tf.function(step, jit_compile=self.xla, reduce_retracing=True)
        return tf.function(step, input_signature=[self._specs], autograph=False)

    def __call__(self, batches: Iterator):
        """Change the weights by the next batch; return the logs."""
        batch = next(batches)
        try:
            return self._step(batch)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            if not self.xla:
                raise
        # What XLA lacks shows when it compiles, before anything has changed.
        self.xla = False
        self._step = self._trace()
        return self._step(batch)


def _suits_xla(model: keras.Model) -> bool:
    """Say whether XLA may compile the model, and makes it no slower on a processor."""
    if model.count_params() < FEWEST_WEIGHTS:
        return False
    # It would undo `kerasdl.rematerialise`, which replaces `call`.
    if any(
        _is_slow(layer) or "call" in vars(layer) for layer in model._flatten_layers()
    ):
        return False
    before = model.jit_compile
    with warnings.catch_warnings(action="ignore"):
        model.jit_compile = True  # unless Keras knows better
    may, model.jit_compile = model.jit_compile, before
    return may


def _is_slow(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, SLOW):
        return True
    if not has_onednn():
        return isinstance(layer, SLOW_WITHOUT_ONEDNN)
    # Windows side by side, as the patches of a ViT, are a product of matrices.
    return isinstance(layer, keras.layers.Conv2D) and layer.kernel_size != layer.strides


def has_onednn() -> bool:
    """Say whether TensorFlow computes with the kernels of oneDNN."""
    return _pywrap_util_port.IsMklEnabled()


def _spec(*arrays):
    _, *places = zip(*(array.shape for array in arrays), strict=True)
    common = (sizes[0] if len(set(sizes)) == 1 else None for sizes in places)
    return tf.TensorSpec((None, *common), arrays[0].dtype)
