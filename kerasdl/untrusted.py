"""Files that a stranger may have written: every limit comes before what it limits."""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kerasdl.errors import InputError

# Numbers of one example, where a bundle says how many: 64 megabytes.
LARGEST_EXAMPLE = 2**24
# A bundle's settings are a few kilobytes; the names of 21,000 classes are one megabyte.
LARGEST_JSON = 2**24
# Longest whole number that is read: everything up to 2^63 in decimal digits.
MOST_DIGITS = 19
LONGEST_REASON = 300
LENGTH_BYTES = 8  # of a safetensors header's length, at the start of the file
# What a terminal would obey instead of showing.
CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(32), *range(127, 160))
    if chr(code) not in "\t\n"
}


def brief(value: object) -> str:
    """Return text from a file or a library as part of one sentence, cut where long."""
    line = shown(" ".join(str(value).split()))
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"


def shown(text: str) -> str:
    """Return text without the characters that a terminal obeys."""
    return text.translate(CONTROLS)


def is_plain_file(path: Path) -> bool:
    """Say whether this is a file, and neither a link nor a device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a path that links lead out of a folder, or that is a pipe or a device.

    Raises:
        InputError: Names the path.
    """
    try:
        inside = path.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # a circle of links, on Python 3.11
        raise InputError(f"{path} cannot be read: {brief(error)}") from error
    if not inside:
        raise InputError(f"{path} is a link that leads out of {folder}; copy the files")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is no file; get it again")


def check_links(folder: Path) -> None:
    """Refuse a folder that is to be written to, if a link in it leads out of it.

    Raises:
        InputError: Names the link.
    """
    for parent, folders, files in os.walk(folder):  # which follows no link
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                check_inside(path, folder)


def read_json(path: Path, *, most: int = LARGEST_JSON) -> dict:
    """Read a file that holds one JSON object.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        InputError: If it cannot be read, is too large, or is no such file.
    """
    with _opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} has more than {most:,} bytes; get it again")
    return parse_json(path, content)


def parse_json(path: Path, content: bytes) -> dict:
    """Return the JSON object in a file's content.

    Only what every reader understands alike: no key twice, no NaN or infinity, no
    number beyond 19 digits.

    Raises:
        InputError: If it is none.
    """
    try:
        fields = json.loads(
            content,
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_number,
            parse_int=_whole_number,
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({brief(error)}); get it again") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no JSON object; get it again")
    return fields


def _object(pairs: list[tuple[str, object]]) -> dict:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"{counts.most_common(1)[0][0]!r} stands there twice")
    return fields


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _number(text: str) -> float:
    number = float(text)
    if abs(number) == float("inf"):
        _no_number(text)
    return number


def _whole_number(text: str) -> int:
    if len(text.removeprefix("-")) > MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def read_tensors(path: Path) -> dict:
    """Read all arrays of a safetensors file.

    Raises:
        InputError: If it is no such file, or holds what NumPy has no type for.
    """
    with open_tensors(path) as tensors:
        try:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {brief(error)}") from error


@contextmanager
def open_tensors(path: Path) -> Iterator:
    """Open a safetensors file for NumPy, once its header is known to be bearable.

    Raises:
        InputError: If it is no such file, also while the block reads from it.
    """
    import safetensors  # noqa: PLC0415 - the command line reads JSON only

    _check_header(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as tensors:
            yield tensors
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} cannot be read: {brief(error)}") from error


def _check_header(path: Path) -> None:
    """Refuse a header that claims more than there is, or says something twice."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > min(size - LENGTH_BYTES, LARGEST_JSON):
            raise InputError(
                f"{path} has {size:,} bytes and claims a header of {length:,}, so it "
                "is no whole safetensors file; get it again"
            )
        header = file.read(length)
    parse_json(path, header)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, not a pipe or a device, for which one would wait forever."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no file; get it again")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
