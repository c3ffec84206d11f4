"""What was measured on this machine, in a file beside `keras.json`."""

import os
from collections.abc import Sequence
from pathlib import Path

from kerasdl.bench.speed import Speed, versions
from kerasdl.errors import InputError
from kerasdl.installed import is_installed
from kerasdl.machine import machine
from kerasdl.runs import write_json
from kerasdl.untrusted import brief, read_json

FILE = "kerasdl-bench.json"
FORMAT = 1
LARGEST_FILE = 2**20
# Older measurements than so many are forgotten.
MOST = 500


def path() -> Path:
    """Return where measurements are stored: in Keras's folder, `~/.keras`.

    Raises:
        InputError: If there is no home folder.
    """
    try:
        folder = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    except RuntimeError as error:
        raise InputError("there is no home folder; set KERAS_HOME to one") from error
    return Path(folder) / FILE


def read() -> list[Speed]:
    """Return all that was measured, nothing where nothing was.

    Raises:
        InputError: If the file is damaged, or of another version.
    """
    if not path().exists():
        return []
    content = read_json(path(), most=LARGEST_FILE)
    if content.get("format") != FORMAT:
        raise InputError(f"{path()} is of another version of kerasdl; delete it")
    try:
        return [Speed.from_json(row) for row in content["speeds"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path()} is damaged ({brief(error)}); delete it") from error


def merged(speeds: Sequence[Speed]) -> list[Speed]:
    """Return what is stored with measurements in the place of earlier ones.

    A file that cannot be read counts as empty.
    """
    try:
        before = read()
    except InputError:
        before = []
    replaced = {speed.subject for speed in speeds}
    kept = [speed for speed in before if speed.subject not in replaced]
    return [*kept, *speeds]


def write(speeds: Sequence[Speed]) -> None:
    """Store measurements, and nothing else.

    Raises:
        InputError: If there is no home folder.
        OSError: If the file cannot be written.
    """
    rows = [speed.to_json() for speed in speeds[-MOST:]]
    path().parent.mkdir(parents=True, exist_ok=True)
    write_json(path(), {"format": FORMAT, "speeds": rows})


def find(speeds: Sequence[Speed], settings: dict) -> tuple[list[Speed], list[str]]:
    """Return what holds for a recipe here and now, and why the rest does not.

    Args:
        speeds: Measurements.
        settings: What `settings_of` says of the recipe.

    Returns:
        Those of these settings, this machine and the versions that are installed; and
        why others of these settings are left out, each in a few words.
    """
    here = machine()
    found, doubts = [], []
    for speed in speeds:
        if speed.settings == settings:
            doubt = _doubt(speed, here)
            if not doubt:
                found.append(speed)
            elif doubt not in doubts:
                doubts.append(doubt)
    return found, doubts


def _doubt(speed: Speed, here: str) -> str:
    """Say why a measurement does not hold here and now; nothing if it does."""
    if speed.machine != here:
        return f"measured on another machine ({brief(speed.machine)})"
    if not is_installed(speed.backend):
        return f"{speed.backend} is no longer installed"
    now = versions(speed.backend)
    for name, version in now.items():
        if speed.versions.get(name) != version:
            before = brief(speed.versions.get(name))
            return f"measured with {name} {before}, now {version}"
    return ""
