"""The one place that takes anything out of an archive: arrays, and those within limits.

An archive of 42 kilobytes can hold petabytes, and an array's header can claim more
still. What is not wanted is not touched, nothing is written to disk, nothing is
unpickled, and memory is taken for an array only once its bytes are known to be there.
"""

import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from kerasdl.data.tables import refuse_unreadable
from kerasdl.errors import InputError
from kerasdl.untrusted import brief

MOST_MEMBERS = 1000
LARGEST_MEMBER = 2**34
# Packed arrays are a few times smaller than their numbers, blank ones a thousand times;
# small ones may be as blank as they like.
LARGEST_RATIO = 200
SMALL = 2**28
# Booleans, whole numbers, floating-point numbers, texts.
KINDS = "biufU"
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HEADERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def read_arrays(
    path: Path, wanted: Iterable[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read arrays of an `.npz` file by their names.

    Args:
        path: The file.
        wanted: Names of the arrays to read, if they are there.

    Returns:
        The arrays, and the names of all that there are.

    Raises:
        InputError: If it is no such file, is damaged, or exceeds a limit.
    """
    try:
        with (
            refuse_unreadable(path),
            path.open("rb") as file,
            zipfile.ZipFile(file) as archive,
        ):
            members = _members(path, archive)
            arrays = {
                name: _read(path, archive, members[name])
                for name in wanted
                if name in members
            }
            return arrays, list(members)
    # Not a zip file, cut off, encrypted, or arrays of Python objects.
    except (
        *(ValueError, TypeError, EOFError, RuntimeError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error, MemoryError, SyntaxError),
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read as .npz ({brief(error)}); write it with "
            "numpy.savez_compressed"
        ) from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries = archive.infolist()
    if len(entries) > MOST_MEMBERS:
        raise InputError(f"{path} holds {len(entries):,} files; split it")
    members = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"{brief(name)!r} stands there twice")
        members[name] = entry
    return members


def _read(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    size, packed = entry.file_size, entry.compress_size
    if size > LARGEST_MEMBER or size > max(SMALL, LARGEST_RATIO * packed):
        raise InputError(
            f"{path}: {entry.filename!r} would grow from {packed:,} to {size:,} bytes; "
            "write it anew as several files"
        )
    if entry.compress_type not in COMPRESSIONS:
        raise ValueError(f"{entry.filename!r} is packed in an unusual way")
    with archive.open(entry) as file:
        return _array(file, size)


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """Read one array, its header compared with the bytes that there are."""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"arrays of version {version} are not read")
    shape, fortran_order, dtype = HEADERS[version](file)
    if dtype.kind not in KINDS:
        raise ValueError(f"it holds {dtype}, no plain numbers or texts")
    needed = math.prod(shape) * dtype.itemsize
    if not 0 <= needed <= size:
        raise ValueError(f"an array of shape {shape} in {size:,} bytes")
    content = bytearray(needed)
    if file.readinto(content) != needed or file.read(1):
        raise ValueError(f"an array of shape {shape} with more or fewer bytes")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")
