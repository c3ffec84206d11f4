"""`kerasdl sentiment train | evaluate | predict`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kerasdl.errors import InputError
from kerasdl_apps import rate_commands, sentiment
from kerasdl_apps.measured import TrainBackend, with_measured
from kerasdl_apps.options import (
    Accumulate,
    Backend,
    BatchSize,
    Clip,
    CsvFile,
    Deterministic,
    Devices,
    Encoding,
    EncodingErrors,
    Epochs,
    ForceResume,
    Json,
    LearningRate,
    Optimizer,
    Overwrite,
    Precision,
    Quick,
    Rematerialise,
    Resume,
    RunFolder,
    Schedule,
    Seed,
    Tensorboard,
    TrainedBundle,
    given,
    load_backend,
)
from kerasdl_apps.output import (
    check_writable,
    console,
    print_json,
    print_line,
    print_metrics,
    write_csv,
)
from kerasdl_apps.resuming import resumed_recipe
from kerasdl_apps.training import train_recipe

app = typer.Typer(help="Sentiment of texts.", rich_markup_mode=None)
app.command(name="lr-find")(rate_commands.find_for_texts)

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
BundlePath = Annotated[
    str, typer.Option(help="Run folder, bundle folder, or name of a shipped bundle.")
]


@app.command()
def train(
    context: typer.Context,
    *,
    data: Data = "auto",
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(sentiment.RECIPES)}.")
    ] = sentiment.DEFAULT_MODEL,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    optimizer: Optimizer = None,
    schedule: Schedule = None,
    accumulate: Accumulate = None,
    clip: Clip = None,
    precision: Precision = None,
    seed: Seed = 0,
    deterministic: Deterministic = False,
    rematerialise: Rematerialise = False,
    out: RunFolder = None,
    quick: Quick = False,
    overwrite: Overwrite = False,
    resume: Resume = None,
    force_resume: ForceResume = False,
    tensorboard: Tensorboard = False,
    devices: Devices = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    positive_from: PositiveFrom = None,
    encoding: Encoding = "utf-8",
    encoding_errors: EncodingErrors = "strict",
    backend: TrainBackend = None,
    as_json: Json = False,
) -> int:
    """Train a sentiment classifier; write a report and a bundle."""
    if resume:
        chosen = resumed_recipe(
            given(context), models=sentiment.RECIPES, quick=sentiment.QUICK
        )
    else:
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
            optimizer=optimizer,
            schedule=schedule,
            accumulate=accumulate,
            clip=clip,
            precision=precision,
            seed=seed,
            deterministic=deterministic,
            rematerialise=rematerialise,
        )
    chosen = with_measured(
        chosen,
        backend,
        app="sentiment",
        model=model,
        precision=precision,
        resumed=bool(resume),
    )
    return train_recipe(
        chosen,
        app="sentiment",
        example='"…"',
        out=out,
        overwrite=overwrite,
        as_json=as_json,
        resume=resume,
        force_resume=force_resume,
        tensorboard=tensorboard,
        devices=devices,
    )


@app.command()
def evaluate(
    bundle: TrainedBundle,
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
    print_metrics(metrics, as_json=as_json)


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
    out: CsvFile = None,
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
        check_writable(out)
    load_backend()
    from kerasdl.bundle import load

    predictor = load(bundle)
    rows = [
        {"text": p.example, "label": p.label, "probability": p.probability}
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
        write_csv(out, [{**row, **_flat_words(row)} for row in rows])
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
