"""What commands share: their options, and the backend that these choose."""

import importlib
import os
from pathlib import Path
from typing import Annotated

import typer

from kerasdl.absent import absent
from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.installed import BACKENDS, is_installed
from kerasdl.quiet import quiet_stderr
from kerasdl.recipe import PRECISIONS, check_precision

# What Keras imports, if it can, for wrappers and galleries that no command uses: up to
# a third of the time of `import keras`.
UNUSED = ("matplotlib", "pandas", "sklearn")


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
