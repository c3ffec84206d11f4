"""Reading text files and tables; what is wrong with them is refused in a sentence."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kerasdl.errors import InputError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
FORMATS = (*SEPARATORS, *JSON_LINES, ".parquet")
# Of a Parquet file, whose few bytes can stand for any number of rows.
MOST_ROWS, LARGEST_TABLE = 10**8, 2**34
# Handlers that leave valid text behind (surrogateescape, for one, does not).
ENCODING_ERRORS = ("strict", "replace", "ignore", "backslashreplace")
MISSING_LABELS = ("", "nan", "<na>")
LARGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Table:
    """A file's columns, read when asked for.

    Attributes:
        path: The file.
        names: Column names in the file's order.
        column: Returns the values of a column by its name.
        places: Where each row stands, for messages: `line 2`, `row 1`.
    """

    path: Path
    names: list[str]
    column: Callable[[str], list]
    places: list[str]


@contextmanager
def refuse_unreadable(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to read into a sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read ({error.strerror}); check the "
            "path and its permissions"
        ) from error


def read_text(path: Path, *, encoding: str, encoding_errors: str) -> str:
    """Read a whole text file, without its byte order mark.

    Raises:
        InputError: If the file cannot be read, is not text in this encoding, or holds
            a NUL byte.
    """
    with refuse_unreadable(path):
        raw = path.read_bytes()
    return decode(raw, path, encoding=encoding, encoding_errors=encoding_errors)


def decode(
    raw: bytes, source: str | Path, *, encoding: str, encoding_errors: str
) -> str:
    """Decode text as `read_text` does; `source` is what messages call it."""
    check_encoding(encoding, encoding_errors)
    try:
        text = raw.decode(encoding, encoding_errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not valid {encoding} at byte offset {error.start} "
            f"({raw[error.start : error.start + 1]!r}); name its encoding with "
            "--encoding, such as latin-1, or pass --encoding-errors replace"
        ) from error
    if "\0" in text:
        raise InputError(
            f"{source} has a NUL byte at offset {raw.index(0)}, so it is not a text "
            "file; remove it, or name the file's encoding with --encoding"
        )
    return text.removeprefix("\ufeff")


def check_encoding(encoding: str, encoding_errors: str) -> None:
    """Refuse an encoding or an error handler that cannot give text."""
    try:
        " ".encode(encoding)
    except LookupError as error:
        raise InputError(
            f"{encoding!r} is not a text encoding known to Python; give one such as "
            "utf-8, latin-1 or utf-16"
        ) from error
    if encoding_errors not in ENCODING_ERRORS:
        raise InputError(
            f"--encoding-errors {encoding_errors!r} is not one of "
            f"{', '.join(ENCODING_ERRORS)}"
        )


def read_table(path: Path, *, encoding: str, encoding_errors: str) -> Table:
    """Read a CSV, TSV, JSONL or Parquet file, told apart by the name's ending.

    Raises:
        InputError: If the kind of file is unknown, or it is broken or has no rows.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"{path} is not a table that can be read: the name must end in "
            f"{', '.join(FORMATS)}; or give a folder with one folder of .txt files "
            "for each class"
        )
    if suffix == ".parquet":
        table = _read_parquet(path)
    else:
        text = read_text(path, encoding=encoding, encoding_errors=encoding_errors)
        if not text.strip():
            raise InputError(f"{path} is empty; give a file with a header and rows")
        if suffix in JSON_LINES:
            table = _read_json_lines(path, text)
        else:
            table = _read_separated(path, text, SEPARATORS[suffix])
    if not table.places:
        raise InputError(f"{path} has no rows of data; add some below its header")
    return table


def _read_separated(path: Path, text: str, separator: str) -> Table:
    first_line = text.partition("\n")[0]
    if separator == "," and "," not in first_line and ";" in first_line:
        separator = ";"
    try:
        rows, places = _split_rows(path, text, separator, csv.QUOTE_MINIMAL)
    except InputError:
        if separator != "\t":
            raise
        # Many TSV files do not quote at all, so that a quote mark is only a quote mark.
        rows, places = _split_rows(path, text, separator, csv.QUOTE_NONE)
    names, *rows = rows
    names = [name.strip(' "') for name in names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{path} has more than one column called {twice[0]!r}; rename all but one"
        )
    return Table(
        path,
        names,
        lambda name: [row[names.index(name)] for row in rows],
        places[1:],
    )


