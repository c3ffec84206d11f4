"""Weights trained in PyTorch for our models: found by name, checked, transposed."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

WRAPPERS = ("state_dict", "model")
PREFIX = "module."
IGNORED = "num_batches_tracked"
# Torch's name of a parameter within its module: what Keras may call it.
PARAMETERS = {
    "weight": ("kernel", "gamma"),
    "bias": ("bias", "beta"),
    "running_mean": ("moving_mean",),
    "running_var": ("moving_variance",),
}
# Modules without a name in torchvision.
CONV_NORM = ("conv", "norm")
MBCONV = ("expand", "depthwise", "squeeze", "project")
# torchvision or timm.
VIT_BLOCK = r"(?:encoder\.layers\.encoder_layer_|blocks\.)(\d+)"
POSITION_TABLE = r"(?:encoder\.pos_embedding|pos_embed)"


@dataclass(frozen=True)
class InOrder:
    """Pairs modules, by the numbers in their names, with layers in the model's order.

    Attributes:
        layers: Regular expression of the layers' names.
    """

    layers: str


# Family: torch module, a regular expression of its whole name: our layer. A function
# gets the expression's groups, numbers as integers; torch counts from 0, we from 1. A
# parameter outside any module (a class token) goes by its own name and stands for the
# whole path of our weight.
RULES: dict[str, dict[str, str | InOrder | Callable[..., str]]] = {
    # torchvision; for CIFAR the names of Idelbayev's and of Chen's implementations.
    "resnet": {
        r"conv1": "stem_conv",
        r"bn1": "stem_norm",
        r"bn": "final_norm",
        r"layer(\d)\.(\d+)\.conv(\d)": lambda s, u, i: f"stage{s}_unit{u + 1}_conv{i}",
        r"layer(\d)\.(\d+)\.bn(\d)": lambda s, u, i: f"stage{s}_unit{u + 1}_norm{i}",
        r"layer(\d)\.(\d+)\.(?:downsample|shortcut)\.0": (
            lambda s, u: f"stage{s}_unit{u + 1}_shortcut_conv"
        ),
        r"layer(\d)\.(\d+)\.(?:downsample|shortcut)\.1": (
            lambda s, u: f"stage{s}_unit{u + 1}_shortcut_norm"
        ),
        r"fc|linear": "logits",
    },
    # torchvision and timm; the weights that torchvision downloads say "norm.1".
    "densenet": {
        r"features\.(conv|norm)0": lambda kind: f"stem_{kind}",
        r"features\.denseblock(\d)\.denselayer(\d+)\.(conv|norm)\.?(\d)": (
            lambda s, u, kind, i: f"stage{s}_unit{u}_{kind}{i}"
        ),
        r"features\.transition(\d)\.(conv|norm)": lambda i, kind: (
            f"transition{i}_{kind}"
        ),
        r"features\.norm5": "final_norm",
        r"classifier": "logits",
    },
    # torchvision. The first stage does not widen, so that its parts count from 0.
    "efficientnet": {
        r"features\.0\.([01])": lambda i: f"stem_{CONV_NORM[i]}",
        r"features\.1\.(\d+)\.block\.([012])\.([01])": (
            lambda u, part, i: f"stage1_unit{u + 1}_{MBCONV[part + 1]}_{CONV_NORM[i]}"
        ),
        r"features\.([2-7])\.(\d+)\.block\.(\d)\.([01])": (
            lambda s, u, part, i: f"stage{s}_unit{u + 1}_{MBCONV[part]}_{CONV_NORM[i]}"
        ),
        r"features\.(\d)\.(\d+)\.block\.\d\.fc([12])": (
            lambda s, u, i: f"stage{s}_unit{u + 1}_squeeze_conv{i}"
        ),
        r"features\.8\.([01])": lambda i: f"head_{CONV_NORM[i]}",
        r"classifier\.1": "logits",
    },
    # torchvision, whose numbers count activations and pooling too; AlexNet as well. The
    # dense layers are convolutions in timm.
    "vgg": {
        r"features\.\d+": InOrder(r"stage\d_(conv|norm)\d*"),
        r"classifier\.\d+": InOrder(r"dense\d+|logits"),
        r"pre_logits\.fc(\d)": lambda i: f"dense{i}",
        r"head\.fc": "logits",
    },
    # torchvision; timm.
    "vit": {
        r"conv_proj|patch_embed\.proj": "patches",
        r"class_token|cls_token": "class_token/token",
        rf"{POSITION_TABLE}\.token": "class_token/position",
        rf"{POSITION_TABLE}\.grid": "positions/grid",
        rf"{VIT_BLOCK}\.(?:ln_1|norm1)": lambda i: f"block{i + 1}_attention_norm",
        rf"{VIT_BLOCK}\.(?:self_attention\.in_proj|attn\.qkv)": (
            lambda i: f"block{i + 1}_attention/qkv"
        ),
        rf"{VIT_BLOCK}\.(?:self_attention\.out_proj|attn\.proj)": (
            lambda i: f"block{i + 1}_attention/out"
        ),
        rf"{VIT_BLOCK}\.(?:ln_2|norm2)": lambda i: f"block{i + 1}_mlp_norm",
        rf"{VIT_BLOCK}\.mlp\.(?:0|fc1|linear_1)": (
            lambda i: f"block{i + 1}_mlp_expand"
        ),
        rf"{VIT_BLOCK}\.mlp\.(?:3|fc2|linear_2)": (
            lambda i: f"block{i + 1}_mlp_project"
        ),
        r"encoder\.ln|norm": "norm",
        r"heads\.head|head": "logits",
    },
}


def load_torch_weights(model: keras.Model, state_dict: Mapping[str, Any]) -> None:
    """Load the weights of the same network, trained in PyTorch.

    The names are those of torchvision or timm; for ResNets on CIFAR those of the common
    implementations. A `{"state_dict": ...}` or `{"model": ...}` wrapper and a `module.`
    prefix are taken off.

    Args:
        model: A model of one of the families in `RULES`.
        state_dict: Torch tensors or arrays by parameter name.

    Raises:
        ValueError: At the first parameter that is missing, unknown or of another shape;
            the model is then left as it was.

    Example:
        >>> model = kerasdl.resnet(variant="resnet50")  # doctest: +SKIP
        >>> load_torch_weights(model, torch.load("resnet50.pth"))  # doctest: +SKIP
    """
    variables = {variable.path: variable for variable in model.weights}
    arrays = _split_positions(_unwrap(state_dict), variables)
    paths = _best_paths(model, arrays, variables)
    flattened = dict(_flattened_shapes(model))
    values = {}
    for name, array in arrays.items():
        path = paths.get(name)
        if path not in variables:
            hint = f" ({path!r} is not there)" if path else ""
            raise ValueError(f"state_dict: the model has no weight for {name!r}{hint}")
        if path in values:
            raise ValueError(f"state_dict: {name!r} is a second {path!r}")
        value = _transpose(array, path, flattened.get(path))
        shape = tuple(variables[path].shape)
        if _without_ones(value.shape) != _without_ones(shape):
            raise ValueError(
                f"state_dict: {name!r} {array.shape} does not fit {path!r} {shape}"
            )
        values[path] = value.reshape(shape)
    for path in variables:
        if path not in values:
            raise ValueError(f"state_dict: nothing for the model's weight {path!r}")
    for path, value in values.items():
        variables[path].assign(value)


def _unwrap(state_dict) -> dict[str, np.ndarray]:
    """Return float32 arrays by torch's own names."""
    for wrapper in WRAPPERS:
        if isinstance(state_dict, Mapping) and wrapper in state_dict:
            state_dict = state_dict[wrapper]
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise ValueError(
            f"state_dict is a {type(state_dict).__name__}; expected arrays by name"
        )
    state_dict = {str(name): value for name, value in state_dict.items()}
    if all(name.startswith(PREFIX) for name in state_dict):
        state_dict = {name.removeprefix(PREFIX): x for name, x in state_dict.items()}
    return {
        name: _to_numpy(name, value)
        for name, value in state_dict.items()
        if not name.endswith(IGNORED)
    }


