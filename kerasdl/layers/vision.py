"""Layers of the image models."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kerasdl")
class StochasticDepth(keras.layers.Layer):
    """Drop a residual branch of random examples in training, and scale up the rest.

    Input and output have the same shape, batch first. Also known as DropPath.

    Args:
        rate: Share of the examples that lose the branch, in `[0, 1)`.

    Reference:
        [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382),
        section 3. Differs: scaled in training, so that inference stays as it is.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, branch, training=False):
        if not training or self.rate == 0:
            return branch
        shape = (ops.shape(branch)[0], *[1] * (len(branch.shape) - 1))
        drawn = keras.random.uniform(shape, seed=self.seed_generator)
        kept = ops.cast(drawn >= self.rate, branch.dtype)
        return branch * kept / (1 - self.rate)

    def compute_output_spec(self, branch, training=False):  # noqa: ARG002
        return keras.KerasTensor(branch.shape, branch.dtype)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
