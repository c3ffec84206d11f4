"""`kerasdl tabular train | evaluate | predict`."""

from pathlib import Path
from typing import Annotated

import typer

from kerasdl.errors import InputError
from kerasdl_apps import tabular
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
    one_of,
)
from kerasdl_apps.output import (
    check_writable,
    print_json,
    print_line,
    print_metrics,
    write_csv,
)
from kerasdl_apps.resuming import resumed_recipe
from kerasdl_apps.training import train_recipe

app = typer.Typer(help="Classes or values from tables.", rich_markup_mode=None)

TASKS = ("classification", "regression")
Data = Annotated[str, typer.Option(help="A table in CSV, TSV, JSONL or Parquet.")]
Target = Annotated[str, typer.Option(help="Column to predict.")]


@app.command()
def train(
    context: typer.Context,
    *,
    data: Annotated[
        str | None, typer.Option(help="A table in CSV, TSV, JSONL or Parquet.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification or regression; by the target if omitted.",
            callback=one_of("task", TASKS),
        ),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Column to leave out; may be repeated.")
    ] = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option(help="Column of codes, not amounts; may be repeated."),
    ] = None,
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
    encoding: Encoding = "utf-8",
    encoding_errors: EncodingErrors = "strict",
    backend: TrainBackend = None,
    as_json: Json = False,
) -> int:
    """Train a classifier or regressor; write a report and a bundle."""
    if not resume and not (data and target):
        raise InputError("give --data a table and --target a column of it")
    if resume:
        chosen = resumed_recipe(given(context), quick=tabular.QUICK)
    else:
        chosen = tabular.recipe(
            data,
            target,
            quick=quick,
            task=task,
            drop=drop or (),
            categorical=categorical or (),
            encoding=encoding,
            encoding_errors=encoding_errors,
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
        chosen, backend, app="tabular", precision=precision, resumed=bool(resume)
    )
    return train_recipe(
        chosen,
        app="tabular",
        example="--data FILE",
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
    data: Data,
    target: Target,
    encoding: Encoding = "utf-8",
    encoding_errors: EncodingErrors = "strict",
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> None:
    """Measure a bundle on a table with the true target."""
    load_backend()
    metrics = tabular.evaluate(
        bundle, data, target, encoding=encoding, encoding_errors=encoding_errors
    )
    print_metrics(metrics, as_json=as_json)


@app.command()
def predict(
    *,
    bundle: Annotated[str, typer.Option(help="Run folder or bundle folder.")],
    data: Data,
    out: CsvFile = None,
    encoding: Encoding = "utf-8",
    encoding_errors: EncodingErrors = "strict",
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> None:
    """Predict every row of a table."""
    from kerasdl.data.rows import Columns
    from kerasdl.data.tables import read_table

    if out:
        check_writable(out)
    table = read_table(Path(data), encoding=encoding, encoding_errors=encoding_errors)
    load_backend()
    from kerasdl.bundle import load

    rows = Columns.of({name: table.column(name) for name in table.names})
    answers = [_answer(prediction) for prediction in load(bundle)(rows)]
    examples = list(rows)
    if out:
        write_csv(
            out,
            [
                {**example, **{f"predicted_{name}": v for name, v in answer.items()}}
                for example, answer in zip(examples, answers, strict=True)
            ],
        )
    if as_json:
        print_json(
            [
                {"row": example, **answer}
                for example, answer in zip(examples, answers, strict=True)
            ]
        )
    elif not out:
        for answer in answers:
            print_line("\t".join(map(_shown, answer.values())))


def _answer(prediction) -> dict:
    names = ("label", "probability", "value", "low", "high")
    return {
        name: getattr(prediction, name) for name in names if hasattr(prediction, name)
    }


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
