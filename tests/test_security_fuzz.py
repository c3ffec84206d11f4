"""Bundles changed at random: each loads correctly or is refused in one sentence.

`pytest -m fuzz` runs all 10,000 cases in child processes whose memory is limited and
whose time is watched, and writes what came of them to `benchmarks/results/fuzz.json`;
and then mutated checkpoints, to `fuzz_checkpoints.json`.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from fuzzing import SECONDS, make_originals, run_case

import kerasdl

CASES, CHECKPOINT_CASES, CASES_OF_A_CHILD = 10_000, 1500, 1000
EVERYDAY = 150
# JAX and TensorFlow compile every model that answers, which takes most of the time.
KINDS_EVERYDAY = {"torch": ("text", "image", "table", "series")}
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "fuzz.json"


def test_some_mutations_every_day(tmp_path):
    kinds = KINDS_EVERYDAY.get(keras.backend.backend(), ("table",))
    originals, examples = make_originals(tmp_path, kinds)
    outcomes = Counter()

    def late(*_):
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, late)
    try:
        for number in range(EVERYDAY if len(kinds) > 1 else EVERYDAY // 5):
            signal.alarm(SECONDS)
            try:
                outcomes[run_case(number, originals, examples)] += 1
            except BaseException as error:
                error.add_note(f"in case {number}")
                raise
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert len(outcomes) >= 3, outcomes


@pytest.mark.fuzz
def test_ten_thousand_mutations():
    result = _run_all("fuzzing.py", CASES)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    assert not result["defects"]
    assert result["past_the_checksums"] >= CASES / 10


@pytest.mark.fuzz
def test_mutated_checkpoints():
    result = _run_all("fuzzing_checkpoints.py", CHECKPOINT_CASES)
    RESULTS.with_stem("fuzz_checkpoints").write_text(
        json.dumps(result, indent=2) + "\n"
    )
    assert not result["defects"]
    assert result["past_the_checksums"] >= CHECKPOINT_CASES / 10


def _run_all(script: str, cases: int) -> dict:
    """Run all cases in children; return what came of them."""
    start, first, rows, defects = time.perf_counter(), 0, [], []
    while first < cases:
        found, ended = _run_child(script, first, min(CASES_OF_A_CHILD, cases - first))
        rows += found
        first += len(found)
        defects += [row for row in found if row["outcome"].startswith("defect")]
        if ended:  # by the case after those
            defects.append(ended)
            first += 1
    counts = Counter(row["outcome"].partition(":")[0] for row in rows)
    seconds = [row["seconds"] for row in rows]
    sealed = sum(count for name, count in counts.items() if name.endswith(" sealed"))
    return {
        "backend": keras.backend.backend(),
        "cases": cases,
        "outcomes": dict(sorted(counts.items())),
        "past_the_checksums": sealed,
        "seconds": round(time.perf_counter() - start),
        "seconds_of_a_case": {
            "median": round(float(np.median(seconds)), 3),
            "largest": max(seconds),
        },
        "peak_mb": max(row["peak_mb"] for row in rows),
        "defects": defects,
    }


def _run_child(script: str, first: int, count: int) -> tuple[list[dict], dict | None]:
    """Run cases in a child; return the finished ones, and what ended it before time."""
    folder = Path(__file__).parent
    paths = os.pathsep.join([str(folder), str(Path(kerasdl.__path__[0]).parent)])
    with subprocess.Popen(
        [sys.executable, str(folder / script), str(first), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as child:
        lines = queue.Queue()
        reader = threading.Thread(target=_read, args=(child.stdout, lines))
        reader.start()
        try:
            return _rows(lines, first, count)
        finally:
            child.kill()  # done, hung or dead already
            reader.join()


def _rows(lines: queue.Queue, first: int, count: int) -> tuple[list[dict], dict | None]:
    rows, case, patience = [], first, 600  # the first waits for the imports
    while len(rows) < count:
        try:
            line = lines.get(timeout=patience)
        except queue.Empty:
            return rows, {"case": case, "hung_for": patience}
        if not line:
            return rows, {"case": case, "ended": "before its time"}
        row = json.loads(line)
        case, patience = row["case"], 3 * SECONDS
        if "outcome" in row:
            rows.append(row)
    return rows, None


def _read(stream, lines: queue.Queue) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
