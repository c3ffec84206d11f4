"""A folder of checkpoints, of which the newest whole one counts."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from kerasdl.errors import InputError
from kerasdl.manifest import clear_hidden, hidden_name, replacing, seal, verify
from kerasdl.untrusted import brief, check_links, read_json, read_tensors

ARRAYS_FILE, STATE_FILE = "arrays.safetensors", "state.json"
FORMAT = 1
STEP_NAME = re.compile(r"step-([0-9]{8,16})")
FINAL = "final"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        state: JSON.
        arrays: Arrays by name.
    """

    state: dict
    arrays: dict[str, np.ndarray]


class Store:
    """The checkpoints of one training: `step-00000123/`, and `final/` once it is done.

    Each holds `arrays.safetensors`, `state.json` and a manifest with their checksums.
    One is written under another name, flushed to disk, and renamed.

    Attributes:
        damaged: A sentence for each checkpoint that could not be used.

    Args:
        folder: Where they lie; made with the first one, in a folder that exists.
        run: Identity of the run; checkpoints of another one are not used.
        keep: So many of the newest ones stay, besides the best.
    """

    def __init__(self, folder: Path, *, run: str = "", keep: int = 3):
        self.folder = Path(folder)
        self.run = run
        self.keep = keep
        self.damaged: list[str] = []
        self._scores: dict[str, float] = {}

    def newest(self) -> Saved | None:
        """Return the newest checkpoint that is whole, `None` if there never was one.

        Leftovers of a save that was cut short are deleted.

        Raises:
            InputError: If there are some, and all are damaged.
        """
        check_links(self.folder)
        self._clear_leftovers()
        newest = None
        for path in self._paths():
            try:
                saved = self._read(path)
            except (InputError, OSError) as error:
                reason = str(error).partition(";")[0]
                self.damaged.append(f"{path.name} is damaged ({reason})")
                continue
            newest = newest or saved
            self._scores[path.name] = saved.state.get("score")
        if newest is None and self.damaged:
            raise InputError(
                f"no checkpoint in {self.folder} can be used: "
                f"{', '.join(self.damaged)}; move the folder away to start over"
            )
        return newest

    def final(self) -> Saved | None:
        """Return the state at the end of the training, `None` before it.

        Raises:
            InputError: If it is damaged.
        """
        path = self.folder / FINAL
        if not path.exists():
            return None
        check_links(self.folder)
        try:
            saved = self._read(path)
        except (InputError, OSError) as error:
            reason = str(error).partition(";")[0]
            raise InputError(
                f"the end of a training is damaged ({reason}); move {path} away to "
                "train it again"
            ) from None
        self._clear_leftovers()
        self._prune(FINAL)
        return saved

    def write(self, name: str, saved: Saved, *, score: float | None = None) -> None:
        """Write a checkpoint, then delete what is no longer needed.

        Args:
            name: As of `step_name`, or `FINAL`.
            saved: What it holds.
            score: The smaller, the better; the best checkpoint stays.

        Raises:
            OSError: If it cannot be written; the others stay as they were.
        """
        self.folder.mkdir(exist_ok=True)
        state = {**saved.state, "format": FORMAT, "run": self.run, "score": score}
        path = self.folder / name
        if path.exists() and name not in self._scores:
            _remove(path)
        with replacing(path) as partial:
            (partial / ARRAYS_FILE).write_bytes(safetensors.numpy.save(saved.arrays))
            text = json.dumps(state, indent=1, allow_nan=False)
            (partial / STATE_FILE).write_text(text, encoding="utf-8")
            seal(partial)
        self._scores[name] = score
        self._prune(name)

    def _prune(self, written: str) -> None:
        scores = {k: v for k, v in self._scores.items() if v is not None}
        kept = {written, min(scores, key=scores.get, default=written)}
        if written != FINAL:
            kept.update(sorted(self._scores)[-self.keep :])
        else:
            kept = {FINAL}
        for path in self._paths():
            if path.name not in kept:
                _remove(path)
                self._scores.pop(path.name, None)

    def _paths(self) -> list[Path]:
        """Return the folders of checkpoints, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [
            path for path in self.folder.iterdir() if STEP_NAME.fullmatch(path.name)
        ]
        return sorted(found, reverse=True)

    def _read(self, path: Path) -> Saved:
        verify(path, {ARRAYS_FILE, STATE_FILE})
        state = read_json(path / STATE_FILE)
        if state.get("format") != FORMAT:
            found = brief(state.get("format"))
            raise InputError(f"format {found} instead of {FORMAT}")
        if state.get("run") != self.run:
            raise InputError("it belongs to another run")
        return Saved(state, read_tensors(path / ARRAYS_FILE))

    def _clear_leftovers(self) -> None:
        clear_hidden(self.folder, f"{STEP_NAME.pattern}|{FINAL}")


def _remove(path: Path) -> None:
    """Delete a checkpoint, which must not look like a damaged one halfway through."""
    deleted = hidden_name(path)
    try:
        path.rename(deleted)
    finally:
        shutil.rmtree(deleted, ignore_errors=True)


def step_name(step: int) -> str:
    """Return the name of the checkpoint after a number of steps.

    Example:
        >>> step_name(123)
        'step-00000123'
    """
    return f"step-{step:08d}"
