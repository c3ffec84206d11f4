"""What commands share: their options, and how `train` goes by them."""

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from kerasdl.absent import absent
from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.installed import BACKENDS, is_installed
from kerasdl.launching import launch
from kerasdl.quiet import quiet_stderr
from kerasdl.recipe import PRECISIONS, check_precision
from kerasdl.untrusted import brief
from kerasdl_apps.output import console, print_json, print_line, print_metrics

# What Keras imports, if it can, for wrappers and galleries that no command uses: up to
# a third of the time of `import keras`.
UNUSED = ("matplotlib", "pandas", "sklearn")
# Options of `train` that change nothing of what is trained.
NO_SETTINGS = {
    *("resume", "force_resume", "tensorboard", "backend", "as_json", "devices"),
}
# Options that are no field of a recipe, but stand in one.
IN_DATA_OPTIONS = {
    *("text_column", "label_column", "positive_from", "encoding", "encoding_errors"),
    *("path_column", "skip_corrupt", "target", "task", "drop"),
}
IN_ENCODER = {"image_size", "categorical"}
# What `--model` decides, and no other option.
OF_MODEL = (
    *("build", "kind", "arguments", "pretrained", "unlabelled", "warmup", "patience"),
    *("optimizer_options", "schedule_options", "clip_by", "sam", "swa", "plateau"),
    *("word_vectors", "validation_fraction"),
)
# Kind of data to the app that trains on it.
APPS = {"text": "sentiment", "image": "images", "table": "tabular"}


def choose_backend(name: str | None) -> str | None:
    """Let Keras take a backend when it is imported; `None` leaves it as it is.

    Raises:
        InputError: If there is no such backend, or it is not installed.
    """
    if name is None:
        return None
    check_choice("backend", name, BACKENDS, error=InputError)
    if not is_installed(name):
        raise InputError(
            f"the backend {name} is not installed; run pip install 'kerasdl[{name}]'"
        )
    os.environ["KERAS_BACKEND"] = name  # read by Keras at its first import, later
    return name


Backend = Annotated[
    str | None,
    typer.Option(
        help="tensorflow, jax or torch; otherwise KERAS_BACKEND or keras.json decides.",
        callback=choose_backend,
        is_eager=True,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, for machines.")
]
Encoding = Annotated[str, typer.Option(help="Encoding of text files.")]
EncodingErrors = Annotated[
    str, typer.Option(help="strict refuses wrong bytes, replace or ignore accept them.")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data.")]
BatchSize = Annotated[int | None, typer.Option(help="Examples per step.")]
LearningRate = Annotated[float | None, typer.Option(help="Highest learning rate.")]
# Of `kerasdl.optimizers` and `kerasdl.schedules`, which --help must not wait for.
OPTIMIZERS = (
    *("sgd", "rmsprop", "adam", "adamw", "lion", "muon"),
    "schedule_free_adamw",
)
SCHEDULES = (
    *("constant", "cosine", "exp_range", "exponential", "inverse_sqrt", "linear"),
    *("one_cycle", "restarts", "step", "triangular", "wsd"),
)


def one_of(option: str, choices: tuple[str, ...]):
    """Return a callback that refuses what is none of some names."""

    def check(name: str | None) -> str | None:
        if name is not None:
            check_choice(option, name, choices, error=InputError)
        return name

    return check


Optimizer = Annotated[
    str | None,
    typer.Option(
        help=f"One of {', '.join(OPTIMIZERS)}.",
        callback=one_of("optimizer", OPTIMIZERS),
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        help=f"How the learning rate changes: {', '.join(SCHEDULES)}.",
        callback=one_of("schedule", SCHEDULES),
    ),
]
Accumulate = Annotated[
    int | None,
    typer.Option(min=1, help="Parts of a step: less memory, the same step."),
]
Clip = Annotated[
    float | None, typer.Option(min=0, help="Largest norm of the gradient; 0 is any.")
]


def _precision(name: str | None) -> str | None:
    if name is not None:
        check_precision(name)
    return name


Precision = Annotated[
    str | None,
    typer.Option(
        help=f"One of {', '.join(PRECISIONS)}; auto tries what is faster.",
        callback=_precision,
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Decides all randomness.")
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Same seed, same weights, on a GPU, too; a CPU needs no flag for that, and"
        " TensorFlow took no longer with it.",
    ),
]
Rematerialise = Annotated[
    bool,
    typer.Option(
        "--rematerialise",
        help="Compute features twice instead of holding them: less memory, same steps.",
    ),
]


def _devices(text: str | None) -> str | None:
    if text is not None and text != "all" and not (text.isdecimal() and int(text) > 0):
        raise InputError(f"--devices {text}: give a number above 0, or all")
    return text


Devices = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help="Train on so many GPUs, or virtual devices of a CPU; on torch, processes.",
        callback=_devices,
    ),
]
RunFolder = Annotated[
    Path | None, typer.Option(help="Run folder; runs/APP-<time> by default.")
]
Quick = Annotated[
    bool, typer.Option("--quick", help="A short trial: does everything work?")
]
Tensorboard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Write curves, histograms and plots for TensorBoard into the run folder.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run in --out.")
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN", help="Continue this unfinished run, with its own settings."
    ),
]
ForceResume = Annotated[
    bool,
    typer.Option(
        "--force-resume", help="Continue it even if settings or data have changed."
    ),
]
TrainedBundle = Annotated[
    str, typer.Argument(help="Run folder, bundle folder, or shipped bundle.")
]
CsvFile = Annotated[
    Path | None, typer.Option(help="Write the predictions to a CSV file.")
]


