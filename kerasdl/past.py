"""Runs that are over, or were: read from their folders, without any backend."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kerasdl.errors import InputError
from kerasdl.lock import is_locked
from kerasdl.runs import (
    HISTORY_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    is_saved,
    is_unfinished,
)
from kerasdl.untrusted import brief, check_inside, read_json

LARGEST_HISTORY = 2**26
# What a run is judged by, where it has it; the others stand in `compare`.
MAIN_METRICS = ("accuracy", "rmse")


@dataclass(frozen=True)
class PastRun:
    """What a run's folder says.

    Attributes:
        folder: The folder.
        recipe: Content of `recipe.json`.
        metrics: Content of `metrics.json`, empty where the run has not come that far.
        history: Logged quantity to its value after each epoch.
        started: When the recipe was written.
    """

    folder: Path
    recipe: Mapping
    metrics: Mapping
    history: Mapping[str, list[float]]
    started: datetime

    @property
    def state(self) -> str:
        """`finished`, `running`, `interrupted`, or `not saved`.

        An interrupted run goes on from where it was saved, one that was not saved from
        its beginning.
        """
        if not is_unfinished(self.folder) and self.metrics:
            return "finished"
        if is_locked(self.folder):
            return "running"
        return "interrupted" if is_saved(self.folder) else "not saved"

    @property
    def epochs(self) -> int:
        """Epochs that are over."""
        return max(map(len, self.history.values()), default=0)

    @property
    def main_metric(self) -> str | None:
        """Name of the metric that the run is judged by."""
        return next((name for name in MAIN_METRICS if name in self.metrics), None)

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric, where it has one."""
        ends = self.metrics.get(f"{metric}_low"), self.metrics.get(f"{metric}_high")
        return ends if all(map(_is_number, ends)) else None

    def to_json(self) -> dict:
        """Return what `kerasdl runs` shows, ready for JSON."""
        return {
            "run": str(self.folder),
            "model": self.recipe.get("build"),
            "kind": self.recipe.get("kind"),
            "data": self.recipe.get("data"),
            "state": self.state,
            "started": self.started.isoformat(timespec="seconds"),
            "epochs": self.epochs,
            "epochs_asked": self.recipe.get("epochs"),
            "metrics": dict(self.metrics),
        }


def past_runs(folder: Path) -> tuple[list[PastRun], list[str]]:
    """Read all runs of a folder, or the one that it is.

    Args:
        folder: A folder of run folders, or a run folder.

    Returns:
        The runs, newest first, and a sentence for each that cannot be read.

    Raises:
        InputError: If there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; name one that holds runs")
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from error
    is_run = (folder / RECIPE_FILE).exists()
    found, damaged = [], []
    for path in [folder] if is_run else inside:
        if not (path / RECIPE_FILE).exists():
            continue
        try:
            found.append(read_run(path))
        except InputError as error:
            damaged.append(str(error))
    return sorted(found, key=lambda run: run.started, reverse=True), damaged


def read_run(folder: Path) -> PastRun:
    """Read one run.

    Raises:
        InputError: If the folder is none, or a file of it is damaged.
    """
    if not (folder / RECIPE_FILE).exists():
        raise InputError(f"{folder} is no run: it holds no {RECIPE_FILE}")
    for name in (RECIPE_FILE, METRICS_FILE, HISTORY_FILE):
        if (folder / name).exists():
            check_inside(folder / name, folder)
    recipe = read_json(folder / RECIPE_FILE)
    if not isinstance(recipe.get("build"), str):
        raise InputError(f"{folder / RECIPE_FILE} names no model; it is no recipe")
    path = folder / METRICS_FILE
    metrics = read_json(path) if path.exists() else {}
    written = (folder / RECIPE_FILE).stat().st_mtime
    return PastRun(
        folder,
        recipe,
        metrics,
        _read_history(folder / HISTORY_FILE),
        datetime.fromtimestamp(written, UTC).astimezone(),
    )


def differences(runs: list[PastRun]) -> dict[str, list]:
    """Return the settings in which the recipes of runs differ.

    Returns:
        Name, with a dot between a mapping and what it holds, to one value per run;
        `None` where a recipe lacks it.
    """
    flat = [_flat(run.recipe) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    found = {name: [settings.get(name) for settings in flat] for name in names}
    return {
        name: values
        for name, values in found.items()
        if any(value != values[0] for value in values)
    }


def _flat(settings: Mapping, prefix: str = "") -> dict[str, object]:
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = None if value == {} else value
    return flat


def _read_history(path: Path) -> dict[str, list[float]]:
    """Read what each epoch left; what is no number is NaN."""
    if not path.exists():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_HISTORY:
            raise InputError(f"{path} is no history of epochs")
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({brief(error)})") from error
    names = [name for name in (rows[0] if rows else ()) if name not in (None, "epoch")]
    return {name: [_number(row.get(name)) for row in rows] for name in names}


def _number(text: object) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
