"""Batches of a source as `fit` goes through them, without Keras's detours."""

from collections.abc import Callable

import keras

# `fit` takes any adapter, but Keras does not export the base.
from keras.src.trainers.data_adapters.data_adapter import DataAdapter


class HandedOver(DataAdapter):
    """The batches of a source, handed to `fit` as they are made.

    Args:
        source: A `kerasdl.data.batches.BatchSource`.
        convert: Makes of a batch, nested NumPy arrays, what the training step takes;
            `None` leaves it.
    """

    def __init__(self, source: keras.utils.PyDataset, convert: Callable | None = None):
        self.source = source
        self.convert = convert

    def __iter__(self):
        batches = map(self.source.__getitem__, range(self.source.num_batches))
        return map(self.convert, batches) if self.convert else batches

    def get_tf_dataset(self):
        """Return itself: Keras goes through anything."""
        return self

    get_torch_dataloader = get_jax_iterator = get_tf_dataset

    @property
    def num_batches(self):
        """Number of batches of an epoch."""
        return self.source.num_batches

    @property
    def batch_size(self):
        """`None`: the source decides."""

    def on_epoch_begin(self):
        """Let the source take up its order."""
        self.source.on_epoch_begin()

    def on_epoch_end(self):
        """Let the source move on."""
        self.source.on_epoch_end()
