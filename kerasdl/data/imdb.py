"""The Large Movie Review set as `tensorflow_datasets` downloads and prepares it."""

import numpy as np

from kerasdl.data import tfds
from kerasdl.data.tfds import tfds_folder

__all__ = ["is_prepared", "open_imdb", "read_split", "tfds_folder"]

IMDB = tfds.Source(
    name="imdb_reviews/plain_text",
    title="IMDB",
    option="imdb",
    site="http://ai.stanford.edu/~amaas/data/sentiment/",
)


def is_prepared() -> bool:
    """Say whether IMDB is there, without importing `tensorflow_datasets`."""
    return IMDB.is_prepared()


def open_imdb():
    """Return the `tensorflow_datasets` builder of IMDB, downloaded if need be.

    Raises:
        InputError: If the set is not there and cannot be downloaded.
    """
    return tfds.open_set(IMDB)


def read_split(builder, split: str) -> tuple[list[str], np.ndarray]:
    """Return the texts and the labels (0 negative, 1 positive, -1 none) of a split.

    Raises:
        InputError: If the files are damaged.
    """
    examples = tfds.examples(IMDB, builder, split, ("text", "label"))
    labels = np.array([example["label"] for example in examples], np.int64)
    return [example["text"].decode() for example in examples], labels
