"""The folder of a run: refused, claimed and filled without losing what was there."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kerasdl._version import __version__
from kerasdl.cluster import find_cluster
from kerasdl.errors import InputError
from kerasdl.files import whole_file
from kerasdl.lock import LOCK_FILE, check_unlocked, locked
from kerasdl.manifest import clear_hidden
from kerasdl.recipe import Recipe
from kerasdl.untrusted import brief, check_links, read_json

RECIPE_FILE = "recipe.json"
METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.csv"
CHECKPOINT_FOLDER = "checkpoints"
CHECKPOINT_FILE = f"{CHECKPOINT_FOLDER}/best.safetensors"
# There as long as a run is unfinished.
STATE_FILE = f"{CHECKPOINT_FOLDER}/run.json"
# What an earlier run is moved into while another takes its place.
FORMER = ".former-"
# What is there before the recipe, by which a run has begun.
BEGINNING = (
    CHECKPOINT_FOLDER,
    STATE_FILE,
    f"{STATE_FILE}.partial",
    f"{RECIPE_FILE}.partial",
)
# As long as any name below the folder of a run.
LONGEST_NAME = f"{CHECKPOINT_FOLDER}/{'x' * 40}/{'x' * 40}/arrays.safetensors"


def default_folder(app: str) -> Path:
    """Return `runs/<app>-<time>`, a name that is not taken yet."""
    stem = Path("runs") / f"{app}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = stem, 2
    while folder.exists():
        folder, number = Path(f"{stem}-{number}"), number + 1
    return folder


def check_folder(folder: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse a folder that a run cannot be written to.

    Nothing is changed but what a run has left half done that was killed as it began or
    ended.

    Raises:
        InputError: If it is taken, is no folder, or may not be written; to resume, if
            it holds no unfinished run.
    """
    cluster = find_cluster()
    if cluster and cluster.rank:  # the folder is the chief's
        return
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; choose another --out")
        if _is_half_done(folder):
            with locked(folder):
                _mend(folder)
        if resume:
            _check_unfinished(folder)
        elif folder.is_dir() and content(folder):
            _check_run(folder, overwrite=overwrite)
        parent = next(path for path in (folder, *folder.parents) if path.exists())
        (folder / LONGEST_NAME).exists()
        check_unlocked(folder)
    except OSError as error:  # not to be read, or a name that is too long
        raise InputError(
            f"{folder} cannot be used ({error.strerror}); choose another --out"
        ) from error
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        raise InputError(f"{parent} is not writable; choose another --out")


def _is_half_done(folder: Path) -> bool:
    """Say whether a run was killed before it had begun, or before it had cleared up."""
    if (folder / RECIPE_FILE).exists():
        done = [*_former(folder), *_trainings(folder)]
        return bool(done) and not is_unfinished(folder)
    if _former(folder):
        return True
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return bool(found & set(BEGINNING)) and found <= {*BEGINNING, LOCK_FILE}


def _mend(folder: Path) -> None:
    """Let an earlier run come back whose successor had not begun; else clear up."""
    if (folder / RECIPE_FILE).exists():
        useless = [*_former(folder), *_trainings(folder)]
    else:
        useless = _former(folder)
        for former in useless:
            _move_back(former, folder)
        if not useless:
            useless = [folder / CHECKPOINT_FOLDER]
    for path in useless:
        shutil.rmtree(path, ignore_errors=True)
    (folder / f"{RECIPE_FILE}.partial").unlink(missing_ok=True)


def _former(folder: Path) -> list[Path]:
    return _folders(folder.glob(f"{FORMER}*"))


def _trainings(folder: Path) -> list[Path]:
    return _folders((folder / CHECKPOINT_FOLDER).glob("*"))


def _folders(found: Iterable[Path]) -> list[Path]:
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _check_unfinished(folder: Path) -> None:
    if not (folder / RECIPE_FILE).is_file():
        raise InputError(f"{folder} holds no run of kerasdl; give --resume its folder")
    if not is_unfinished(folder):
        raise InputError(
            f"the run in {folder} is finished: there is nothing to resume; train anew"
            " with another --out"
        )
    check_links(folder)


