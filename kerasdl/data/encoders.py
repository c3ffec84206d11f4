"""What turns examples into a model's inputs, one class per kind of data."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol

from kerasdl.data.arrays import ArrayEncoder
from kerasdl.data.batches import Dense, Ragged
from kerasdl.data.images import ImageEncoder, Pictures
from kerasdl.data.rows import RowEncoder
from kerasdl.data.text import TextEncoder


class Encoder(Protocol):
    """What an encoder can do.

    Attributes:
        files: Names of the files it needs in a bundle besides its configuration.
        no_examples: A batch of no example.
        config: Its settings, ready for JSON.
        sizes: Arguments of a builder that the encoder decides, by their names.
    """

    files: ClassVar[tuple[str, ...]]
    no_examples: ClassVar
    config: dict
    sizes: dict

    @classmethod
    def fit_encode(cls, examples, **options) -> tuple["Encoder", dict]:
        """Learn from training examples, and encode them."""

    @classmethod
    def from_folder(cls, config: Mapping, folder: Path) -> "Encoder":
        """Rebuild an encoder from its configuration and the files of a bundle."""

    def contents(self) -> dict[str, bytes]:
        """Return the content of each of `files`."""

    def check(self, examples):
        """Return examples as `encode` takes them, or raise `InputError`."""

    def encode(self, examples) -> dict[str, Ragged | Dense | Pictures]:
        """Return the model's inputs by name."""


ENCODERS: Mapping[str, type[Encoder]] = {
    "array": ArrayEncoder,
    "image": ImageEncoder,
    "table": RowEncoder,
    "text": TextEncoder,
}
