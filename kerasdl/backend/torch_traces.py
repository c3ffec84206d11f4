"""What a function calls of PyTorch, recorded once and then replayed without Keras.

Every layer, loss, metric and schedule of Keras costs Python and, on PyTorch, many small
tensors; in a small model that is most of a step. It is the same calls each time, so
they are recorded once for each shape of a batch and then replayed: the numbers stay the
same, bit for bit. What a function computes only for some batches it asks `decide` for.
"""

import operator
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import BuiltinFunctionType
from typing import Any

import keras
import optree  # Keras's own way through nested structures is a slow one on PyTorch
import torch
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx

# A shape is traced once its calls have taken so long: a trace takes a second or two.
SECONDS = 4.0
# Texts of many lengths would be traced for each.
MOST_TRACES = 4
# What `decide` has been asked while a trace is made.
_ASKED = ContextVar("asked", default=None)
# Operators that PyTorch binds as methods of tensors alone.
METHODS = "add_", "copy_", "expand", "view"
# What may write its result over what it is given.
IN_PLACE = {
    torch.ops.aten.add.Tensor: torch.ops.aten.add_.Tensor,
    torch.ops.aten.relu.default: torch.ops.aten.relu_.default,
}
# A trace holds three copies of the variables; a step of more is no small one.
MOST_BYTES = 512e6


def on_processor(variables: Sequence[keras.Variable]) -> bool:
    """Say whether variables are where all of this has been proven, not on a GPU."""
    return all(variable.value.device.type == "cpu" for variable in variables)


def decide(condition: torch.Tensor) -> bool:
    """Say whether a condition on the batch holds, so that code may branch on it.

    A trace is of what is done then, and replayed only where it says the same.
    """
    with disable_proxy_modes_tracing():
        truth = bool(condition)
    asked = _ASKED.get()
    if asked is not None:
        asked.append((condition, truth))
    return truth


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
        self.seconds, self.traces = defaultdict(float), defaultdict(list)
        size = sum(variable.value.nbytes for variable in self.variables)
        may_trace = size <= MOST_BYTES and on_processor(self.variables)
        self.left = MOST_TRACES if may_trace else 0

    def __call__(self, data):
        """Return what the function returns for a batch of tensors."""
        leaves, structure = optree.tree_flatten(data)
        shapes = structure, *[(leaf.shape, leaf.dtype) for leaf in leaves]
        for trace in self.traces[shapes]:
            if trace.serves(leaves):
                return trace(leaves)
        if self.left and self.seconds[shapes] > SECONDS:
            self.left -= 1
            trace = self._trace(leaves, structure)
            if trace:
                self.seconds[shapes] = 0.0
                self.traces[shapes].append(trace)
                return trace(leaves)
            self.seconds[shapes] = -float("inf")
        start = time.perf_counter()
        found = self.compute(data)
        self.seconds[shapes] += time.perf_counter() - start
        return found

    def _trace(self, leaves: list, structure) -> "_Trace | None":
        """Record the calls; return `None` where a replay would not be the same.

        That it gives exactly what the function itself gives is tried on copies.
        """
        values = [variable.value.detach() for variable in self.variables]
        flat = _Flat(self.compute, self.variables, self.trained, structure)
        state = torch.get_rng_state()

        def on_copies(function):
            torch.set_rng_state(state)
            copies = [value.clone() for value in values]
            return [*function(*copies, *leaves), *copies]

        try:
            trace = _Trace(flat, values, leaves)
            pairs = zip(on_copies(flat), on_copies(trace.replay), strict=True)
            is_same = all(torch.equal(one, other) for one, other in pairs)
        except (RuntimeError, TypeError):  # calls hang on numbers, or cannot be bound
            return None
        finally:
            torch.set_rng_state(state)
        return trace if is_same and trace.serves(leaves) else None


class _Trace:
    """What a function calls for a batch, and for what other batches it would.

    Args:
        flat: The function, a `_Flat`.
        values: Values of its variables, which a call of the trace changes.
        leaves: Tensors of the batch.

    Raises:
        RuntimeError: If the calls hang on numbers.
    """

    def __init__(self, flat, values, leaves):
        self.flat, self.values, self.truths = flat, values, []

        def record(*tensors):
            mark = _ASKED.set([])
            try:
                found, asked = flat(*tensors), _ASKED.get()
            finally:
                _ASKED.reset(mark)
            self.truths = [truth for _, truth in asked]
            return [*found, *(condition for condition, _ in asked)]

        self.module = make_fx(record)(*(value.clone() for value in values), *leaves)
        _simplify(self.module)
        self.conditions = _split_off(self.module, len(self.truths))
        for module in (self.module, self.conditions):
            _quicken(module)

    def serves(self, leaves: list) -> bool:
        """Say whether the function would call the same for the tensors of a batch."""
        if not self.truths:
            return True
        with torch.inference_mode():
            found = self.conditions(*self.values, *leaves)
        return [bool(condition) for condition in found] == self.truths

    def __call__(self, leaves: list):
        """Return what the function does for the tensors of a batch."""
        found = self.replay(*self.values, *leaves)
        return optree.tree_unflatten(self.flat.structure, found)

    def replay(self, *tensors):
        """Return the tensors of that; those of the variables are changed."""
        # By `forward`: as a module it takes a tenth of the time of a small network.
        with torch.inference_mode():
            if not self.flat.trained:
                return self.module.forward(*tensors)
            # Nothing of it is trained through, but recurrent kernels keep what their
            # gradient needs only where there may be one.
            with torch.enable_grad():
                return self.module.forward(*tensors)


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


def _split_off(module: torch.fx.GraphModule, count: int) -> torch.fx.GraphModule:
    """Take the last results of a module, so many, and return another that has them.

    Raises:
        RuntimeError: If they would not be the same when they are asked for first.
    """
    graph, own = module.graph, torch.fx.Graph()
    *_, output = graph.nodes
    results = list(output.args[0])
    kept, taken = results[: len(results) - count], results[len(results) - count :]
    wanted = set(taken)
    for node in reversed(graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    copies = {}
    for node in graph.nodes:
        if node.op == "placeholder" or node in wanted:
            if node.op == "call_function" and not _is_pure(node):
                raise RuntimeError(f"{node} may be another when it is called again")
            copies[node] = own.node_copy(node, copies.get)
    own.output([copies[node] for node in taken])
    output.args = (kept,)
    graph.eliminate_dead_code()
    return torch.fx.GraphModule(module, own)


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
