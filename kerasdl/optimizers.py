"""Keras's optimizers by name, and what they cannot do: scale, clip, cycle and freeze.

An optimizer made here from a schedule has a variable `rate_scale`, by which a callback
lowers the rate whatever the schedule says. Keras's classes are used as they are, unless
something is asked for that differs from weight to weight.
"""

import functools
import re
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from kerasdl import backend
from kerasdl.checks import check_choice, is_number
from kerasdl.errors import InputError
from kerasdl.schedules import OneCycle, Schedule

# What decay would not regularise but only shrink: biases, and what norms scale by. On
# TensorFlow the name is a path with an end of its own.
NOT_DECAYED = r"(^|/)(bias|beta|gamma|scale)(/replica_\d+)?(:0)?$"
CLIPS = {"norm": "clipnorm", "global_norm": "global_clipnorm", "value": "clipvalue"}
CLIP_BY = (*CLIPS, "adaptive")
# Weights below this norm are clipped as if they had it: Brock et al. 2021, section 4.
SMALLEST_NORM = 1e-3

Optimizer = keras.optimizers.Optimizer
Rate = float | Schedule


@keras.saving.register_keras_serializable(package="kerasdl")
class ScheduleFreeAdamW(keras.optimizers.ScheduleFreeAdamW):
    """Schedule-free AdamW with the average of the paper on every backend.

    Keras 3.15 finds the old average with the fast weights of before the step, but on
    PyTorch and TensorFlow it holds on to a variable, which has changed by then.

    Reference:
        [The Road Less Scheduled](https://arxiv.org/abs/2405.15682), algorithm 1.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Change one weight (Keras calls this)."""
        index = self._get_variable_index(variable)
        fast, velocity = self._momentums[index], self._velocities[index]
        dtype = variable.dtype
        step = ops.cast(self.iterations + 1, dtype)
        rate = ops.cast(learning_rate, dtype)
        gradient = ops.cast(backend.dense(gradient), dtype)
        if self.warmup_steps:
            rate = rate * ops.minimum(step / self.warmup_steps, 1.0)
        average = (variable - (1 - self.beta_1) * fast) / self.beta_1
        self.assign_add(velocity, (1 - self.beta_2) * (gradient**2 - velocity))
        size = ops.sqrt(velocity / (1 - ops.power(ops.cast(self.beta_2, dtype), step)))
        self.assign_sub(fast, rate * gradient / (size + self.epsilon))
        average = average + (fast - average) / step
        self.assign(variable, (1 - self.beta_1) * fast + self.beta_1 * average)


# name: class and the defaults in which it differs from Keras's
OPTIMIZERS = {
    "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (keras.optimizers.RMSprop, {}),
    "adam": (keras.optimizers.Adam, {}),
    # As torch.optim.AdamW; Keras's 0.004 hardly decays in a short training.
    "adamw": (keras.optimizers.AdamW, {"weight_decay": 0.01}),
    # Ten times that of AdamW with a tenth of its rate: Chen et al. 2023, section 5.
    "lion": (keras.optimizers.Lion, {"weight_decay": 0.1, "beta_2": 0.99}),
    # The last layer is left to Adam: Jordan et al. 2024.
    "muon": (
        keras.optimizers.Muon,
        {"weight_decay": 0.01, "adam_weight_decay": 0.01, "exclude_layers": ["logits"]},
    ),
    "schedule_free_adamw": (ScheduleFreeAdamW, {}),
}