def load_backend() -> None:
    """Import Keras with its backend, keeping their start-up messages off the terminal.

    Raises:
        InputError: If the backend that Keras is set to is unknown or not installed, or
            the working folder is gone.
    """
    try:
        os.getcwd()
    except OSError as error:  # PyTorch would end the process without a word
        raise InputError(
            "the working folder no longer exists, and files cannot be found from it; "
            "change to another"
        ) from error
    if (name := os.environ.get("KERAS_BACKEND")) is not None:
        choose_backend(name)
    try:
        with quiet_stderr(), absent(*UNUSED):
            importlib.import_module("kerasdl.backend")
    except ModuleNotFoundError as error:
        raise InputError(
            f"the Keras backend needs {error.name}, which is not installed; install it,"
            " or choose another with --backend"
        ) from error


def given(context: typer.Context) -> dict:
    """Return the options that stand on the command line, by name."""
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name).name == "COMMANDLINE"
    }


def resumed_recipe(
    options: dict,
    *,
    models: Mapping = MappingProxyType({}),
    quick: Mapping = MappingProxyType({}),
):
    """Return the recipe that `--resume` goes on with: the run's own.

    Args:
        options: What stands on the command line, as `given` returns it.
        models: Name of a model to the function that returns its recipe.
        quick: What `--quick` sets.

    Raises:
        InputError: If there is no unfinished run, or it is damaged, or, without
            `--force-resume`, if it was changed or an option disagrees with it.
    """
    from kerasdl import runs
    from kerasdl.recipe import Recipe

    folder = options["resume"]
    if options.keys() & {"out", "overwrite"}:
        raise InputError(
            "--resume goes on in its own folder; drop --out and --overwrite"
        )
    runs.check_folder(folder, overwrite=False, resume=True)
    force = options.get("force_resume", False)
    before = runs.begun_recipe(folder, force=force)
    asked = {**before, **_asked(options, before, models, quick)}
    if not force:
        changes = runs.differences(before, asked)
        runs.refuse_changes(folder, changes, "drop the options")
    return Recipe.from_json(asked)


def _asked(options: dict, before: dict, models: Mapping, quick: Mapping) -> dict:
    """Return the fields of a recipe that options set, as JSON."""
    asked = {}
    # These first: other options may change what they set.
    for name in sorted(
        options.keys() - NO_SETTINGS, key=lambda name: name not in ("model", "quick")
    ):
        value = options[name]
        if name == "model":
            check_choice("model", value, models, error=InputError)
            asked |= _of_model(models[value]().to_json(), before)
        elif name == "quick":
            asked |= quick
        elif name in before:
            asked[name] = value
        else:
            part = "encoder" if name in IN_ENCODER else "data_options"
            asked[part] = {**asked.get(part, before[part]), name: value}
    return json.loads(json.dumps(asked))


def _of_model(other: dict, before: dict) -> dict:
    """Return what the recipe of a model decides, and no option has changed in a run."""
    kept = {k: v for k, v in before["encoder"].items() if k in IN_ENCODER}
    return {
        **{name: other[name] for name in OF_MODEL},
        "encoder": {**other["encoder"], **kept},
    }


