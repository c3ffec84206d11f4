"""Saving beside the training: one thread, one save at a time, the newest wins."""

import threading
from collections.abc import Callable


class Writer:
    """Runs saves in a thread; one that waits gives way to a newer one."""

    def __init__(self):
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waiting: Callable[[], None] | None = None
        self._error: BaseException | None = None

    def submit(self, save: Callable[[], None]) -> None:
        """Run a save soon, instead of one that has not begun yet."""
        with self._lock:
            self._waiting = save
            if self._thread is None:
                # No daemon: a program that ends waits for its last save.
                self._thread = threading.Thread(target=self._drain, name="checkpoint")
                self._thread.start()

    def flush(self) -> None:
        """Wait until nothing is left to be saved; raise what a save has raised."""
        if (thread := self._thread) is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _drain(self) -> None:
        while True:
            with self._lock:
                save, self._waiting = self._waiting, None
                if save is None:
                    self._thread = None
                    return
            try:
                save()
            except Exception as error:  # raised again by `flush`
                self._error = error
