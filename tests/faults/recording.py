"""Where the table of faults leaves what was counted, for `benchmarks/results`.

With `KERASDL_FAULTS=FILE` each test adds to a JSON file, by row and backend: how many
cases it ran, what came of them, by which command and on which versions.
"""

import fcntl
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import keras

BACKEND = keras.backend.backend()
# How often what takes long is repeated.
KILLS = int(os.environ.get("KERASDL_KILLS", "50"))
CLI_KILLS = int(os.environ.get("KERASDL_CLI_KILLS", "4"))
EPOCHS = int(os.environ.get("KERASDL_EPOCHS", "10000"))
RESUMES = int(os.environ.get("KERASDL_RESUMES", "1000"))
SCALES = ("KERASDL_KILLS", "KERASDL_CLI_KILLS", "KERASDL_EPOCHS", "KERASDL_RESUMES")


def record(row: str, cases: int, **outcome) -> None:
    """Add what was counted to the file of results."""
    if not (path := os.environ.get("KERASDL_FAULTS")):
        return
    versions = {name: importlib.metadata.version(name) for name in ("keras", BACKEND)}
    entry = {
        "cases": cases,
        **outcome,
        "command": _command(),
        "versions": {"python": platform.python_version(), **versions},
    }
    with Path(path).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another worker may write, too
        file.seek(0)
        content = json.loads(file.read() or "{}")
        content.setdefault(row, {})[BACKEND] = entry
        file.truncate(0)
        file.write(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _command() -> str:
    test = os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0]
    scales = [f"{name}={os.environ[name]} " for name in SCALES if name in os.environ]
    return f"KERAS_BACKEND={BACKEND} {''.join(scales)}pytest -m faults {test!r}"
