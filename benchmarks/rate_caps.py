"""Are the caps of `lr_find` in the right place? Short trainings around its suggestion.

    python benchmarks/rate_caps.py [--models cnn transformer_classifier]

Each recipe is trained on the sample that comes with the package at the suggestion of
`kerasdl.lr_find`, at a third of it and at three times it, at the cap of its family and
at three times that, with the recipe's own schedule.
"""

import argparse
import json
import os
from dataclasses import replace

from common import RESULTS, in_own_process, machine, record

PATH = RESULTS / "rate_caps.json"
MODELS = ("cnn", "transformer_classifier")
EPOCHS = 2


def main() -> None:
    """Train, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--quick", action="store_true", help="few examples")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, quick=options.quick)))
        return
    for model in options.models:
        quick = ["--quick"] * options.quick
        row = json.loads(in_own_process(__file__, "--one", model, *quick))
        print(json.dumps(row), flush=True)
        if not options.quick:
            record(PATH, row, ("model", "backend"))


def measure(model: str, *, quick: bool) -> dict:
    """Find the rate of a recipe, and train around it."""
    import keras

    import kerasdl
    from kerasdl import training
    from kerasdl.fit import fit
    from kerasdl_apps import images, sentiment

    app = images if model in images.RECIPES else sentiment
    recipe = replace(app.recipe(model), data="sample", epochs=EPOCHS, patience=EPOCHS)
    if quick:
        recipe = replace(recipe, max_examples=1000)
    found = training.find_rate(recipe)
    splits = training.LOADERS[recipe.kind]("sample", notify=lambda _: None)
    data = splits.train.subset(range(1000)) if quick else splits.train
    rates = {found.suggestion * times for times in (1 / 3, 1, 3)}
    rates |= {found.cap, 3 * found.cap}
    rows = []
    for rate in sorted(rates):
        changed = replace(recipe, learning_rate=rate)
        history = fit(changed, kerasdl.BUILDERS[recipe.build], data).history
        row = {name: round(history[name][-1], 4) for name in ("loss", "val_loss")}
        accuracy = round(history["val_accuracy"][-1], 4)
        rows.append({"learning_rate": rate, **row, "val_accuracy": accuracy})
    return {
        "model": model,
        "backend": keras.backend.backend(),
        "keras": keras.version(),
        "machine": machine(),
        "epochs": EPOCHS,
        "examples": len(data),
        "family": found.family,
        "cap": found.cap,
        "uncapped": found.uncapped,
        "suggestion": found.suggestion,
        "recipe_learning_rate": recipe.learning_rate,
        "trainings": rows,
    }


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
