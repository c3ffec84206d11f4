"""`kerasdl bench`: which backend and precision trains a model fastest here."""

from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.installed import BACKENDS, is_installed
from kerasdl.recipe import Recipe
from kerasdl_apps import images, sentiment, tabular
from kerasdl_apps.options import BatchSize, Json, one_of
from kerasdl_apps.output import console, print_json, print_line
from kerasdl_apps.tables import print_table

APPS = ("sentiment", "images", "tabular")
LONGEST = 600.0
COLUMNS = ("backend", "precision", "examples/s", "least to most", "start-up, s")


def bench(
    app: Annotated[
        str,
        typer.Argument(
            metavar="[sentiment|images|tabular]",
            help="Whose model to measure.",
            callback=one_of("app", APPS),
        ),
    ] = "sentiment",
    *,
    model: Annotated[
        str | None, typer.Option(help="As of train; its default if omitted.")
    ] = None,
    batch_size: BatchSize = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Height and width of photos; 28, grey, if omitted."),
    ] = None,
    backends: Annotated[
        str, typer.Option(help="What to measure, with commas between.")
    ] = "tensorflow,jax,torch",
    precisions: Annotated[
        str, typer.Option(help="In which numbers, with commas between.")
    ] = "float32,mixed_bfloat16",
    seconds: Annotated[
        float, typer.Option(help="How long to measure each, once it has compiled.")
    ] = 5.0,
    as_json: Json = False,
) -> int:
    """Measure how fast a model trains here on each backend, and say what to take.

    Each backend in each precision trains the recipe's model on random examples, in a
    process of its own. The result is stored for --backend auto of train.
    """
    from kerasdl.bench.choice import choose
    from kerasdl.bench.speed import FIXED_PRECISIONS, settings_of
    from kerasdl.bench.stored import find, merged
    from kerasdl.machine import machine

    if not 0 < seconds <= LONGEST:
        raise InputError(f"--seconds {seconds:g}: give a number up to {LONGEST:g}")
    model, recipe = recipe_of(app, model, batch_size, image_size)
    backends = _names("backend", backends, BACKENDS)
    precisions = _names("precision", precisions, FIXED_PRECISIONS)
    trials = [(name, other) for name in _installed(backends) for other in precisions]
    measured, left_out, failed = _measure(
        trials, recipe, app=app, model=model, seconds=seconds
    )
    rows, _ = find(merged(measured), settings_of(recipe))
    best = choose(rows) if measured else None
    if as_json:
        print_json(
            {
                "machine": machine(),
                "backend": best and best.speed.backend,
                "precision": best and best.speed.precision,
                "reason": best and best.reason,
                "speeds": [row.to_json() for row in rows],
                "left_out": left_out,
            }
        )
    elif best:
        print_line(f"{app} {model}, batches of {recipe.batch_size}, {machine()}")
        print_table(COLUMNS, [_row(row) for row in rows])
        for row in rows:
            if row not in measured:
                print_line(f"{row.backend} in {row.precision}: of {row.measured}")
        print_line(best.reason)
    return 0 if measured and not failed else 1


def recipe_of(
    app: str, model: str | None, batch_size: int | None, image_size: int | None
) -> tuple[str, Recipe]:
    """Return the name of a model, and its recipe.

    Raises:
        InputError: If there is no such model, or a value does not fit.
    """
    if image_size is not None and app != "images":
        raise InputError(f"--image-size {image_size}: only images have one; leave it")
    if app == "images":
        model = model or images.DEFAULT_MODEL
        options = {"image_size": image_size, "batch_size": batch_size}
        return model, images.recipe(model, **options)
    if app == "sentiment":
        model = model or sentiment.DEFAULT_MODEL
        return model, sentiment.recipe(model, batch_size=batch_size)
    recipe = tabular.recipe("", "", batch_size=batch_size)
    check_choice("model", model or recipe.name, (recipe.name,), error=InputError)
    return recipe.name, recipe


def _names(what: str, text: str, choices: Collection[str]) -> list[str]:
    """Return the names in a list with commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        check_choice(what, name, choices, error=InputError)
    return names


def _installed(backends: Sequence[str]) -> list[str]:
    """Return what is installed, and name what is not."""
    found = [name for name in backends if is_installed(name)]
    missing = [name for name in backends if name not in found]
    for name in missing:
        console().print(f"{name} is not installed: pip install 'kerasdl[{name}]'")
    if not found:
        raise InputError(f"{', '.join(missing)}: not installed; give --backends others")
    return found


def _measure(trials: Sequence[tuple[str, str]], recipe: Recipe, **options):
    """Measure one after the other; return speeds, what has none, and if any failed.

    A line says of each what came of it; a terminal also shows what is going on.
    """
    from kerasdl.bench.trials import NoResultError, measure

    terminal, measured, left_out, failed = console(), [], [], False
    for number, (backend, precision) in enumerate(trials, start=1):
        name = f"{backend} in {precision}"
        with terminal.status(f"{number} of {len(trials)}: {name}"):
            try:
                speed = measure(recipe, backend, precision, **options)
            except NoResultError as error:
                failed |= error.is_failure
                line = f"{'failed' if error.is_failure else 'left out'}: {error}"
                left_out.append(
                    {"backend": backend, "precision": precision, "reason": str(error)}
                )
            else:
                measured.append(speed)
                _store([speed])  # now: Ctrl-C costs only what is under way
                line = f"{speed.rate:,.0f} examples/s"
        terminal.print(f"{name}: {line}")
    return measured, left_out, failed


def _store(measured: Sequence) -> None:
    """Store what was measured; where that cannot be, it is still shown."""
    from kerasdl.bench.stored import merged, write

    try:
        write(merged(measured))
    except (InputError, OSError) as error:
        console().print(f"not stored for --backend auto: {error}")


def _row(speed) -> list[str]:
    return [
        speed.backend,
        speed.precision,
        f"{speed.rate:,.0f}",
        f"{min(speed.per_second):,.0f} to {max(speed.per_second):,.0f}",
        f"{speed.start_up:.1f}",
    ]
