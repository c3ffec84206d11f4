"""A trained model as a folder that can be trusted and reloaded.

The folder holds data only. Loading checks every checksum, rebuilds the model with a
builder from the allow-list, compares shapes before any memory is taken for weights, and
refuses with one clear sentence.
"""

import difflib
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import safetensors
import safetensors.numpy

from kerasdl import BUILDERS
from kerasdl._version import __version__
from kerasdl.absent import absent
from kerasdl.data.arrays import ArrayEncoder
from kerasdl.data.encoders import ENCODERS
from kerasdl.data.images import ImageEncoder
from kerasdl.errors import InputError
from kerasdl.layers import GridPositions, resize_positions
from kerasdl.manifest import MANIFEST, parse_json, replacing, seal, to_json, verify
from kerasdl.predict import Classifier, Regressor
from kerasdl.weights import STORAGES, check_weights, pack, unpack

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
# The argument of a builder that adds heads for the time of training.
AUXILIARY = "aux_heads"
SPEC = "spec.json"
WEIGHTS = "weights.safetensors"
METRICS = "metrics.json"
CARD = "MODEL_CARD.md"
KERAS_COPY = "model.keras"
REQUIRED = {SPEC, WEIGHTS, METRICS, CARD}
SHIPPED = "kerasdl_saved_models"


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


def save_bundle(
    folder: str | Path,
    predictor: Classifier | Regressor,
    *,
    builder: str,
    arguments: Mapping,
    metrics: Mapping,
    card: str,
    storage: str = "float32",
    keras_copy: bool = True,
) -> Path:
    """Write a trained model as a bundle, or leave everything as it was.

    Args:
        folder: Where to write; an earlier bundle there is replaced once the new one is
            complete on disk.
        predictor: The trained model behind its encoder.
        builder: Name under which `load` finds the builder.
        arguments: JSON-ready keyword arguments with which the builder made the model;
            auxiliary heads, which only training has, are left out.
        metrics: JSON-ready metrics.
        card: Model card in Markdown.
        storage: `"float32"` is exact, `"float16"` halves the size, `"int8"` also stores
            tables of `SMALLEST_INT8_TABLE` numbers or more in 8 bits per number.
        keras_copy: Also write `model.keras` for other Keras programs.

    Returns:
        The absolute folder.

    Raises:
        InputError: If the folder holds something that is no bundle.
        ValueError: If `storage` is unknown or a weight does not survive it.
    """
    if storage not in STORAGES:
        raise ValueError(f"storage={storage!r}; expected one of {STORAGES}")
    spec = Bundle(
        builder=builder,
        arguments={k: v for k, v in arguments.items() if k != AUXILIARY},
        labels=list(predictor.labels),
        answer=predictor.answer_settings,
        preprocessing=predictor.encoder.config,
        storage=storage,
        task=_task(predictor),
    )
    files = {
        SPEC: to_json(asdict(spec)),
        WEIGHTS: safetensors.numpy.save(pack(predictor.model, storage)),
        METRICS: to_json(metrics),
        CARD: card.encode(),
        **predictor.encoder.contents(),
    }
    folder = Path(folder).absolute()
    with replacing(folder) as partial:
        for name, content in files.items():
            (partial / name).write_bytes(content)
        if keras_copy:
            _write_keras_copy(predictor.model, partial / KERAS_COPY)
        seal(partial)
    return folder


def _task(predictor: Classifier | Regressor) -> str:
    for task, (kind, answers) in TASKS.items():
        if isinstance(predictor, answers) and isinstance(
            predictor.encoder, ENCODERS[kind]
        ):
            return task
    raise ValueError(f"no task for {type(predictor.encoder).__name__}")


def load(
    path: str | Path,
    *,
    builders: Mapping[str, Callable] | None = None,
    input_shape: Sequence[int] | None = None,
) -> Classifier | Regressor:
    """Load a bundle for prediction.

    Args:
        path: Run folder, bundle folder, or name of a shipped bundle.
        builders: Builders allowed besides `kerasdl.BUILDERS`, by name.
        input_shape: Shape of the examples to come, where it is not that of training:
            positions in a grid are interpolated. For bundles that take images or
            arrays.

    Returns:
        Examples in, labels with calibrated probabilities or values with a range out.

    Raises:
        InputError: If anything about the bundle is missing, changed or does not fit.
    """
    folder = find_bundle(path)
    spec = read_bundle(folder)
    builder = _find_builder(spec.builder, builders or {}, folder)
    kind, answers = TASKS[spec.task]
    encoder = ENCODERS[kind].from_folder(spec.preprocessing, folder)
    arguments = spec.arguments
    if input_shape is not None:
        if not isinstance(encoder, (ArrayEncoder, ImageEncoder)):
            raise InputError(
                f"{folder} takes no images or arrays, so it has no input_shape"
            )
        if not isinstance(input_shape, (tuple, list)):
            raise InputError(f"input_shape={input_shape!r}; give a shape, a tuple")
        arguments = {**arguments, "input_shape": tuple(input_shape)}
        encoder = encoder.resized(input_shape)
    model = _rebuild(builder, arguments, folder, resize=input_shape is not None)
    if answers is Classifier:
        _check_outputs(model, spec.labels, folder)
    if answers is Classifier:
        return Classifier(model, encoder, spec.labels, **spec.answer)
    return Regressor(model, encoder, **spec.answer)


