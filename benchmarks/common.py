"""What the benchmarks share: runs in processes of their own, result files, tables."""

import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

import kerasdl  # noqa: F401 - before Keras, so that TensorFlow takes oneDNN's kernels

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Name the machine as a row of results does."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def in_own_process(script: str, *arguments: str, **environment: str) -> str:
    """Run a script in a fresh process; return the last line that it prints."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def report(path: Path, row: dict, key: Sequence[str], *, quick: bool) -> None:
    """Print a row, and record it unless it only shows that the script runs."""
    print(json.dumps(row), flush=True)
    if not quick:
        record(path, row, key)


def record(path: Path, row: dict, key: Sequence[str]) -> None:
    """Add a row to a file of results, in place of an earlier one with the same key."""
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [old for old in rows if any(old.get(k) != row[k] for k in key)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([*rows, row], indent=1) + "\n")


def table(
    rows: Sequence[dict],
    groups: Sequence[str],
    shown: Mapping[str, tuple[str, float, int]],
) -> str:
    """Return results as a Markdown table: mean over seeds, and spread.

    Args:
        rows: The results.
        groups: Keys that name a line of the table.
        shown: Key of a quantity to its title, factor and decimals.
    """
    lines = defaultdict(list)
    for row in rows:
        lines[tuple(row[key] for key in groups)].append(row)
    head = [*groups, "seeds", *(title for title, _, _ in shown.values())]
    cells = []
    for names, group in sorted(lines.items()):
        found = (_cell(group, key, *rest) for key, (_, *rest) in shown.items())
        cells.append([*names, str(len(group)), *found])
    return markdown(head, cells)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(rows: Sequence[dict], key: str, factor: float, digits: int) -> str:
    values = [factor * row[key] for row in rows if row.get(key) is not None]
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"
