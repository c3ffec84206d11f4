"""Layers of the text models: word dropout, bags of n-grams, blended branches."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="kerasdl")
class WordDropout(keras.layers.Layer):
    """Replace random tokens by the unknown token in training (Iyyer et al. 2015, §3.2).

    Args:
        rate: Share of the tokens replaced, in `[0, 1)`.
        unknown_id: Id of the unknown token.
    """

    def __init__(self, rate: float, *, unknown_id: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.unknown_id = unknown_id
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, tokens, training=False):
        if not training or self.rate == 0:
            return tokens
        drawn = keras.random.uniform(ops.shape(tokens), seed=self.seed_generator)
        dropped = ops.logical_and(drawn < self.rate, ops.not_equal(tokens, 0))
        return ops.where(dropped, ops.cast(self.unknown_id, tokens.dtype), tokens)

    def compute_output_spec(self, tokens, training=False):  # noqa: ARG002
        return keras.KerasTensor(tokens.shape, tokens.dtype)

    def get_config(self):
        config = {"rate": self.rate, "unknown_id": self.unknown_id}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="kerasdl")
class NgramBag(keras.layers.Layer):
    """Score a bag of n-grams: naive-Bayes weighted, unit length, linear.

    Every distinct n-gram `g` of a text has the value `r_g`, its naive-Bayes log-count
    ratio between a class and the rest. The score of the class is
    `scale · Σ r_g w_g / ‖r‖ + b`, the norm taken over the text. The ratios come from
    `adapt`; `w` and `b` are trained from zero.

    Input: n-gram ids `(batch, n-grams)` int32, 0 being padding. Output: scores
    `(batch, num_classes)`; of two classes the first has the negative score of the
    second.

    Args:
        num_ngrams: Number of n-gram ids, padding included.
        num_classes: Number of classes.
        scale: Multiplies the scores: with Adam, so much larger is the effective
            learning rate of `w`, which then suits that of layers beside the bag.

    Reference:
        [Baselines and Bigrams](https://aclanthology.org/P12-2018), section 2. Differs:
        every text's vector is scaled to unit length.
    """

    def __init__(
        self, num_ngrams: int, num_classes: int, *, scale: float = 1.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_ngrams = num_ngrams
        self.num_classes = num_classes
        self.scale = scale

    def build(self, input_shape):  # noqa: ARG002 - Keras's signature
        columns = 1 if self.num_classes == 2 else self.num_classes
        shape = (self.num_ngrams, columns)
        self.ratio = self.add_weight(
            name="ratio", shape=shape, initializer="ones", trainable=False
        )
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=shape[1:], initializer="zeros")

    def adapt(self, ngrams, labels: np.ndarray) -> None:
        """Set the log-count ratios from labelled texts, with add-one smoothing.

        Args:
            ngrams: N-gram ids of each text, a `kerasdl.data.batches.Ragged`.
            labels: Class of each text `(count,)`, or its share in each class
                `(count, num_classes)`.
        """
        shares = np.eye(self.num_classes)[labels] if labels.ndim == 1 else labels
        counts = np.stack(
            [
                np.bincount(
                    ngrams.values,
                    weights=np.repeat(share, ngrams.lengths),
                    minlength=self.num_ngrams,
                )
                for share in shares.T
            ],
            axis=-1,
        )
        rest = counts.sum(axis=-1, keepdims=True) - counts
        ratio = _log_share(counts + 1) - _log_share(rest + 1)
        ratio[counts.sum(axis=-1) == 0] = 0.0
        self.ratio.assign(ratio[:, 1:] if self.num_classes == 2 else ratio)

    def call(self, ngrams):
        score = ops.sum(self.contributions(ngrams), axis=1) + self.bias
        if self.num_classes == 2:
            return ops.concatenate([-score, score], axis=-1)
        return score

    def contributions(self, ngrams):
        """Return what each n-gram adds to the scores.

        Args:
            ngrams: N-gram ids `(batch, n-grams)`.

        Returns:
            Contributions `(batch, n-grams, columns)`, one column for two classes.
        """
        # B batch, G n-grams, C columns.
        real = ops.cast(ops.not_equal(ngrams, 0), self.compute_dtype)
        ratio = ops.take(self.ratio, ngrams, axis=0) * real[:, :, None]  # BGC
        weight = ops.take(self.kernel, ngrams, axis=0)  # BGC
        norm = ops.sqrt(ops.sum(ratio * ratio, axis=1, keepdims=True) + 1e-9)  # B1C
        return ratio * weight * (self.scale / norm)

    def compute_output_spec(self, ngrams):
        return keras.KerasTensor(
            (ngrams.shape[0], self.num_classes), self.compute_dtype
        )

    def get_config(self):
        config = {
            "num_ngrams": self.num_ngrams,
            "num_classes": self.num_classes,
            "scale": self.scale,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="kerasdl")
class Blend(keras.layers.Layer):
    """Add up the logits of branches that are trained apart.

    In training the branches' logits are returned side by side,
    `(batch, branches, classes)`, so that `kerasdl.tasks.Crossentropy` scores each by
    itself: under one common loss the branch that fits first would leave the others
    nothing to learn. Otherwise their weighted sum `(batch, classes)` is returned.

    Args:
        branches: Name of each branch, in the order of the inputs.
    """

    def __init__(self, branches: Sequence[str], **kwargs):
        super().__init__(**kwargs)
        self.branches = list(branches)

    def build(self, input_shape):  # noqa: ARG002 - Keras's signature
        self.weight = self.add_weight(
            name="weight",
            shape=(len(self.branches),),
            initializer=keras.initializers.Constant(1 / len(self.branches)),
            trainable=False,
        )

    def adapt(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Set the weights that minimise the log loss.

        Args:
            logits: Logits of the branches `(count, branches, classes)`, from texts that
                they were not trained on.
            labels: True classes `(count,)`.
        """
        # Here, because a prediction from the command line need not wait for SciPy.
        from scipy.optimize import minimize  # noqa: PLC0415
        from scipy.special import log_softmax  # noqa: PLC0415

        count = len(self.branches)
        equal = np.full(count, 1 / count)

        def log_loss(weight):
            mixed = np.tensordot(weight, logits, axes=(0, 1))
            right = log_softmax(mixed, axis=-1)[np.arange(len(labels)), labels]
            # A prior worth one text keeps the weights finite where few are given.
            return -right.mean() + np.sum((weight - equal) ** 2) / len(labels)

        best = minimize(log_loss, equal, bounds=[(0, None)] * count)
        self.weight.assign(best.x)

    def weight_of(self, branch: str) -> float:
        """Return the weight of a branch, by its name."""
        weights = keras.ops.convert_to_numpy(self.weight.value)
        return float(weights[self.branches.index(branch)])

    def call(self, logits, training=False):
        stacked = ops.stack(logits, axis=1)
        if training:
            return stacked
        return ops.sum(stacked * self.weight[:, None], axis=1)

    def compute_output_spec(self, logits, training=False):  # noqa: ARG002
        return keras.KerasTensor(logits[0].shape, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "branches": self.branches}


def _log_share(counts: np.ndarray) -> np.ndarray:
    return np.log(counts / counts.sum(axis=0))
