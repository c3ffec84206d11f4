"""How every `train` command trains: folder, processes, and what is said at the end."""

import sys
from pathlib import Path

from kerasdl.errors import InputError
from kerasdl.launching import launch
from kerasdl_apps.options import load_backend
from kerasdl_apps.output import console, print_json, print_line, print_metrics
from kerasdl_apps.resuming import check_app, check_names


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
        check_app(recipe, app, resume)
    cluster = find_cluster()
    folder = resume or out or default_folder(app)
    # Refused in a moment; the backend takes seconds.
    check_folder(folder, overwrite=overwrite, resume=resume is not None)
    load_backend()
    if resume:
        check_names(recipe)
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
