"""Mutate real bundles and load them: `python tests/fuzzing.py FIRST COUNT` in a child.

A case is a pure function of its number: which bundle, which file, what happens to it,
and whether the checksums are made to fit afterwards. Every case must end in a correct
load, which also answers, or in an `InputError` of one sentence.
"""

import json
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from hostile import KINDS, WATCH, pretrained_bundle

from kerasdl import spec
from kerasdl.bundle import load
from kerasdl.errors import InputError
from kerasdl.manifest import seal

ALL_KINDS = {**KINDS, "pretrained": (pretrained_bundle, KINDS["image"][1])}
# Of a child process, code and libraries of the backend included.
LARGEST_MEMORY = 6 * 2**30
SECONDS = 20
# The share of cases whose checksums fit: where the checks behind them are tried.
SEALED = 0.7
# Nobody reads them, so few cases are spent on them.
UNREAD = (spec.CARD, spec.METRICS)
ODD = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**53, 2**63, -(2**63), 10**30),
    *(0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), "", "a", "word", "\x00"),
    *("\ud800", "../../etc/passwd", "/etc/passwd", "x" * 5000, "number", "category"),
    *([], {}, [0], [1] * 1000, {"class_name": "Lambda"}, [[[[]]]], "sentiment", "mlp"),
)


def run_case(number: int, originals: dict[str, Path], examples: dict) -> str:
    """Mutate a bundle and load it.

    Returns:
        `"loaded"` or `"refused"`, and whether the checksums fitted.

    Raises:
        Exception: Anything else that comes out of it, which is a defect.
    """
    chance = random.Random(number)
    kind = chance.choice(sorted(originals))
    sealed = chance.random() < SEALED
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(originals[kind], Path(root) / kind))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            mutate(folder, chance)
        sealed = sealed and all(path.is_file() for path in folder.iterdir())
        if sealed:
            seal(folder)
        outcome, answers = _outcome(folder, kind, examples[kind])
        if outcome == "loaded" and not sealed:
            usual = load(originals[kind]).answers(examples[kind])
            np.testing.assert_array_equal(answers, usual)
    return f"{outcome} {'sealed' if sealed else 'as they were'}"


def _outcome(folder: Path, kind: str, examples) -> tuple[str, np.ndarray | None]:
    try:
        with WATCH(folder), np.errstate(all="ignore"):
            predictor = load(folder)
            answers = predictor.answers(examples)
    except InputError as error:
        sentence = str(error)
    else:
        sentence = ""
    if sentence:
        assert "\n" not in sentence, sentence
        assert len(sentence) < 1000, len(sentence)
        return "refused", None
    if kind != "series":
        assert answers.shape == (len(examples), len(predictor.labels))
    return "loaded", answers


def mutate(folder: Path, chance: random.Random) -> None:
    """Change one file of a bundle in one way."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    weights = [0.1 if path.name in UNREAD else 1 for path in paths]
    (path,) = chance.choices(paths, weights)
    ways = [_flip, _cut, _insert, _swap, _vanish]
    if path.suffix == ".json":
        ways += [_edit_json] * 12
    if path.suffix == ".safetensors":
        ways += [_edit_header] * 8 + [_edit_numbers] * 2
    chance.choice(ways)(path, chance)


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 8))):
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content) + 1)])


def _insert(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    at = chance.randrange(len(content) + 1)
    piece = chance.choice((b"\0" * 9, b'"', b"[" * 5000, b"{", b"\xff\xfe", b"1e999,"))
    path.write_bytes(content[:at] + piece + content[at:])


def _swap(path: Path, chance: random.Random) -> None:
    other = chance.choice(sorted(path.parent.iterdir()))
    if other.is_file():
        path.write_bytes(other.read_bytes())


def _vanish(path: Path, chance: random.Random) -> None:
    path.unlink()
    way = chance.randrange(4)
    if way == 0:
        path.mkdir()
    elif way == 1:
        path.symlink_to("/etc/passwd")
    elif way == 2:
        path.write_bytes(b"")


def _edit_json(path: Path, chance: random.Random) -> None:
    """Replace, remove or double a value somewhere in a JSON file."""
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # an earlier mutation
        return
    edit(fields, chance)
    path.write_text(json.dumps(fields))


def edit(fields, chance: random.Random) -> None:
    """Walk down into nested lists and dictionaries, and change one value."""
    while isinstance(fields, dict | list) and fields:
        keys = sorted(fields) if isinstance(fields, dict) else range(len(fields))
        key = chance.choice(keys)
        deeper = isinstance(fields[key], dict | list) and fields[key]
        if not (deeper and chance.random() < 0.8):
            _change(fields, key, chance)
            return
        fields = fields[key]


def _change(fields, key, chance: random.Random) -> None:
    way = chance.randrange(6)
    value = fields[key]
    if way == 0:
        del fields[key]
    elif way == 1 and isinstance(fields, dict):
        fields[chance.choice(("odd", "", "class_name", f"{key}s"))] = value
    elif way == 1:
        fields.append(value)
    elif way == 2 and isinstance(value, int | float):
        fields[key] = chance.choice(
            (value + 1, value - 1, -value, value * 2, value * 10**6, str(value))
        )
    else:
        fields[key] = chance.choice(ODD)


def _edit_header(path: Path, chance: random.Random) -> None:
    """Change the table of contents of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        return
    edit(header, chance)
    text = json.dumps(header).encode()
    claimed = chance.choice((len(text),) * 6 + (len(text) + 1, 0, 2**40, 2**63))
    path.write_bytes(struct.pack("<Q", claimed) + text + content[8 + length :])


def _edit_numbers(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    odd = struct.pack("<f", chance.choice((np.nan, np.inf, 3e38, -3e38, 1e-45, 0)))
    if len(content) > 12:
        at = chance.randrange(8, len(content) - 4)
        content[at : at + 4] = odd
    path.write_bytes(content)


def make_originals(root: Path, kinds: Iterable[str]) -> tuple[dict, dict]:
    """Write one bundle of each kind; return folders and examples by kind."""
    made = {kind: ALL_KINDS[kind] for kind in kinds}
    folders = {kind: write(root / kind) for kind, (write, _) in made.items()}
    examples = {kind: found for kind, (_, found) in made.items()}
    for kind, folder in folders.items():  # imports what there is to import
        load(folder).answers(examples[kind])
    return folders, examples


def main(first: int, count: int, report: Callable[[str], object] = print) -> None:
    """Run cases in this process, and report a line of JSON before and after each."""
    with tempfile.TemporaryDirectory() as root:
        originals, examples = make_originals(Path(root), ALL_KINDS)
        report_cases(
            lambda number: run_case(number, originals, examples), first, count, report
        )


def report_cases(
    run: Callable[[int], str], first: int, count: int, report: Callable[[str], object]
) -> None:
    """Run cases with limited memory; report a line of JSON before and after each."""
    limits = LARGEST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, limits)
    for number in range(first, first + count):
        report(json.dumps({"case": number}))
        start = time.perf_counter()
        try:
            outcome = run(number)
        except BaseException as error:  # what the case is there to find
            outcome = f"defect: {type(error).__name__}: {str(error)[:300]}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        report(
            json.dumps(
                {
                    "case": number,
                    "outcome": outcome,
                    "seconds": round(time.perf_counter() - start, 3),
                    "peak_mb": peak,
                }
            )
        )


def tell(line: str) -> None:
    """Report a line at once, on standard output."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), tell)
