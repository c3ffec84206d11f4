"""What every command shares: its options, the two streams, JSON and CSV."""

import csv
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kerasdl.absent import absent
from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.files import whole_file
from kerasdl.quiet import quiet_stderr
from kerasdl.untrusted import shown

# What Keras imports, if it can, for wrappers and galleries that no command uses: up to
# a third of the time of `import keras`.
UNUSED = ("matplotlib", "pandas", "sklearn")
PACKAGES = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


def _choose_backend(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        check_choice("backend", name, PACKAGES)
    except ValueError as error:
        raise InputError(str(error)) from error
    if importlib.util.find_spec(PACKAGES[name]) is None:
        raise InputError(
            f"the backend {name} is not installed; run pip install 'kerasdl[{name}]'"
        )
    os.environ["KERAS_BACKEND"] = name  # read by Keras at its first import, later
    return name


Backend = Annotated[
    str | None,
    typer.Option(
        help="tensorflow, jax or torch; otherwise KERAS_BACKEND or keras.json decides.",
        callback=_choose_backend,
        is_eager=True,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, for machines.")
]
Encoding = Annotated[str, typer.Option(help="Encoding of text files.")]
EncodingErrors = Annotated[
    str, typer.Option(help="strict refuses wrong bytes, replace or ignore accept them.")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data.")]
BatchSize = Annotated[int | None, typer.Option(help="Examples per step.")]
LearningRate = Annotated[float | None, typer.Option(help="Highest learning rate.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Decides all randomness.")
]
RunFolder = Annotated[
    Path | None, typer.Option(help="Run folder; runs/APP-<time> by default.")
]
Quick = Annotated[
    bool, typer.Option("--quick", help="A short trial: does everything work?")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run in --out.")
]
TrainedBundle = Annotated[
    str, typer.Argument(help="Run folder, bundle folder, or shipped bundle.")
]
CsvFile = Annotated[
    Path | None, typer.Option(help="Write the predictions to a CSV file.")
]


def console():
    """Return the console for people: standard error, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def print_json(document) -> None:
    """Print one JSON document on standard output."""
    # ASCII, so that no terminal's or pipe's encoding can spoil it.
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_line(line: str) -> None:
    """Print a line of the result, whatever the encoding of standard output.

    What a terminal would obey, in a stranger's class names say, is shown as such.
    """
    encoding = sys.stdout.encoding or "utf-8"
    text = shown(line).encode(encoding, "replace").decode(encoding)
    sys.stdout.write(text + "\n")


def load_backend() -> None:
    """Import Keras with its backend, keeping their start-up messages off the terminal.

    Raises:
        InputError: If the backend that Keras is set to is unknown or not installed.
    """
    if (name := os.environ.get("KERAS_BACKEND")) is not None:
        _choose_backend(name)
    try:
        with quiet_stderr(), absent(*UNUSED):
            importlib.import_module("kerasdl.backend")
    except ModuleNotFoundError as error:
        raise InputError(
            f"the Keras backend needs {error.name}, which is not installed; install it,"
            " or choose another with --backend"
        ) from error


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work is done."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give --out a file")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} for --out; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path.parent} is not writable; choose another --out")


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows of equal columns in full or not at all."""
    with (
        whole_file(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def train_recipe(
    recipe, *, app: str, example: str, out: Path | None, overwrite: bool, as_json: bool
) -> int:
    """Train a recipe, print what was measured, and return the exit code.

    Args:
        recipe: A `kerasdl.Recipe`.
        app: Name of the app, for the run folder and the hint.
        example: What to give `predict`, in the hint.
        out: Run folder; `None` for one of its own.
        overwrite: Replace an earlier run in `out`.
        as_json: Print one JSON document.
    """
    load_backend()
    from kerasdl import train
    from kerasdl.runs import default_folder

    folder = out or default_folder(app)
    run = train(recipe, out=folder, overwrite=overwrite, console=console())
    if as_json:
        print_json({"run": str(run.folder), **run.metrics})
    else:
        print_metrics(run.metrics, as_json=False)
        print_line(f"report   {run.folder / 'report.html'}")
        print_line(f"bundle   {run.folder / 'bundle'}")
        use = f"kerasdl {app} predict --bundle {run.folder} {example}"
        print_line(f"use it   {use}")
    return 128 + run.interrupted if run.interrupted else 0


def print_metrics(metrics: dict, *, as_json: bool) -> None:
    """Print metrics as JSON, or in two lines: what was measured, and on what."""
    if as_json:
        print_json(metrics)
        return
    if "accuracy" in metrics:
        line = (
            f"accuracy {metrics['accuracy']:.2%} (95 % interval"
            f" {metrics['accuracy_low']:.2%} to {metrics['accuracy_high']:.2%})"
            f" · log loss {metrics['log_loss']:.4f} · calibration error"
            f" {metrics['ece']:.2%}"
        )
    else:
        line = (
            f"root mean squared error {metrics['rmse']:.4g} (95 % interval"
            f" {metrics['rmse_low']:.4g} to {metrics['rmse_high']:.4g}) · mean"
            f" absolute error {metrics['mae']:.4g}"
        )
    print_line(f"{line}\nmeasured on {metrics['set']}, {metrics['count']:,} examples")