def _split_positions(arrays, variables) -> dict[str, np.ndarray]:
    """Part the class token's position, which torch keeps in the same table, off."""
    name = next(filter(re.compile(POSITION_TABLE).fullmatch, arrays), None)
    if name is None or "positions/grid" not in variables:
        return arrays
    rest = {other: array for other, array in arrays.items() if other != name}
    table, grid = arrays[name], variables["positions/grid"].shape
    table = table.reshape(-1, table.shape[-1])
    if "class_token/position" in variables:
        rest[f"{name}.token"], table = table[:1], table[1:]
    if table.size == np.prod(grid):
        table = table.reshape(grid)
    return rest | {f"{name}.grid": table}


def _to_numpy(name, value) -> np.ndarray:
    if hasattr(value, "detach"):  # NumPy has no bfloat16, hence float()
        value = value.detach().cpu().float().numpy()
    try:
        return np.asarray(value, dtype="float32")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"state_dict: {name!r} is a {type(value).__name__}; expected an array"
        ) from error


def _best_paths(model, names, variables) -> dict[str, str]:
    """Return the path of our weight by torch name, of the family that fits best."""

    def fits(paths):
        return sum(path in variables for path in paths.values())

    best = max(
        (_paths(rules, model, names, variables) for rules in RULES.values()), key=fits
    )
    if not fits(best):
        raise ValueError(
            f"state_dict: {min(names, default=None)!r} and the layers of "
            f"{model.name!r} are of none of the families {sorted(RULES)}"
        )
    return best


