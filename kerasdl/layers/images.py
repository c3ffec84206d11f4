"""Layers of images that run through the backend's fused kernels."""

import keras

from kerasdl import backend


@keras.saving.register_keras_serializable(package="kerasdl")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, as quick on PyTorch as `torch.nn.Conv2d`.

    Arguments, weights and results are those of Keras.

    Example:
        >>> Conv2D(8, 3).compute_output_shape((2, 5, 5, 3))
        (2, 3, 3, 8)
    """

    def call(self, inputs):
        outputs = backend.fused(self, inputs)
        if outputs is None:
            return super().call(inputs)
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable(package="kerasdl")
class MaxPooling2D(keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D`, as quick on PyTorch as `torch.nn.MaxPool2d`.

    Arguments and results are those of Keras.

    Example:
        >>> MaxPooling2D(2).compute_output_shape((2, 5, 5, 3))
        (2, 2, 2, 3)
    """

    def call(self, inputs):
        outputs = backend.fused(self, inputs)
        return super().call(inputs) if outputs is None else outputs


@keras.saving.register_keras_serializable(package="kerasdl")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, as quick on PyTorch as `torch.nn`'s.

    Arguments, weights and results are those of Keras.

    Example:
        >>> BatchNormalization().compute_output_shape((2, 5, 5, 3))
        (2, 5, 5, 3)

    Reference:
        [Batch Normalization](https://arxiv.org/abs/1502.03167), algorithm 1.
    """

    def call(self, inputs, training=None, mask=None):
        outputs = None
        if mask is None:
            outputs = backend.fused(self, inputs, training)
        if outputs is None:
            return super().call(inputs, training=training, mask=mask)
        return outputs
