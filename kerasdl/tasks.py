"""The only place that compiles a model: loss, metrics and optimizer of each task."""

import keras
from keras import ops

from kerasdl.checks import check_choice
from kerasdl.optimizers import make_optimizer

REGRESSION_LOSSES = ("huber", "mean_absolute_error", "mean_squared_error")

Optimizer = str | keras.optimizers.Optimizer | None
Rate = float | keras.optimizers.schedules.LearningRateSchedule


def compile_classifier(
    model: keras.Model,
    *,
    optimizer: Optimizer,
    learning_rate: Rate,
) -> keras.Model:
    """Compile a classifier that returns logits.

    One logit per example means two classes and the binary loss; more logits mean one
    per class. Integer labels `(batch,)` and soft labels `(batch, classes)` both fit the
    latter.

    Args:
        model: Model with float32 logits `(batch, classes)`.
        optimizer: Keras optimizer or its name; `None` leaves the model uncompiled.
        learning_rate: Float or Keras schedule, unused with an optimizer instance.

    Returns:
        The same model, compiled in place.

    Raises:
        ValueError: If there is no optimizer of that name.
    """
    if optimizer is None:
        return model
    auxiliary = isinstance(model, AuxiliaryModel)
    logits = model.output["logits"] if auxiliary else model.output
    if logits.shape[-1] == 1:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)
    else:
        loss = Crossentropy(name="crossentropy")
        accuracy = keras.metrics.MeanMetricWrapper(_correct, name="accuracy")
    model.compile(_optimizer(optimizer, learning_rate), loss=loss, metrics=[accuracy])
    return model


def compile_regressor(
    model: keras.Model,
    *,
    optimizer: Optimizer,
    learning_rate: Rate,
    loss: str = "mean_squared_error",
) -> keras.Model:
    """Compile a model that predicts values.

    Args:
        model: Model with float32 outputs, `(batch, outputs)` or with more axes.
        optimizer: Keras optimizer or its name; `None` leaves the model uncompiled.
        learning_rate: Float or Keras schedule, unused with an optimizer instance.
        loss: A key of `REGRESSION_LOSSES`.

    Returns:
        The same model, compiled in place.

    Raises:
        ValueError: If the loss is unknown, or there is no optimizer of that name.
    """
    check_choice("loss", loss, REGRESSION_LOSSES)
    if optimizer is None:
        return model
    model.compile(
        _optimizer(optimizer, learning_rate),
        loss=keras.losses.get(loss),
        metrics=[keras.metrics.MeanAbsoluteError(name="mean_absolute_error")],
    )
    return model


@keras.saving.register_keras_serializable(package="kerasdl")
class AuxiliaryModel(keras.Model):
    """Functional model with auxiliary classifiers, all held against the same labels.

    Its outputs are a dictionary. In training the output `logits` counts in full, every
    other one by `WEIGHT`; evaluation and metrics look at `logits` alone.

    Reference:
        [Going Deeper with Convolutions](https://arxiv.org/abs/1409.4842), section 5.
    """

    WEIGHT = 0.3

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Return the loss of `logits`, in training with those of the other outputs."""

        def loss_of(name):
            score = super(AuxiliaryModel, self).compute_loss
            return score(x, y, y_pred[name], sample_weight, training)

        loss = loss_of("logits")
        if training:
            others = sorted(set(y_pred) - {"logits"})
            loss = loss + self.WEIGHT * sum(map(loss_of, others))
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update the metrics with `logits`."""
        return super().compute_metrics(x, y, y_pred["logits"], sample_weight)


def _optimizer(optimizer: Optimizer, learning_rate: Rate) -> keras.optimizers.Optimizer:
    if not isinstance(optimizer, str):
        return optimizer
    return make_optimizer(optimizer.lower(), learning_rate)


@keras.saving.register_keras_serializable(package="kerasdl")
class Crossentropy(keras.losses.Loss):
    """Softmax cross-entropy on logits, for integer and for soft labels alike.

    Logits are `(batch, classes)`, or `(batch, branches, classes)` from a model whose
    branches are trained apart. Soft labels `(batch, classes)` serve label smoothing and
    distillation (Hinton et al. 2015, section 2).
    """

    def call(self, y_true, y_pred):
        """Return the loss of each example, and of each branch."""
        labels = _match(y_true, y_pred)
        return keras.losses.categorical_crossentropy(labels, y_pred, from_logits=True)


@keras.saving.register_keras_serializable(package="kerasdl")
def _correct(y_true, y_pred):
    return keras.metrics.categorical_accuracy(_match(y_true, y_pred), y_pred)


def _match(y_true, y_pred):
    """Bring labels to the shape of the logits, one-hot where they are integers."""
    classes = y_pred.shape[-1]
    if len(y_true.shape) == 2 and y_true.shape[-1] == classes:
        labels = ops.cast(y_true, y_pred.dtype)
    else:
        # Keras hands every label over as a float.
        ids = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")
        # Not `one_hot`: on PyTorch it waits for the smallest and the largest id.
        is_label = ops.equal(ids, ops.arange(classes, dtype="int32"))
        labels = ops.cast(is_label, y_pred.dtype)
    if len(y_pred.shape) == 3:
        labels = ops.broadcast_to(labels[:, None, :], ops.shape(y_pred))
    return labels