def _split_rows(path: Path, text: str, separator: str, quoting: int):
    csv.field_size_limit(LARGEST_CELL)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True
    )
    rows, places = [], []
    line = 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                places.append(f"line {line}")
            if row and len(row) != len(rows[0]):
                raise InputError(
                    f"{path} has {len(row)} fields at line {line} where the header has "
                    f"{len(rows[0])}; quote fields that hold {separator!r}, or mend "
                    "the line"
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path} has a badly quoted field in the row that begins at line {line} "
            f"({error}); double the quotes inside quoted fields"
        ) from error
    return rows, places


def _read_json_lines(path: Path, text: str) -> Table:
    records, places = [], []
    # Not splitlines: JSON strings may hold U+2028 and the like.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path} has no valid JSON at line {number} ({error}); give one object "
                "on each line"
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                f"{path} has a JSON {type(record).__name__} at line {number}; give one "
                'object on each line, such as {"text": "…", "label": "…"}'
            )
        records.append(record)
        places.append(f"line {number}")
    names = list(dict.fromkeys(name for record in records for name in record))
    return Table(
        path, names, lambda name: [record.get(name) for record in records], places
    )


def _read_parquet(path: Path) -> Table:
    # Half a second of import that no other kind of file needs.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    with refuse_unreadable(path):
        raw = path.read_bytes()
    if not raw:
        raise InputError(f"{path} is empty; give a Parquet file with rows")
    try:
        file = parquet.ParquetFile(pa.BufferReader(raw))
        _check_parquet(path, file.metadata)
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} cannot be read as Parquet ({reason}); write the file anew"
        ) from error
    return Table(
        path,
        table.column_names,
        lambda name: table.column(name).to_pylist(),
        [f"row {number}" for number in range(1, table.num_rows + 1)],
    )


def _check_parquet(path: Path, metadata) -> None:
    """Refuse a file that would grow beyond all bounds, by what it says of itself."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size = sum(max(group.total_byte_size, 0) for group in groups)
    if metadata.num_rows > MOST_ROWS or size > LARGEST_TABLE:
        raise InputError(
            f"{path} has {metadata.num_rows:,} rows of {size:,} bytes, too many to "
            "read at once; split it"
        )


def find_column(
    rows: Table, wanted: str | None, usual: Sequence[str], option: str
) -> str:
    """Return the name of the wanted column, or of the first usual one there is.

    Raises:
        InputError: Lists the columns that exist and the option to choose one with.
    """
    folded = {name.casefold(): name for name in reversed(rows.names)}
    if wanted in rows.names:
        return wanted
    for name in usual if wanted is None else [wanted.casefold()]:
        if name in folded:
            return folded[name]
    missing = f"column {wanted!r}" if wanted else f"column called {' or '.join(usual)}"
    raise InputError(
        f"{rows.path} has no {missing}; choose with {option} from "
        f"{', '.join(rows.names)}"
    )


def clean_texts(rows: Table, column: str) -> list[str]:
    """Return a column as texts; a missing text is an empty one.

    Raises:
        InputError: If a cell holds a list, an object or bytes.
    """
    texts = rows.column(column)
    for place, text in zip(rows.places, texts, strict=True):
        if isinstance(text, dict | list | bytes):
            raise InputError(
                f"{rows.path}: column {column!r} holds a {type(text).__name__} instead "
                f"of text at {place}; choose another with --text-column"
            )
    return ["" if _is_missing(text) else _printable(text) for text in texts]


def clean_labels(rows: Table, column: str) -> list[str]:
    """Return a column as class names; whole numbers lose their decimal point.

    Raises:
        InputError: If labels are missing; says how many and where the first is.
    """
    values = rows.column(column)
    labels = ["" if _is_missing(value) else _label(value) for value in values]
    missing = [
        i for i, label in enumerate(labels) if label.casefold() in MISSING_LABELS
    ]
    if missing:
        raise InputError(
            f"{rows.path}: labels are missing in {len(missing):,} of {len(labels):,} "
            f"rows, first at {rows.places[missing[0]]}; fill them in or delete the rows"
        )
    return labels


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _printable(value: object) -> str:
    # JSON can hold half a surrogate pair, which no encoding can write.
    return str(value).encode(errors="replace").decode()


def _label(value: object) -> str:
    """Write a label in one way, be it 1, 1.0, "1" or "1.0"."""
    text = _printable(value).strip()
    whole = re.fullmatch(r"([+-]?[0-9]+)(\.0*)?", text)
    return str(int(whole[1])) if whole and len(text) < 20 else text
