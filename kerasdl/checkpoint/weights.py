"""Weights on disk, written in full or not at all."""

from pathlib import Path

import keras
import safetensors.numpy

from kerasdl.files import whole_file


def write_weights(path: Path, model: keras.Model) -> None:
    """Write a model's weights as safetensors, variable path to array.

    An earlier file stays as it was until the new one is complete on disk.

    Args:
        path: File to write.
        model: Model whose weights are written.

    Raises:
        OSError: If the disk is full or the folder is gone; no partial file is left.
    """
    arrays = {
        variable.path: keras.ops.convert_to_numpy(variable.value)
        for variable in model.weights
    }
    with whole_file(path) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays))
