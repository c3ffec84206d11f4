"""Rematerialisation: a training step computes features twice, and so holds fewer."""

import itertools
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import tree

from kerasdl import backend
from kerasdl.errors import InputError

# Largest sizes of a segment that are tried, as shares of the model.
SHARES = 0.8 ** np.arange(1, 25)


def rematerialise(model: keras.Model) -> int:
    """Let a training step hold the features at a few places of a model alone.

    Between these places features are computed again when the gradient is; after the
    last one they are needed at once, and stay. Dropout draws the same again, and a
    batch norm counts each batch once. The places are chosen so that what they hold and
    the largest segment between them are smallest in sum.

    A mask that a layer derives from one that it was given, without being told to, ends
    with its segment.

    Keras's `RematScope` lets each single layer hold its input instead. It fails on
    TensorFlow, and on JAX where a layer draws or counts; on PyTorch such layers draw
    and count anew, which gives other gradients.

    Args:
        model: Functional model, compiled or not. Its method `call` is replaced; layers
            and weights stay.

    Returns:
        Number of segments.

    Raises:
        InputError: If the model cannot be cut into segments, or it does not pay.

    Reference:
        [Training Deep Nets with Sublinear Memory Cost](https://arxiv.org/abs/1604.06174)
    """
    operations = _operations(model)
    sizes = [_size(_outputs(operation)) for operation in operations]
    cuts = _cuts(sizes, _held(model, operations))
    if not cuts:
        raise InputError(
            f"model {model.name!r} is too small for rematerialisation; leave it out"
        )
    places = itertools.pairwise([0, *cuts, len(operations)])
    parts = [operations[start:end] for start, end in places]
    model.call = _in_segments(model, parts)
    return len(parts)


def _operations(model: keras.Model) -> list[keras.Operation]:
    """Return what a functional model computes, in order.

    Raises:
        InputError: If it cannot be cut into segments.
    """
    title = f"model {model.name!r}"
    if not hasattr(model, "operations"):
        raise InputError(f"{title} is not functional; rematerialisation cuts no other")
    sources = keras.layers.InputLayer
    operations = [x for x in model.operations if not isinstance(x, sources)]
    known = set(map(id, model.inputs))
    for operation in operations:
        if not known.issuperset(map(id, _inputs(operation))):
            raise InputError(
                f"{title} calls a layer twice, before {operation.name!r}; for "
                "rematerialisation give it two layers"
            )
        known.update(map(id, _outputs(operation)))
        if getattr(operation, "mask_zero", False) or getattr(
            operation, "activity_regularizer", None
        ):
            raise InputError(
                f"layer {operation.name!r} of {title} gives a mask or a loss besides "
                "its output, which rematerialisation would lose"
            )
    return operations


def _inputs(operation: keras.Operation) -> list[keras.KerasTensor]:
    return tree.flatten(operation.input)


def _outputs(operation: keras.Operation) -> list[keras.KerasTensor]:
    return tree.flatten(operation.output)


def _is_float(tensor: keras.KerasTensor) -> bool:
    return keras.backend.is_float_dtype(tensor.dtype)


def _size(tensors: Sequence[keras.KerasTensor]) -> int:
    """Return the numbers that tensors hold for one example, axes unknown being 1."""
    return sum(math.prod(axis or 1 for axis in tensor.shape) for tensor in tensors)


def _held(model: keras.Model, operations: Sequence[keras.Operation]) -> list[int]:
    """Return for each operation the size of what is needed from it on.

    The inputs of the model do not count: they are held in any case.
    """
    inputs = set(map(id, model.inputs))
    needed = {id(tensor): tensor for tensor in model.outputs}
    held = []
    for operation in reversed(operations):
        for tensor in _outputs(operation):
            needed.pop(id(tensor), None)
        needed |= {id(tensor): tensor for tensor in _inputs(operation)}
        held.append(_size([x for key, x in needed.items() if key not in inputs]))
    return held[::-1]


