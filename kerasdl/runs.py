"""The folder of a run: refused, claimed and filled without losing what was there."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kerasdl.errors import InputError
from kerasdl.files import whole_file

RECIPE_FILE = "recipe.json"
METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.csv"
CHECKPOINT_FILE = "checkpoints/best.safetensors"


def default_folder(app: str) -> Path:
    """Return `runs/<app>-<time>`, a name that is not taken yet."""
    stem = Path("runs") / f"{app}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = stem, 2
    while folder.exists():
        folder, number = Path(f"{stem}-{number}"), number + 1
    return folder


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a run cannot be written to; change nothing.

    Raises:
        InputError: If it is taken, is no folder, or may not be written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; choose another --out")
        if folder.is_dir() and any(folder.iterdir()):
            _check_run(folder, overwrite=overwrite)
        parent = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # not to be read, or a name that is too long
        raise InputError(
            f"{folder} cannot be used ({error.strerror}); choose another --out"
        ) from error
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        raise InputError(f"{parent} is not writable; choose another --out")


def _check_run(folder: Path, *, overwrite: bool) -> None:
    if not (folder / RECIPE_FILE).is_file():
        raise InputError(
            f"{folder} holds files that are no run of kerasdl; choose another --out"
        )
    if not overwrite:
        raise InputError(
            f"{folder} already holds a run; add --overwrite to replace it, or choose"
            " another --out"
        )


@contextmanager
def claimed_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Lend the folder of a run, empty; a block that fails leaves it as it was.

    An earlier run waits inside, hidden, until the block has succeeded. A block that
    fails after it has written a checkpoint keeps what it wrote: the best so far.

    Raises:
        InputError: As `check_folder`.
    """
    check_folder(folder, overwrite=overwrite)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}") from error
    former = _set_aside(folder)
    try:
        yield folder
    except BaseException:
        if not (folder / CHECKPOINT_FILE).exists():
            _put_back(folder, former)
            for path in made:
                path.rmdir()
        raise
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    """Move what a folder holds into a hidden one in it: that needs no space."""
    former = folder / f".former-{secrets.token_hex(4)}"
    if content := list(folder.iterdir()):
        former.mkdir()
        for path in content:
            path.rename(former / path.name)
    return former


def _put_back(folder: Path, former: Path) -> None:
    for path in folder.iterdir():
        if path == former:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in former.iterdir() if former.exists() else ():
        path.rename(folder / path.name)


def write_json(path: Path, content: dict) -> None:
    """Write JSON in full or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