def _check_run(folder: Path, *, overwrite: bool) -> None:
    if not (folder / RECIPE_FILE).is_file():
        raise InputError(
            f"{folder} holds files that are no run of kerasdl; choose another --out"
        )
    if overwrite:
        return
    if is_unfinished(folder):
        raise InputError(
            f"{folder} holds an unfinished run; continue it with --resume {folder}, or"
            " add --overwrite to replace it"
        )
    raise InputError(
        f"{folder} already holds a run; add --overwrite to replace it, or choose"
        " another --out"
    )


def content(folder: Path) -> list[Path]:
    """Return what lies in a folder, its lock apart."""
    return [path for path in folder.iterdir() if path.name != LOCK_FILE]


@contextmanager
def claimed_folder(
    folder: Path, *, overwrite: bool, resume: bool = False
) -> Iterator[Path]:
    """Lend the folder of a run, locked and empty, or as it is to resume the run.

    An earlier run waits inside, hidden, until the block has succeeded. A block that
    fails leaves the folder as it was; but after it has saved something, that stays.

    Raises:
        InputError: As `check_folder`.
    """
    check_folder(folder, overwrite=overwrite, resume=resume)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}") from error
    is_given_back = False
    with locked(folder):
        former = folder / f"{FORMER}{secrets.token_hex(4)}"
        if not resume:
            _set_aside(folder, former)
        try:
            yield folder
        except BaseException as error:
            is_useless = isinstance(error, InputError) or not is_saved(folder)
            is_best = (folder / CHECKPOINT_FILE).exists()
            is_given_back = is_useless and not (resume or is_best)
            if is_given_back:
                _put_back(folder, former)
            raise
        finally:
            shutil.rmtree(former, ignore_errors=True)
            if is_given_back:
                (folder / LOCK_FILE).unlink(missing_ok=True)
                for path in made:
                    path.rmdir()


def _set_aside(folder: Path, former: Path) -> None:
    """Move what a folder holds into a hidden one in it: that needs no space."""
    if found := content(folder):
        former.mkdir()
        # The recipe first: without it, what is left is known to be half of a run.
        for path in sorted(found, key=lambda path: path.name != RECIPE_FILE):
            path.rename(former / path.name)


def _put_back(folder: Path, former: Path) -> None:
    for path in content(folder):
        if path != former:
            _remove(path)
    if former.exists():
        _move_back(former, folder)