def make_optimizer(
    name: str,
    learning_rate: Rate,
    *,
    clip: float = 0.0,
    clip_by: str = "global_norm",
    ema: float = 0.0,
    factors: Mapping[str, float] | None = None,
    **options,
) -> Optimizer:
    """Return an optimizer of Keras, ready for a schedule that callbacks may scale.

    Weights do not decay where they are biases or belong to norms. A one-cycle schedule
    cycles the momentum of SGD and the `beta_1` of Adam and AdamW, too.

    Args:
        name: A key of `OPTIMIZERS`, or of another optimizer of Keras, in small letters.
        learning_rate: Float or Keras schedule.
        clip: Largest gradient, in the sense of `clip_by`; 0 does not clip.
        clip_by: `"global_norm"` of all gradients, `"norm"` of each, `"value"`, or
            `"adaptive"`: the norm of each unit's gradient as a share of its weights'.
        ema: Decay of a moving average of the weights; 0 keeps none.
        factors: Factor of the learning rate by a weight's path, 1 where it is not
            listed; can be changed later, as `PerWeight` says.
        **options: Arguments of the Keras class.

    Returns:
        The optimizer.

    Raises:
        ValueError: If the name, `clip_by` or an option is unknown, or `clip` negative.

    Reference:
        [High-Performance Large-Scale Image Recognition Without
        Normalization](https://arxiv.org/abs/2102.06171), section 4, for the adaptive
        clipping.
    """
    check_choice("clip_by", clip_by, CLIP_BY)
    if not (is_number(clip) and clip >= 0):
        raise ValueError(f"clip={clip!r}; expected a number of at least 0")
    kind, defaults = _kind(name)
    options = {**defaults, **options, "learning_rate": learning_rate}
    if ema:
        options |= {"use_ema": True, "ema_momentum": ema}
    if clip and clip_by in CLIPS:
        options[CLIPS[clip_by]] = clip
    if isinstance(learning_rate, OneCycle) and kind in CYCLED:
        kind, argument = CYCLED[kind]
        options[argument] = learning_rate.momentum()
    if factors is not None or (clip and clip_by == "adaptive"):
        kind = per_weight(kind)
        options |= {"factors": factors or {}}
        options["clip_ratio"] = clip if clip_by == "adaptive" else 0.0
    try:
        optimizer = kind(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer={name!r}: {error}") from error
    if optimizer.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=[NOT_DECAYED])
    make_scalable(optimizer)
    return optimizer


def _kind(name: str) -> tuple[type[Optimizer], dict]:
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    others = _others()
    check_choice("optimizer", name, {*OPTIMIZERS, *others})
    return others[name], {}


def _others() -> dict[str, type[Optimizer]]:
    """Return all optimizers of Keras by their names in small letters."""
    others = {
        key.lower(): value
        for key, value in vars(keras.optimizers).items()
        if isinstance(value, type) and issubclass(value, Optimizer)
    }
    del others["optimizer"], others["lossscaleoptimizer"]
    return others


def settings_of(optimizer: Optimizer) -> tuple[str, dict, float]:
    """Return what an optimizer was made with, as `make_optimizer` takes it.

    Args:
        optimizer: An optimizer of a class in `OPTIMIZERS`, or another of Keras.

    Returns:
        The name of its class, the other arguments, and the learning rate.

    Raises:
        InputError: If the class is another, or the rate follows a schedule.
    """
    kinds = {name: kind for name, (kind, _) in OPTIMIZERS.items()} | _others()
    found = type(optimizer)
    if found.__module__.startswith("keras."):  # on PyTorch a class that stands in
        named = [kind for kind in found.__mro__ if kind in kinds.values()]
        found = named[0] if named else found
    names = [name for name, kind in kinds.items() if kind is found]
    if not names:
        raise InputError(
            f"optimizer={found.__name__}; a recipe takes the name of an "
            "optimizer or an instance of one of Keras's own classes"
        )
    if schedule_of(optimizer) is not None:
        raise InputError(
            f"the optimizer {names[0]} follows a schedule of its own; give it a number"
            " and name the schedule in the recipe"
        )
    options = optimizer.get_config()
    del options["name"]
    # Keras holds it in 32 bits: 0.1 would come back as 0.10000000149.
    return names[0], options, float(str(np.float32(options.pop("learning_rate"))))


