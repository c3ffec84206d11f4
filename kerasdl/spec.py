"""What a bundle says about itself, checked before any of it is used."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras

from kerasdl._version import __version__
from kerasdl.data.encoders import ENCODERS
from kerasdl.errors import InputError
from kerasdl.manifest import verify
from kerasdl.predict import Classifier, Regressor
from kerasdl.untrusted import brief, read_json
from kerasdl.weights import STORAGES

FORMAT = 1
# What the model does, and so which encoder stands before it and who answers.
TASKS = {
    "array-classification": ("array", Classifier),
    "array-regression": ("array", Regressor),
    "image-classification": ("image", Classifier),
    "text-classification": ("text", Classifier),
    "table-classification": ("table", Classifier),
    "table-regression": ("table", Regressor),
}
SPEC = "spec.json"
WEIGHTS = "weights.safetensors"
METRICS = "metrics.json"
CARD = "MODEL_CARD.md"
KERAS_COPY = "model.keras"
REQUIRED = {SPEC, WEIGHTS, METRICS, CARD}
KNOWN = {KERAS_COPY, *(name for kind in ENCODERS.values() for name in kind.files)}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What `spec.json` says: how to rebuild the model and read its answers.

    Attributes:
        builder: Name of the builder on the allow-list.
        arguments: Keyword arguments of the builder.
        labels: Class names, in the order of the probabilities; empty for values.
        answer: How outputs become answers: `temperature` of a `Classifier`, or `mean`,
            `scale` and `margin` of a `Regressor`.
        preprocessing: Configuration of the encoder.
        storage: How the weights are stored, one of `STORAGES`.
        task: What the model does, a key of `TASKS`.
        kerasdl: Version that wrote the bundle.
        format: Version of the folder's layout.
    """

    builder: str
    arguments: dict
    labels: list[str]
    answer: dict
    preprocessing: dict
    storage: str
    task: str
    kerasdl: str = __version__
    format: int = FORMAT


def read_bundle(folder: Path) -> Bundle:
    """Check every file of a bundle against the manifest, and read its spec.

    Raises:
        InputError: If a file is missing or changed, or the spec is not valid.
    """
    listed = verify(folder, REQUIRED, KNOWN)
    path = folder / SPEC
    fields = read_json(path)
    version = fields.get("format")
    if type(version) is not int or version < 1:
        raise InputError(f"{path}: the format is not a number; get the bundle again")
    if version > FORMAT:
        raise InputError(
            f"{path}: made by a newer kerasdl (format {version}); upgrade kerasdl"
        )
    _check_spec(path, fields)
    kind, _ = TASKS[fields["task"]]
    if missing := sorted(set(ENCODERS[kind].files) - listed):
        raise InputError(f"{folder} lists no {missing[0]}; get the bundle again")
    return Bundle(**fields)


def _check_spec(path: Path, fields: dict) -> None:
    task = fields.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"{path}: task={brief(repr(task))} is not valid")
    answers = TASKS[task][1]
    valid = {
        "answer": answers.are_settings,
        "arguments": lambda value: isinstance(value, dict),
        "builder": lambda value: isinstance(value, str),
        "format": lambda value: value == FORMAT,
        "kerasdl": lambda value: isinstance(value, str),
        "labels": _are_labels if answers is Classifier else lambda value: value == [],
        "preprocessing": lambda value: isinstance(value, dict),
        "storage": lambda value: value in STORAGES,
        "task": lambda value: value in TASKS,
    }
    if odd := sorted(set(valid) ^ set(fields)):
        raise InputError(
            f"{path}: the field {brief(repr(odd[0]))} is missing or unknown"
        )
    for name, fits in valid.items():
        if not fits(fields[name]):
            raise InputError(f"{path}: {name}={brief(repr(fields[name]))} is not valid")


def _are_labels(value) -> bool:
    strings = isinstance(value, list) and all(map(_is_text, value))
    return strings and len(set(value)) == len(value) >= 2


def _is_text(value) -> bool:
    # JSON can hold half a surrogate pair, which no encoding can write.
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def check_sizes(
    builder: Callable, arguments: dict, sizes: Mapping, folder: Path
) -> None:
    """Refuse a model that is too small for what the encoder makes.

    Args:
        builder: Makes the model.
        arguments: Its arguments, from the bundle.
        sizes: Those that the encoder decides.
        folder: The bundle.

    Raises:
        InputError: Names the argument.
    """
    usual = inspect.signature(builder).parameters
    for name, needed in sizes.items():
        given = arguments.get(name, usual[name].default if name in usual else None)
        if isinstance(needed, int):
            fits = not isinstance(given, int) or given >= needed
        else:
            fits = name not in arguments or given == list(needed)
        if not fits:
            raise InputError(
                f"{folder / SPEC}: {name}={brief(repr(given))} does not fit the "
                f"encoder, which needs {needed}; get the bundle again"
            )


def check_inputs(model: keras.Model, sizes: Mapping, folder: Path) -> None:
    """Refuse a model that takes examples of another shape than the encoder makes.

    Args:
        model: The model.
        sizes: What the encoder decides.
        folder: The bundle.

    Raises:
        InputError: If the shapes differ.
    """
    needed = sizes.get("input_shape")
    for tensor in keras.tree.flatten(model.input) if needed else ():
        taken = tuple(tensor.shape[1:])
        if len(taken) != len(needed) or any(
            size not in (None, found) for size, found in zip(taken, needed, strict=True)
        ):
            raise InputError(
                f"{folder / SPEC}: the model takes examples of the shape {taken}, but "
                f"the encoder makes {tuple(needed)}; get the bundle again"
            )


def check_outputs(
    model: keras.Model, answers: type, labels: list[str], folder: Path
) -> None:
    """Refuse a model whose outputs are not what the task needs.

    Args:
        model: The model.
        answers: `Classifier` or `Regressor`.
        labels: Class names of a classifier.
        folder: The bundle.

    Raises:
        InputError: If they are others, or several.
    """
    if not isinstance(model.output, keras.KerasTensor):
        raise InputError(f"{folder / SPEC}: the model has more than one output")
    shape = model.output_shape
    if answers is Regressor:
        fits = None not in shape[1:]
    else:
        # One logit may stand for two classes.
        widths = {len(labels), 1} if len(labels) == 2 else {len(labels)}
        fits = len(shape) == 2 and shape[-1] in widths
    if not fits:
        raise InputError(
            f"{folder / SPEC}: {len(labels)} labels do not fit the model's "
            f"{shape[-1]} outputs; get the bundle again"
        )
