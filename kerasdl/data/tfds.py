"""Sets that `tensorflow_datasets` downloads and prepares, read without TensorFlow."""

import contextlib
import importlib
import os
import shutil
import struct
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kerasdl.errors import InputError
from kerasdl.quiet import quiet_stderr

SECONDS_TO_CONNECT = 10


@dataclass(frozen=True)
class Source:
    """A set, and how messages speak of it.

    Attributes:
        name: What TFDS calls it: `imdb_reviews/plain_text`.
        title: What people call it.
        option: What `--data` calls it.
        site: Where it is downloaded from; asked first, so that no connection shows
            within seconds.
    """

    name: str
    title: str
    option: str
    site: str

    @property
    def folder(self) -> Path:
        """The folder of all its configurations."""
        return tfds_folder() / self.name.partition("/")[0]

    def is_prepared(self) -> bool:
        """Say whether the set is there, without importing `tensorflow_datasets`."""
        versions = tfds_folder() / self.name
        # The only or the first configuration where none is named.
        patterns = ("[0-9]*/dataset_info.json", "*/[0-9]*/dataset_info.json")
        return any(any(versions.glob(pattern)) for pattern in patterns)


def tfds_folder() -> Path:
    """Return the folder where `tensorflow_datasets` keeps its data."""
    default = Path("~", "tensorflow_datasets")
    return Path(os.environ.get("TFDS_DATA_DIR") or default).expanduser()


def open_set(source: Source):
    """Return the `tensorflow_datasets` builder of a set, downloaded if need be.

    Raises:
        InputError: If there is no such set, or it is not there and cannot be
            downloaded.
    """
    # Takes a second, which no other source needs.
    import tensorflow_datasets  # noqa: PLC0415

    prepared = source.is_prepared()
    try:
        builder = tensorflow_datasets.builder(source.name, data_dir=str(tfds_folder()))
    except Exception as error:  # Its own classes, and those of its data sets.
        raise InputError(
            f"tensorflow_datasets opens no set {source.name!r} "
            f"({type(error).__name__}); its catalogue has the names"
        ) from error
    # What is there may be another version than this TFDS reads.
    if not prepared or not builder.info.splits:
        download(source, builder)
    return builder


def examples(source: Source, builder, split: str, names: Sequence[str]) -> list[dict]:
    """Return the features of these names of each example of a split.

    Texts and images are bytes as they were stored; images of some newer files are
    arrays.

    Raises:
        InputError: If the files are damaged.
    """
    info = builder.info.splits[split]
    try:
        if builder.info.file_format.value == "tfrecord":
            found = [
                features
                for path in info.filepaths
                for features in _parsed(Path(path).read_bytes(), names)
            ]
        else:
            found = list(builder.as_data_source(split))
    except Exception as error:  # The decoder's own error class is not public.
        raise InputError(_damaged(source, builder)) from error
    if len(found) != info.num_examples:
        raise InputError(_damaged(source, builder))
    return found


def _parsed(raw: bytes, names: Sequence[str]) -> Iterator[dict]:
    from tensorflow_datasets.proto import tf_example_pb2  # noqa: PLC0415

    for record in _records(raw):
        features = tf_example_pb2.Example.FromString(record).features.feature
        # A feature is a list of one of three kinds; here it has one value.
        kinds = {name: features[name].WhichOneof("kind") for name in names}
        yield {
            name: getattr(features[name], kind).value[0] for name, kind in kinds.items()
        }


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


def _damaged(source: Source, builder) -> str:
    return (
        f"{source.title} in {builder.data_dir} is damaged; delete that folder and run "
        f"again with --data {source.option}"
    )


def download(source: Source, builder) -> None:
    """Download and prepare a set; leave nothing behind where that fails.

    Raises:
        InputError: If it fails.
    """
    root = tfds_folder()
    made = [path for path in (source.folder, root) if not path.exists()]
    try:
        # TFDS itself would try for minutes before it gives up.
        _connect(source.site)
        with quiet_stderr():
            # TFDS writes through TensorFlow: keep its banner out of the progress bar.
            importlib.import_module("tensorflow")
        root.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="download-", dir=root) as downloads,
            # TFDS prints; standard output belongs to the results.
            contextlib.redirect_stdout(sys.stderr),
        ):
            builder.download_and_prepare(download_dir=downloads)
    except Exception as error:  # TFDS raises its own, the network's and TensorFlow's.
        raise InputError(
            f"{source.title} cannot be downloaded ({_reason(error)}); try again with a "
            f"connection, copy a prepared {source.folder.name} folder into {root}, or "
            "use --data sample"
        ) from error
    finally:
        if not source.is_prepared():
            _remove(made, source.folder)


def _connect(site: str) -> None:
    request = urllib.request.Request(site, method="HEAD")
    # A refusal of the request is an answer too.
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=SECONDS_TO_CONNECT).close()


def _reason(error: Exception) -> str:
    cause = str(getattr(error, "reason", error)) or type(error).__name__
    return " ".join(cause.split())[:200]


def _remove(made: list[Path], folder: Path) -> None:
    """Remove what a failed download has made, and nothing that others put there."""
    for path in made:
        if path == folder:
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists() and not any(path.iterdir()):
            path.rmdir()
