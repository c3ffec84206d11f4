"""`kerasdl sentiment | images lr-find`."""

from pathlib import Path
from typing import Annotated

import typer

from kerasdl_apps import images, sentiment
from kerasdl_apps.options import (
    Backend,
    BatchSize,
    Json,
    Optimizer,
    Quick,
    Seed,
    load_backend,
)
from kerasdl_apps.output import (
    check_writable,
    console,
    print_json,
    print_line,
)

Data = Annotated[str, typer.Option(help="As of train.")]
Picture = Annotated[Path, typer.Option(help="PNG file for the curve.")]
Model = Annotated[str, typer.Option(help="As of train.")]


def _finder(app):
    """Return the command for the recipes of an app."""

    def find(
        *,
        data: Data = "auto",
        model: Model = app.DEFAULT_MODEL,
        batch_size: BatchSize = None,
        optimizer: Optimizer = None,
        seed: Seed = 0,
        quick: Quick = False,
        out: Picture = Path("lr-find.png"),
        backend: Backend = None,  # noqa: ARG001 - its callback has chosen
        as_json: Json = False,
    ) -> None:
        """Find a learning rate: train a moment at rising ones, and draw the loss."""
        chosen = app.recipe(
            model,
            quick=quick,
            data=data,
            batch_size=batch_size,
            optimizer=optimizer,
            seed=seed,
        )
        _find(chosen, out, as_json=as_json)

    return find


find_for_texts, find_for_images = _finder(sentiment), _finder(images)


def _find(recipe, out: Path, *, as_json: bool) -> None:
    check_writable(out)
    load_backend()
    from kerasdl.report.plots import rate_curve, save_png
    from kerasdl.training import find_rate

    found = find_rate(recipe, console=console())
    curve = rate_curve(found.rates, found.losses, found.smoothed, found.suggestion)
    save_png(out, curve)
    if as_json:
        print_json({"picture": str(out), **found.to_json()})
        return
    print_line(f"learning rate {found.suggestion:.2g} ({found.family})")
    if found.uncapped > found.cap:
        print_line(
            f"the curve alone says {found.uncapped:.2g}, more than such a model bears"
        )
    print_line(f"curve   {out}")
