"""`kerasdl sentiment train | evaluate | predict`."""

import csv
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kerasdl.errors import InputError
from kerasdl.files import whole_file
from kerasdl_apps import sentiment
from kerasdl_apps.options import (
    Backend,
    Json,
    console,
    load_backend,
    print_json,
    print_line,
)

app = typer.Typer(help="Sentiment of texts.", rich_markup_mode=None)

Data = Annotated[
    str,
    typer.Option(
        help="auto, imdb, sample, or a path: a folder of class folders, or a table in"
        " CSV, TSV, JSONL or Parquet."
    ),
]
TextColumn = Annotated[str | None, typer.Option(help="Column of the texts.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the labels.")]
PositiveFrom = Annotated[
    int | None,
    typer.Option(help="Make integer labels two classes: positive from this one on."),
]
Encoding = Annotated[str, typer.Option(help="Encoding of text files.")]
EncodingErrors = Annotated[
    str, typer.Option(help="strict refuses wrong bytes, replace or ignore accept them.")
]
BundlePath = Annotated[
    str, typer.Option(help="Run folder, bundle folder, or name of a shipped bundle.")
]


@app.command()
def train(
    *,
    data: Data = "auto",
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(sentiment.RECIPES)}.")
    ] = sentiment.DEFAULT_MODEL,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts per step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides all randomness.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/sentiment-<time> by default.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A short trial: does everything work?")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.")
    ] = False,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    positive_from: PositiveFrom = None,
    encoding: Encoding = "utf-8",
    encoding_errors: EncodingErrors = "strict",
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> int:
    """Train a sentiment classifier; write a report and a bundle."""
    chosen = sentiment.recipe(
        model,
        quick=quick,
        data=data,
        data_options={
            "text_column": text_column,
            "label_column": label_column,
            "positive_from": positive_from,
            "encoding": encoding,
            "encoding_errors": encoding_errors,
        },
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    load_backend()
    from kerasdl import train as run_recipe
    from kerasdl.runs import default_folder

    run = run_recipe(
        chosen,
        out=out or default_folder("sentiment"),
        overwrite=overwrite,
        console=console(),
    )
    if as_json:
        print_json({"run": str(run.folder), **run.metrics})
    else:
        print_line(_summary(run))
    return 128 + run.interrupted if run.interrupted else 0


@app.command()
def evaluate(
    bundle: Annotated[
        str, typer.Argument(help="Run folder, bundle folder, or shipped bundle.")
    ],
    *,
    data: Data = "auto",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    positive_from: PositiveFrom = None,
    encoding: Encoding = "utf-8",
    encoding_errors: EncodingErrors = "strict",
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> None:
    """Measure a bundle on labelled texts."""
    load_backend()
    metrics = sentiment.evaluate(
        bundle,
        data,
        notify=console().print,
        text_column=text_column,
        label_column=label_column,
        positive_from=positive_from,
        encoding=encoding,
        encoding_errors=encoding_errors,
    )
    if as_json:
        print_json(metrics)
    else:
        print_line(_measured(metrics))


@app.command()
def predict(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts.")
    ] = None,
    *,
    bundle: BundlePath = sentiment.DEFAULT_BUNDLE,
    file: Annotated[
        Path | None, typer.Option(help="Read texts from a file, a line each.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the words that pushed.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the predictions to a CSV file.")
    ] = None,
    encoding: Encoding = "utf-8",
    encoding_errors: EncodingErrors = "strict",
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> None:
    """Predict the sentiment of texts: arguments, a file, or standard input."""
    texts = _read_texts(
        texts or [], file, encoding=encoding, encoding_errors=encoding_errors
    )
    if out:
        _check_writable(out)
    load_backend()
    from kerasdl.bundle import load

    predictor = load(bundle)
    rows = [
        {"text": p.text, "label": p.label, "probability": p.probability}
        for p in predictor(texts)
    ]
    if explain:
        from kerasdl.explain import explain as words_of

        for row in rows:
            row["words"] = [
                {"word": word.word, "push": word.push}
                for word in words_of(predictor, row["text"])
            ]
    if out:
        _write_csv(out, rows)
    if as_json:
        print_json(rows)
    elif not out:
        _show(rows)


def _read_texts(texts: list[str], file: Path | None, **encoding: str) -> list[str]:
    from kerasdl.data.tables import decode, read_text

    if texts and file:
        raise InputError("texts come as arguments or from --file, not both; drop one")
    if texts:
        # Arguments may hold bytes that are no text, as surrogates.
        return [decode(os.fsencode(text), repr(text), **encoding) for text in texts]
    if file:
        name, content = str(file), read_text(file, **encoding)
    elif sys.stdin.isatty():
        raise InputError("no text given; add TEXT, --file FILE, or pipe lines in")
    else:
        name = "standard input"
        content = decode(sys.stdin.buffer.read(), name, **encoding)
    if not content:
        raise InputError(f"{name} is empty; give a text per line")
    # Not splitlines: a text may hold form feeds and the like.
    return content.removesuffix("\n").replace("\r\n", "\n").split("\n")


def _check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work is done."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give --out a file")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} for --out; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path.parent} is not writable; choose another --out")


def _write_csv(path: Path, rows: list[dict]) -> None:
    """Write predictions in full or not at all."""
    with (
        whole_file(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, **_flat_words(row)} for row in rows)


def _flat_words(row: dict) -> dict:
    if "words" not in row:
        return {}
    return {"words": " ".join(f"{w['word']}:{w['push']:+.3f}" for w in row["words"])}


def _show(rows: list[dict]) -> None:
    for row in rows:
        text = " ".join(row["text"].split())
        shown = text if len(text) <= 100 else text[:99] + "…"
        print_line(f"{row['label']}\t{row['probability']:.3f}\t{shown}")
        for word in row.get("words", ()):
            print_line(f"\t{word['push']:+.3f}\t{word['word']}")


def _summary(run) -> str:
    return "\n".join(
        [
            _measured(run.metrics),
            f"report   {run.folder / 'report.html'}",
            f"bundle   {run.folder / 'bundle'}",
            f'use it   kerasdl sentiment predict --bundle {run.folder} "…"',
        ]
    )


def _measured(metrics: dict) -> str:
    return (
        f"accuracy {metrics['accuracy']:.2%} (95 % interval"
        f" {metrics['accuracy_low']:.2%} to {metrics['accuracy_high']:.2%})"
        f" · log loss {metrics['log_loss']:.4f} · calibration error"
        f" {metrics['ece']:.2%}\n"
        f"measured on {metrics['set']}, {metrics['count']:,} texts"
    )