def _cuts(sizes: Sequence[int], held: Sequence[int]) -> list[int]:
    """Choose the operations before which to cut.

    Args:
        sizes: What each operation computes.
        held: What a cut before each operation holds.

    Returns:
        Places, for which what they hold and the largest segment are least in sum.
    """
    ends = np.concatenate([[0], np.cumsum(sizes)])
    best, least = [], ends[-1]
    for largest in SHARES * ends[-1]:
        cuts, cost = _cheapest(ends, [*held, 0], largest)
        if cost + largest < least:
            best, least = cuts, cost + largest
    return best


def _cheapest(ends, held, largest: float) -> tuple[list[int], float]:
    """Return the places that hold least where no segment is larger than `largest`."""
    costs = np.full(len(ends), np.inf)
    before = np.zeros(len(ends), int)
    costs[0] = 0
    for place in range(1, len(ends)):
        first = int(np.searchsorted(ends, ends[place] - largest))
        if first < place:
            before[place] = first + np.argmin(costs[first:place])
            costs[place] = costs[before[place]] + held[place]
    cuts, place = [], before[-1]
    while place:
        cuts.append(int(place))
        place = before[place]
    return cuts[::-1], costs[-1]


def _in_segments(model: keras.Model, parts: Sequence[list]) -> Callable:
    """Return the method `call` of a model that computes it part by part."""
    whole = model.call
    entrance = keras.Model(model.input, model.inputs)
    needed = {id(tensor) for tensor in model.outputs}
    segments = []
    for i, part in reversed(list(enumerate(parts))):
        made = {id(x): x for operation in part for x in _outputs(operation)}
        read = {id(x): x for operation in part for x in _inputs(operation)}
        starts = {key: x for key, x in read.items() if key not in made}
        ends = {key: x for key, x in made.items() if key in needed}
        # First what gradients are taken of, which a backend waits for.
        ends = dict(sorted(ends.items(), key=lambda item: not _is_float(item[1])))
        graph = keras.Model([*starts.values()], [*ends.values()], name=f"segment{i}")
        again = i < len(parts) - 1 and any(map(_is_float, ends.values()))
        segments.append((_Segment(graph, again=again), [*starts], [*ends]))
        needed |= set(starts)

    def call(inputs, training=None, mask=None):
        if not training:
            return whole(inputs, training=training, mask=mask)
        entered = tree.flatten(entrance(inputs))
        held = dict(zip(map(id, model.inputs), entered, strict=True))
        for segment, starts, ends in reversed(segments):
            results = segment([held[key] for key in starts])
            held |= zip(ends, results, strict=True)
        outputs = [held[id(tensor)] for tensor in model.outputs]
        return tree.pack_sequence_as(model.output, outputs)

    return call


class _Segment(keras.layers.Layer):
    """Part of a model as in training, whose features may be computed again.

    Args:
        graph: The part.
        again: Whether they are.
    """

    def __init__(self, graph: keras.Model, *, again: bool):
        # What is handed to the layers are their weights, not yet in half precision.
        super().__init__(autocast=False)
        self.supports_masking = True
        self.graph = graph
        self.again = again
        self.built = True

    def call(self, inputs):
        """Return the list of outputs for a list of inputs."""
        graph = self.graph
        if not self.again:
            # Not by calling it, which warns of masks that a layer has handed on.
            return tree.flatten(graph.call(inputs, training=True))
        weights = [variable.value for variable in graph.trainable_variables]
        states = [variable.value for variable in graph.non_trainable_variables]

        def compute(tensors, states):
            parts = tensors[: len(weights)], states, tensors[len(weights) :]
            outputs, states = graph.stateless_call(*parts, training=True)
            return tree.flatten(outputs), states

        outputs, after = backend.recomputed(compute, [*weights, *inputs], states)
        for variable, value in zip(graph.non_trainable_variables, after, strict=True):
            variable.assign(value)
        return outputs

    def compute_mask(self, inputs, previous_mask):
        """Return None: masks are among the inputs and outputs."""