def _paths(rules, model, names, variables) -> dict[str, str]:
    """Return the path of our weight for each torch name that the rules know."""
    suffix = re.compile(rf"(.+)[._]({'|'.join(PARAMETERS)})")
    split = {n: m.groups() if (m := suffix.fullmatch(n)) else (n, None) for n in names}
    layers = _layer_names(rules, model, dict.fromkeys(m for m, _ in split.values()))
    paths = {}
    for name, (module, parameter) in split.items():
        if module in layers:
            options = [f"{layers[module]}/{p}" for p in PARAMETERS.get(parameter, ())]
            options = options or [layers[module]]
            paths[name] = next((p for p in options if p in variables), options[0])
    return paths


def _layer_names(rules, model, modules) -> dict[str, str]:
    """Return our layer's name for each torch module that the rules know."""
    names = {}
    for pattern, target in rules.items():
        found = {m: hit.groups() for m in modules if (hit := re.fullmatch(pattern, m))}
        if isinstance(target, InOrder):
            ours = [x.name for x in model.layers if re.fullmatch(target.layers, x.name)]
            names |= zip(sorted(found, key=_numbers), ours, strict=False)
        elif callable(target):
            names |= {m: target(*map(_number, groups)) for m, groups in found.items()}
        else:
            names |= dict.fromkeys(found, target)
    return names


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _number(group: str) -> int | str:
    return int(group) if group.isdigit() else group


def _flattened_shapes(model) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield each kernel that reads a flattened image, and the image's shape."""
    makers = {id(operation.output): operation for operation in model.operations}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            maker = makers.get(id(layer.input))
            while isinstance(maker, keras.layers.Dropout):
                maker = makers.get(id(maker.input))
            if isinstance(maker, keras.layers.Flatten):
                yield layer.kernel.path, maker.input.shape[1:]


def _transpose(array, path, flattened) -> np.ndarray:
    """Bring a parameter into Keras's order of axes."""
    if not path.endswith("/kernel") or array.ndim < 2:
        return array
    if flattened and np.prod(array.shape[1:]) == np.prod(flattened):
        # Torch flattens channels first.
        height, width, channels = flattened
        array = array.reshape(-1, channels, height, width)
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    # Outputs, inputs, then space becomes space, inputs, outputs.
    return np.moveaxis(array, (1, 0), (-2, -1))


def _without_ones(shape) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
