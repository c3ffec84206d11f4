"""What happens when the loss is no longer a number: back, slower, and on."""

import csv
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

from kerasdl.checkpoint import (
    is_finite,
    read_variables,
    training_variables,
    write_variables,
)
from kerasdl.data.batches import BatchSource
from kerasdl.optimizers import make_scalable, scale_rate

BATCHES_FILE = "not_finite.csv"


class NanGuard(keras.callbacks.Callback):
    """Go back to the last finite state when the loss is NaN or infinite.

    Weights and optimizer become what they were at most `every_steps` steps before, the
    learning rate becomes smaller, and the training goes on with the next batch. After
    some times it ends, with finite weights. Keras hands every callback the loss of each
    step as a number, so that looking at it costs nothing; the copy of the state that is
    kept in memory is renewed after so many steps and epochs alone, as on JAX it waits
    for them. Weights that are not finite are found then, too.

    Put it first, so that others see the state that is gone back to. The inputs of a
    `BatchSource` are looked through before the training.

    Args:
        folder: Existing folder for `not_finite.csv`, which names the examples of each
            bad batch; `None` writes nothing.
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

    def state_dict(self) -> dict:
        """Return how often it has gone back."""
        return {"tries": self._tries}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned, after `on_train_begin`."""
        self._tries = state["tries"]

    def on_train_begin(self, logs=None):
        self._tries = self._steps = 0
        self._copy = None
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
        self._steps += 1
        self._batch = batch
        loss = (logs or {}).get("loss", 0.0)
        is_good = bool(np.isfinite(loss))
        if is_good and self._steps >= self.every_steps:
            is_good = self._remember()
        if not is_good:
            self._go_back(batch)

    def on_epoch_end(self, epoch, logs=None):
        # On TensorFlow a ReLU may make zeros of NaN: lost weights, and a finite loss.
        if self._steps and not self._remember():
            self._go_back(self._batch)

    def _remember(self) -> bool:
        """Copy the state, unless it is not finite; say whether it is."""
        copy = {
            kind: read_variables(kind, variables)
            for kind, variables in training_variables(self.model).items()
        }
        if self._copy is not None and not is_finite(copy["model"][0]):
            return False
        self._copy, self._copied_in, self._steps = copy, self._epoch, 0
        return True

    def _go_back(self, batch: int) -> None:
        self._tries += 1
        model, steps = self.model, self._steps
        variables = training_variables(model)
        for kind in ("model", "optimizer"):
            write_variables(kind, variables[kind], *self._copy[kind])
        self._restore_metrics(model, variables["metric"])
        # The copy has the rate of its time.
        scale_rate(model.optimizer, self.factor**self._tries)
        self._steps = 0
        self._write(batch)
        what = (
            f"the loss is not finite in batch {batch + 1} of epoch {self._epoch + 1}: "
            f"back by {steps} step{'' if steps == 1 else 's'}, "
        )
        if self._tries > self.retries:
            what += "and the end, as that does not help"
            model.stop_training = True
        else:
            what += f"and on at a learning rate {self.factor:g} times as high"
        if self.path:
            what += f"; its examples are in {self.path.name}"
        self.console.print(what, highlight=False, markup=False, soft_wrap=True)

    def _restore_metrics(self, model, metrics: list) -> None:
        arrays, table = self._copy["metric"]
        if self._copied_in == self._epoch and len(metrics) == len(table):
            write_variables("metric", metrics, arrays, table)
        else:
            model.reset_metrics()

    def _write(self, batch: int) -> None:
        if self.path is None:
            return
        rows = [""]
        if self.source is not None:
            rows = np.sort(self.source.order[batch]).tolist()
        is_new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["epoch", "batch", "row", "example"])
            for row in rows:
                known = row != "" and row < len(self.examples)
                example = str(self.examples[row])[:200] if known else ""
                writer.writerow([self._epoch, batch, row, example])
