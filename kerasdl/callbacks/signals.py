"""Ctrl-C and SIGTERM as an orderly stop."""

import inspect
import signal
import threading
import weakref

import keras

from kerasdl.distribution import current

# Batches after which processes that train together ask each other for signals.
BATCHES_BETWEEN = 8


class StopOnSignal(keras.callbacks.Callback):
    """Turn the first Ctrl-C or SIGTERM of a training into a stop after its batch.

    Keras then validates, keeps the best weights, and `fit` returns as usual. A second
    signal does what it did before. Signals are caught from the beginning of the
    training to the end of the `with` block, so that it can still write its results.

    Attributes:
        received: Number of the signal that came, or `None`.

    Example:
        >>> with StopOnSignal() as stop:
        ...     pass  # model.fit(..., callbacks=[stop]), then save the model
    """

    def __init__(self):
        super().__init__()
        self.received: int | None = None
        self._pending: int | None = None
        self._previous = {}
        self._fitted = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.release()

    def catch(self, model: keras.Model | None = None) -> None:
        """Catch signals from now on, in the main thread, where Python delivers them.

        Args:
            model: Only while its `fit` runs, from which this is called: one that an
                error ends does not say so, but after it a signal is not caught.
        """
        if model is not None and _is_fitted(model, inspect.currentframe()):
            self._fitted = weakref.ref(model)
        main = threading.current_thread() is threading.main_thread()
        if main and not self._previous:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)

    def release(self) -> None:
        """Let signals do again what they did before."""
        self._fitted = None
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_train_begin(self, logs=None):
        self.catch()  # once: a run may call `fit` several times

    def _stop(self, number, frame):
        is_over = self._fitted and not _is_fitted(self._fitted(), frame)
        if is_over or (self.received or self._pending) is not None:
            self.release()
            signal.raise_signal(number)
        if is_over:
            return
        if current().processes > 1:
            self._pending = number
        else:
            self.received = number

    def on_train_batch_end(self, batch, logs=None):
        # Processes must stop after the same batch, and so ask each other at the same.
        if current().processes > 1 and batch % BATCHES_BETWEEN == 0:
            self.received = current().any_signal(self._pending)
        if self.received is not None:
            self.model.stop_training = True


def _is_fitted(model: keras.Model | None, frame) -> bool:
    """Say whether `model.fit` is among the calls that have led to a frame."""
    while model is not None and frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False
