"""Labelled texts from IMDB, the embedded sample, a folder or a table.

Every source returns `kerasdl.data.labelled.Splits`, whatever it was read from.
"""

import lzma
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

from kerasdl.data.imdb import is_prepared, open_imdb, read_split, tfds_folder
from kerasdl.data.labelled import Labelled, Splits, sorted_names
from kerasdl.data.names import no_such_data
from kerasdl.data.tables import (
    FORMATS,
    Table,
    check_encoding,
    clean_labels,
    clean_texts,
    find_column,
    read_table,
    read_text,
    refuse_unreadable,
)
from kerasdl.errors import InputError

NAMES = ("auto", "imdb", "sample")
POLARITY = ("negative", "positive")
TEXT_COLUMNS = ("text", "review", "sentence", "content", "comment")
LABEL_COLUMNS = ("label", "sentiment", "stars", "rating", "class", "score", "target")
MOST_CLASSES = 1000
# With fewer classes than this, a small file may have as many classes as rows.
FEW_CLASSES = 20
UNLABELLED_FOLDER = "unsup"


def load_texts(
    data: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    positive_from: int | None = None,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
    unlabelled: bool = False,
    notify: Callable[[str], None] = print,
) -> Splits:
    """Load texts by name or from a path.

    Args:
        data: `imdb`, `sample`, `auto` (IMDB if it is there, otherwise the sample), or
            the path of a folder or a table.
        text_column: Column of the texts, tables only; found by its name if omitted.
        label_column: Column of the labels, tables only; found by its name if omitted.
        positive_from: Smallest number that counts as positive, tables only.
        encoding: Encoding of text files.
        encoding_errors: What to do with bytes outside the encoding, as `bytes.decode`.
        unlabelled: Whether to read unlabelled texts too, where there are any.
        notify: Called with one line that says what `auto` took.

    Raises:
        InputError: If the data cannot be used; the message says why.
    """
    if data == "auto":
        data = _choose(notify)
    path = Path(data).expanduser()
    is_name = data in NAMES
    with refuse_unreadable(path):
        if not is_name and (not data or not path.exists()):
            otherwise = ", or the path of a folder or a table"
            raise InputError(no_such_data(data, NAMES, otherwise))
        is_table = not is_name and not path.is_dir()
    if is_table:
        return table(
            path,
            text_column=text_column,
            label_column=label_column,
            positive_from=positive_from,
            encoding=encoding,
            encoding_errors=encoding_errors,
        )
    if (text_column, label_column, positive_from) != (None, None, None):
        raise InputError(
            "--text-column, --label-column and --positive-from are for tables "
            f"({', '.join(FORMATS)}), but {data} is none; leave them out"
        )
    if is_name:
        return imdb(unlabelled=unlabelled) if data == "imdb" else sample()
    return folder(
        path,
        encoding=encoding,
        encoding_errors=encoding_errors,
        unlabelled=unlabelled,
    )


def _choose(notify: Callable[[str], None]) -> str:
    if is_prepared():
        notify(f"Data: IMDB, found in {tfds_folder()}.")
        return "imdb"
    notify(
        f"Data: the embedded sample, as IMDB is not in {tfds_folder()}; "
        "--data imdb downloads it (80 MB)."
    )
    return "sample"


def sample() -> Splits:
    """Return the embedded sample: 9,171 movie-review snippets, two classes.

    Made by `benchmarks/make_reviews_sample.py`, split included.
    """
    packed = resources.files("kerasdl.data.samples") / "reviews.tsv.xz"
    rows = [
        line.split("\t")
        for line in lzma.decompress(packed.read_bytes()).decode().splitlines()
    ]
    train, test = (
        Labelled(
            f"sample {split}",
            [text for where, _, text in rows if where == split],
            np.array(
                [POLARITY.index(label) for where, label, _ in rows if where == split]
            ),
            POLARITY,
        )
        for split in ("train", "test")
    )
    return Splits(train, test)


def imdb(*, unlabelled: bool = False) -> Splits:
    """Return the Large Movie Review set (Maas et al. 2011) in its official split.

    It is downloaded, if need be, and decoded by `tensorflow_datasets`. Reading
    imports no TensorFlow and takes about a second for 25,000 reviews.

    Args:
        unlabelled: Whether to read the 50,000 unlabelled reviews too.

    Raises:
        InputError: If the set can neither be found nor downloaded, or is damaged.
    """
    builder = open_imdb()
    train, test = (
        Labelled(f"IMDB {split}", *read_split(builder, split), POLARITY)
        for split in ("train", "test")
    )
    extra = read_split(builder, "unsupervised")[0] if unlabelled else []
    return Splits(train, test, extra)


