"""A file that is on disk in full or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Lend a name to write under; the file takes its own name once it is complete.

    A block that fails leaves an earlier file as it was, and nothing else.

    Args:
        path: File to write.

    Raises:
        OSError: If the disk is full or the folder is gone.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    # What a killed process or a stranger has left there may be a link to another file.
    partial.unlink(missing_ok=True)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
