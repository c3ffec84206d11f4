"""Layers through TensorFlow's own kernels on a processor.

Keras composes batch norms from a dozen operations, each of which goes through all of
the images; TensorFlow has one kernel for a norm, and one for its gradient.
"""

import keras
import tensorflow as tf


def fused(layer, inputs, training=None) -> tf.Tensor | None:
    """Compute what a layer returns before its activation.

    Args:
        layer: A built layer of Keras.
        inputs: Tensor with the channels in its last axis.
        training: Whether a norm has its statistics from the batch.

    Returns:
        The outputs; `None` where Keras must compute them: all but norms of images in
        one process, on a processor, are as quick as Keras calls them.
    """
    if isinstance(layer, keras.layers.BatchNormalization) and _is_plain(layer, inputs):
        return _batch_norm(layer, inputs, bool(training and layer.trainable))
    return None


def lay_out(kernel: keras.Variable) -> None:
    """Leave the kernel of a convolution as it lies: TensorFlow reads it so."""


def _is_plain(layer, inputs) -> bool:
    is_of_images = len(inputs.shape) == 4 and layer.axis in (-1, 3)
    is_whole = not tf.distribute.has_strategy() and not layer.renorm
    is_float16 = inputs.dtype == tf.float16
    has_gpu = tf.config.list_physical_devices("GPU")
    return is_of_images and is_whole and not is_float16 and not has_gpu


def _batch_norm(layer, inputs, training):
    channels = inputs.shape[-1]
    statistics = [[], []]  # of the batch
    if not training:
        moving = layer.moving_mean, layer.moving_variance
        statistics = list(map(tf.convert_to_tensor, moving))
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones(channels),
        offset=tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros(channels),
        mean=statistics[0],
        variance=statistics[1],
        epsilon=layer.epsilon,
        is_training=training,
    )
    if training:
        # Of the kernel the variance is that of n - 1, of Keras that of n.
        count = tf.size(inputs, tf.int64) // channels
        biased = variance * tf.cast((count - 1) / count, variance.dtype)
        for moving, now in (
            (layer.moving_mean, mean),
            (layer.moving_variance, biased),
        ):
            moving.assign(moving * layer.momentum + now * (1.0 - layer.momentum))
    return outputs
