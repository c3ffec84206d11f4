"""What happens when the loss is no longer a number: back, slower, and on."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

from kerasdl.callbacks.pending import PendingLogs
from kerasdl.checkpoint import (
    is_finite,
    read_variables,
    training_variables,
    write_variables,
)
from kerasdl.data.batches import BatchSource
from kerasdl.data.rows import Columns
from kerasdl.files import whole_file
from kerasdl.optimizers import make_scalable, scale_rate
from kerasdl.untrusted import is_plain_file

BATCHES_FILE = "not_finite.csv"
LONGEST_TEXT = 200


class NanGuard(keras.callbacks.Callback):
    """Go back to the last finite state when the loss is NaN or infinite.

    Weights and optimizer become what they were at most `every_steps` steps before, the
    learning rate becomes smaller, and the training goes on with the next batch. After
    some times it ends, with finite weights. Keras hands every callback the loss of each
    step as a number, so that looking at it costs no more; handed `PendingLogs`, as by
    `kerasdl.train` in one process, it looks when the next step is under way, and goes
    back by that one, too. The copy of the state that is kept in memory is renewed after
    so many steps and epochs alone, as it waits for them on JAX and on GPUs. Weights
    that are not finite are found then, too.

    Put it first, so that others see the state that is gone back to, and before averages
    take the place of the weights. The inputs of a `BatchSource` are looked through
    before the training.

    Args:
        folder: Existing folder for `not_finite.csv`, which names the examples of each
            bad batch, where it is known which it is; `None` writes nothing.
        source: The `BatchSource` of the training, if it is one.
        examples: What the rows of the source were before, for the file.
        factor: What the learning rate is multiplied by.
        retries: So often it goes on.
        every_steps: Steps after which the state is copied.
        console: Where is said what happened; standard error by default.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        source: BatchSource | None = None,
        examples: Sequence = (),
        factor: float = 0.1,
        retries: int = 3,
        every_steps: int = 200,
        console: Console | None = None,
    ):
        super().__init__()
        self.path = Path(folder) / BATCHES_FILE if folder else None
        self.source = source
        self.examples = examples
        self.factor = factor
        self.retries = retries
        self.every_steps = every_steps
        self.console = console or Console(stderr=True)
        self._steps = 0

    def state_dict(self) -> dict:
        """Return how often it has gone back, the last batch included."""
        self._settle()
        return {"tries": self._tries}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned, after `on_train_begin`."""
        self._tries = state["tries"]

    def on_train_begin(self, logs=None):
        self._tries = self._tries_since = self._steps = 0
        self._copy = self._logs = None
        make_scalable(self.model.optimizer)
        if self.source is not None:
            self.source.check_finite()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self._copy is None:
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self._remember()

    def on_train_batch_end(self, batch, logs=None):
        if self._settle(begun=1):
            return
        self._steps += 1
        self._batch = batch
        self._logs = logs
        is_full = self._steps >= self.every_steps
        may_wait = isinstance(logs, PendingLogs) and not is_full
        if may_wait and not self._is_last(batch):
            return
        if not self._settle() and is_full:
            self._look_at_weights()

    def _settle(self, *, begun: int = 0) -> bool:
        """Look at the loss of the last batch, unless that was done.

        Args:
            begun: Steps that were begun since.

        Returns:
            Whether the state has gone back.
        """
        logs, self._logs = self._logs, None
        if np.isfinite((logs or {}).get("loss", 0.0)):
            return False
        self._go_back(is_loss=True, begun=begun)
        return True

    def _is_last(self, batch: int) -> bool:
        """Say whether the epoch may end with a batch: its logs are read then."""
        return self.source is None or batch + 1 >= len(self.source.order)

    def on_test_begin(self, logs=None):
        # Not at the end of the epoch: by then the model may hold an average.
        self._look_at_weights()

    def on_epoch_end(self, epoch, logs=None):
        self._look_at_weights()  # where there is no validation

    def on_train_end(self, logs=None):
        self._steps = 0  # `evaluate` may be given this callback, too

    def _look_at_weights(self) -> None:
        """Copy the state, or go back to the last copy, if there were steps since."""
        # On TensorFlow a ReLU may make zeros of NaN: lost weights, and a finite loss.
        if self._steps and not self._settle() and not self._remember():
            self._go_back(is_loss=False)

    def _remember(self) -> bool:
        """Copy the state, unless it is not finite; say whether it is."""
        copy = {
            kind: read_variables(kind, variables)
            for kind, variables in training_variables(self.model).items()
        }
        if self._copy is not None and not is_finite(copy["model"][0]):
            return False
        self._copy, self._copied_in = copy, self._epoch
        self._steps = self._tries_since = 0
        return True

    def _go_back(self, *, is_loss: bool, begun: int = 0) -> None:
        """Restore the copy, lower the rate and say so.

        Args:
            is_loss: Whether the loss of the last batch has shown it, not the weights.
            begun: Steps that were begun since.
        """
        self._tries += 1
        self._tries_since += 1
        model, steps = self.model, self._steps + begun
        variables = training_variables(model)
        for kind in ("model", "optimizer"):
            write_variables(kind, variables[kind], *self._copy[kind])
        self._restore_metrics(model, variables["metric"])
        # The copy has the rate of its time.
        scale_rate(model.optimizer, self.factor**self._tries_since)
        self._steps = 0
        place = self._place()
        batch = f"batch {place + 1} of epoch {self._epoch + 1}"
        if is_loss:
            what = f"the loss is not finite in {batch}: "
        else:
            what = f"the weights are not finite after {batch}: "
        what += f"back by {steps} step{'' if steps == 1 else 's'}, "
        if self._tries > self.retries:
            what += "and the end, as that does not help"
            model.stop_training = True
        else:
            what += f"and on at a learning rate {self.factor:g} times as high"
        # Any batch since the copy may have spoilt the weights.
        if self.path and (is_loss or steps == 1):
            try:
                self._write(place)
                what += f"; its examples are in {self.path.name}"
            except OSError as error:  # a full disk is no reason to end the training
                what += f"; its examples are not in {self.path.name}: {error.strerror}"
        self.console.print(what, highlight=False, markup=False, soft_wrap=True)

    def _place(self) -> int:
        """Return the place of the last batch in its epoch (Keras: since a resume)."""
        if self.source is None:
            return self._batch
        return self._batch + self.source.batches_per_epoch - len(self.source.order)

    def _restore_metrics(self, model, metrics: list) -> None:
        arrays, table = self._copy["metric"]
        if self._copied_in == self._epoch and len(metrics) == len(table):
            write_variables("metric", metrics, arrays, table)
        else:
            model.reset_metrics()

    def _write(self, place: int) -> None:
        """Add the examples of the last batch to the file."""
        rows = [""]
        if self.source is not None:
            rows = np.sort(self.source.order[self._batch]).tolist()
        is_there = is_plain_file(self.path)
        # The file may be a hard link to another one, which must stay as it is.
        with whole_file(self.path) as partial:
            if is_there:
                shutil.copyfile(self.path, partial)
            with partial.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if not is_there:
                    writer.writerow(["epoch", "batch", "row", "example"])
                for row in rows:
                    known = row != "" and row < len(self.examples)
                    example = _text(self.examples[row]) if known else ""
                    writer.writerow([self._epoch, place, row, example])


def _text(example) -> str:
    """Return an example as text, or as JSON if it is a row of a table."""
    if isinstance(example, Columns):
        example = example.values
    if not isinstance(example, Mapping):
        return str(example)[:LONGEST_TEXT]
    cells = {name: _cell(value) for name, value in example.items()}
    return json.dumps(cells, ensure_ascii=False)


def _cell(value):
    """Return a cell as what JSON has."""
    if isinstance(value, np.generic):
        value = value.item()
    is_plain = value is None or isinstance(value, bool | int | float)
    return value if is_plain else str(value)[:LONGEST_TEXT]
