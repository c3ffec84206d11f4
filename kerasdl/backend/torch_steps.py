"""Training steps on PyTorch with little Python: replayed, and Adam in one kernel."""

from collections.abc import Callable

import keras
import torch

from kerasdl.backend.torch_adam import FusedAdam
from kerasdl.backend.torch_memory import keep_freed_memory
from kerasdl.backend.torch_traces import Replayed, on_processor


def quick_step(model: keras.Model, objective) -> Callable | None:
    """Make a training step like Keras's own, with less Python.

    Args:
        model: Compiled model, with the training step of Keras.
        objective: Function from a batch to its loss, `kerasdl.steps.Objective`.

    Returns:
        Function to be the `train_step` of the model; `None` if nothing is trained, or
        not on a processor.
    """
    weights, optimizer = model.trainable_variables, model.optimizer
    if not weights or not on_processor(weights):
        return None
    if not optimizer.built:
        optimizer.build(weights)
    _lay_out_slots(optimizer, weights)
    keep_freed_memory()
    return QuickStep(model, objective)


class QuickStep:
    """A training step that is replayed.

    Args:
        model: Compiled model, its optimizer built.
        objective: Function from a batch to its loss.
    """

    def __init__(self, model: keras.Model, objective):
        self.model = model
        self.objective = objective
        self.weights = model.trainable_variables
        self.update = _update(model.optimizer, self.weights)
        self.replayed = None

    def __call__(self, data):
        """Change the weights by one batch; return the logs."""
        compute = self.replayed or self.compute
        logs, gradients, rate = compute(data)
        if self.replayed is None:  # by now the metrics have made their variables
            model = self.model
            variables = [*model.variables, *model.metrics_variables]
            variables += model.optimizer.variables
            self.replayed = Replayed(self.compute, variables, self.weights)
        if self.update:
            with torch.no_grad():
                self.update(gradients, rate)
        return logs

    def compute(self, data):
        """Return the logs, and the gradients and the rate that `update` takes."""
        optimizer = self.model.optimizer
        values = [variable.value for variable in self.weights]
        loss = optimizer.scale_loss(self.objective.loss(data))
        gradients = list(torch.autograd.grad(loss, values, allow_unused=True))
        rate = None
        with torch.no_grad():
            if isinstance(self.update, FusedAdam):
                rate = keras.ops.convert_to_tensor(optimizer.learning_rate)
                optimizer.iterations.assign_add(1)
            elif self.update is None:
                optimizer.apply(gradients, self.weights)
                gradients = []
            return self.model.get_metrics_result(), gradients, rate


def _lay_out_slots(optimizer: keras.optimizers.Optimizer, variables) -> None:
    """Let what an optimizer keeps of a weight lie in memory as the weight does."""
    for variable in variables:
        weight, start = variable.value, variable.path.replace("/", "_")
        if weight.is_contiguous():  # as slots are made
            continue
        for slot in optimizer.variables:
            is_its = slot.name.startswith(f"{start}_") and slot.shape == variable.shape
            value = slot.value
            if is_its and value.stride() != weight.stride():
                value.data = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _update(optimizer: keras.optimizers.Optimizer, variables) -> Callable | None:
    """Return what changes the weights outside a trace; `None` leaves it to be traced.

    Epsilon of Adam and the rate of SGD are plain numbers of their kernels.
    """
    if isinstance(optimizer, keras.optimizers.SGD):
        return lambda gradients, _: optimizer.apply(gradients, variables)
    return FusedAdam.of(optimizer, variables)
