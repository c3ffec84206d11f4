"""Layers of Keras that run through the backend's fused kernels."""

import keras

from kerasdl import backend


class _Activated:
    """Let the backend compute what comes before the activation, if it has a kernel."""

    def call(self, inputs, **options):
        outputs = backend.fused(self, inputs)
        if outputs is None:
            return super().call(inputs, **options)
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable(package="kerasdl")
class Dense(_Activated, keras.layers.Dense):
    """`keras.layers.Dense`, as quick on PyTorch as `torch.nn.Linear`.

    Arguments, weights and results are those of Keras.

    Example:
        >>> Dense(8).compute_output_shape((2, 3))
        (2, 8)
    """


@keras.saving.register_keras_serializable(package="kerasdl")
class Conv2D(_Activated, keras.layers.Conv2D):
    """`keras.layers.Conv2D`, as quick on PyTorch as `torch.nn.Conv2d`.

    In float32 on JAX, on one processor and no other device, the gradient of its kernel
    is several times as quick, too; it has no derivatives in forward mode (`jax.jvp`)
    there.
    Arguments, weights and results are those of Keras.

    Example:
        >>> Conv2D(8, 3).compute_output_shape((2, 5, 5, 3))
        (2, 3, 3, 8)
    """

    def build(self, input_shape):
        super().build(input_shape)
        backend.lay_out(self._kernel)


@keras.saving.register_keras_serializable(package="kerasdl")
class DepthwiseConv2D(_Activated, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D`, several times as quick on JAX on a processor.

    In float32, where that is the only device; without derivatives in forward mode.
    Arguments, weights and results are those of Keras.

    Example:
        >>> DepthwiseConv2D(3).compute_output_shape((2, 5, 5, 4))
        (2, 3, 3, 4)
    """


@keras.saving.register_keras_serializable(package="kerasdl")
class MaxPooling2D(keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D`, as quick on PyTorch as `torch.nn.MaxPool2d`.

    On JAX its gradient is quicker, too, and shared by equal maxima of a window.
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

    Of images on a processor it is quicker on TensorFlow, too.
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
