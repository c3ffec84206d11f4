"""One process per folder: a lock that ends with the process that holds it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kerasdl.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    The system frees it when the process ends, however it ends: a lock file that a
    killed process has left does no harm.

    Raises:
        InputError: If another process holds it.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK_FILE
    descriptor = _acquired(path)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that another process has locked; change nothing.

    Raises:
        InputError: If another process holds the lock.
    """
    path = folder / LOCK_FILE
    if fcntl is not None and path.exists():
        os.close(_acquired(path))


def is_locked(folder: Path) -> bool:
    """Say whether a process holds the lock of a folder; change nothing.

    What may not be looked into is taken as free.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _acquired(path: Path) -> int:
    """Open and lock the file that has this name once it is locked."""
    while True:
        # Another's file that has this name, by a link, is not to be written.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o644)
        if os.fstat(descriptor).st_nlink > 1:
            os.close(descriptor)
            raise InputError(f"{path} is a link to another file; delete it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace")
            os.close(descriptor)
            raise InputError(
                f"{path.parent} is in use by process {holder or 'unknown'}; wait for "
                "it, or choose another folder"
            ) from None
        # Its former holder may have deleted it in between.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)
