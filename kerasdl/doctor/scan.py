"""The files of a folder of class folders, whatever state it is in."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kerasdl.data.image_files import NO_IMAGES, Ignored, split_folders
from kerasdl.data.tables import refuse_unreadable
from kerasdl.doctor.findings import Fault
from kerasdl.errors import InputError

# Image files by class folder, by split; `""` is a folder without splits.
Classes = Mapping[str, Mapping[str, Sequence[Path]]]


class Place(NamedTuple):
    """An image file, with the split and the class that it stands in."""

    path: Path
    split: str
    label: str


def places_of(classes: Classes) -> list[Place]:
    """Return the files of all splits and classes, in their order."""
    return [
        Place(path, split, label)
        for split, files in classes.items()
        for label, paths in files.items()
        for path in paths
    ]


def relative(place: Place, root: str | os.PathLike) -> str:
    """Return the path of a file below the root."""
    return os.path.relpath(place.path, root)


@dataclass
class Listing:
    """A folder of images.

    Attributes:
        root: The folder.
        classes: Files that may be images by class, by split.
        faults: Folders that cannot be read, and loops.
        ignored: What is no image by its name, or stands in no class folder.
    """

    root: Path
    classes: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    ignored: Ignored = field(default_factory=Ignored)

    def name(self, path: str | os.PathLike) -> str:
        """Return a path relative to the root."""
        return os.path.relpath(path, self.root)


def scan(folder: str | os.PathLike) -> Listing:
    """List the image files of a folder as training would, but refuse nothing inside.

    Args:
        folder: Folder of class folders, or of `train/`, `val/` and `test/` with them.

    Raises:
        InputError: If it is no such folder.
    """
    listing = Listing(Path(folder).expanduser())
    with refuse_unreadable(listing.root):
        if not listing.root.is_dir():
            what = "is a file" if listing.root.exists() else "does not exist"
            raise InputError(f"{folder} {what}; give a folder of class folders")
        splits = split_folders(listing.root, listing.ignored)
    # In the order of the names, but what is learned from comes first.
    for split, path in sorted(splits.items(), key=lambda item: item[0] != "train"):
        listing.classes[split] = _class_files(path, listing)
    if not any(listing.classes.values()):
        raise InputError(
            f"{folder} has no class folders; give a folder with one folder of images "
            "for each class"
        )
    return listing


def _class_files(path: Path, listing: Listing) -> dict[str, list[Path]]:
    classes = {}
    for entry in _entries(path, listing):
        if entry.name.startswith(".") or not entry.is_dir():
            listing.ignored.outside += 1
        elif not _is_loop(entry, listing):
            classes[entry.name] = _files(entry.path, listing)
    return classes


def _files(folder: str, listing: Listing) -> list[Path]:
    files, below = [], [folder]
    while below:
        for entry in _entries(below.pop(), listing):
            if _is_ignored(entry):
                listing.ignored.names.append(entry.name)
            elif not entry.is_dir():
                files.append(entry.path)
            elif not entry.is_symlink():
                below.append(entry.path)
            # Links to folders are not followed, so that the search ends.
            elif not _is_loop(entry, listing):
                listing.ignored.links += 1
    return list(map(Path, sorted(files)))


def _entries(folder: str | Path, listing: Listing) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        fault = Fault(listing.name(folder), "unreadable", str(error.strerror))
        listing.faults.append(fault)
        return []


def _is_ignored(entry: os.DirEntry) -> bool:
    if entry.name.startswith("."):
        return True
    if os.path.splitext(entry.name)[1].lower() in NO_IMAGES:
        return True
    # A pipe would never end; a broken link is worth a word.
    return not (entry.is_file() or entry.is_dir() or entry.is_symlink())


def _is_loop(entry: os.DirEntry, listing: Listing) -> bool:
    if not entry.is_symlink():
        return False
    target = Path(entry.path).resolve()
    if not Path(entry.path).parent.resolve().is_relative_to(target):
        return False
    fault = Fault(listing.name(entry.path), "loop", f"leads to {target}")
    listing.faults.append(fault)
    return True
