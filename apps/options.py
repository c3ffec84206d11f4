"""What every command shares: the backend switch, the two streams, JSON."""

import importlib
import importlib.util
import json
import os
import sys
from typing import Annotated

import typer

from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.quiet import quiet_stderr

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


def console():
    """Return the console for people: standard error, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def print_json(document) -> None:
    """Print one JSON document on standard output."""
    # ASCII, so that no terminal's or pipe's encoding can spoil it.
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_line(line: str) -> None:
    """Print a line of the result, whatever the encoding of standard output."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "replace").decode(encoding) + "\n")


def load_backend() -> None:
    """Import Keras with its backend, keeping their start-up messages off the terminal.

    Raises:
        InputError: If the backend that Keras is set to is unknown or not installed.
    """
    if (name := os.environ.get("KERAS_BACKEND")) is not None:
        _choose_backend(name)
    try:
        with quiet_stderr():
            importlib.import_module("kerasdl.backend")
    except ModuleNotFoundError as error:
        raise InputError(
            f"the Keras backend needs {error.name}, which is not installed; install it,"
            " or choose another with --backend"
        ) from error
