"""The classification task, against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.special import log_softmax

from kerasdl.tasks import Crossentropy, compile_classifier

LOGITS = np.random.default_rng(0).normal(0, 2, (5, 3)).astype("float32")
INTEGERS = np.array([2, 0, 1, 1, 2])
SOFT = np.random.default_rng(1).dirichlet(np.ones(3), 5).astype("float32")


def loss_of(labels, logits):
    return float(Crossentropy()(labels, ops.convert_to_tensor(logits)))


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_integer_labels(shape):
    expected = -log_softmax(LOGITS, axis=1)[np.arange(5), INTEGERS].mean()
    assert loss_of(INTEGERS.reshape(shape), LOGITS) == pytest.approx(expected, rel=1e-5)


def test_soft_labels():
    expected = -(SOFT * log_softmax(LOGITS, axis=1)).sum(1).mean()
    assert loss_of(SOFT, LOGITS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("labels", [INTEGERS, SOFT])
def test_branches_are_scored_apart(labels):
    branches = np.stack([LOGITS, LOGITS[::-1] * 0.5], axis=1)
    expected = (loss_of(labels, branches[:, 0]) + loss_of(labels, branches[:, 1])) / 2
    assert loss_of(labels, branches) == pytest.approx(expected, rel=1e-5)


def linear(units):
    """Return a model without weights: its logits are the first inputs."""
    x = keras.Input((3,))
    return keras.Model(x, layers.Activation("linear")(x[:, :units]))


@pytest.mark.parametrize("labels", [INTEGERS, np.eye(3, dtype="float32")[INTEGERS]])
def test_accuracy_counts_the_largest_logit(labels):
    model = compile_classifier(linear(3), optimizer="sgd", learning_rate=0.1)
    _, accuracy = model.evaluate(LOGITS, labels, verbose=0)
    expected = (LOGITS.argmax(1) == INTEGERS).mean()
    assert accuracy == pytest.approx(expected)
    assert 0 < expected < 1


def test_one_logit_is_the_binary_task():
    model = compile_classifier(linear(1), optimizer="sgd", learning_rate=0.1)
    labels = np.array([1, 0, 1, 0, 0])
    loss, accuracy = model.evaluate(LOGITS, labels, verbose=0)
    z = LOGITS[:, 0]
    expected = np.logaddexp(0, np.where(labels, -z, z)).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == pytest.approx(((z > 0) == labels).mean())


def test_optimizer_by_name_instance_or_none():
    model = compile_classifier(linear(3), optimizer="adamw", learning_rate=0.25)
    assert isinstance(model.optimizer, keras.optimizers.AdamW)
    assert float(model.optimizer.learning_rate) == 0.25
    instance = keras.optimizers.SGD(0.5)
    model = compile_classifier(linear(3), optimizer=instance, learning_rate=0.25)
    assert model.optimizer is instance
    model = compile_classifier(linear(3), optimizer=None, learning_rate=0.25)
    assert not model.compiled
    with pytest.raises(ValueError, match="adamm"):
        compile_classifier(linear(3), optimizer="adamm", learning_rate=0.25)
