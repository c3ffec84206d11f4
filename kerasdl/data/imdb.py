"""The Large Movie Review set as `tensorflow_datasets` downloads and prepares it."""

import contextlib
import importlib
import os
import shutil
import struct
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kerasdl.errors import InputError
from kerasdl.quiet import quiet_stderr

SITE = "http://ai.stanford.edu/~amaas/data/sentiment/"
SECONDS_TO_CONNECT = 10


def tfds_folder() -> Path:
    """Return the folder where `tensorflow_datasets` keeps its data."""
    default = Path("~", "tensorflow_datasets")
    return Path(os.environ.get("TFDS_DATA_DIR") or default).expanduser()


def is_prepared() -> bool:
    """Say whether IMDB is there, without importing `tensorflow_datasets`."""
    versions = tfds_folder() / "imdb_reviews" / "plain_text"
    return any(versions.glob("[0-9]*/dataset_info.json"))


def open_imdb():
    """Return the `tensorflow_datasets` builder of IMDB, downloaded if need be.

    Raises:
        InputError: If the set is not there and cannot be downloaded.
    """
    # Takes a second, which no other source needs.
    import tensorflow_datasets  # noqa: PLC0415

    prepared = is_prepared()
    builder = tensorflow_datasets.builder("imdb_reviews", data_dir=str(tfds_folder()))
    if not prepared:
        _download(builder)
    return builder


def read_split(builder, split: str) -> tuple[list[str], np.ndarray]:
    """Return the texts and the labels (0 negative, 1 positive, -1 none) of a split.

    Raises:
        InputError: If the files are damaged.
    """
    info = builder.info.splits[split]
    try:
        if builder.info.file_format.value == "tfrecord":
            decode = builder.info.features.deserialize_example_np
            examples = [
                decode(record)
                for path in info.filepaths
                for record in _records(Path(path).read_bytes())
            ]
        else:
            examples = list(builder.as_data_source(split))
    except Exception as error:  # The decoder's own error class is not public.
        raise InputError(_damaged(builder)) from error
    if len(examples) != info.num_examples:
        raise InputError(_damaged(builder))
    labels = np.array([example["label"] for example in examples], np.int64)
    return [example["text"].decode() for example in examples], labels


def _records(raw: bytes) -> Iterator[bytes]:
    """Yield the records of a TFRecord file: length, its checksum, bytes, checksum.

    TFDS reads these files through TensorFlow only, which takes ten times as long, most
    of it to import TensorFlow.
    """
    start = 0
    while start < len(raw):
        (length,) = struct.unpack_from("<Q", raw, start)
        yield raw[start + 12 : start + 12 + length]
        start += 16 + length


def _damaged(builder) -> str:
    return (
        f"IMDB in {builder.data_dir} is damaged; delete that folder and run again with "
        "--data imdb"
    )


def _download(builder) -> None:
    root = tfds_folder()
    made = [path for path in (root / "imdb_reviews", root) if not path.exists()]
    try:
        # TFDS itself would try for minutes before it gives up.
        site = urllib.request.Request(SITE, method="HEAD")
        urllib.request.urlopen(site, timeout=SECONDS_TO_CONNECT).close()
        with quiet_stderr():
            # TFDS writes through TensorFlow: keep its banner out of the progress bar.
            importlib.import_module("tensorflow")
        root.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="imdb-", dir=root) as downloads,
            # TFDS prints; standard output belongs to the results.
            contextlib.redirect_stdout(sys.stderr),
        ):
            builder.download_and_prepare(download_dir=downloads)
    except Exception as error:  # TFDS raises its own, the network's and TensorFlow's.
        cause = str(getattr(error, "reason", error)) or type(error).__name__
        reason = " ".join(cause.split())[:200]
        raise InputError(
            f"IMDB cannot be downloaded ({reason}); try again with a connection, copy "
            f"a prepared imdb_reviews folder into {root}, or use --data sample"
        ) from error
    finally:
        if not is_prepared():
            _remove(made)


def _remove(made: list[Path]) -> None:
    """Remove what a failed download has made, and nothing that others put there."""
    for path in made:
        if path.name == "imdb_reviews":
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists() and not any(path.iterdir()):
            path.rmdir()
