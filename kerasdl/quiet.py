"""Keep start-up chatter of native libraries off the terminal."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hide what is written to standard error, unless the block fails.

    TensorFlow prints its oneDNN and CUDA banners from C++ while it is imported, before
    its log level applies, so that only the file descriptor itself can be turned aside.
    What was written is replayed when the block raises. Other threads are hidden too
    meanwhile: wrap an import, not a training run.

    Example:
        >>> with quiet_stderr():
        ...     written = os.write(2, b"custom operations are on")
    """
    # For the lines that come later, when devices are first used.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        terminal = os.dup(2)
    except OSError:  # Standard error is closed: nothing to keep quiet.
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(terminal, aside.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