def find_bundle(path: str | Path) -> Path:
    """Return the folder of a bundle, given a run, a bundle or a shipped name.

    Raises:
        InputError: If there is no such folder.
    """
    folder, shipped = Path(path), shipped_bundles()
    for candidate in (folder / "bundle", folder):
        if (candidate / MANIFEST).exists():
            return candidate
    if str(path) in shipped:
        return shipped[str(path)]
    if folder.exists():
        raise InputError(f"{folder} is no bundle: it holds no {MANIFEST}")
    near = difflib.get_close_matches(str(path), shipped, n=1) or sorted(shipped)
    hint = f"; shipped with kerasdl: {', '.join(near)}" if near else ""
    raise InputError(f"there is no bundle {str(path)!r}{hint}")


def shipped_bundles() -> dict[str, Path]:
    """Return the bundles that came with kerasdl, by name."""
    try:
        root = Path(str(importlib.resources.files(SHIPPED)))
    except ModuleNotFoundError:  # a source checkout that is not installed
        root = Path(__file__).parents[1] / "saved_models"
    return {path.parent.name: path.parent for path in root.glob(f"*/{MANIFEST}")}


def read_bundle(folder: Path) -> Bundle:
    """Check every file of a bundle against the manifest, and read its spec.

    Raises:
        InputError: If a file is missing or changed, or the spec is not valid.
    """
    listed = verify(folder, REQUIRED)
    path = folder / SPEC
    fields = parse_json(path, path.read_bytes())
    version = fields.get("format")
    if not isinstance(version, int) or version < 1:
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
        raise InputError(f"{path}: task={task!r} is not valid")
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
        raise InputError(f"{path}: the field {odd[0]!r} is missing or unknown")
    for name, fits in valid.items():
        if not fits(fields[name]):
            raise InputError(f"{path}: {name}={fields[name]!r} is not valid")


def _are_labels(value) -> bool:
    strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return strings and len(set(value)) == len(value) >= 2


def _find_builder(name: str, builders: Mapping, folder: Path) -> Callable:
    for known in (builders, BUILDERS):
        if name in known:
            return known[name]
    raise InputError(
        f"{folder / SPEC}: the builder {name!r} is not on the list; "
        f"if you trust it, call load(path, builders={{{name!r}: function}})"
    )


def _check_outputs(model: keras.Model, labels: list[str], folder: Path) -> None:
    # One logit may stand for two classes.
    widths = {len(labels), 1} if len(labels) == 2 else {len(labels)}
    if model.output_shape[-1] not in widths:
        raise InputError(
            f"{folder / SPEC}: {len(labels)} labels do not fit the model's "
            f"{model.output_shape[-1]} outputs; get the bundle again"
        )


def _rebuild(
    builder: Callable, arguments: dict, folder: Path, *, resize: bool
) -> keras.Model:
    """Build the model with the stored weights, once their shapes are known to agree.

    In a stateless scope variables have shapes but no memory yet, and leaving the next
    scope creates them. Keras keeps the list of those to be created per thread: a thread
    of its own makes sure that those of a refused model are never created.
    """

    def build(weights) -> keras.Model:
        with keras.StatelessScope(initialize_variables=False):
            model = _call(builder, arguments, folder)
        grids = _grids(model) if resize else set()
        check_weights(model, weights, folder / WEIGHTS, resized=grids)
        for variable in model.weights:
            # Random values would be thrown away, and JAX compiles for seconds to
            # draw them. If Keras renames this attribute, loading is slower, not wrong.
            variable._initializer = _zeros
        with keras.StatelessScope():
            pass
        for variable in model.weights:
            value = unpack(weights, variable.path)
            if variable.path in grids:
                value = resize_positions(value, variable.shape[:2])
            variable.assign(value)
        return model

    try:
        with (
            safetensors.safe_open(folder / WEIGHTS, framework="numpy") as weights,
            ThreadPoolExecutor(1) as thread,
        ):
            return thread.submit(build, weights).result()
    except safetensors.SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS} cannot be read: {error}") from error


def _grids(model: keras.Model) -> set[str]:
    """Return the paths of the positions that depend on the size of the image."""
    layers = [layer for layer in model.layers if isinstance(layer, GridPositions)]
    return {layer.grid.path for layer in layers}


def _zeros(shape, dtype=None):
    return keras.ops.zeros(shape, dtype)


def _call(builder: Callable, arguments: dict, folder: Path) -> keras.Model:
    try:
        return builder(**{**arguments, "optimizer": None})
    except Exception as error:  # arguments from a file can make anything fail
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{folder / SPEC}: the arguments do not fit the builder: {reason}"
        ) from error


def _write_keras_copy(model: keras.Model, path: Path) -> None:
    # The same layers without compile state: no optimizer slots, no custom loss.
    copy = keras.Model(model.input, model.output, name=model.name)
    # Keras imports TensorFlow on every backend just to ask whether an object is one of
    # its, but does without.
    with absent("tensorflow"):
        copy.save(path)
