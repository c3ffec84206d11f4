"""Keep optional modules from being imported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Let modules count as not installed, save those that are imported already.

    Args:
        *names: Names of modules that the code within can do without.

    Example:
        >>> with absent("antigravity"):
        ...     import antigravity
        Traceback (most recent call last):
        ModuleNotFoundError: import of antigravity halted; None in sys.modules
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
