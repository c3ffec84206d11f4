"""A trained model as a folder that can be trusted and reloaded.

The folder holds data only. Loading checks every checksum, rebuilds the model with a
builder from the allow-list, compares shapes before any memory is taken for weights, and
refuses with one clear sentence.
"""

import difflib
import importlib.resources
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import keras
import safetensors.numpy

from kerasdl import BUILDERS
from kerasdl.absent import absent
from kerasdl.data.arrays import ArrayEncoder
from kerasdl.data.encoders import ENCODERS
from kerasdl.data.images import ImageEncoder
from kerasdl.errors import InputError
from kerasdl.layers import GridPositions, resize_positions
from kerasdl.manifest import MANIFEST, replacing, seal, to_json
from kerasdl.precision import precision
from kerasdl.predict import Classifier, Regressor
from kerasdl.spec import (
    CARD,
    KERAS_COPY,
    METRICS,
    SPEC,
    TASKS,
    WEIGHTS,
    Bundle,
    check_inputs,
    check_outputs,
    check_sizes,
    read_bundle,
)
from kerasdl.untrusted import brief, check_inside, open_tensors
from kerasdl.weights import (
    STORAGES,
    at_most,
    check_finite,
    check_weights,
    pack,
    table_of_contents,
    unpack,
)

# The argument of a builder that adds heads for the time of training.
AUXILIARY = "aux_heads"
SHIPPED = "kerasdl_saved_models"


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
    check_sizes(builder, spec.arguments, encoder.sizes, folder)
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
    check_inputs(model, encoder.sizes, folder)
    check_outputs(model, answers, spec.labels, folder)
    if answers is Classifier:
        return Classifier(model, encoder, spec.labels, **spec.answer)
    return Regressor(model, encoder, **spec.answer)


def find_bundle(path: str | Path) -> Path:
    """Return the folder of a bundle, given a run, a bundle or a shipped name.

    Raises:
        InputError: If there is no such folder.
    """
    folder, shipped = Path(path), shipped_bundles()
    try:
        for candidate in (folder / "bundle", folder):
            if (candidate / MANIFEST).exists():
                check_inside(candidate, folder)
                return candidate
        if str(path) in shipped:
            return shipped[str(path)]
        if folder.exists():
            raise InputError(f"{folder} is no bundle: it holds no {MANIFEST}")
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise InputError(f"{brief(folder)} cannot be read: {error.strerror}") from error
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


def _find_builder(name: str, builders: Mapping, folder: Path) -> Callable:
    for known in (builders, BUILDERS):
        if name in known:
            return known[name]
    raise InputError(
        f"{folder / SPEC}: the builder {brief(repr(name))} is not on the list; "
        f"if you trust it, call load(path, builders={{name: function}})"
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
        stored = [shape for _, shape in table_of_contents(weights).values()]
        # Images of another size have more positions: the caller decides how many.
        numbers = math.inf if resize else sum(map(math.prod, stored))
        with (
            precision("float32"),
            keras.StatelessScope(initialize_variables=False),
            at_most(len(stored), numbers),
        ):
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
            check_finite(value, variable.path, folder / WEIGHTS)
            if variable.path in grids:
                value = resize_positions(value, variable.shape[:2])
            variable.assign(value)
        return model

    with open_tensors(folder / WEIGHTS) as weights, ThreadPoolExecutor(1) as thread:
        return thread.submit(build, weights).result()


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
            f"{folder / SPEC}: the arguments do not fit the builder: {brief(reason)}"
        ) from error


def _write_keras_copy(model: keras.Model, path: Path) -> None:
    # The same layers without compile state: no optimizer slots, no custom loss.
    copy = keras.Model(model.input, model.output, name=model.name)
    # Keras imports TensorFlow on every backend just to ask whether an object is one of
    # its, but does without.
    with absent("tensorflow"):
        copy.save(path)
