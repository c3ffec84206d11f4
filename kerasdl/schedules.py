"""Learning-rate schedules by name, built from Keras's own."""

from keras.optimizers import schedules

from kerasdl.checks import check_choice

SCHEDULES = ("constant", "cosine", "linear")


def learning_rate_schedule(
    name: str, peak: float, steps: int, *, warmup: float = 0.0
) -> float | schedules.LearningRateSchedule:
    """Return the learning rate, or its schedule over a whole training.

    Args:
        name: `"constant"`, or a decay to zero: `"cosine"` or `"linear"`.
        peak: Highest learning rate.
        steps: Optimizer steps of the training.
        warmup: Share of the steps in which a cosine schedule rises from zero.

    Returns:
        A float for the constant rate, otherwise a Keras schedule.

    Raises:
        ValueError: If `name` is unknown.

    Example:
        >>> schedule = learning_rate_schedule("linear", 0.1, 100)
        >>> round(float(schedule(50)), 6)
        0.05
    """
    check_choice("schedule", name, SCHEDULES)
    if name == "constant":
        return peak
    if name == "linear":
        return schedules.PolynomialDecay(peak, max(steps, 1), end_learning_rate=0.0)
    warmup_steps = int(warmup * steps)
    return schedules.CosineDecay(
        0.0 if warmup_steps else peak,
        max(steps - warmup_steps, 1),
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
