"""`--backend auto` of `train`: what `kerasdl bench` has found to be fastest here."""

from dataclasses import replace
from typing import Annotated

import typer

from kerasdl.cluster import find_cluster
from kerasdl.errors import InputError
from kerasdl.recipe import Recipe
from kerasdl.untrusted import shown
from kerasdl_apps.options import choose_backend
from kerasdl_apps.output import console

AUTO = "auto"


def _choose_or_wait(name: str | None) -> str | None:
    return name if name == AUTO else choose_backend(name)


TrainBackend = Annotated[
    str | None,
    typer.Option(
        help="tensorflow, jax or torch; auto takes what `kerasdl bench` found fastest;"
        " otherwise KERAS_BACKEND or keras.json decides.",
        callback=_choose_or_wait,
        is_eager=True,
    ),
]


def with_measured(
    recipe: Recipe,
    backend: str | None,
    *,
    app: str,
    model: str | None = None,
    precision: str | None,
    resumed: bool,
) -> Recipe:
    """Choose the backend that was measured to be fastest, if `auto` is asked for.

    Where nothing was measured, one line says so and what measures it, and Keras's own
    choice stands. The precision is that of the measurement, unless the option names
    one, or a run is resumed, which goes on in its own.

    Args:
        recipe: What is to be trained.
        backend: The option `--backend`, `"auto"` or what has been chosen already.
        app: Name of the app.
        model: The option `--model`, where there is one.
        precision: The option `--precision`.
        resumed: Whether the recipe is that of an unfinished run.

    Returns:
        The recipe, in the precision that was taken.

    Raises:
        InputError: If training is to be deterministic, or in several processes already.
    """
    if backend != AUTO:
        return recipe
    _check(recipe)
    fixed = recipe.precision if resumed or precision not in {None, AUTO} else None
    model = None if resumed else model
    if recipe.pretrained:  # and Keras is imported by now
        line = _as_without("kerasdl bench does not measure fine-tuning")
    else:
        recipe, line = _taken(recipe, fixed, _remedy(recipe, app, model))
    console().print(line)
    return recipe


def _check(recipe: Recipe) -> None:
    cluster = find_cluster()
    for is_so, why in (
        (recipe.deterministic, "may take another after each measurement"),
        (cluster and cluster.size > 1, "is for a training in one process"),
    ):
        if is_so:
            raise InputError(f"--backend auto {why}; name the backend for this one")


def _taken(recipe: Recipe, fixed: str | None, remedy: str) -> tuple[Recipe, str]:
    """Choose the backend; return the recipe, and the line that says what was taken."""
    from kerasdl.bench import choice, speed, stored

    try:
        found, doubts = stored.find(stored.read(), speed.settings_of(recipe))
    except InputError as error:
        return recipe, _as_without(f"{error}; {remedy}")
    fitting = [row for row in found if fixed in {None, row.precision}]
    if not fitting:
        why = f"not measured in {fixed}" if found else "; ".join(doubts)
        return recipe, _as_without(f"{why or 'not measured here'}; {remedy}")
    best = choice.choose(fitting).speed
    choose_backend(best.backend)
    if len({row.precision for row in fitting}) > 1:
        recipe = replace(recipe, precision=best.precision)
    left_out = f" (left out: {'; '.join(doubts)})" if doubts else ""
    return recipe, (
        f"backend: {best.backend} in {best.precision}, {best.rate:,.0f} examples/s by"
        f" kerasdl bench of {best.measured}{left_out}"
    )


def _as_without(why: str) -> str:
    return shown(f"backend: as without --backend auto ({why})")


def _remedy(recipe: Recipe, app: str, model: str | None) -> str:
    """Say what measures a recipe; of a run that is resumed the model has no name."""
    command = [f"kerasdl bench {app}", *([f"--model {model}"] if model else [])]
    command.append(f"--batch-size {recipe.batch_size}")
    if size := recipe.encoder.get("image_size"):
        command.append(f"--image-size {size}")
    return f"`{' '.join(command)}` measures it"
