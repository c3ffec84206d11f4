"""`kerasdl images train | evaluate | predict | check`."""

from pathlib import Path
from typing import Annotated

import typer

from kerasdl.errors import InputError
from kerasdl_apps import images, images_check, rate_commands
from kerasdl_apps.measured import TrainBackend, with_measured
from kerasdl_apps.options import (
    Accumulate,
    Backend,
    BatchSize,
    Clip,
    CsvFile,
    Deterministic,
    Devices,
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
    console,
    print_json,
    print_line,
    print_metrics,
    write_csv,
)
from kerasdl_apps.resuming import resumed_recipe
from kerasdl_apps.training import train_recipe

app = typer.Typer(help="Classes of images.", rich_markup_mode=None)
app.command(name="check")(images_check.check)
app.command(name="lr-find")(rate_commands.find_for_images)

AUGMENT = ("none", "light", "erasing", "medium", "strong")
Data = Annotated[
    str,
    typer.Option(
        help="auto, sample, fashion_mnist, cifar10, mnist, tfds:NAME, or a path: a"
        " folder of class folders, a table of paths and labels, or an .npz file."
    ),
]
PathColumn = Annotated[str | None, typer.Option(help="Column of the paths, in tables.")]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of the labels, in tables.")
]
SkipCorrupt = Annotated[
    bool,
    typer.Option("--skip-corrupt", help="Leave damaged images out, and list them."),
]
Tta = Annotated[
    bool | None,
    typer.Option(
        "--tta/--no-tta",
        help="Test-time augmentation: average over each image and its mirror image, or"
        " not; otherwise as the recipe or the bundle says.",
    ),
]


@app.command()
def train(
    context: typer.Context,
    *,
    data: Data = "auto",
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(images.RECIPES)}.")
    ] = images.DEFAULT_MODEL,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="Fine-tune this instead: a KerasHub preset, a folder of KerasHub,"
            " Hugging Face or timm, or a bundle."
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width, in pixels.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help=f"Changes of training images: {', '.join(AUGMENT)}.",
            callback=one_of("augment", AUGMENT),
        ),
    ] = None,
    tta: Tta = None,
    ema: Annotated[
        float | None,
        typer.Option(min=0, max=0.99999, help="Decay of an average of the weights."),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(min=0, max=0.9, help="Share of a label given to all classes."),
    ] = None,
    class_weights: Annotated[
        bool, typer.Option("--class-weights", help="Let every class count alike.")
    ] = False,
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
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    skip_corrupt: SkipCorrupt = False,
    backend: TrainBackend = None,
    as_json: Json = False,
) -> int:
    """Train an image classifier; write a report and a bundle."""
    if resume:
        chosen = resumed_recipe(
            given(context), models=images.RECIPES, quick=images.QUICK
        )
    else:
        chosen = images.recipe(
            model,
            quick=quick,
            pretrained=pretrained,
            image_size=image_size,
            data=data,
            data_options=_data_options(path_column, label_column, skip_corrupt),
            augment=augment,
            tta=tta,
            ema=ema,
            label_smoothing=label_smoothing,
            class_weights=class_weights or None,
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
        app="images",
        model=model,
        precision=precision,
        resumed=bool(resume),
    )
    return train_recipe(
        chosen,
        app="images",
        example="FILE",
        out=out,
        overwrite=overwrite,
        as_json=as_json,
        resume=resume,
        force_resume=force_resume,
        tensorboard=tensorboard,
        devices=devices,
    )


def _data_options(path_column, label_column, skip_corrupt) -> dict:
    return {
        "path_column": path_column,
        "label_column": label_column,
        "skip_corrupt": skip_corrupt,
    }


@app.command()
def evaluate(
    bundle: TrainedBundle,
    *,
    data: Data = "auto",
    tta: Tta = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    skip_corrupt: SkipCorrupt = False,
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> None:
    """Measure a bundle on labelled images."""
    load_backend()
    metrics = images.evaluate(
        bundle,
        data,
        notify=console().print,
        tta=tta,
        **_data_options(path_column, label_column, skip_corrupt),
    )
    print_metrics(metrics, as_json=as_json)


@app.command()
def predict(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE|FOLDER|GLOB...", help="Images to classify."),
    ],
    *,
    bundle: Annotated[
        str,
        typer.Option(help="Run folder, bundle folder, or name of a shipped bundle."),
    ] = images.DEFAULT_BUNDLE,
    top: Annotated[
        int, typer.Option(min=1, help="Number of classes shown for each image.")
    ] = 1,
    explain: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures of where the model looked."),
    ] = None,
    tta: Tta = None,
    out: CsvFile = None,
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> int:
    """Classify images; a damaged one is named and the others are done (exit 1)."""
    if out:
        check_writable(out)
    if explain and explain.exists() and not explain.is_dir():
        raise InputError(f"{explain} is a file; give --explain a folder")
    paths = images.image_files(files)
    load_backend()
    from kerasdl.bundle import load

    predictor = load(bundle)
    images.check_images_bundle(predictor, bundle)
    done, answers, refused = images.predict(predictor, paths, tta=tta)
    rows = [
        {"file": str(path), **_ranked(row, predictor.labels, top)}
        for path, row in zip(done, answers, strict=True)
    ]
    if explain and done:
        _write_heatmaps(predictor, done, answers, explain)
    for sentence in refused:
        console().print(f"error: {sentence}")
    if out and rows:
        write_csv(out, [_flat(row) for row in rows])
    if as_json:
        print_json(rows)
    elif not out:
        _show(rows)
    return 1 if refused else 0


def _ranked(probabilities, labels, top: int) -> dict:
    best = (-probabilities).argsort(kind="stable")[:top]
    ranked = [
        {"label": labels[i], "probability": float(probabilities[i])} for i in best
    ]
    return {**ranked[0], **({"top": ranked} if top > 1 else {})}


def _flat(row: dict) -> dict:
    flat = {name: value for name, value in row.items() if name != "top"}
    for rank, other in enumerate(row.get("top", ())[1:], start=2):
        flat |= {f"{name}_{rank}": value for name, value in other.items()}
    return flat


def _show(rows: list[dict]) -> None:
    for row in rows:
        print_line(f"{row['label']}\t{row['probability']:.3f}\t{row['file']}")
        for other in row.get("top", ())[1:]:
            print_line(f"{other['label']}\t{other['probability']:.3f}")


def _write_heatmaps(predictor, paths, answers, folder: Path) -> None:
    """Write what decided each answer as a picture called like the image."""
    from kerasdl.heatmaps import heatmaps, overlay

    folder.mkdir(parents=True, exist_ok=True)
    taken = set()
    for path, row in zip(paths, answers, strict=True):
        try:
            heat = heatmaps(predictor, [path], [int(row.argmax())])[0]
        except ValueError as error:  # nothing in the model has a place in the image
            raise InputError(f"--explain: {error}") from error
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        overlay(predictor.encoder.pixels([path])[0], heat).save(folder / f"{name}.png")
