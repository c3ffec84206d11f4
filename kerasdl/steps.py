"""Training steps that Keras lacks: micro-batches, sharpness-aware minimisation."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops

from kerasdl import backend
from kerasdl.checks import check_sizes, is_number

# What divides the loss by the number of examples or valid places, so that a part of a
# batch counts by its share of them.
MEANS = ("mean", "sum_over_batch_size")


def set_training_step(
    model: keras.Model, *, micro_batches: int = 1, radius: float = 0.0
) -> None:
    """Let `fit` compute each update in parts, or at the worst point nearby.

    With micro-batches the memory is that of a part, and the update that of the whole
    batch, whatever its size: there is one optimizer step per batch, so that schedules,
    clipping and averages see nothing of it. Batch norms have their statistics from the
    parts; on TensorFlow an embedding changes in all its rows, as it does on the other
    backends, not only in those that occur. Keras's `gradient_accumulation_steps` gives
    a smaller last batch the weight of a full one, and leaves gradients over at the end
    of an epoch.

    Sharpness-aware minimisation takes the gradient where the weights, moved by
    `radius`, are worst; every step computes the loss twice, with the same dropout.

    Args:
        model: Compiled model, with the training step of Keras.
        micro_batches: Parts of a batch, at most: equal ones and perhaps a smaller last
            one.
        radius: How far the weights are moved, 0 for plain training; the paper takes
            0.05.

    Raises:
        ValueError: If an argument is out of range, or the loss of the model is no mean
            over the examples, or the model has a training step of its own.

    Reference:
        [Sharpness-Aware Minimization](https://arxiv.org/abs/2010.01412), algorithm 1.
    """
    check_sizes(micro_batches=micro_batches)
    if not is_number(radius) or radius < 0:
        raise ValueError(f"radius={radius!r}; expected a number of at least 0")
    if _has_own_step(model):
        raise ValueError(
            f"model {model.name!r} has a training step of its own; neither"
            " micro-batches nor sharpness-aware minimisation can replace it"
        )
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", MEANS[0])
        if reduction not in MEANS:
            raise ValueError(
                f"the loss of model {model.name!r} has reduction={reduction!r}; only a"
                f" mean over the examples can be computed in parts: {MEANS}"
            )
    objective = Objective(model)
    step = backend.training_step(model, objective, micro_batches, float(radius))
    step.objective, step.micro_batches, step.radius = objective, micro_batches, radius
    model.train_step = step
    model.train_function = None  # made from the step when it is first needed


@contextmanager
def quick_steps(model: keras.Model) -> Iterator[None]:
    """Let `fit` take steps with less Python, where the backend has such.

    Args:
        model: Compiled model; one with a training step of its own keeps it.
    """
    step = None
    if not (_has_own_step(model) or "train_step" in vars(model) or model.run_eagerly):
        step = backend.quick_step(model, Objective(model))
    if step is None:
        yield
        return
    model.train_step = step
    try:
        yield
    finally:
        del model.train_step


def _has_own_step(model: keras.Model) -> bool:
    """Say whether the class of a model trains otherwise than Keras does."""
    return type(model).train_step is not keras.Model.train_step


class Objective:
    """What a training step makes smaller: the loss of a model on a batch.

    Attributes:
        replicas: What the loss has been divided by, besides, by Keras on TensorFlow.

    Args:
        model: Compiled model.
        training: Compute as in training, or as at evaluation.
    """

    def __init__(self, model: keras.Model, *, training: bool = True):
        self.model = model
        self.training = training
        self.replicas = 1
        self._of_thread = threading.local()  # TensorFlow has one for each replica
        self.places = Places()
        self.options = {}
        if "training" in model.call_signature_parameters:
            self.options = {"training": training}

    @property
    def share(self):
        """How much of what the batch counts does count: 0 where it only stands in."""
        return getattr(self._of_thread, "share", 1.0)

    @share.setter
    def share(self, share):
        self._of_thread.share = share

    def __call__(self, data, *, update_metrics: bool = True):
        """Return the loss and how much it counts: its examples, or valid places.

        Args:
            data: Inputs, targets and perhaps weights, as `fit` hands them over.
            update_metrics: Count the batch in the model's metrics.
        """
        loss, outputs = self._measure(data, update_metrics=update_metrics)
        # Several outputs have masks alike, or none.
        output = keras.tree.flatten(outputs)[0]
        return loss, self.share * self.places(output, output)

    def loss(self, data):
        """Return the loss alone, and count the batch in the model's metrics."""
        return self._measure(data, update_metrics=True)[0]

    def _measure(self, data, *, update_metrics):
        model = self.model
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        outputs = model(x, **self.options)
        loss = model.compute_loss(x, y, outputs, weights, training=self.training)
        count = ops.shape(keras.tree.flatten(x)[0])[0]
        if update_metrics:
            for metric in model.metrics:
                if metric.name == "loss":
                    metric.update_state(loss * self.replicas, sample_weight=count)
            model.compute_metrics(x, y, outputs, weights)
        return loss, outputs


class Places(keras.losses.Loss):
    """How many terms a loss is the mean of: examples, or places that are not masked.

    A loss itself, because Keras's losses alone find the mask of an output.
    """

    def __init__(self):
        super().__init__(reduction="sum", dtype="float32")

    def call(self, y_true, y_pred):  # noqa: ARG002 - Keras's
        """Return a one for each term."""
        shape = ops.shape(y_pred)
        return ops.ones(shape[:-1] if len(shape) > 1 else shape)