@keras.saving.register_keras_serializable(package="kerasdl")
class ScaledRate(Schedule):
    """A schedule times a variable that callbacks set.

    Args:
        schedule: The schedule.
        scale: Scalar variable; 1 if omitted.
    """

    def __init__(self, schedule: Schedule, scale: keras.Variable | None = None):
        self.schedule = schedule
        self.scale = scale

    def __call__(self, step):
        """Return the learning rate at a step."""
        rate = self.schedule(step)
        return rate if self.scale is None else rate * self.scale

    def get_config(self) -> dict:
        """Return the schedule alone: the scale is state of the optimizer."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule)}

    @classmethod
    def from_config(cls, config: dict) -> "ScaledRate":
        """Make one from its configuration (Keras calls this)."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]))


def make_scalable(optimizer: Optimizer) -> bool:
    """Let the rate of an optimizer be scaled, if it follows a schedule.

    Args:
        optimizer: Any optimizer of Keras.

    Returns:
        Whether this has changed it; what was compiled before does not know.
    """
    optimizer = innermost(optimizer)
    schedule = schedule_of(optimizer)
    if schedule is None or hasattr(optimizer, "rate_scale"):
        return False
    if isinstance(schedule, ScaledRate):
        schedule = schedule.schedule
    # A variable of the optimizer: checkpoints hold it, and JAX's jit sees it change.
    optimizer.rate_scale = optimizer.add_variable(
        (), initializer="ones", name="rate_scale"
    )
    optimizer.learning_rate = ScaledRate(schedule, optimizer.rate_scale)
    return True


def schedule_of(optimizer: Optimizer) -> Schedule | None:
    """Return the schedule that an optimizer follows, `None` where its rate is a float.

    Args:
        optimizer: Any optimizer of Keras.
    """
    # Keras shows the current rate alone; its `get_config` imports TensorFlow.
    schedule = innermost(optimizer)._learning_rate
    return schedule if isinstance(schedule, Schedule) else None


def scale_rate(optimizer: Optimizer, factor: float) -> None:
    """Multiply the learning rate from now on, along with any schedule.

    Args:
        optimizer: An optimizer with a float rate, or one that is scalable.
        factor: What to multiply by.
    """
    optimizer = innermost(optimizer)
    if hasattr(optimizer, "rate_scale"):
        optimizer.rate_scale.assign(optimizer.rate_scale * factor)
    else:
        rate = ops.convert_to_numpy(optimizer.learning_rate)
        optimizer.learning_rate = float(rate) * factor


