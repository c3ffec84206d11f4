"""What a function calls of PyTorch, recorded once and then replayed without Keras.

Every layer, loss, metric and schedule of Keras costs Python and, on PyTorch, many small
tensors; in a small model that is most of a step. It is the same calls each time, so
they are recorded once for each shape of a batch and then replayed: the numbers stay the
same, bit for bit.
"""

import operator
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType
from typing import Any

import keras
import optree  # Keras's own way through nested structures is a slow one on PyTorch
import torch
from torch.fx.experimental.proxy_tensor import make_fx

# A shape is traced once its calls have taken so long: a trace takes a second or two.
SECONDS = 4.0
# Texts of many lengths would be traced for each.
MOST_SHAPES = 4
# Operators that PyTorch binds as methods of tensors alone.
METHODS = "add_", "copy_", "expand", "view"
# What may write its result over what it is given.
IN_PLACE = {
    torch.ops.aten.add.Tensor: torch.ops.aten.add_.Tensor,
    torch.ops.aten.relu.default: torch.ops.aten.relu_.default,
}
# A trace holds three copies of the variables; a step of more is no small one.
MOST_BYTES = 256e6


def on_processor(variables: Sequence[keras.Variable]) -> bool:
    """Say whether variables are where all of this has been proven, not on a GPU."""
    return all(variable.value.device.type == "cpu" for variable in variables)


class Replayed:
    """A function of Keras that is replayed once it has taken a while.

    Args:
        compute: Function of a batch; what it returns may be nested and hold `None`.
        variables: All variables that it reads or assigns.
        trained: Those of them that it takes gradients of.
    """

    def __init__(
        self,
        compute: Callable[[Any], Any],
        variables: Sequence[keras.Variable],
        trained: Sequence[keras.Variable] = (),
    ):
        self.compute = compute
        self.variables = list(
            {id(variable): variable for variable in variables}.values()
        )
        self.trained = {id(variable) for variable in trained}
        self.seconds, self.traced = defaultdict(float), {}
        size = sum(variable.value.nbytes for variable in self.variables)
        is_small = size <= MOST_BYTES
        self.may_trace = is_small and on_processor(self.variables)

    def __call__(self, data):
        """Return what the function returns for a batch of tensors."""
        start = time.perf_counter()
        leaves, structure = optree.tree_flatten(data)
        shapes = structure, *((leaf.shape, leaf.dtype) for leaf in leaves)
        if self.seconds[shapes] > SECONDS and self._is_new(shapes):
            self.traced[shapes] = self._trace(leaves, structure)
        replay = self.traced.get(shapes)
        found = replay(leaves) if replay else self.compute(data)
        self.seconds[shapes] += time.perf_counter() - start
        return found

    def _is_new(self, shapes) -> bool:
        is_new = shapes not in self.traced and len(self.traced) < MOST_SHAPES
        return self.may_trace and is_new

    def _trace(self, leaves: list, structure) -> Callable | None:
        """Record the calls; return `None` where a replay would not be the same.

        That it gives exactly what the function itself gives is tried on copies.
        """
        values = [variable.value.detach() for variable in self.variables]
        flat = _Flat(self.compute, self.variables, self.trained, structure)
        state = torch.get_rng_state()

        def replay_on(*tensors):
            # Nothing of it is trained through, but recurrent kernels keep what their
            # gradient needs only where there may be one.
            with torch.inference_mode(), torch.set_grad_enabled(bool(self.trained)):
                return module(*tensors)

        def on_copies(function):
            torch.set_rng_state(state)
            copies = [value.clone() for value in values]
            return [*function(*copies, *leaves), *copies]

        try:
            module = make_fx(flat)(*(value.clone() for value in values), *leaves)
            _simplify(module)
            _quicken(module)
            pairs = zip(on_copies(flat), on_copies(replay_on), strict=True)
            is_same = all(torch.equal(one, other) for one, other in pairs)
        except (RuntimeError, TypeError):  # calls hang on numbers, or cannot be bound
            return None
        finally:
            torch.set_rng_state(state)

        def replay(leaves):
            return optree.tree_unflatten(flat.structure, replay_on(*values, *leaves))

        return replay if is_same else None


class _Flat:
    """A function as one of tensors to tensors, which changes those of the variables.

    Args:
        compute: The function.
        variables: What it reads and assigns.
        trained: Identities of those that it takes gradients of.
        given: Structure of a batch.

    Attributes:
        structure: That of what the function returns, once it has been called.
    """

    def __init__(self, compute, variables, trained, given):
        self.compute = compute
        self.variables = variables
        self.trained = trained
        self.given = given

    def __call__(self, *tensors):
        """Return the tensors of what the function returns."""
        count = len(self.variables)
        given, leaves = tensors[:count], tensors[count:]
        held = [
            value.detach().requires_grad_(id(variable) in self.trained)
            for variable, value in zip(self.variables, given, strict=True)
        ]
        mapping = list(zip(self.variables, held, strict=True))
        with keras.StatelessScope(mapping) as scope, torch.enable_grad():
            found = self.compute(optree.tree_unflatten(self.given, leaves))
            after = [scope.get_current_value(variable) for variable in self.variables]
        with torch.no_grad():
            for value, before, now in zip(given, held, after, strict=True):
                if now is not before:
                    value.copy_(now)
        found, self.structure = optree.tree_flatten(found)
        return found


