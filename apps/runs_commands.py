"""`kerasdl runs` and `kerasdl compare`: what was trained, side by side."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kerasdl.errors import InputError
from kerasdl.past import PastRun, differences, past_runs, read_run
from kerasdl.runs import is_unfinished
from kerasdl.untrusted import brief, shown
from kerasdl_apps.options import Json
from kerasdl_apps.output import check_writable, print_json
from kerasdl_apps.resuming import APPS
from kerasdl_apps.tables import print_table

COLUMNS = ("run", "model", "data", "epochs", "metric", "seconds", "state")
# Metrics that are drawn, where the runs have them.
DRAWN = ("accuracy", "log_loss", "rmse", "mae")
# In `metrics.json`, but no measure of how good the model is.
NO_MEASURES = ("temperature", "mean", "scale", "margin")
NOTHING = "-"
# Beyond this, Matplotlib cannot lay out an axis.
LARGEST_DRAWN = 1e100
WHAT_TO_DO = {
    "interrupted": "goes on from its last save",
    "not saved": "was cut short before its first save, and begins anew",
}


def list_runs(
    folder: Annotated[
        Path, typer.Argument(help="Folder of run folders, or one run.")
    ] = Path("runs"),
    *,
    as_json: Json = False,
) -> None:
    """List runs with their metrics, newest first."""
    found, damaged = past_runs(folder)
    if as_json:
        print_json([run.to_json() for run in found])
    elif found:
        print_table(COLUMNS, [_row(run) for run in found])
    else:
        _note(f"there are no runs in {folder}")
    for run in found:
        if (what := WHAT_TO_DO.get(run.state)) and not as_json:
            _note(f"{run.folder.name} {what}: {_resume(run)}")
    for sentence in damaged:
        _note(f"left out: {sentence}")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Two run folders or more."),
    ],
    *,
    out: Annotated[
        Path, typer.Option(help="PNG file for the learning curves and the metrics.")
    ] = Path("comparison.png"),
    as_json: Json = False,
) -> None:
    """Print runs side by side, and draw their curves and metrics."""
    found = _comparable(runs)
    check_writable(out)
    names = [run.folder.name for run in found]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in found]
    changed, measured = differences(found), _measures(found)
    _draw(out, names, found)
    if as_json:
        print_json(
            {
                "runs": [run.to_json() for run in found],
                "differences": changed,
                "picture": str(out),
            }
        )
        return
    table = [[name, *map(_setting, values)] for name, values in changed.items()]
    facts = {
        "state": [run.state for run in found],
        "epochs done": [_epochs(run) for run in found],  # a setting is called epochs
        "measured on": [str(run.metrics.get("set", NOTHING)) for run in found],
        **measured,
        "seconds": [_figure(run.metrics.get("seconds")) for run in found],
    }
    table += [[name, *values] for name, values in facts.items()]
    print_table(("", *names), table)
    if len({str(run.metrics["set"]) for run in found if "set" in run.metrics}) > 1:
        _note("the runs were measured on different data: their metrics do not compare")
    _note(f"picture: {out}")


def _comparable(folders: Sequence[Path]) -> list[PastRun]:
    """Read runs that can stand side by side.

    Raises:
        InputError: If there are fewer than two, one twice, or runs of several kinds.
    """
    if len(folders) < 2:
        raise InputError("one run cannot be compared; give two run folders or more")
    found = [read_run(folder) for folder in folders]
    resolved = [run.folder.resolve() for run in found]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise InputError(f"{found[number].folder} is given twice; give other runs")
    for part in (_data, _answers):
        # A run that is not finished has not been measured, so it may be of any kind.
        kinds = {part(run): run.folder for run in found if part(run)}
        if len(kinds) > 1:
            (one, here), (other, there), *_ = kinds.items()
            raise InputError(
                f"{here} is about {one} and {there} about {other}; compare runs of one "
                "kind"
            )
    return found


def _data(run: PastRun) -> str:
    return brief(run.recipe.get("kind", ""))


def _answers(run: PastRun) -> str:
    return {"accuracy": "classes", "rmse": "values"}.get(run.main_metric, "")


def _draw(out: Path, names: Sequence[str], runs: Sequence[PastRun]) -> None:
    # Matplotlib takes half a second for which the checks should not wait.
    from kerasdl.report.comparison import Series, comparison_picture

    series = [
        Series(
            name,
            {key: [_drawn(v) for v in values] for key, values in run.history.items()},
            {
                metric: (run.metrics[metric], _drawn_interval(run, metric))
                for metric in DRAWN
                if _is_drawn(run.metrics.get(metric))
            },
        )
        for name, run in zip(names, runs, strict=True)
    ]
    comparison_picture(out, series)


def _is_drawn(value: object) -> bool:
    return _is_measure(value) and abs(value) < LARGEST_DRAWN


def _drawn(value: float) -> float:
    return value if _is_drawn(value) else math.nan


def _drawn_interval(run: PastRun, metric: str) -> tuple[float, float] | None:
    ends = run.interval(metric)
    return ends if ends and all(map(_is_drawn, ends)) else None


def _measures(runs: Sequence[PastRun]) -> dict[str, list[str]]:
    """Return the metrics of runs as they are shown, with their intervals."""
    names = dict.fromkeys(
        name
        for run in runs
        for name, value in run.metrics.items()
        if _is_measure(value)
        and not name.endswith(("_low", "_high"))
        and name not in (*NO_MEASURES, "seconds")
    )
    return {name: [_measure(run, name) for run in runs] for name in names}


def _measure(run: PastRun, metric: str) -> str:
    value = run.metrics.get(metric)
    if not _is_measure(value):
        return NOTHING
    if ends := run.interval(metric):
        return f"{_figure(value)} ({_figure(ends[0])} to {_figure(ends[1])})"
    return _figure(value)


def _row(run: PastRun) -> list[str]:
    metric = run.main_metric
    return [
        run.folder.name,
        str(run.recipe["build"]),
        str(run.recipe.get("data", NOTHING)),
        _epochs(run),
        f"{metric} {_figure(run.metrics[metric])}" if metric else NOTHING,
        _figure(run.metrics.get("seconds")),
        run.state,
    ]


def _resume(run: PastRun) -> str:
    """Return what takes up a run that is not finished."""
    if not is_unfinished(run.folder):
        return "train it again, it cannot be resumed"
    app = APPS.get(str(run.recipe.get("kind")), "…")
    return f"kerasdl {app} train --resume {run.folder}"


def _epochs(run: PastRun) -> str:
    return f"{run.epochs}/{run.recipe.get('epochs', '?')}"


def _figure(value: object) -> str:
    if not _is_measure(value):
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _setting(value: object) -> str:
    return NOTHING if value is None else brief(value)


def _is_measure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _note(line: str) -> None:
    sys.stderr.write(f"{shown(line)}\n")
