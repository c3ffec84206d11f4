"""Training steps on PyTorch without Keras's Python: recorded once, then replayed.

Every layer, loss, metric and schedule of Keras costs Python and, on PyTorch, many small
tensors; in a small model that is most of a step. A step is the same calls of PyTorch
each time, so they are recorded once for each shape of a batch and then replayed: the
numbers stay the same, bit for bit.
"""

import time
from collections import defaultdict
from collections.abc import Callable

import keras
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from kerasdl.backend.torch_adam import FusedAdam

# A shape is traced once its steps have taken so long: a trace takes a second or two.
SECONDS = 4.0
# Texts of many lengths would be traced for each.
MOST_SHAPES = 4
# A trace holds three copies of the variables; a step of more is no small one.
MOST_BYTES = 256e6


def quick_step(model: keras.Model, objective) -> Callable | None:
    """Make a training step like Keras's own, with less Python.

    Args:
        model: Compiled model, with the training step of Keras.
        objective: Function from a batch to its loss, `kerasdl.steps.Objective`.

    Returns:
        Function to be the `train_step` of the model; `None` if nothing is trained, or
        on GPUs, where this has not been proven.
    """
    weights = model.trainable_variables
    if not weights or torch.cuda.is_available():
        return None
    if not model.optimizer.built:
        model.optimizer.build(weights)
    return QuickStep(model, objective)


class QuickStep:
    """A training step that records what it calls, and then replays it.

    Args:
        model: Compiled model, its optimizer built.
        objective: Function from a batch to its loss.
    """

    def __init__(self, model: keras.Model, objective):
        self.model = model
        self.objective = objective
        self.weights = model.trainable_variables
        self.update = _update(model.optimizer, self.weights)
        self.seconds, self.traced = defaultdict(float), {}

    def __call__(self, data):
        """Change the weights by one batch; return the logs."""
        start = time.perf_counter()
        leaves = [x for x in keras.tree.flatten(data) if x is not None]
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if self.seconds[shapes] > SECONDS and self._may_trace(shapes):
            self.traced[shapes] = _traced(self.model, self.compute, data)
        compute = self.traced.get(shapes) or self.compute
        logs, gradients, rate = compute(data)
        if self.update:
            with torch.no_grad():
                self.update(gradients, rate)
        self.seconds[shapes] += time.perf_counter() - start
        return logs

    def _may_trace(self, shapes) -> bool:
        return shapes not in self.traced and len(self.traced) < MOST_SHAPES

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


def _update(optimizer: keras.optimizers.Optimizer, variables) -> Callable | None:
    """Return what changes the weights outside a trace; `None` leaves it to be traced.

    Epsilon of the one and the rate of the other are plain numbers of their kernels.
    """
    if isinstance(optimizer, keras.optimizers.SGD):
        return lambda gradients, _: optimizer.apply(gradients, variables)
    return FusedAdam.of(optimizer, variables)


def _traced(model: keras.Model, compute: Callable, data) -> Callable | None:
    """Record what a step calls; return `None` where that would not be the same.

    That a replay gives exactly what the step itself gives is tried on copies.
    """
    variables = _variables(model)
    values = [variable.value.detach() for variable in variables]
    if sum(value.nbytes for value in values) > MOST_BYTES:
        return None
    step = _FlatStep(model, compute, variables, data)
    leaves = keras.tree.flatten(data)
    state = torch.get_rng_state()

    def on_copies(function):
        torch.set_rng_state(state)
        copies = [value.clone() for value in values]
        return [*function(*copies, *leaves), *copies]

    try:
        module = make_fx(step)(*(value.clone() for value in values), *leaves)
        _simplify(module)
        pairs = zip(on_copies(step), on_copies(module), strict=True)
        is_same = all(torch.equal(one, other) for one, other in pairs)
    except RuntimeError:  # what the step calls depends on numbers
        return None
    finally:
        torch.set_rng_state(state)

    def replay(data):
        with torch.no_grad():
            return step.result(module(*values, *keras.tree.flatten(data)))

    return replay if is_same else None


class _FlatStep:
    """A step as a function of tensors, which changes those of the variables.

    Args:
        model: The model.
        compute: Function from a batch to logs, gradients and rate.
        variables: All that it may change.
        data: A batch, for its structure.
    """

    def __init__(self, model, compute, variables, data):
        self.compute = compute
        self.variables = variables
        self.data = data
        self.trained = {id(variable) for variable in model.trainable_variables}

    def __call__(self, *tensors):
        """Return logs, gradients and rate as one list, what is `None` left out."""
        count = len(self.variables)
        given, leaves = tensors[:count], tensors[count:]
        held = [
            value.detach().requires_grad_(id(variable) in self.trained)
            for variable, value in zip(self.variables, given, strict=True)
        ]
        mapping = list(zip(self.variables, held, strict=True))
        with keras.StatelessScope(mapping) as scope, torch.enable_grad():
            data = keras.tree.pack_sequence_as(self.data, leaves)
            logs, gradients, rate = self.compute(data)
            after = [scope.get_current_value(variable) for variable in self.variables]
        with torch.no_grad():
            for value, before, now in zip(given, held, after, strict=True):
                if now is not before:
                    value.copy_(now)
        self.names = list(logs)
        self.used = [gradient is not None for gradient in gradients]
        self.has_rate = rate is not None
        return [x for x in (*logs.values(), *gradients, rate) if x is not None]

    def result(self, found):
        """Return such a list as logs, gradients and rate again."""
        found = iter(found)
        logs = {name: next(found) for name in self.names}
        gradients = [next(found) if is_used else None for is_used in self.used]
        return logs, gradients, next(found) if self.has_rate else None


def _simplify(module: torch.fx.GraphModule) -> None:
    """Leave out what changes nothing, and compute once what is always the same."""
    graph, known = module.graph, {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, node.target)
        elif node.op != "call_function":
            continue
        elif node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
        elif _is_pure(node) and known.keys() >= set(node.all_input_nodes):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.get)
            value = node.target(*args, **kwargs)
            if isinstance(value, torch.Tensor):
                name = f"known{len(known)}"
                module.register_buffer(name, value)
                with graph.inserting_before(node):
                    constant = graph.get_attr(name)
                known[constant] = value
                node.replace_all_uses_with(constant)
    graph.eliminate_dead_code()
    # Arguments and results are flat lists as they are.
    graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()


def _is_pure(node: torch.fx.Node) -> bool:
    """Say whether a call draws no numbers, and nothing is written to its result."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    is_random = torch.Tag.nondeterministic_seeded in node.target.tags
    return not (is_random or any(map(_writes, (node, *node.users))))


def _writes(node: torch.fx.Node) -> bool:
    is_call = isinstance(node.target, torch._ops.OpOverload)
    return is_call and node.target._schema.is_mutable


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Return all that a step may change, each once."""
    found = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())