def _simplify(module: torch.fx.GraphModule) -> None:
    """Leave out what changes nothing, and compute once what is the same again."""
    graph, known, before = module.graph, {}, {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, node.target)
        elif node.op != "call_function":
            continue
        elif (same := _undone(node)) is not None:
            node.replace_all_uses_with(same)
        elif not _is_pure(node):
            continue
        elif known.keys() >= set(node.all_input_nodes):
            _compute_now(module, node, known)
        else:
            call = node.target, node.args, tuple(node.kwargs.items())
            if (same := before.setdefault(call, node)) is not node:
                node.replace_all_uses_with(same)
    graph.eliminate_dead_code()


def _compute_now(module: torch.fx.GraphModule, node: torch.fx.Node, known: dict):
    """Put the result of a call whose arguments are `known` in its place."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.get)
    value = node.target(*args, **kwargs)
    if isinstance(value, torch.Tensor):
        name = f"known{len(known)}"
        module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        known[constant] = value
        node.replace_all_uses_with(constant)


def _undone(node: torch.fx.Node) -> torch.fx.Node | None:
    """Return what a call that changes nothing was given; `None` for another call."""
    if node.target is torch.ops.aten.detach.default:
        return node.args[0]
    if _is_transpose(node) and _is_transpose(node.args[0]):
        return node.args[0].args[0]
    return None


def _is_transpose(node: torch.fx.Node) -> bool:
    """Say whether a call swaps the axes of a matrix."""
    is_swap = node.target is torch.ops.aten.t.default
    return is_swap or (
        node.target is torch.ops.aten.permute.default and list(node.args[1]) == [1, 0]
    )


def _is_pure(node: torch.fx.Node) -> bool:
    """Say whether a call draws no numbers, and nothing is written to its result."""
    if _schema(node) is None:
        return False
    is_random = torch.Tag.nondeterministic_seeded in node.target.tags
    schemas = map(_schema, (node, *node.users))
    return not (is_random or any(schema and schema.is_mutable for schema in schemas))


def _schema(node: torch.fx.Node) -> torch.FunctionSchema | None:
    """Return what PyTorch declares of a call; `None` where it is no operator's."""
    is_operator = isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema if is_operator else None


def _write_over(node: torch.fx.Node) -> None:
    """Spare a call the memory of its result, where nothing else reads an argument."""
    if node.target not in IN_PLACE or node.kwargs:
        return
    for given, *others in (node.args, node.args[::-1]):
        if isinstance(given, torch.fx.Node) and _is_free(given, node):
            node.target, node.args = IN_PLACE[node.target], (given, *others)
            return


def _is_free(given: torch.fx.Node, node: torch.fx.Node) -> bool:
    """Say whether an argument is of no further use, and such as the result."""
    found = [one.meta.get("tensor_meta") for one in (given, node)]
    if None in found:
        return False
    shapes = [(one.shape, one.dtype, one.stride) for one in found]
    while len(given.users) == 1 and _is_view(given):
        given = given.args[0]
    made, readers = given, 1
    if given.target is operator.getitem:
        made = given.args[0]
        readers = sum(user.args[1:] == given.args[1:] for user in made.users)
    is_last = len(given.users) == readers == 1
    return is_last and shapes[0] == shapes[1] and _is_new(made)


def _is_view(node: torch.fx.Node) -> bool:
    """Say whether a call returns the memory of its first argument."""
    schema = _schema(node)
    if schema is None:
        return False
    return _is_unsafe(schema) or schema.arguments[0].alias_info is not None


def _is_new(node: torch.fx.Node) -> bool:
    """Say whether a call returns memory that nothing else had before."""
    schema = _schema(node)
    if schema is None:
        return False
    is_alias = any(value.alias_info is not None for value in schema.returns)
    return not (is_alias or _is_unsafe(schema))


def _is_unsafe(schema) -> bool:
    """Say whether results are views though the schema does not say so."""
    return "unsafe" in schema.name  # `_unsafe_view`, `unsafe_split`


def _quicken(module: torch.fx.GraphModule) -> None:
    """Let all be called with little Python and little memory around it."""
    for change in (_write_over, _bind):
        for node in module.graph.nodes:
            change(node)
    # Arguments and results are flat lists as they are.
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()


def _bind(node: torch.fx.Node) -> None:
    """Let a call go by PyTorch's binding for Python, a few microseconds quicker."""
    schema = _schema(node)
    if schema is None:
        return
    name = schema.name.removeprefix("aten::")
    function = getattr(torch, name, None)
    if isinstance(function, BuiltinFunctionType):
        node.target = function
    elif name in METHODS:
        node.op, node.target = "call_method", name
    elif name == "_to_copy" and node.kwargs.keys() == {"dtype"}:
        node.op, node.target = "call_method", "to"
        node.kwargs = {**node.kwargs, "copy": True}
