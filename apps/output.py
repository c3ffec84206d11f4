"""How commands answer: the two streams, JSON and CSV."""

import csv
import json
import os
import sys
from pathlib import Path

from kerasdl.errors import InputError
from kerasdl.files import whole_file
from kerasdl.untrusted import shown


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