def _move_back(former: Path, folder: Path) -> None:
    """Move a run back, its recipe last, over what its successor has begun with."""
    for path in sorted(former.iterdir(), key=lambda path: path.name == RECIPE_FILE):
        _remove(folder / path.name)
        path.rename(folder / path.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_saved(folder: Path) -> bool:
    """Say whether a training in the folder has saved anything."""
    saved = (folder / CHECKPOINT_FOLDER).glob("*/*/manifest.json")
    return (folder / CHECKPOINT_FILE).exists() or any(saved)


def is_unfinished(folder: Path) -> bool:
    """Say whether the folder holds a run that can be resumed."""
    return (folder / STATE_FILE).is_file()


def begin(folder: Path, recipe: dict, data: dict) -> str:
    """Write down what a run is made from; it is unfinished from now on.

    Args:
        folder: Empty folder of the run.
        recipe: The recipe as JSON.
        data: Fingerprint of each part of the data.

    Returns:
        Identity of the run.
    """
    run = secrets.token_hex(8)
    (folder / CHECKPOINT_FOLDER).mkdir(exist_ok=True)
    state = {"run": run, "data": data, "version": __version__, "recipe": recipe}
    write_json(folder / STATE_FILE, state)
    # Last: killed before, a run has not begun, and its folder is as good as empty.
    write_json(folder / RECIPE_FILE, recipe)
    return run


def go_on(folder: Path, recipe: dict, data: dict, *, force: bool) -> str:
    """Compare what a run was made from with what it shall go on with.

    Args:
        folder: Folder of an unfinished run.
        recipe: The recipe as JSON.
        data: Fingerprint of each part of the data.
        force: Accept differences, and write them down.

    Returns:
        Identity of the run.

    Raises:
        InputError: If something differs, naming it, or a file is damaged.
    """
    state = _read_state(folder)
    before = begun_recipe(folder, force=force)
    _check_identity(folder, state["run"])
    recipe = json.loads(json.dumps(recipe))
    changes = differences(before, recipe) + [
        f"the {part} data"
        for part in {**state["data"], **data}
        if data.get(part) != state["data"].get(part)
    ]
    if not force:
        refuse_changes(folder, changes, "leave them as they were")
    else:
        write_json(folder / RECIPE_FILE, recipe)
        write_json(folder / STATE_FILE, {**state, "data": data, "recipe": recipe})
    # What was killed has left it.
    for path in _former(folder):
        shutil.rmtree(path, ignore_errors=True)
    clear_hidden(folder, "bundle")
    return state["run"]


def begun_recipe(folder: Path, *, force: bool) -> dict:
    """Return the recipe in the folder of an unfinished run, as JSON.

    Args:
        folder: The folder.
        force: Accept that the file was changed since the run began.

    Returns:
        The recipe; what an earlier version did not know is at its default.

    Raises:
        InputError: If it was changed, naming what was, or a file is damaged.
    """
    state, path = _read_state(folder), folder / RECIPE_FILE
    recipe = _complete(path, read_json(path))
    if "recipe" in state and not force:  # earlier versions have not kept it twice
        begun = _complete(folder / STATE_FILE, state["recipe"])
        if changes := differences(begun, recipe):
            raise InputError(
                f"{path} was changed since the run began: {'; '.join(changes)}; change"
                " it back, or add --force-resume"
            )
    return recipe


def _complete(path: Path, fields: dict) -> dict:
    try:
        recipe = Recipe.from_json(fields).to_json()
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return json.loads(json.dumps(recipe))


def _read_state(folder: Path) -> dict:
    """Read what a run was begun with.

    Raises:
        InputError: If the file is damaged.
    """
    path = folder / STATE_FILE
    state = read_json(path)
    for name, kind in (("run", str), ("data", dict), ("recipe", dict)):
        is_old = name == "recipe" and name not in state
        if not (is_old or isinstance(state.get(name), kind)):
            raise InputError(
                f"{path} is damaged: {name!r} is missing or of the wrong type; train"
                " anew with another --out"
            )
    return state


def _check_identity(folder: Path, run: str) -> None:
    """Refuse a run whose checkpoints all are those of one other run."""
    found = set()
    for path in (folder / CHECKPOINT_FOLDER).glob("*/[!.]*/state.json"):
        try:
            found.add(brief(read_json(path).get("run")))
        except InputError:  # damaged, which is said where it is to be used
            continue
    if len(found) == 1 and run not in found:
        raise InputError(
            f"{folder / STATE_FILE} is of the run {brief(run)!r}, and all checkpoints"
            f" are of {found.pop()!r}; put back the run's own files, or train anew"
            " with another --out"
        )


def refuse_changes(folder: Path, changes: list[str], remedy: str) -> None:
    """Refuse to go on with a run otherwise than it was begun.

    Args:
        folder: Folder of the run.
        changes: What differs, each in a few words.
        remedy: What to do.

    Raises:
        InputError: If there are changes.
    """
    if changes:
        raise InputError(
            f"the run in {folder} was begun with other settings: {'; '.join(changes)};"
            f" {remedy}, or add --force-resume"
        )


def end(folder: Path) -> None:
    """Mark a run as finished, and delete what only its resumption needs."""
    (folder / STATE_FILE).unlink(missing_ok=True)
    for path in _trainings(folder):
        shutil.rmtree(path, ignore_errors=True)


def differences(before: dict, after: dict) -> list[str]:
    """Say where two recipes differ, each in a few words."""
    return [
        f"{name} was {before.get(name)!r}, now {after.get(name)!r}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


def write_json(path: Path, content: dict) -> None:
    """Write JSON in full or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
