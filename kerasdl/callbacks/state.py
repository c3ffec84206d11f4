"""The state of a training: captured as JSON and arrays, and brought back."""

from collections.abc import Sequence

import keras
import numpy as np

from kerasdl._version import __version__
from kerasdl.checkpoint import (
    Saved,
    join,
    random_state,
    read_variables,
    set_random_state,
    split,
    training_variables,
    write_variables,
)
from kerasdl.data.batches import BatchSource
from kerasdl.errors import InputError

# Epochs with their logs.
Rows = list[tuple[int, dict]]


def captured(
    model: keras.Model, callbacks: Sequence[keras.callbacks.Callback], history: Rows
) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the state of everything, copied: as JSON, and its arrays by name.

    Args:
        model: Compiled model.
        callbacks: Callbacks; those that have `state_dict` count.
        history: What was logged.
    """
    tables, arrays = {}, {}
    # First: what guards the training may undo its last step.
    told = [
        [type(c).__name__, split(c.state_dict(), "callback", arrays)]
        for c in _stateful(callbacks)
    ]
    for kind, variables in training_variables(model).items():
        copies, tables[kind] = read_variables(kind, variables)
        arrays |= copies
    state = {
        "variables": tables,
        "callbacks": told,
        "history": split(_columns(history), "history", arrays),
        "random": split(random_state(), "random", arrays),
        "backend": keras.backend.backend(),
        "keras": keras.version(),
        "kerasdl": __version__,
    }
    return state, arrays


def restore(
    model: keras.Model,
    saved: Saved,
    callbacks: Sequence[keras.callbacks.Callback],
    source: BatchSource | None,
) -> Rows:
    """Bring model, optimizer, callbacks, history and generators to a saved state.

    The metrics, which Keras resets at the beginning of an epoch, are left out.

    Args:
        model: Compiled model.
        saved: What `captured` has returned.
        callbacks: The callbacks, as there.
        source: A batch of it builds what a first step would build.

    Returns:
        The history.

    Raises:
        InputError: If model or callbacks are others.
    """
    state, arrays = saved.state, saved.arrays
    _build(model, state, source)
    for kind, variables in training_variables(model).items():
        if kind != "metric":
            write_variables(kind, variables, arrays, state["variables"][kind])
    stateful = _stateful(callbacks)
    names = [type(callback).__name__ for callback in stateful]
    if names != [name for name, _ in state["callbacks"]]:
        raise InputError(
            f"the checkpoint holds the state of other callbacks than {names}; "
            "resume with those of the training"
        )
    for callback, (_, stored) in zip(stateful, state["callbacks"], strict=True):
        callback.load_state_dict(join(stored, arrays))
    history = _rows(join(state["history"], arrays))
    _give_history(model, history)
    set_random_state(join(state["random"], arrays))
    return history


def _build(model: keras.Model, state: dict, source: BatchSource | None) -> None:
    """Make the variables that the first step would make."""
    stored = {kind: len(table) for kind, table in state["variables"].items()}
    is_complete = len(training_variables(model)["metric"]) >= stored["metric"]
    if source is not None and not (model.built and is_complete):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(source[0])
        model.compute_metrics(x, y, model(x, training=False), weight)
    if not model.built:
        raise InputError("build the model before it is resumed: call it once")
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _stateful(callbacks) -> list[keras.callbacks.Callback]:
    return [callback for callback in callbacks if hasattr(callback, "state_dict")]


def _columns(history: Rows) -> dict[str, np.ndarray]:
    """Return logs as arrays `(2, epochs)`: epoch and value."""
    columns = {}
    for epoch, logs in history:
        for name, value in logs.items():
            columns.setdefault(name, []).append((epoch, value))
    return {name: np.array(pairs, float).T for name, pairs in columns.items()}


def _rows(columns: dict[str, np.ndarray]) -> Rows:
    rows = {}
    for name, (epochs, values) in columns.items():
        for epoch, value in zip(epochs, values, strict=True):
            rows.setdefault(int(epoch), {})[name] = float(value)
    return sorted(rows.items())


def _give_history(model: keras.Model, history: Rows) -> None:
    """Let what `fit` returns cover the epochs before, too."""
    model.history.epoch = [epoch for epoch, _ in history]
    model.history.history = {
        name: values[1].tolist() for name, values in _columns(history).items()
    }
