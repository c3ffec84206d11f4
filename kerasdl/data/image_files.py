"""Image files: found in folders, checked without decoding, told apart by content."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from kerasdl.data.pixels import (
    EncodedImage,
    check_header,
    in_threads,
    named,
    read_image,
)
from kerasdl.errors import InputError

# What else people keep beside images.
NO_IMAGES = frozenset(
    (
        *(".avi", ".bib", ".cfg", ".conf", ".csv", ".db", ".doc", ".docx", ".gz"),
        *(".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".lnk", ".log", ".mat"),
        *(".md", ".mov", ".mp3", ".mp4", ".ndjson", ".npy", ".npz", ".parquet"),
        *(".pdf", ".pkl", ".py", ".rst", ".sh", ".tar", ".toml", ".tsv", ".txt"),
        *(".wav", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip"),
    )
)
# `Thumbs.db` and `desktop.ini` are among the endings.
SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
# Of so many files each header is read before training; it takes 50 us.
MOST_HEADERS = 20_000
UNCHECKED_HEADS = (b"BM", b"II*\0", b"MM\0*")
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# So many bytes at both ends of a file tell most files apart.
END_BYTES = 64
FILES_A_TASK = 500


@dataclass(frozen=True, eq=False)
class Photos:
    """Image files, not decoded: the examples of a data set.

    Attributes:
        paths: The files; of sets that come as archives, their contents.
        root: Folder that the files are named relative to in `identities`.
    """

    paths: tuple[Path | EncodedImage, ...]
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Path | EncodedImage]:
        return iter(self.paths)

    def __getitem__(self, rows: np.ndarray | slice) -> "Photos":
        rows = range(len(self))[rows] if isinstance(rows, slice) else rows
        part = Photos(tuple(self.paths[row] for row in rows), self.root)
        # What has been read once need not be read again.
        if "ends" in self.__dict__:
            part.__dict__["ends"] = [self.ends[row] for row in rows]
        return part

    @cached_property
    def ends(self) -> list["Ends | None"]:
        """Length, first and last bytes of each file; `None` if it cannot be read."""
        # Many files a task: opening one is quicker than handing it to a thread.
        tasks = range(0, len(self), FILES_A_TASK)
        return list(
            itertools.chain.from_iterable(
                in_threads(
                    lambda task: [
                        _ends(path) for path in self.paths[task : task + FILES_A_TASK]
                    ],
                    tasks,
                )
            )
        )

    def identities(self) -> list[str]:
        """Return the name below `root` and the length in bytes of each file."""
        root = f"{self.root}{os.sep}" if self.root else ""
        return [
            f"{str(path).removeprefix(root)}\t{ends[0] if ends else None}"
            for path, ends in zip(self.paths, self.ends, strict=True)
        ]

    def copy_keys(self) -> list:
        """Return keys that are equal where the contents of two files are.

        Only files of the same length, beginning and end are read as a whole.
        """
        keys, rows_of = list(self.ends), {}
        for row, key in enumerate(keys):
            rows_of.setdefault(key, []).append(row)
        alike = [row for rows in rows_of.values() if len(rows) > 1 for row in rows]
        found = in_threads(_content, [self.paths[row] for row in alike])
        for row, key in zip(alike, found, strict=True):
            keys[row] = key
        return keys


Ends = tuple[int, bytes, bytes]


def _ends(image: Path | EncodedImage) -> Ends | None:
    if isinstance(image, EncodedImage):
        return len(image), image[:END_BYTES], image[-END_BYTES:]
    try:
        with open(image, "rb", buffering=0) as file:
            head = file.read(END_BYTES)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - END_BYTES))
            return length, head, file.read(END_BYTES)
    except OSError:
        return None


def _content(image: Path | EncodedImage) -> bytes:
    if isinstance(image, EncodedImage):
        return hashlib.sha256(image).digest()
    with named(image), open(image, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@dataclass
class Ignored:
    """What a search has passed by.

    Attributes:
        names: Names of files that are no images by their names.
        outside: Number of files that stand in no class folder.
        links: Number of links to folders inside class folders.
    """

    names: list[str] = field(default_factory=list)
    outside: int = 0
    links: int = 0

    def line(self, folder: Path) -> str:
        """Say it in a line; empty if there is nothing to say."""
        parts = []
        if self.names:
            shown = ", ".join(sorted(set(self.names))[:3])
            parts.append(f"{len(self.names):,} that are no images by name ({shown})")
        if self.outside:
            parts.append(f"{self.outside:,} outside the class folders")
        if self.links:
            parts.append(f"{self.links:,} links to folders")
        return f"Ignored in {folder}: {'; '.join(parts)}." if parts else ""


def split_folders(path: Path, ignored: Ignored) -> dict[str, Path]:
    """Return the folders of the splits by name; a folder without them is `""`.

    Raises:
        InputError: If there are two folders for one split, or one lacks `train/`.
    """
    found = {}
    for folder in _folders(path):
        split = SPLITS.get(folder.name.lower())
        if split and _folders(folder):
            if split in found:
                raise InputError(
                    f"{path} has both {found[split].name}/ and {folder.name}/; keep "
                    f"one {split} folder"
                )
            found[split] = folder
    if not found:
        return {"": path}
    if "train" not in found:
        raise InputError(
            f"{path} has {', '.join(f.name + '/' for f in found.values())} but no "
            "train/; add one, or give the folder of the class folders"
        )
    ignored.outside += sum(
        len(files_below(folder, ignored))
        for folder in _folders(path)
        if folder not in found.values()
    )
    return found


def class_files(path: Path, ignored: Ignored) -> dict[str, list[Path]]:
    """Return the image files of each class folder, sorted, by the folder's name.

    Raises:
        InputError: If a class folder holds no image.
    """
    ignored.outside += sum(not entry.is_dir() for entry in os.scandir(path))
    classes = {}
    for folder in _folders(path):
        classes[folder.name] = files_below(folder, ignored)
        if not classes[folder.name]:
            raise InputError(
                f"{folder} has no images; add those of class {folder.name!r}, or "
                "remove the folder"
            )
    return classes


def _folders(path: Path) -> list[Path]:
    # A link to the folder itself or above it is no class.
    return sorted(
        child
        for child in path.iterdir()
        if child.is_dir()
        and not child.name.startswith(".")
        and not path.resolve().is_relative_to(child.resolve())
    )


def files_below(folder: Path, ignored: Ignored | None = None) -> list[Path]:
    """Return the files below a folder that may be images, in the order of names.

    Args:
        folder: The folder.
        ignored: Where what is passed by is counted.
    """
    ignored = ignored or Ignored()
    files, below = [], [os.fspath(folder)]
    while below:
        with os.scandir(below.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or _is_no_image(entry.name):
                    ignored.names.append(entry.name)
                elif not entry.is_dir():
                    files.append(entry.path)
                # Links to folders are not followed, so that the search ends.
                elif entry.is_symlink():
                    ignored.links += 1
                else:
                    below.append(entry.path)
    return list(map(Path, sorted(files)))


def _is_no_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in NO_IMAGES


def faults(files: Sequence[Path], *, decode: bool = False) -> dict[Path, str]:
    """Say of each image file that cannot be read why not.

    Decoding 100,000 photos takes minutes, reading their headers 5 s. So the first and
    last bytes of every file are looked at, the headers of up to `MOST_HEADERS`, and
    whole those that do not begin and end as images do. Damage in the middle is found
    where images are decoded, or by `decode`.

    Args:
        files: The files: paths or `Photos`.
        decode: Whether to decode every image.

    Returns:
        The sentence of refusal by path; nothing where all is well.
    """
    photos = files if isinstance(files, Photos) else Photos(tuple(files))
    if decode:
        return _refusals(read_image, photos)
    whole = np.array([_looks_whole(ends) for ends in photos.ends], bool)
    found = _refusals(read_image, photos[np.flatnonzero(~whole)])
    if len(photos) <= MOST_HEADERS:
        found |= _refusals(check_header, photos[np.flatnonzero(whole)])
    # In the order of the files.
    return {path: found[path] for path in photos if path in found}


def _refusals(read: Callable, photos: Photos) -> dict[Path, str]:
    def refusal(path: Path) -> str | None:
        try:
            read(path)
        except InputError as error:
            return str(error)
        return None

    found = zip(photos, in_threads(refusal, photos.paths), strict=True)
    return {path: sentence for path, sentence in found if sentence}


def _looks_whole(ends: Ends | None) -> bool:
    if ends is None:
        return False
    length, head, tail = ends
    if head.startswith(b"\xff\xd8\xff"):
        return tail.endswith(b"\xff\xd9")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return tail.endswith(PNG_END)
    if head.startswith(b"GIF8"):
        return tail.endswith(b";")
    if head.startswith(b"RIFF"):
        return int.from_bytes(head[4:8], "little") + 8 == length
    # Formats whose end says nothing; all else is decoded, and refused there.
    return head.startswith(UNCHECKED_HEADS)
