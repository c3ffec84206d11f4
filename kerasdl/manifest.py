"""A folder whose every byte is accounted for: checksums, and all or nothing."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from kerasdl.errors import InputError
from kerasdl.untrusted import brief, is_plain_file, parse_json

MANIFEST = "manifest.json"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
LARGEST_MANIFEST = 2**20


def seal(folder: Path) -> None:
    """Write the manifest over all files in a folder."""
    table = {
        path.name: _fingerprint(path)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    (folder / MANIFEST).write_bytes(_manifest(table))


def to_json(content) -> bytes:
    """Return JSON in the one form that a bundle uses."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def _manifest(table: dict) -> bytes:
    # Only these very bytes are accepted, so that no byte of the manifest is free.
    digest = hashlib.sha256(to_json(table)).hexdigest()
    return to_json({"digest": digest, "files": table})


def _fingerprint(path: Path) -> dict:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "size": file.tell()}


def verify(folder: Path, required: set[str], known: Set[str] | None = None) -> set[str]:
    """Check every file of a folder against its manifest.

    Args:
        folder: The folder.
        required: Files that the manifest must list.
        known: Files that it may list besides; any if omitted.

    Returns:
        Names of all the files that it lists.

    Raises:
        InputError: If a file is missing or changed.
    """
    listed = _read_manifest(folder / MANIFEST, required)
    odd = set() if known is None else set(listed) - required - known
    if odd:
        raise InputError(f"{folder / MANIFEST} lists {min(odd)!r}, which is unknown")
    # All sizes before any checksum: they cost nothing, and say what happened.
    for name, expected in listed.items():
        _check_size(folder / name, expected["size"])
    for name, expected in listed.items():
        if _fingerprint(folder / name) != expected:
            raise InputError(
                f"{folder / name} was changed: its checksum is wrong; get the bundle "
                "again"
            )
    return set(listed)


def _check_size(path: Path, expected: object) -> None:
    if not is_plain_file(path):
        raise InputError(f"{path} is missing or no plain file; get the bundle again")
    size = path.stat().st_size
    if size != expected:
        raise InputError(
            f"{path} has {size} bytes instead of {brief(expected)}; get the bundle "
            "again"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise InputError(
            f"{path} has {size:,} bytes, more than this machine's memory; use another "
            "machine"
        )


def _read_manifest(path: Path, required: set[str]) -> dict[str, dict]:
    if not is_plain_file(path) or path.stat().st_size > LARGEST_MANIFEST:
        raise InputError(f"{path} is no plain small file; get the bundle again")
    content = path.read_bytes()
    table = parse_json(path, content).get("files")
    if not isinstance(table, dict) or _manifest(table) != content:
        raise InputError(f"{path} was changed or cut short; get the bundle again")
    for name, entry in table.items():
        if not PLAIN_NAME.fullmatch(name):
            raise InputError(f"{path}: {brief(repr(name))} is no plain file name")
        if not isinstance(entry, dict) or set(entry) != {"sha256", "size"}:
            raise InputError(f"{path}: no checksum and size for {name!r}")
    if missing := sorted(required - set(table)):
        raise InputError(f"{path} does not list {missing[0]}; get the bundle again")
    return table


def hidden_name(folder: Path) -> Path:
    """Return a name beside a folder for what is not whole: begun, or half deleted."""
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")


def clear_hidden(parent: Path, names: str) -> None:
    """Delete what had a hidden name when the process that used it was killed.

    Args:
        parent: Where it lies; this folder need not exist.
        names: Regular expression of the names of the folders in question.
    """
    pattern = re.compile(rf"\.({names})\.[0-9a-f]{{8}}(\.old)?")
    for path in parent.glob(".*"):
        if pattern.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `folder` when the block succeeds."""
    if folder.exists() and not (folder / MANIFEST).exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds other files; name a new folder")
    partial = hidden_name(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            _sync(path)
        _swap(partial, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(new: Path, folder: Path) -> None:
    """Give `new` the name of `folder`; the earlier folder, if any, is deleted last."""
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_name(f"{new.name}.old")
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
