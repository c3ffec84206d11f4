"""The update of Keras's Adam in one kernel of PyTorch, in place of twenty."""

import keras
import torch

# What the fused kernel lacks.
UNFUSED = (
    *("amsgrad", "clipnorm", "clipvalue", "global_clipnorm", "use_ema"),
    *("loss_scale_factor", "gradient_accumulation_steps"),
)


class FusedAdam:
    """The update of Keras's Adam or AdamW in one kernel of PyTorch.

    Args:
        optimizer: The optimizer, built.
        variables: The weights, in its order.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, variables):
        self.optimizer = optimizer
        slots = {variable.name: variable for variable in optimizer.variables}
        groups = {}
        for place, variable in enumerate(variables):
            name = variable.path.replace("/", "_")
            changed = variable, slots[f"{name}_momentum"], slots[f"{name}_velocity"]
            decay = optimizer.weight_decay or 0.0
            if decay and not optimizer._use_weight_decay(variable):
                decay = 0.0
            # Keras assigns in place: the tensors stay those of the variables.
            tensors = [changed_one.value.detach() for changed_one in changed]
            groups.setdefault(decay, []).append((place, *tensors))
        self.groups = groups
        self.iterations = optimizer.iterations.value

    @classmethod
    def of(cls, optimizer, variables) -> "FusedAdam | None":
        """Return the update for an optimizer, `None` where Keras's own must do it."""
        kind, slots = type(optimizer), optimizer.variables
        is_plain = (
            len({slot.name for slot in slots}) == len(slots)
            and kind.__module__.startswith("keras.")
            and kind.__name__ in ("Adam", "AdamW")
            and not any(getattr(optimizer, name) for name in UNFUSED)
        )
        if not is_plain or not all(map(_is_plain, variables)):
            return None
        update = cls(optimizer, variables)
        return update if update.lies_in_one_order() else None

    def lies_in_one_order(self) -> bool:
        """Say whether slots lie in memory as their weights; the kernel goes through it.

        Its order is one without gaps, as Keras makes slots.
        """
        entries = (entry for group in self.groups.values() for entry in group)
        return all(
            len({tensor.stride() for tensor in tensors}) == 1 for _, *tensors in entries
        )

    def __call__(self, gradients, rate: torch.Tensor) -> None:
        """Change the weights and the slots.

        Args:
            gradients: Gradient of each weight, `None` for one that is not used.
            rate: Learning rate of the step.
        """
        optimizer = self.optimizer
        count = self.iterations.to(torch.float32)
        # Keras adds epsilon before it corrects the bias of the velocity.
        epsilon = optimizer.epsilon / (1 - optimizer.beta_2 ** float(count)) ** 0.5
        for decay, entries in self.groups.items():
            used = [e for e in entries if gradients[e[0]] is not None]
            if not used:
                continue
            places, weights, momenta, velocities = zip(*used, strict=True)
            torch._fused_adamw_(
                weights,
                [
                    _lying_as(weight, gradients[place])
                    for place, weight in zip(places, weights, strict=True)
                ],
                momenta,
                velocities,
                [],
                [count] * len(used),
                lr=rate,
                beta1=optimizer.beta_1,
                beta2=optimizer.beta_2,
                weight_decay=decay,
                eps=epsilon,
                amsgrad=False,
                maximize=False,
            )


def _lying_as(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if other.stride() == one.stride():
        return other
    return torch.empty_like(one).copy_(other)


def _is_plain(variable) -> bool:
    return variable.value.dtype == torch.float32 and variable.constraint is None