def innermost(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that a scaling of the loss is wrapped around, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


class PerWeight:
    """What makes an optimizer of Keras treat each weight in its own way.

    A factor of the rate for each weight, 0 for one that must not change, and adaptive
    clipping. The factors are in the variable `rate_factors`, in the order of `paths`.
    The decay follows the factors, which Keras's own does not.

    Args:
        factors: Factor of the learning rate by path, 1 where it is not listed.
        clip_ratio: Largest norm of a unit's gradient, as a share of that of its
            weights; 0 does not clip. The last layer is not clipped.
        **options: Arguments of the optimizer.
    """

    is_muon = False

    def __init__(self, *, factors: Mapping[str, float], clip_ratio: float, **options):
        decay = options.pop("weight_decay", None) or 0.0
        if self.is_muon:
            options |= {"weight_decay": 0.0, "adam_weight_decay": 0.0}
        super().__init__(**options)
        self.decay = decay
        self.clip_ratio = clip_ratio
        self.first_factors = tuple(factors.items())

    def build(self, variables):
        """Create the state for these weights (Keras calls this)."""
        if self.built:
            return
        super().build(variables)
        self.paths = tuple(variable.path for variable in variables)
        self.decays = tuple(
            not re.search(NOT_DECAYED, variable.name) for variable in variables
        )
        factors = dict(self.first_factors)
        values = np.array([factors.get(path, 1.0) for path in self.paths], "float32")
        self.rate_factors = self.add_variable(
            values.shape, keras.initializers.Constant(values), name="rate_factors"
        )

    def update_step(self, gradient, variable, learning_rate):
        """Change one weight (Keras calls this)."""
        # As every optimizer of Keras finds its state; TensorFlow hands over variables
        # of its own, which have no path.
        index = self._get_variable_index(variable)
        if self.clip_ratio and "logits" not in self.paths[index]:
            gradient = clip_by_weights(gradient, variable, self.clip_ratio)
        rate = learning_rate * self.rate_factors[index]
        if self.decay and self.decays[index]:
            share = ops.cast(rate * self.decay, variable.dtype)
            self.assign_sub(variable, ops.multiply(variable, share))
        super().update_step(gradient, variable, rate)

    def get_config(self) -> dict:
        """Return the arguments (Keras calls this)."""
        return {
            **super().get_config(),
            "weight_decay": self.decay,
            "factors": dict(self.first_factors),
            "clip_ratio": self.clip_ratio,
        }


@functools.cache
def per_weight(kind: type[Optimizer]) -> type[Optimizer]:
    """Return an optimizer class with what `PerWeight` adds."""
    # AdamW insists on a decay of its own; without one it is Adam.
    bases = {keras.optimizers.AdamW: keras.optimizers.Adam, CycledAdamW: CycledAdam}
    is_muon = issubclass(kind, keras.optimizers.Muon)
    name = f"PerWeight{kind.__name__}"
    return type(name, (PerWeight, bases.get(kind, kind)), {"is_muon": is_muon})


def clip_by_weights(gradient, weights, ratio: float):
    """Clip the gradient of each unit, the last axis, to a share of its weights' norm.

    Args:
        gradient: Gradient, shaped as the weights.
        weights: The weights.
        ratio: Largest norm as a share of that of the weights.
    """
    gradient = backend.dense(gradient)
    weights = ops.cast(ops.convert_to_tensor(weights), gradient.dtype)
    axes = tuple(range(max(len(weights.shape) - 1, 1)))
    squares = ops.sum(ops.square(gradient), axes, keepdims=True)
    most = ratio * ops.maximum(
        ops.sqrt(ops.sum(ops.square(weights), axes, keepdims=True)), SMALLEST_NORM
    )
    return gradient * ops.minimum(1.0, most * ops.rsqrt(ops.maximum(squares, 1e-24)))


@keras.saving.register_keras_serializable(package="kerasdl")
class CycledSGD(keras.optimizers.SGD):
    """SGD with a schedule in place of a momentum."""

    def __init__(self, *, momentum: Schedule, **options):
        super().__init__(momentum=0.9, **options)
        self.momentum_schedule = momentum

    def update_step(self, gradient, variable, learning_rate):
        """Change one weight (Keras calls this)."""
        rate = ops.cast(learning_rate, variable.dtype)
        step = ops.multiply(ops.cast(gradient, variable.dtype), rate)
        share = ops.cast(self.momentum_schedule(self.iterations), variable.dtype)
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, ops.subtract(ops.multiply(momentum, share), step))
        if self.nesterov:
            self.assign_add(variable, ops.subtract(ops.multiply(momentum, share), step))
        else:
            self.assign_add(variable, momentum)

    def get_config(self) -> dict:
        """Return the arguments (Keras calls this)."""
        return {**super().get_config(), "momentum": self.momentum_schedule}


class _CycledBeta:
    """Adam with a schedule in place of `beta_1`."""

    @property
    def beta_1(self):
        return self.beta_schedule(self.iterations)

    @beta_1.setter
    def beta_1(self, schedule):
        self.beta_schedule = schedule

    def get_config(self) -> dict:
        return {**super().get_config(), "beta_1": self.beta_schedule}


@keras.saving.register_keras_serializable(package="kerasdl")
class CycledAdam(_CycledBeta, keras.optimizers.Adam):
    """Adam with a schedule in place of `beta_1`."""


@keras.saving.register_keras_serializable(package="kerasdl")
class CycledAdamW(_CycledBeta, keras.optimizers.AdamW):
    """AdamW with a schedule in place of `beta_1`."""


# Keras class: that with a schedule of the momentum, and the argument it stands in for
CYCLED = {
    keras.optimizers.SGD: (CycledSGD, "momentum"),
    keras.optimizers.Adam: (CycledAdam, "beta_1"),
    keras.optimizers.AdamW: (CycledAdamW, "beta_1"),
}
