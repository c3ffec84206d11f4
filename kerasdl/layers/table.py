"""Layers of the models of tables."""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="kerasdl")
class Standardize(keras.layers.Layer):
    """Shift and scale every feature by the mean and deviation of the training data.

    Input and output have the same shape, features last. Both start as the identity and
    become the data's in `adapt`. A feature that never varies is only shifted.

    `keras.layers.Normalization` keeps copies of its weights, which weights assigned one
    by one (a bundle's, a checkpoint's) would not reach.

    Example:
        >>> layer = Standardize()
        >>> layer.adapt(np.array([[1.0, 5.0], [3.0, 5.0]]))
        >>> keras.ops.convert_to_numpy(layer(np.array([[5.0, 6.0]]))).tolist()
        [[3.0, 1.0]]
    """

    def build(self, input_shape):
        shape = input_shape[-1:]
        self.mean = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="mean"
        )
        self.deviation = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="deviation"
        )

    def adapt(self, array: np.ndarray) -> None:
        """Take mean and deviation of the data, over all axes but the last.

        Args:
            array: Training data `(examples, ..., features)`.

        Raises:
            ValueError: If there is no data, or a value is not finite.
        """
        array = np.asarray(array, dtype="float64")
        if not array.size or not np.isfinite(array).all():
            raise ValueError(
                f"array of shape {array.shape}; expected at least one example and "
                "finite values only"
            )
        if not self.built:
            self.build(array.shape)
        axes = tuple(range(array.ndim - 1))
        deviation = array.std(axis=axes)
        self.mean.assign(array.mean(axis=axes))
        self.deviation.assign(np.where(deviation > 0, deviation, 1.0))

    def call(self, inputs):
        return (inputs - self.mean) / self.deviation

    def compute_output_shape(self, input_shape):
        return input_shape
