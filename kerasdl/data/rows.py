"""Rows of a table with numbers and categories: reading, and encoding as features."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kerasdl.checks import check_positive
from kerasdl.data.batches import Dense
from kerasdl.data.labelled import Labelled, Splits, sorted_names
from kerasdl.data.tables import FORMATS, Table, clean_labels, find_column, read_table
from kerasdl.errors import InputError

MISSING = ("", "?", "na", "n/a", "nan", "null", "none", "<na>")
# A target of numbers with more different values than this is predicted as a value.
MOST_NUMBERED_CLASSES = 20
# Features lie within this many standard deviations, so that one odd cell of a new row
# cannot drown the others.
LARGEST_FEATURE = 10.0


@dataclass(frozen=True, eq=False)
class Columns:
    """Rows of a table, stored by column.

    Attributes:
        values: Column name to its cells, `(count,)` objects; `None` where one is
            missing.
    """

    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, columns: Mapping[str, Sequence]) -> "Columns":
        """Take columns as they come, from a file or a data frame."""
        return cls({name: _objects(cells) for name, cells in columns.items()})

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    def __getitem__(self, rows) -> "Columns":
        return Columns({name: cells[rows] for name, cells in self.values.items()})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = list(self.values)
        for cells in zip(*self.values.values(), strict=True):
            yield dict(zip(names, cells, strict=True))


@dataclass(frozen=True)
class RowEncoder:
    """Encode rows as standardised numbers, indicators of categories and of gaps.

    A number becomes its distance from the training mean in standard deviations, its
    training median where it is missing. A category becomes one indicator per value, all
    zero for values that training did not have. A number with few different values, a
    grade or a code perhaps, becomes both.

    Attributes:
        columns: One mapping per column, in the order of the features: `name`, `kind`
            (`"number"` or `"category"`), `values` (those with an indicator), `gaps`
            (whether missing cells have an indicator), and of numbers `median`, `mean`
            and `scale`.
    """

    columns: tuple[Mapping, ...]
    files: ClassVar = ()

    @classmethod
    def fit_encode(
        cls,
        examples: Columns,
        *,
        categorical: Sequence[str] = (),
        min_count: int = 3,
        few_values: int = 8,
    ) -> tuple["RowEncoder", dict[str, Dense]]:
        """Learn means and categories from training rows, and encode them.

        Args:
            examples: Training rows.
            categorical: Columns of numbers that are codes of categories.
            min_count: Values seen in fewer rows have no indicator.
            few_values: Numbers with at most this many different values have indicators,
                too.

        Returns:
            The encoder, and what `encode` returns for the rows.

        Raises:
            InputError: If no column says anything.
        """
        check_positive(min_count=min_count, few_values=few_values)
        if unknown := [name for name in categorical if name not in examples.values]:
            raise InputError(
                f"there is no column {unknown[0]!r} to be categorical; the columns are "
                f"{', '.join(examples.values)}"
            )
        columns = [
            _learn(name, cells, name in categorical, min_count, few_values)
            for name, cells in examples.values.items()
        ]
        encoder = cls(tuple(column for column in columns if _says_something(column)))
        if not encoder.columns:
            raise InputError(
                "no column has two different values often enough to learn from; give "
                "more rows or other columns"
            )
        return encoder, encoder.encode(examples)

    @classmethod
    def from_folder(cls, config: Mapping, folder: Path) -> "RowEncoder":
        """Rebuild an encoder from its settings; it needs no files.

        Raises:
            InputError: If the settings do not make an encoder.
        """
        columns = config.get("columns")
        if set(config) != {"columns"} or not _are_columns(columns):
            raise InputError(
                f"{folder}: the columns of the bundle are not valid; get it again"
            )
        return cls(tuple(columns))

    def contents(self) -> dict[str, bytes]:
        """Return no files: everything stands in `config`."""
        return {}

    @property
    def config(self) -> dict:
        """The settings, ready for JSON."""
        return {"columns": [dict(column) for column in self.columns]}

    @property
    def sizes(self) -> dict[str, tuple[int]]:
        """The argument of a builder that the rows decide."""
        width = self.encode(self.no_examples)["features"].values.shape[1]
        return {"input_shape": (width,)}

    @property
    def no_examples(self) -> Columns:
        """Columns without rows."""
        return Columns.of({column["name"]: [] for column in self.columns})

    def check(self, examples) -> Columns:
        """Return rows as columns.

        Args:
            examples: `Columns`, a list of dictionaries, one dictionary, or a data frame
                (anything with `to_dict("list")`).

        Raises:
            InputError: If a column is missing, or a cell of a column of numbers is
                none.
        """
        rows = _columns(examples)
        missing = [c["name"] for c in self.columns if c["name"] not in rows.values]
        if missing and len(rows):
            raise InputError(
                f"the column {missing[0]!r}, which the model was trained on, is "
                f"missing; there are {', '.join(rows.values)}"
            )
        for column in self.columns if len(rows) else ():
            if column["kind"] == "number":
                numbers(rows.values[column["name"]], column["name"])
        return rows

    def encode(self, examples: Columns) -> dict[str, Dense]:
        """Encode rows.

        Args:
            examples: The rows; columns that the encoder does not know are ignored.

        Returns:
            The model's input `features`, `(count, features)` float32.
        """
        features = [
            _encode(column, examples.values[column["name"]]) for column in self.columns
        ]
        return {"features": Dense(np.concatenate(features, axis=1).astype(np.float32))}


def load_rows(
    data: str,
    *,
    target: str,
    task: str | None = None,
    drop: Sequence[str] = (),
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
    unlabelled: bool = False,  # noqa: ARG001 - every loader has it; tables have none
    notify: Callable[[str], None] = print,
) -> Splits:
    """Read a table whose rows are to be classified or to be given a value.

    Args:
        data: Path of a CSV, TSV, JSONL or Parquet file.
        target: Column to predict.
        task: `"classification"` or `"regression"`; if omitted, numbers with more than
            20 different values, or with fractions, are values and the rest classes.
        drop: Columns to leave out.
        encoding: Encoding of the file.
        encoding_errors: What to do with bytes outside the encoding, as `bytes.decode`.
        unlabelled: Ignored.
        notify: Called with one line that says how the target was taken.

    Returns:
        The rows; without a test split.

    Raises:
        InputError: If the file, its columns or its target cannot be used.
    """
    path = Path(data).expanduser()
    if not path.is_file():
        raise InputError(
            f"there is no table {data!r}; give a file in {', '.join(FORMATS)}"
        )
    rows = read_table(path, encoding=encoding, encoding_errors=encoding_errors)
    target = find_column(rows, target, (), "--target")
    if unknown := sorted(set(drop) - set(rows.names)):
        raise InputError(
            f"{path} has no column {unknown[0]!r} to leave out; there are "
            f"{', '.join(rows.names)}"
        )
    names = [name for name in rows.names if name not in {target, *drop}]
    if not names:
        raise InputError(f"{path} has no column besides the target {target!r}")
    labels, label_names = _labels(rows, target, task, notify)
    for name in names:
        _check_infinite(rows, name)
    columns = Columns.of({name: rows.column(name) for name in names})
    return Splits(Labelled(path.name, columns, labels, label_names))


def _check_infinite(rows: Table, name: str) -> None:
    """Refuse infinity among numbers; a missing number is no number, and allowed."""
    found = None
    for place, cell in zip(rows.places, rows.column(name), strict=True):
        if _is_missing(cell) or _number(cell) is not None:
            continue
        try:
            float(cell)
        except (TypeError, ValueError):
            return  # a column of categories
        found = found or (place, cell)
    if found:
        raise InputError(
            f"{rows.path}: the column {name!r} has {found[1]!r} at {found[0]}; correct "
            "it, or leave it empty if it is not known"
        )


def numbers(cells: np.ndarray, name: str) -> np.ndarray:
    """Return cells as floats, NaN where one is missing.

    Raises:
        InputError: If a cell is not a finite number.
    """
    found = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell is not None:
            number = _number(cell)
            if number is None:
                raise InputError(
                    f"column {name!r} holds numbers, but row {row + 1} has {cell!r}"
                )
            found[row] = number
    return found


def _labels(
    rows: Table, target: str, task: str | None, notify: Callable[[str], None]
) -> tuple[np.ndarray, tuple[str, ...]]:
    texts = clean_labels(rows, target)
    for place, text in zip(rows.places, texts, strict=True):
        if _is_missing(text):
            raise InputError(
                f"{rows.path}: the target {target!r} is missing ({text!r}) at {place}; "
                "fill it in or delete the row"
            )
    values = [_number(text) for text in texts]
    if task is None:
        task = _guess_task(values)
        notify(f"Target: {target}, {task}; --task decides otherwise.")
    if task == "regression":
        for place, text, value in zip(rows.places, texts, values, strict=True):
            if value is None:
                raise InputError(
                    f"{rows.path}: the target {target!r} is {text!r} at {place}; "
                    "regression needs numbers"
                )
        return np.array(values, np.float64), ()
    names = sorted_names(texts)
    if len(names) > max(MOST_NUMBERED_CLASSES, len(texts) // 10):
        raise InputError(
            f"{rows.path}: the target {target!r} has {len(names):,} different values "
            f"in {len(texts):,} rows, so it is hardly a class; choose another target"
        )
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[text] for text in texts], np.int64), names


def _guess_task(values: list[float | None]) -> str:
    if None in values:
        return "classification"
    whole = all(value.is_integer() for value in values)
    few = len(set(values)) <= MOST_NUMBERED_CLASSES
    return "classification" if whole and few else "regression"


def _columns(examples) -> Columns:
    if isinstance(examples, Columns):
        return examples
    if hasattr(examples, "to_dict"):  # a data frame of pandas
        return Columns.of(examples.to_dict("list"))
    rows = [examples] if isinstance(examples, Mapping) else list(examples)
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(
                f"row {i} is {type(row).__name__}; give dictionaries or a data frame"
            )
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Columns.of({name: [row.get(name) for row in rows] for name in names})


def _objects(cells: Sequence) -> np.ndarray:
    found = np.empty(len(cells), object)
    found[:] = [None if _is_missing(cell) else cell for cell in cells]
    return found


def _is_missing(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().casefold() in MISSING
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _number(cell: Any) -> float | None:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _learn(
    name: str, cells: np.ndarray, coded: bool, min_count: int, few_values: int
) -> dict:
    """Learn one column: what it holds, and what is usual in it."""
    known = [cell for cell in cells if cell is not None]
    values = [_number(cell) for cell in known]
    gaps = bool(min_count <= len(cells) - len(known) and known)
    if coded or None in values or not known:
        return {
            "name": name,
            "kind": "category",
            "values": _frequent([_text(cell) for cell in known], min_count),
            "gaps": gaps,
        }
    found = np.array(values)
    few = len(np.unique(found)) <= few_values
    return {
        "name": name,
        "kind": "number",
        "values": _frequent(values, min_count) if few else [],
        "gaps": gaps,
        "median": float(np.median(found)),
        "mean": float(found.mean()),
        "scale": float(found.std()),
    }


def _frequent(values: list, min_count: int) -> list:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts >= min_count].tolist() if len(distinct) > 1 else []


def _are_columns(columns: object) -> bool:
    """Say whether these are settings of columns such as `_learn` returns."""
    if not isinstance(columns, list) or not all(map(_is_column, columns)):
        return False
    names = {column["name"] for column in columns}
    return len(names) == len(columns) > 0


def _is_column(column: object) -> bool:
    if not isinstance(column, dict):
        return False
    numbered = column.get("kind") == "number"
    figures = {"median", "mean", "scale"} if numbered else set()
    kinds = (int, float) if numbered else (str,)
    return (
        set(column) == {"name", "kind", "values", "gaps", *figures}
        and column["kind"] in ("number", "category")
        and isinstance(column["name"], str)
        and isinstance(column["gaps"], bool)
        and all(type(column[name]) in (int, float) for name in figures)
        and column.get("scale", 0) >= 0
        and isinstance(column["values"], list)
        and all(type(value) in kinds for value in column["values"])
        and _says_something(column)
    )


def _says_something(column: Mapping) -> bool:
    return bool(column["values"] or column["gaps"] or column.get("scale"))


def _text(cell: Any) -> str:
    """Write a category in one way, be it 1, 1.0, "1" or "1.0"."""
    number = _number(cell)
    if number is not None and number.is_integer():
        return str(int(number))
    return str(cell).strip()


def _encode(column: Mapping, cells: np.ndarray) -> np.ndarray:
    """Encode one column, `(count, features)`."""
    missing = np.array([cell is None for cell in cells], bool)
    features = []
    if column["kind"] == "number":
        values = numbers(cells, column["name"])
        if column["scale"]:
            filled = np.where(missing, column["median"], values)
            distance = (filled - column["mean"]) / column["scale"]
            features.append(distance.clip(-LARGEST_FEATURE, LARGEST_FEATURE))
    else:
        values = np.array(
            ["" if cell is None else _text(cell) for cell in cells], object
        )
    features += [(values == value) & ~missing for value in column["values"]]
    if column["gaps"]:
        features.append(missing)
    return np.stack(features, axis=1).astype(np.float64)
