"""A recipe: everything that decides a training run, as one flat value."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING

from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.untrusted import brief

if TYPE_CHECKING:  # a recipe is read by `--help`, which must not wait for a backend
    import keras

KINDS = ("text", "table", "image")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")
LARGEST_SEED = 2**32 - 1
# 16 bits must be so many times as fast: what they save must outweigh the noise of a
# short trial, and what three digits instead of seven may cost.
LEAST_GAIN = 1.1


def check_precision(name: str) -> None:
    """Refuse what is no precision of a training.

    Raises:
        InputError: If it is none of `PRECISIONS`.
    """
    if "float8" in str(name):
        raise InputError(
            f"precision={name!r}: only NVIDIA GPUs from Ada and Hopper on multiply in 8"
            " bits, and kerasdl has not been tried on one; take mixed_bfloat16"
        )
    check_choice("precision", name, PRECISIONS, error=InputError)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training run, as one flat value.

    Attributes:
        build: A builder, or its name in `kerasdl.BUILDERS`.
        kind: Kind of data, `"text"`, `"table"` or `"image"`.
        arguments: Arguments of the builder besides those that the data decide.
        pretrained: Start from this model, as `kerasdl.pretrained.open_pretrained` takes
            it, whose builder then is that of the recipe; empty starts from scratch.
        data: Name of a data set or path of a folder or table, as the loader of the kind
            takes it.
        data_options: Options of `kerasdl.data.sources.load_texts`,
            `kerasdl.data.rows.load_rows` or `kerasdl.data.image_sources.load_images`.
        encoder: Options of `fit_encode` of the encoder of the kind, in
            `kerasdl.data.encoders.ENCODERS`.
        epochs: Passes over the training data, at most; 0 where `pretrained` is set for
            a new head alone.
        batch_size: Examples per optimizer step.
        accumulate: Parts in which a step computes its examples, so that they need less
            memory; the step is the same. Batch norms see each part by itself.
        sam: How far sharpness-aware minimisation moves the weights to look for the
            worst loss nearby; 0 trains as usual, 0.05 is a good start and costs each
            step twice the time.
        optimizer: A name in `kerasdl.optimizers.OPTIMIZERS`, or that of another
            optimizer of Keras. An instance of such a class may stand here, too: it
            becomes its name, its arguments, and its rate as `learning_rate`.
        optimizer_options: Arguments of the optimizer's class.
        clip: Largest gradient, in the sense of `clip_by`; 0 does not clip.
        clip_by: A name in `kerasdl.optimizers.CLIP_BY`.
        learning_rate: Highest learning rate.
        schedule: A name in `kerasdl.schedules.SCHEDULES`.
        schedule_options: Options of the schedule.
        warmup: Share of the steps in which the learning rate rises from zero.
        patience: Epochs without a better validation loss before the training stops.
        unlabelled: Learn from the data's unlabelled examples, too: a first model gives
            them soft labels.
        label_smoothing: Share of each label given to all classes alike.
        class_weights: Let every class count alike, however many examples it has.
        augment: Changes of the training images, a name in `kerasdl.augment.POLICIES`.
        tta: Let the model answer for each image by that and its mirror image
            (test-time augmentation).
        ema: Decay of the moving average of the weights that is validated and kept; 0
            keeps the weights themselves. It starts from the first ones, so that it
            needs several times `1 / (1 - ema)` steps.
        swa: Share of the epochs, the last ones, whose weights are averaged one by one
            and validated and kept as such; 0 keeps the weights themselves.
        plateau: Epochs without a better validation loss after which the learning rate
            is lowered, along with its schedule; 0 never lowers it.
        word_vectors: Length of the vectors, learnt from the training texts, from which
            the embedding starts; 0 starts from random ones.
        validation_fraction: Share of the training data that chooses the epoch and the
            temperature.
        max_examples: Train on this many examples at most, `None` for all.
        precision: In which numbers the training computes, one of `PRECISIONS`:
            `"mixed_bfloat16"` and `"mixed_float16"` compute in 16 bits and keep
            weights, logits and loss in 32; `"auto"` tries what is faster. The trained
            model predicts in float32 in any case.
        seed: Decides every random choice.
        deterministic: Compute on a GPU, too, in an order that is always the same: the
            same seed then gives the same weights, on the same backend and machine.
        rematerialise: Hold fewer features in a step, and compute the others again: the
            step is the same, needs less memory and more time (see
            `kerasdl.rematerialise`).

    Raises:
        InputError: If a number is out of range, there is no such kind or precision,
            `tta` is asked of other data than images, `rematerialise` of a pretrained
            model, or the optimizer is none of Keras's own or follows a schedule.
    """

    build: "str | Callable[..., keras.Model]"
    kind: str = "text"
    arguments: Mapping = field(default_factory=dict)
    pretrained: str = ""
    data: str = "auto"
    data_options: Mapping = field(default_factory=dict)
    encoder: Mapping = field(default_factory=dict)
    epochs: int = 5
    batch_size: int = 64
    accumulate: int = 1
    sam: float = 0.0
    optimizer: "str | keras.optimizers.Optimizer" = "adam"
    optimizer_options: Mapping = field(default_factory=dict)
    clip: float = 0.0
    clip_by: str = "global_norm"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    schedule_options: Mapping = field(default_factory=dict)
    warmup: float = 0.0
    patience: int = 2
    unlabelled: bool = False
    label_smoothing: float = 0.0
    class_weights: bool = False
    augment: str = "none"
    tta: bool = False
    ema: float = 0.0
    swa: float = 0.0
    plateau: int = 0
    word_vectors: float = 0.0
    validation_fraction: float = 0.1
    max_examples: int | None = None
    precision: str = "float32"
    seed: int = 0
    deterministic: bool = False
    rematerialise: bool = False

    def __post_init__(self):
        if not isinstance(self.optimizer, str):
            from kerasdl.optimizers import settings_of  # noqa: PLC0415 - needs Keras

            name, options, rate = settings_of(self.optimizer)
            options = {**_with_tuples(options), **self.optimizer_options}
            object.__setattr__(self, "optimizer", name)
            object.__setattr__(self, "optimizer_options", options)
            object.__setattr__(self, "learning_rate", rate)
        for name in ("epochs", "batch_size", "accumulate", "learning_rate"):
            value = getattr(self, name)
            head_alone = name == "epochs" and value == 0 and self.pretrained
            if not (0 < value < math.inf or head_alone):
                raise InputError(f"{name}={value}; give a number above 0")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(
                f"seed={self.seed}; give a whole number from 0 to {LARGEST_SEED}"
            )
        check_choice("kind", self.kind, KINDS, error=InputError)
        if self.tta and self.kind != "image":
            raise InputError(
                f"tta=True with kind={self.kind!r}; only images are mirrored"
            )
        if self.rematerialise and self.pretrained:
            raise InputError(
                "rematerialise=True: fine-tuning cannot do that; let accumulate=2 or "
                "more take less memory"
            )
        check_precision(self.precision)

    @property
    def name(self) -> str:
        """Name of the builder."""
        return self.build if isinstance(self.build, str) else self.build.__name__

    def to_json(self) -> dict:
        """Return the recipe with its builder by name."""
        return {**asdict(self), "build": self.name}

    @classmethod
    def from_json(cls, fields: Mapping) -> "Recipe":
        """Return the recipe that `to_json` has returned, its builder by name.

        Raises:
            InputError: If a field is unknown, or of the wrong type.
        """
        known = {field.name: field.type for field in dataclass_fields(cls)}
        if "build" not in fields:
            raise InputError("the recipe names no model")
        if unknown := sorted(fields.keys() - known):
            raise InputError(
                f"the recipe has a field {brief(repr(unknown[0]))} that this version"
                " does not know"
            )
        for name, value in fields.items():
            _check_type(name, value, known[name])
        return cls(**{name: _with_tuples(value) for name, value in fields.items()})


def _check_type(name: str, value: object, annotation: object) -> None:
    """Refuse a value from JSON that is not of the type of its field."""
    # What may be an object in Python is a name in JSON; its annotation is text.
    wanted = str if isinstance(annotation, str) else annotation
    wanted = int | float if wanted is float else wanted
    is_right = isinstance(value, wanted)
    if wanted is not bool and isinstance(value, bool):
        is_right = False
    if not is_right:
        kind = wanted.__name__ if isinstance(wanted, type) else wanted
        raise InputError(f"the recipe has {name}={brief(repr(value))}; expected {kind}")


def _with_tuples(value):
    """Return a value from JSON with tuples, as recipes are written, for lists."""
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return value
