"""What `train --resume` goes on with, and what it refuses."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kerasdl.checks import check_choice
from kerasdl.errors import InputError
from kerasdl.untrusted import brief

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


def check_app(recipe, app: str, folder: Path) -> None:
    """Refuse to resume a run by the command of another app."""
    if (its := APPS[recipe.kind]) != app:
        raise InputError(
            f"the run in {folder} is one of kerasdl {its}; continue it with kerasdl"
            f" {its} train --resume {folder}"
        )


def check_names(recipe) -> None:
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
