"""Save a training as it goes, and take it up again where it was."""

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

from kerasdl.callbacks.signals import StopOnSignal
from kerasdl.callbacks.state import captured, restore
from kerasdl.checkpoint import (
    Saved,
    Store,
    Writer,
    is_finite,
    join,
    set_random_state,
    step_name,
    training_variables,
    write_variables,
)
from kerasdl.data.batches import BatchSource
from kerasdl.errors import InputError
from kerasdl.untrusted import brief

# Saves that nobody has asked for take at most this share of the time.
SHARE = 0.03
# No training has so many steps or epochs.
FAR = 10**15


class Checkpoint(keras.callbacks.Callback):
    """Save the whole state of a training, and resume it from the newest save.

    Weights, optimizer, random seeds, metrics, the history, the state of other
    callbacks, and the position in the data: a training that is killed and run again
    goes on as if nothing had happened. With a `BatchSource` it goes on within an epoch,
    bit for bit on a CPU; with other data from the last epoch that was saved.

    Put it last. It saves every few minutes, and at the end of an epoch where that costs
    less than 3 % of the time since the last save, and when Ctrl-C or SIGTERM come. The
    last three saves stay, and that of the best epoch.

    Attributes:
        initial_epoch: What `fit` shall begin with.

    Args:
        folder: Where the checkpoints lie; made in a folder that exists.
        callbacks: The other callbacks of the training. Those that have `state_dict` and
            `load_state_dict` are resumed, too.
        source: The `BatchSource` of the training, if it is one.
        every_minutes: Save after so many minutes.
        every_steps: Save after so many steps, whatever it costs.
        monitor: Logged quantity, the smaller the better, that names the best epoch.
        stop: What catches signals, if something does: the training ends in order. By
            default a signal does what it always does, after a save.
        facts: JSON that is stored in each checkpoint, for people.
        run: Identity of the run; checkpoints of another one are refused.
        is_read_only: Resume, but save nothing: another process does.
        console: Where is said what was resumed; standard error by default.

    Raises:
        InputError: If there are checkpoints, and all are damaged.

    Example:
        >>> import tempfile
        >>> from kerasdl.data.batches import Dense
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mean_squared_error")
        >>> data = np.ones((8, 1), "float32")
        >>> source = BatchSource({"x": Dense(data)}, data, batch_size=4, seed=0)
        >>> folder = tempfile.mkdtemp()
        >>> for epochs in (2, 3):  # the second goes on where the first has ended
        ...     checkpoint = Checkpoint(folder, source=source)
        ...     start = checkpoint.initial_epoch
        ...     history = model.fit(
        ...         source,
        ...         initial_epoch=start,
        ...         epochs=epochs,
        ...         callbacks=[checkpoint],
        ...         verbose=0,
        ...     )
        >>> start, len(history.history["loss"])
        (2, 3)
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        source: BatchSource | None = None,
        every_minutes: float = 5.0,
        every_steps: int | None = None,
        monitor: str = "val_loss",
        stop: StopOnSignal | None = None,
        facts: dict | None = None,
        run: str = "",
        is_read_only: bool = False,
        console: Console | None = None,
    ):
        super().__init__()
        self.callbacks = list(callbacks)
        self.source = source
        self.every_seconds = 60 * every_minutes
        self.every_steps = every_steps
        self.monitor = monitor
        self.facts = facts or {}
        self.is_read_only = is_read_only
        self.console = console or Console(stderr=True)
        self._own_stop = stop is None
        self._stop = stop or StopOnSignal()
        self._writer = Writer()
        self._store = Store(Path(folder), run=run)
        self._resumed = self._store.newest()
        for sentence in self._store.damaged:
            self._say(f"{sentence}; it is left out")
        self.initial_epoch = 0
        if self._resumed:
            with self._fitting():
                self._take_position(self._resumed.state)

    def _take_position(self, state: dict) -> None:
        # Nothing is left to train where a callback had ended the training.
        self.initial_epoch = sys.maxsize if state["stopped"] else state["epoch"]
        if state["batch"] and self.source is None:
            raise InputError(
                f"the checkpoint in {self._store.folder} lies within an epoch; give "
                "Checkpoint the source of the training"
            )
        batches = self.source.batches_per_epoch if self.source is not None else 1
        for name, end in (("epoch", FAR), ("step", FAR), ("batch", batches)):
            if not (type(state[name]) is int and 0 <= state[name] < end):
                raise ValueError(f"{name} {state[name]!r}")

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Turn what a state from elsewhere makes fail into a sentence."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the checkpoint in {self._store.folder} holds no state of this "
                f"training ({type(error).__name__}: {brief(error)}); move it away to "
                "start over"
            ) from error

    def on_train_begin(self, logs=None):
        self._position = self._saved_position = None
        self._steps_before = self._offset = self._saved_step = 0
        self._history: list[tuple[int, dict]] = []
        self._within: Saved | None = None
        self._cost = 0.0
        self._is_cut = False
        self._last_save = time.monotonic()
        if self._resumed:
            with self._fitting():
                self._restore(self._resumed)
            self._resumed = None
        if self._own_stop:  # not before: a refusal would leave signals caught
            self._stop.received = None
            self._stop.catch(self.model)
        if self.source is None:
            self._say("not a BatchSource: resuming goes on from the end of an epoch")

    def _restore(self, saved: Saved) -> None:
        """Bring everything to a saved state, and say so."""
        state = saved.state
        self._history = restore(self.model, saved, self.callbacks, self.source)
        if state["batch"]:
            self._within = saved
        position = state["epoch"], state["batch"]
        self._position = self._saved_position = position
        self._saved_step = state["step"]
        self._steps_before = state["step"] - state["batch"]
        self._say(f"resuming after {_place(*position)} ({state['step']} steps)")
        if state["backend"] != keras.backend.backend():
            self._say(
                f"it was saved on {state['backend']}: from here on, numbers may differ "
                "in their last digits"
            )

    def on_epoch_begin(self, epoch, logs=None):
        resumed, batch = self._position or (epoch, 0)
        if epoch != resumed:
            raise InputError(
                f"{resumed} epochs are done; give fit "
                "initial_epoch=checkpoint.initial_epoch"
            )
        self._offset = batch if self._within else 0
        if self.source is not None:
            self.source.start(epoch, self._offset)
        if self._within:  # Keras has just reset the metrics
            state, arrays = self._within.state, self._within.arrays
            metrics = training_variables(self.model)["metric"]
            with self._fitting():
                table = state["variables"]["metric"]
                write_variables("metric", metrics, arrays, table)
        self._position = epoch, self._offset

    def on_train_batch_begin(self, batch, logs=None):
        if self._within:
            # Once more: on PyTorch the iterator over an epoch draws a number.
            state, arrays = self._within.state, self._within.arrays
            set_random_state(join(state["random"], arrays))
            self._within = None

    def on_train_batch_end(self, batch, logs=None):
        epoch, _ = self._position
        place = self._offset + batch + 1
        self._position = epoch, place
        self._is_cut = False  # a signal before this batch has not ended the training
        if self.source is None:  # not to be positioned within an epoch
            self._pass_signal_on()
        elif place < self.source.batches_per_epoch:
            self._save_if_due(place)
            self._pass_signal_on()
        elif self._stop.received is not None:
            # The epoch is whole: let it end as one.
            self.model.stop_training = False

    def _save_if_due(self, place: int) -> None:
        is_signalled = self._stop.received is not None
        waited = time.monotonic() - self._last_save
        steps = self._steps_before + place - self._saved_step
        if (
            is_signalled
            or (self.every_steps and steps >= self.every_steps)
            or waited >= max(self.every_seconds, self._cost / SHARE)
        ):
            self._save(wait=is_signalled)
            self._is_cut = is_signalled

    def on_epoch_end(self, epoch, logs=None):
        if self._is_cut:  # not as the epoch would have ended
            return
        self._history.append((epoch, dict(logs or {})))
        self._steps_before += self._position[1]
        self._position = epoch + 1, 0
        is_stopped = self.model.stop_training
        is_signalled = self._stop.received is not None
        is_last = is_stopped or is_signalled or epoch + 1 == self.params["epochs"]
        waited = time.monotonic() - self._last_save
        steps = self._steps_before - self._saved_step
        if (
            is_last
            or (self.every_steps and steps >= self.every_steps)
            or waited >= self._cost / SHARE
        ):
            self._save(
                wait=is_last,
                stopped=is_stopped,
                score=(logs or {}).get(self.monitor),
            )
        self._pass_signal_on()
        if is_signalled and not self._own_stop:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self._writer.flush()
        if self._own_stop:
            self._stop.release()
        if self.source is not None and self._position:
            self.source.start(self._position[0])

    def _pass_signal_on(self) -> None:
        """Let a signal that nobody else catches do what it would have done."""
        if self._own_stop and (number := self._stop.received) is not None:
            self._writer.flush()
            self._stop.release()
            self._stop.received = None
            signal.raise_signal(number)
            self._stop.catch(self.model)  # the training goes on, and so do the saves

    def _save(self, *, wait: bool, stopped: bool = False, score=None) -> None:
        """Copy the state, and let a thread write it."""
        if self.is_read_only or self._position == self._saved_position:
            return
        start = time.monotonic()
        (epoch, batch), step = self._position, self._steps_before + self._position[1]
        state, arrays = captured(self.model, self.callbacks, self._history)
        saved = Saved(
            {
                "step": step,
                "epoch": epoch,
                "batch": batch,
                "stopped": stopped,
                "facts": self.facts,
                **state,
            },
            arrays,
        )
        if score is not None and not np.isfinite(score):
            score = None

        def write():
            if not is_finite({k: v for k, v in arrays.items() if k.startswith("mod")}):
                self._say(f"step {step} is not saved: its weights are not finite")
                return
            try:
                self._store.write(step_name(step), saved, score=score)
            except OSError as error:
                self._say(
                    f"step {step} could not be saved ({error.strerror}); the "
                    "training goes on"
                )
            self._cost = time.monotonic() - start

        self._saved_position, self._saved_step = self._position, step
        self._last_save = time.monotonic()
        self._writer.submit(write)
        if wait:
            self._writer.flush()

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _place(epoch: int, batch: int) -> str:
    return f"{f'batch {batch} of ' if batch else ''}epoch {epoch + bool(batch)}"
