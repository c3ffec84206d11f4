"""Mutate checkpoints, and resume from them: as `fuzzing.py` does with bundles.

The training was killed in its third epoch and has left three checkpoints. A case is a
pure function of its number: which of them are changed, in which way, whether the
checksums are made to fit afterwards, and whether files come from another run. As they
are deterministic, trainings that go on from whatever checkpoint end alike.
"""

import io
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from fuzzing import mutate, report_cases, tell
from hostile import WATCH
from rich.console import Console

from kerasdl import backend
from kerasdl.callbacks import Checkpoint, EarlyStopping, HistoryFile
from kerasdl.data.batches import BatchSource, Dense
from kerasdl.errors import InputError
from kerasdl.manifest import seal

SEALED = 0.6


def train(folder: Path, epochs: int, run: str = "mine") -> tuple[bytes, str]:
    """Train a tiny model, or go on; return its weights, and what was said."""
    keras.utils.clear_session(free_memory=False)
    backend.set_seed(len(run))
    data = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    layers = [keras.layers.Dense(3), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile("adam", "mean_squared_error", run_eagerly=True)
    source = BatchSource({"x": Dense(data)}, data[:, 0], batch_size=4, seed=0)
    said = io.StringIO()
    others = [EarlyStopping("loss", patience=9), HistoryFile(folder / "history.csv")]
    checkpoint = Checkpoint(
        folder / "checkpoints",
        callbacks=others,
        source=source,
        every_steps=1,
        run=run,
        console=Console(file=said, width=10_000),
    )
    model.fit(
        source,
        initial_epoch=checkpoint.initial_epoch,
        epochs=epochs,
        callbacks=[*others, checkpoint],
        verbose=0,
    )
    values = [keras.ops.convert_to_numpy(v).tobytes() for v in model.variables]
    return b"".join(values), said.getvalue()


def make_originals(root: Path) -> tuple[Path, Path, bytes]:
    """Return an unfinished training, one of another run, and how the first ends."""
    folders = root / "mine", root / "theirs"
    for folder in folders:
        folder.mkdir()
        train(folder, 2, folder.name)
    whole = root / "whole"
    shutil.copytree(folders[0], whole)
    expected, _ = train(whole, 3)
    return *folders, expected


def run_case(number: int, mine: Path, theirs: Path, expected: bytes) -> str:
    """Mutate checkpoints and go on.

    Returns:
        What came of it, and whether the checksums fitted.

    Raises:
        Exception: Anything else that comes out of it, which is a defect.
    """
    chance = random.Random(number)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(mine, Path(root) / "run"))
        steps = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
        changed = steps[: chance.choice((1, 1, 1, 2, 3))]
        sealed = chance.random() < SEALED
        for step in changed:
            for _ in range(chance.choice((1, 1, 2))):
                _change(step, chance, theirs)
            if sealed and all(path.is_file() for path in step.iterdir()):
                seal(step)
        outcome = _outcome(folder, expected, sealed=sealed)
    return f"{outcome} {'sealed' if sealed else 'as they were'}"


def _change(step: Path, chance: random.Random, theirs: Path) -> None:
    """Mutate a file of a checkpoint, or take one of another step or another run."""
    others = [path for path in sorted(step.parent.glob("step-*")) if path != step]
    others += sorted((theirs / "checkpoints").glob("step-*"))
    if chance.random() < 0.8:
        mutate(step, chance)
        return
    other, name = chance.choice(others), chance.choice(_names(step))
    if (other / name).is_file() and not (step / name).is_dir():
        (step / name).unlink()
        shutil.copy(other / name, step / name)


def _names(step: Path) -> list[str]:
    return sorted(path.name for path in step.iterdir())


def _outcome(folder: Path, expected: bytes, *, sealed: bool) -> str:
    sentence = ""
    try:
        with WATCH(folder, may_write=True), np.errstate(all="ignore"):
            found, said = train(folder, 3)
    except InputError as error:
        sentence = str(error)
    if sentence:
        assert "\n" not in sentence, sentence
        assert len(sentence) < 1500, len(sentence)
        return "refused"
    is_damaged = "is damaged (" in said
    if not sealed:  # as they are found damaged, what is used is as it was
        assert found == expected, said
    return "fell back with a sentence" if is_damaged else "resumed"


def main(first: int, count: int, report: Callable[[str], object]) -> None:
    """Run cases in this process, and report a line of JSON before and after each."""
    with tempfile.TemporaryDirectory() as root:
        originals = make_originals(Path(root))
        report_cases(lambda number: run_case(number, *originals), first, count, report)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), tell)
