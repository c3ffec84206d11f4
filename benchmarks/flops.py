"""Floating-point operations of a forward pass, counted in its JAX program.

Matrix products and convolutions only, a multiplication and an addition as two: what the
peak of a device is measured in. Nothing is computed or allocated, so that any size can
be counted; training takes three times as many, two of the three in the backward pass.
"""

import math
from collections.abc import Iterator


def count(build, shapes: dict[str, tuple[tuple[int, ...], str]]) -> dict[str, int]:
    """Count trainable parameters and operations of one example.

    Args:
        build: Function that returns an uncompiled model.
        shapes: Name of each input to shape without the batch, and dtype.

    Returns:
        `parameters` and `forward_flops`.
    """
    import jax
    import keras

    def struct(shape, dtype):
        return jax.ShapeDtypeStruct(tuple(shape), dtype)

    with keras.StatelessScope(initialize_variables=False):
        model = build()
    weights = [
        [struct(weight.shape, weight.dtype) for weight in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    inputs = {
        name: struct((1, *shape), dtype) for name, (shape, dtype) in shapes.items()
    }
    if len(inputs) == 1:
        inputs = next(iter(inputs.values()))
    program = jax.make_jaxpr(lambda *values: model.stateless_call(*values)[0])
    return {
        "parameters": sum(math.prod(weight.shape) for weight in weights[0]),
        "forward_flops": of_program(program(*weights, inputs).jaxpr),
    }


def of_program(program) -> int:
    """Count the operations of a JAX program and of those within it."""
    return sum(_of_equation(equation) for equation in program.eqns)


def _of_equation(equation) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [of_program(program) for program in _within(equation.params)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("a loop of unknown length holds matrix products")
    return sum(inner)


def _within(params: dict) -> Iterator:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            program = getattr(item, "jaxpr", item)  # closed or not
            if hasattr(program, "eqns"):
                yield program


def _of_product(equation) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    summed = math.prod(left[axis] for axis in contracted)
    return 2 * summed * math.prod(equation.outvars[0].aval.shape)


def _of_convolution(equation) -> int:
    kernel = equation.invars[1].aval.shape  # its input channels are those of a group
    filters = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    summed = math.prod(kernel) // filters
    return 2 * summed * math.prod(equation.outvars[0].aval.shape)
