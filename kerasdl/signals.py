"""Ctrl-C and SIGTERM, while something must not be cut short by them."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, in the main thread, where Python delivers them.

    Yields:
        Numbers of the signals that have come so far; what they ask for is left to the
        caller.
    """
    received: list[int] = []
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda n, _: received.append(n))
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
