"""What the doctor found, how serious it is and what to do about it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SHOWN_PATHS = 3


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        severity: `error` stops training, `warning` spoils what it measures or learns,
            `note` is good to know.
        one: What one finding is called.
        many: What several are called.
        advice: What to do.
    """

    severity: str
    one: str
    many: str
    advice: str


# The most serious first; the order of all output.
KINDS = {
    "one_class": Kind(
        "error", "class only", "classes", "add a folder of photos of a second class"
    ),
    "empty_class": Kind(
        "error",
        "class without images",
        "classes without images",
        "add photos, or remove the folder",
    ),
    "unknown_class": Kind(
        "error",
        "class that train/ lacks",
        "classes that train/ lacks",
        "give every split the same class folders",
    ),
    "unreadable": Kind(
        "error",
        "file or folder that cannot be read",
        "files or folders that cannot be read",
        "mend the permissions or the link",
    ),
    "empty_file": Kind(
        "error", "empty file", "empty files", "copy again from the source, or remove"
    ),
    "corrupt": Kind(
        "error", "damaged image", "damaged images", "replace or remove what is damaged"
    ),
    "not_image": Kind(
        "error", "file that is no image", "files that are no images", "remove"
    ),
    "bomb": Kind(
        "error",
        "image of too many pixels",
        "images of too many pixels",
        "shrink or remove",
    ),
    "two_labels": Kind(
        "warning",
        "picture with two labels",
        "pictures with two labels",
        "keep each in the class it belongs to",
    ),
    "across_splits": Kind(
        "warning",
        "picture in two splits",
        "pictures in two splits",
        "keep each in one, as testing on what was trained on flatters",
    ),
    "label": Kind(
        "warning",
        "label that may be wrong",
        "labels that may be wrong",
        "look at the pictures, the first ones first",
    ),
    "blank": Kind(
        "warning",
        "picture of almost one colour",
        "pictures of almost one colour",
        "remove what shows nothing",
    ),
    "animation": Kind(
        "warning",
        "animation or file of several pictures",
        "animations or files of several pictures",
        "remove, or keep the first picture alone",
    ),
    "odd_format": Kind(
        "warning",
        "GIF among photos",
        "GIFs among photos",
        "look: it is seldom a photo, often a placeholder",
    ),
    "odd_size": Kind(
        "warning",
        "image of an odd size",
        "images of an odd size",
        "look, and remove icons, banners and strips",
    ),
    "tiny_class": Kind(
        "warning", "class of few images", "classes of few images", "add photos"
    ),
    "imbalance": Kind(
        "warning",
        "imbalance",
        "imbalances",
        "add photos to the small classes, or train with class weights",
    ),
    "copies": Kind(
        "note",
        "picture that is there more than once",
        "pictures that are there more than once",
        "keep one of each",
    ),
    "wrong_extension": Kind(
        "note",
        "file whose ending is of another format",
        "files whose ending is of another format",
        "rename; it is read by its content",
    ),
    "loop": Kind(
        "note",
        "link to a folder above itself",
        "links to folders above themselves",
        "remove; it is not followed",
    ),
}


class Fault(NamedTuple):
    """Something about a file, a class folder or a split."""

    path: str
    what: str
    detail: str


class Copies(NamedTuple):
    """Files that show the same picture; `what` is the worst that follows from it."""

    paths: tuple[str, ...]
    what: str
    detail: str


class Doubt(NamedTuple):
    """A label that may be wrong, with the probabilities of both classes."""

    path: str
    given: str
    suggested: str
    confidence: float
    given_probability: float


@dataclass(frozen=True)
class Findings:
    """What was found in a folder of images; paths are relative to it.

    Attributes:
        folder: The folder.
        classes: Number of readable images by class, by split (`""` without splits).
        faults: What is wrong with single files and classes.
        copies: Pictures that are there more than once.
        doubts: Labels that may be wrong, the likeliest first.
        label_accuracy: Share of the labels that the model behind `doubts` predicts; the
            lower, the less its doubts are worth. `None` where labels were not checked.
        ignored: A line about files that were passed by, or nothing.
    """

    folder: str
    classes: dict[str, dict[str, int]]
    faults: Sequence[Fault] = ()
    copies: Sequence[Copies] = ()
    doubts: Sequence[Doubt] = ()
    label_accuracy: float | None = None
    ignored: str = ""

    @property
    def images(self) -> int:
        """Number of readable images."""
        return sum(sum(counts.values()) for counts in self.classes.values())

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings by kind, the most serious first."""
        found = Counter(finding.what for finding in (*self.faults, *self.copies))
        found["label"] += len(self.doubts)
        return {what: found[what] for what in KINDS if found[what]}

    @property
    def stops_training(self) -> bool:
        """Whether anything found is an error."""
        return any(KINDS[what].severity == "error" for what in self.counts)

    def paths(self, what: str) -> list[str]:
        """Return one path of each finding of a kind."""
        return [
            *(fault.path for fault in self.faults if fault.what == what),
            *(copies.paths[0] for copies in self.copies if copies.what == what),
            *(doubt.path for doubt in self.doubts if what == "label"),
        ]

    def lines(self) -> list[str]:
        """Say it in a sentence per kind, the most serious first, with what to do."""
        lines = []
        for what, count in self.counts.items():
            kind, paths = KINDS[what], self.paths(what)
            shown = ", ".join(paths[:SHOWN_PATHS]) + ", ..." * (count > SHOWN_PATHS)
            name = kind.one if count == 1 else kind.many
            if what == "label":
                name += f", by a model that predicts {self.label_accuracy:.0%} of all"
            lines.append(f"{kind.severity}: {count:,} {name} ({shown}): {kind.advice}")
        return lines

    def to_json(self) -> dict:
        """Return everything, ready for JSON."""
        return {
            "folder": self.folder,
            "images": self.images,
            "classes": self.classes,
            "counts": self.counts,
            "stops_training": self.stops_training,
            "faults": [fault._asdict() for fault in self.faults],
            "copies": [
                {**copies._asdict(), "paths": list(copies.paths)}
                for copies in self.copies
            ],
            "doubts": [doubt._asdict() for doubt in self.doubts],
            "label_accuracy": self.label_accuracy,
            "ignored": self.ignored,
        }
