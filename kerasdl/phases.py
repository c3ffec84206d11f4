"""The trainings that make up a run, each of which is saved, resumed, or skipped."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import keras
from rich.console import Console

from kerasdl.callbacks import Checkpoint, StopOnSignal
from kerasdl.checkpoint import (
    FINAL,
    Saved,
    Store,
    join,
    read_variables,
    split,
    write_variables,
)
from kerasdl.data.batches import BatchSource
from kerasdl.distribution import current

# Name of the training of a run that consists of one.
MAIN = "training"
History = dict[str, list[float]]


@dataclass(frozen=True)
class Phases:
    """What the trainings of a run have in common: where they are saved, who stops them.

    Attributes:
        folder: Folder of the run; `None` saves nothing.
        console: Where progress is printed.
        stop: Ends a training early when a signal comes.
        run: Identity of the run, held by each checkpoint.
        prefix: What the names of its trainings begin with.
        in_front: Whether the run's history and best weights are theirs.
        facts: What each checkpoint says of the run: recipe, data, version.
        saving: Options of `Checkpoint`: `every_minutes`, `every_steps`.
        tensorboard: Whether its trainings write curves for TensorBoard.
    """

    folder: Path | None = None
    console: Console = field(default_factory=lambda: Console(quiet=True))
    stop: StopOnSignal | None = None
    run: str = ""
    prefix: str = ""
    in_front: bool = True
    facts: dict = field(default_factory=dict)
    saving: dict = field(default_factory=dict)
    tensorboard: bool = False

    @property
    def is_stopped(self) -> bool:
        """Whether a signal has come."""
        return self.stop is not None and self.stop.received is not None

    def phase(self, name: str) -> "Phase":
        """Return one training of the run, by its name."""
        return Phase(self, self.prefix + name)

    def aside(self, prefix: str) -> "Phases":
        """Return trainings that only measure."""
        return replace(self, prefix=f"{prefix}-", in_front=False)


@dataclass(frozen=True)
class Phase:
    """One training of a run.

    Attributes:
        phases: The run.
        name: Name of its folder among the checkpoints.
    """

    phases: Phases
    name: str

    @property
    def folder(self) -> Path | None:
        """Folder of the run, for history and best weights, if they are its own.

        Processes besides the chief do as it does, in a folder that is thrown away.
        """
        if self.phases.folder is None or not self.phases.in_front:
            return None
        return self.phases.folder if current().is_chief else _thrown_away()

    def finished(
        self, model: keras.Model, callbacks: Sequence[keras.callbacks.Callback] = ()
    ) -> History | None:
        """Return the history of a training that is done, and its weights in `model`.

        Args:
            model: Model as it was before the training.
            callbacks: Callbacks whose state is restored, too.

        Returns:
            The history, or `None` if the training is not done.
        """
        if self.phases.folder is None or not (saved := self._store().final()):
            return None
        state, arrays = saved.state, saved.arrays
        write_variables("model", model.variables, arrays, state["variables"])
        for callback, stored in zip(callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(join(stored, arrays))
        return join(state["history"], arrays)

    def finish(
        self,
        model: keras.Model,
        history: History,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        """Remember a training that is done; one that was stopped goes on later.

        Args:
            model: The trained model.
            history: Its history.
            callbacks: Callbacks whose state is remembered, too.
        """
        is_over = self.phases.is_stopped or not current().is_chief
        if self.phases.folder is None or is_over:
            return
        arrays, table = read_variables("model", model.variables)
        state = {
            "variables": table,
            "callbacks": [split(c.state_dict(), "callback", arrays) for c in callbacks],
            "history": split(history, "history", arrays),
            "facts": self.phases.facts,
        }
        self._store().write(FINAL, Saved(state, arrays))

    def checkpoint(
        self, callbacks: Sequence[keras.callbacks.Callback], source: BatchSource
    ) -> Checkpoint | None:
        """Return the callback that saves and resumes the training.

        Args:
            callbacks: The other callbacks.
            source: Batches of the training.
        """
        if self.phases.folder is None:
            return None
        return Checkpoint(
            self._folder,
            callbacks=callbacks,
            source=source,
            stop=self.phases.stop,
            run=self.phases.run,
            facts=self.phases.facts,
            console=self.phases.console,
            is_read_only=not current().is_chief,
            **self.phases.saving,
        )

    @property
    def _folder(self) -> Path:
        return self.phases.folder / "checkpoints" / self.name

    def _store(self) -> Store:
        return Store(self._folder, run=self.phases.run)


@cache
def _thrown_away() -> Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
