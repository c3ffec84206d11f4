"""Memory that a training step frees stays in the process, for the next one to take.

A step takes and frees hundreds of megabytes. glibc gives large blocks back to Linux at
once, which hands them out again page by page, zeroed: in a small transformer tens of
thousands of pages a step.
"""

import ctypes
import os
from functools import cache

# Parameters of glibc's `mallopt`, by their numbers in its <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
# Larger blocks go back at once, and so does what is free at the end beyond it: the most
# that `mallopt` takes, and the most for blocks that older ones of glibc take.
MOST_BYTES, OLD_MOST_BYTES = 2**31 - 1, 2**25
OWN_SETTINGS = "MALLOC_", "GLIBC_TUNABLES"


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to 2 GB, from now on in the whole process.

    Where there is no glibc, or the environment has settings of its own for it
    (`MALLOC_...`, `GLIBC_TUNABLES`), all stays as it is.
    """
    if any(name.startswith(OWN_SETTINGS) for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # Any of these switches off that glibc finds thresholds of its own.
    sizes = MOST_BYTES, OLD_MOST_BYTES
    if any(mallopt(MMAP_THRESHOLD, size) for size in sizes):
        mallopt(TRIM_THRESHOLD, MOST_BYTES)
