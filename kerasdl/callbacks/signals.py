"""Ctrl-C and SIGTERM as an orderly stop."""

import signal
import threading

import keras


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
        self._previous = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.release()

    def catch(self) -> None:
        """Catch signals from now on, in the main thread, where Python delivers them."""
        main = threading.current_thread() is threading.main_thread()
        if main and not self._previous:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)

    def release(self) -> None:
        """Let signals do again what they did before."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_train_begin(self, logs=None):
        self.catch()  # once: a run may call `fit` several times

    def _stop(self, number, frame):
        if self.received is not None:
            self.release()
            signal.raise_signal(number)
        self.received = number

    def on_train_batch_end(self, batch, logs=None):
        if self.received is not None:
            self.model.stop_training = True
