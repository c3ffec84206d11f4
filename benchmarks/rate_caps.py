"""Where the learning-rate finder's caps lie: small models trained around each of them.

    python benchmarks/rate_caps.py [--models mlp vit] [--seeds 0 1] [--backend torch]

Small models of each family that `kerasdl.rate_finder.CAPS` knows learn from scratch on
1,200 examples of the samples that come with the package, by Adam (transformers by
AdamW) with warm-up and cosine, as the recipes do, at rates from 3e-4 to 0.1. `accuracy`
is that on 600 others after the best epoch, `uncapped` what the finder says before its
cap. `pretrained` is not measured: it needs weights that do not come with the package.
"""

import argparse
import os
from dataclasses import replace

import numpy as np
from common import RESULTS, report

PATH = RESULTS / "rate_caps.json"
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WORDS = {"max_tokens": 64, "min_count": 3}
# Settings of each builder's recipe.
MODELS = {
    "mlp": {"kind": "table", "arguments": {"hidden": (128, 64)}},
    "ngram_classifier": {"encoder": {"max_tokens": 0, "ngram_orders": (1, 2)}},
    "cnn": {"kind": "image", "arguments": {"filters": (16, 32)}},
    "text_cnn": {"arguments": {"filters": 32, "embedding_dim": 48}, "encoder": WORDS},
    "lstm_sentiment": {
        "arguments": {"units": (32,), "embedding_dim": 48, "pool": 4},
        "encoder": WORDS,
    },
    "vit": {
        "kind": "image",
        "arguments": {"patch_size": 7, "width": 48, "depth": 4, "num_heads": 4},
        "optimizer": "adamw",
    },
    "transformer_classifier": {
        "arguments": {"width": 48, "depth": 2},
        "encoder": WORDS,
        "optimizer": "adamw",
    },
}


def main() -> None:
    """Train, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.backend
    for seed in options.seeds:
        for model in options.models:
            row = measure(model, seed, quick=options.quick)
            report(PATH, row, ("model", "seed"), quick=options.quick)


def measure(model: str, seed: int, *, quick: bool) -> dict:
    """Ask the finder, then train at each rate."""
    import keras

    from kerasdl.rate_finder import lr_find

    examples, epochs = (300, 1) if quick else (1800, 4)
    ready = prepared(model, examples, seed=seed)
    found = lr_find(ready.trained, ready.training)
    accuracies = []
    for rate in RATES:
        keras.utils.clear_session()
        ready = prepared(
            model, examples, seed=seed, epochs=epochs, learning_rate=rate, warmup=0.1
        )
        history = ready.trained.fit(
            ready.training, validation_data=ready.validation, epochs=epochs, verbose=0
        ).history
        accuracies.append(round(max(history["val_accuracy"]), 3))
    return {
        "family": found.family,
        "model": model,
        "seed": seed,
        "backend": keras.backend.backend(),
        "keras": keras.version(),
        "optimizer": type(ready.trained.optimizer).__name__,
        "steps": epochs * ready.training.num_batches,
        "uncapped": float(f"{found.uncapped:.2g}"),
        "rates": RATES,
        "accuracy": accuracies,
    }


def prepared(model: str, examples: int, **settings):
    """Return a compiled model, and its batches to train and to validate on."""
    import kerasdl
    from kerasdl import training
    from kerasdl.data.encoders import ENCODERS
    from kerasdl.data.labelled import hold_out
    from kerasdl.fit import prepare

    recipe = kerasdl.Recipe(
        build=model,
        batch_size=32,
        validation_fraction=1 / 3,
        **MODELS[model],
        **settings,
    )
    loader = training.LOADERS["text" if recipe.kind == "text" else "image"]
    data = loader("sample", notify=lambda _: None).train
    # At random: every n-th one may show a few of the classes alone.
    rows = np.random.default_rng(recipe.seed).permutation(len(data))[:examples]
    data = data.subset(rows)
    if recipe.kind == "table":
        data = replace(data, examples=as_rows(data.examples))
    kept, held = hold_out(data, recipe.validation_fraction, seed=recipe.seed)
    encoder, inputs = ENCODERS[recipe.kind].fit_encode(kept.examples, **recipe.encoder)
    builder = kerasdl.BUILDERS[model]
    return prepare(recipe, builder, encoder, inputs, kept.labels, (kept, held))


def as_rows(images):
    """Return 28 x 28 images as rows of 49 numbers, means of 4 x 4 pixels."""
    from kerasdl.data.rows import Columns

    pixels = images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)
    return Columns.of({str(i): column.tolist() for i, column in enumerate(pixels.T)})


if __name__ == "__main__":
    main()