def _check_app(recipe, app: str, folder: Path) -> None:
    """Refuse to resume a run by the command of another app."""
    if (its := APPS[recipe.kind]) != app:
        raise InputError(
            f"the run in {folder} is one of kerasdl {its}; continue it with kerasdl"
            f" {its} train --resume {folder}"
        )


def _check_names(recipe) -> None:
    """Refuse what a recipe from a file names, and there is not."""
    import inspect

    import kerasdl
    from kerasdl.optimizers import make_optimizer
    from kerasdl.schedules import learning_rate_schedule

    try:
        rate = recipe.learning_rate
        learning_rate_schedule(
            recipe.schedule, rate, 100, warmup=recipe.warmup, **recipe.schedule_options
        )
        make_optimizer(
            recipe.optimizer, rate, clip_by=recipe.clip_by, **recipe.optimizer_options
        )
        if not recipe.pretrained:
            check_choice("build", recipe.build, kerasdl.BUILDERS)
            known = inspect.signature(kerasdl.BUILDERS[recipe.build]).parameters
            for name in recipe.arguments:
                check_choice(f"argument of {recipe.build}", name, known)
    except (TypeError, ValueError) as error:
        raise InputError(f"the recipe of the run is damaged: {brief(error)}") from error


def train_recipe(
    recipe,
    *,
    app: str,
    example: str,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    resume: Path | None = None,
    force_resume: bool = False,
    tensorboard: bool = False,
    devices: str | None = None,
) -> int:
    """Train a recipe, print what was measured, and return the exit code.

    Args:
        recipe: A `kerasdl.Recipe`.
        app: Name of the app, for the run folder and the hint.
        example: What to give `predict`, in the hint.
        out: Run folder; `None` for one of its own.
        overwrite: Replace an earlier run in `out`.
        as_json: Print one JSON document.
        resume: Folder of an unfinished run to go on with, in place of `out`.
        force_resume: Go on even where recipe or data have changed.
        tensorboard: Write for TensorBoard, too.
        devices: A number of devices, or `"all"`.
    """
    from kerasdl.cluster import find_cluster
    from kerasdl.runs import check_folder, default_folder

    if resume:
        _check_app(recipe, app, resume)
    cluster = find_cluster()
    folder = resume or out or default_folder(app)
    # Refused in a moment; the backend takes seconds.
    check_folder(folder, overwrite=overwrite, resume=resume is not None)
    load_backend()
    if resume:
        _check_names(recipe)
    if cluster is None and (processes := _processes(devices)) > 1:
        # What this process has chosen, the others shall not choose again.
        settled = ["--backend", "torch"]
        if not resume:
            settled += ["--precision", recipe.precision]
            settled += [] if out else ["--out", str(folder)]
        return launch(["kerasdl", *sys.argv[1:], *settled], processes=processes)
    from kerasdl import train
    from kerasdl.distribution import Distribution, distribute

    number = int(devices) if devices and devices != "all" else None
    with distribute(devices=number) if devices or cluster else Distribution() as here:
        folder = Path(here.from_chief(str(folder)))  # its name tells the time
        run = train(
            recipe,
            out=folder,
            overwrite=overwrite,
            resume=resume is not None,
            force_resume=force_resume,
            tensorboard=tensorboard,
            console=console(),
        )
    if not here.is_chief:
        return 128 + run.interrupted if run.interrupted else 0
    if as_json:
        print_json({"run": str(run.folder), **run.metrics})
    else:
        print_metrics(run.metrics, as_json=False)
        print_line(f"report   {run.folder / 'report.html'}")
        print_line(f"bundle   {run.folder / 'bundle'}")
        use = f"kerasdl {app} predict --bundle {run.folder} {example}"
        print_line(f"use it   {use}")
    return 128 + run.interrupted if run.interrupted else 0


def _processes(devices: str | None) -> int:
    """Return how many processes `--devices` means: on torch one for each device."""
    from keras import backend as keras_backend

    from kerasdl import backend

    if devices is None or keras_backend.backend() != "torch":
        return 1
    gpus = sum(device["kind"] == "gpu" for device in backend.devices())
    number = max(gpus, 1) if devices == "all" else int(devices)
    if gpus and number > gpus:
        raise InputError(
            f"{number} devices were asked for, but torch has {gpus} GPUs; ask for no "
            "more"
        )
    return number