def folder(
    path: str | Path,
    *,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
    unlabelled: bool = False,
) -> Splits:
    """Read a folder of class folders of .txt files, one text a file.

    In aclImdb's layout the class folders stand in `train/` and `test/`; a class folder
    called `unsup` holds unlabelled texts. Hidden files are ignored.

    Args:
        path: The folder.
        encoding: Encoding of the files.
        encoding_errors: What to do with bytes outside the encoding, as `bytes.decode`.
        unlabelled: Whether to read unlabelled texts too, where there are any.

    Raises:
        InputError: If there are fewer than two classes, or a file cannot be read.
    """
    path = Path(path)
    check_encoding(encoding, encoding_errors)

    def read(files: list[Path]) -> list[str]:
        return [
            read_text(file, encoding=encoding, encoding_errors=encoding_errors)
            for file in files
        ]

    def labelled(name: str, files: dict[str, list[Path]], names: tuple[str, ...]):
        counts = [len(files.get(label, [])) for label in names]
        texts = [text for label in names for text in read(files.get(label, []))]
        return Labelled(name, texts, np.repeat(np.arange(len(names)), counts), names)

    with refuse_unreadable(path):
        split = bool(_class_folders(path / "train"))
        train_files = _class_files(path / "train" if split else path)
        has_test = split and (path / "test").is_dir()
        test_files = _class_files(path / "test") if has_test else {}
    extra = train_files.pop(UNLABELLED_FOLDER, [])
    test_files.pop(UNLABELLED_FOLDER, None)
    names = sorted_names(train_files)
    if len(names) < 2:
        found = f"only one class folder, {names[0]!r}" if names else "no class folders"
        raise InputError(
            f"{path} has {found}; give a folder with one folder of .txt files for each "
            "of two or more classes"
        )
    if unknown := sorted(set(test_files) - set(names)):
        raise InputError(
            f"{path / 'test'} has the class {unknown[0]!r}, which train/ lacks (it has "
            f"{', '.join(names)}); give both the same class folders"
        )
    title = path.resolve().name
    return Splits(
        labelled(f"{title} train" if split else title, train_files, names),
        labelled(f"{title} test", test_files, names) if test_files else None,
        read(extra) if unlabelled else [],
    )


def _class_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    # A link to the folder itself or above it is no class.
    return sorted(
        child
        for child in path.iterdir()
        if child.is_dir()
        and not child.name.startswith(".")
        and not path.resolve().is_relative_to(child.resolve())
    )


def _class_files(path: Path) -> dict[str, list[Path]]:
    classes = {}
    for child in _class_folders(path):
        # os.walk does not follow links to folders, so that it always ends.
        classes[child.name] = sorted(
            Path(parent, name)
            for parent, _, names in os.walk(child, onerror=_raise)
            for name in names
            if name.lower().endswith(".txt") and not name.startswith(".")
        )
        if not classes[child.name]:
            raise InputError(
                f"{child} has no .txt files; add the texts of class {child.name!r}, or "
                "remove the folder"
            )
    return classes


def _raise(error: OSError) -> None:
    raise error


def table(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    positive_from: int | None = None,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
) -> Splits:
    """Read a CSV, TSV, JSONL or Parquet file with a text and a label in each row.

    Labels that are whole numbers are classes as they stand, in the order of the
    numbers.

    Args:
        path: The file; its ending tells what it is.
        text_column: Column of the texts; found by its name if omitted.
        label_column: Column of the labels; found by its name if omitted.
        positive_from: Smallest number that counts as positive; all below are negative.
        encoding: Encoding of the file.
        encoding_errors: What to do with bytes outside the encoding, as `bytes.decode`.

    Raises:
        InputError: If the file, its columns or its labels cannot be used.
    """
    path = Path(path)
    rows = read_table(path, encoding=encoding, encoding_errors=encoding_errors)
    text_name = find_column(rows, text_column, TEXT_COLUMNS, "--text-column")
    label_name = find_column(rows, label_column, LABEL_COLUMNS, "--label-column")
    if text_name == label_name:
        raise InputError(
            f"{path}: texts and labels cannot both be column {text_name!r}; choose "
            "with --text-column and --label-column"
        )
    texts = clean_texts(rows, text_name)
    labels = clean_labels(rows, label_name)
    if positive_from is not None:
        names, labels = POLARITY, _polarity(rows, labels, positive_from)
    else:
        names = sorted_names(labels)
    most = (
        MOST_CLASSES
        if len(names) <= FEW_CLASSES
        else min(MOST_CLASSES, len(labels) // 2)
    )
    if len(names) > most:
        raise InputError(
            f"{path}: column {label_name!r} has {len(names):,} different labels in "
            f"{len(labels):,} rows, so it is hardly a class; choose another with "
            f"--label-column (there are {', '.join(rows.names)})"
        )
    index = {name: i for i, name in enumerate(names)}
    indices = np.array([index[label] for label in labels], np.int64)
    return Splits(Labelled(path.name, texts, indices, names))


def _polarity(rows: Table, labels: list[str], positive_from: float) -> list[str]:
    polarity = []
    for place, label in zip(rows.places, labels, strict=True):
        try:
            polarity.append(POLARITY[float(label) >= positive_from])
        except ValueError as error:
            raise InputError(
                f"{rows.path}: --positive-from needs numbers, but the label at {place} "
                f"is {label!r}; leave the option out, or choose another --label-column"
            ) from error
    return polarity
