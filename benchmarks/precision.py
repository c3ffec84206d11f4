"""Accuracy and time in 16 bits beside float32, on Fashion-MNIST and IMDB.

    python benchmarks/precision.py --data fashion_mnist imdb --seeds 0 1 2
    python benchmarks/precision.py --table

Short recipes on a part of the training set, a new part for each seed, measured on the
official test splits. Each run is a process of its own and adds one row to
`benchmarks/results/precision.json`; the backend is Keras's (`KERAS_BACKEND`).
`seconds` is the time of the training alone. `half_accuracy` and `half_log_loss` are
those of the same trained weights where the answers, too, are computed in bfloat16, and
`predict_seconds` and `half_predict_seconds` the times of 2,000 answers.
"""

import argparse
import json
import os
import time
from dataclasses import replace

import numpy as np
from common import RESULTS, in_own_process, machine, record

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "precision.json"
KEY = ("data", "precision", "backend", "seed")
# data: app, recipe, and what is changed of it
SHORT = {
    "fashion_mnist": ("images", "cnn", {"epochs": 2, "max_examples": 12_000}),
    "imdb": ("sentiment", "text_cnn", {"epochs": 2, "max_examples": 10_000}),
}
QUICK = {"epochs": 1, "max_examples": 200}
COMPARED = ("float32", "mixed_bfloat16")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=[], choices=SHORT)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--precisions", nargs="*", default=COMPARED)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    runs = [
        (data, seed, precision)
        for data in options.data
        for seed in options.seeds
        for precision in options.precisions
    ]
    for run in runs:
        if options.one:
            print(json.dumps(measure(*run, quick=options.quick)))
            continue
        data, seed, precision = run
        quick = ["--quick"] if options.quick else []
        line = in_own_process(
            __file__, "--one", *quick,
            *("--data", data, "--seeds", str(seed), "--precisions", precision),
        )  # fmt: skip
        print(line, flush=True)
        if not options.quick:
            record(PATH, json.loads(line), KEY)
    if options.table:
        print(compared(json.loads(PATH.read_text())))


def measure(data: str, seed: int, precision: str, *, quick: bool) -> dict:
    """Train a short recipe in a precision, and measure it on the test split."""
    import keras

    import kerasdl
    from kerasdl.evaluate import metrics
    from kerasdl.fit import fit
    from kerasdl.training import LOADERS
    from kerasdl_apps import images, sentiment

    app, model, changes = SHORT[data]
    recipe = {"images": images, "sentiment": sentiment}[app].recipe(
        model, data="sample" if quick else data, seed=seed, precision=precision
    )
    recipe = replace(recipe, **(QUICK if quick else changes))
    splits = LOADERS[recipe.kind](recipe.data)
    train, test = (_part(x, recipe, seed) for x in (splits.train, splits.test))
    if not quick:
        test = splits.test
    start = time.perf_counter()
    fitted = fit(recipe, kerasdl.BUILDERS[recipe.build], train)
    seconds = time.perf_counter() - start
    kept, half = fitted.predictor, in_bfloat16(fitted)
    found = {}
    for prefix, predictor in (("", kept), ("half_", half)):
        some = test.examples[:2000]
        predictor.answers(some)  # compiles
        start = time.perf_counter()
        predictor.answers(some)
        found[f"{prefix}predict_seconds"] = round(time.perf_counter() - start, 3)
        answers = predictor.answers(test.examples)
        measured = metrics(test.labels, answers, test.label_names)
        for name in ("accuracy", "log_loss"):
            found[prefix + name] = measured[name]
    return {
        "data": data,
        "model": model,
        "precision": precision,
        "backend": keras.backend.backend(),
        "seed": seed,
        **found,
        "seconds": round(seconds, 1),
        "machine": machine(),
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


def _part(data, recipe, seed: int):
    """Return as many examples as the recipe trains on, chosen by the seed."""
    count = min(recipe.max_examples, len(data))
    rows = np.random.default_rng(seed).permutation(len(data))[:count]
    return data.subset(np.sort(rows))


def in_bfloat16(fitted):
    """Return the trained classifier with a model that answers in bfloat16."""
    import kerasdl
    from kerasdl.precision import precision
    from kerasdl.predict import Classifier

    kept = fitted.predictor
    with precision("mixed_bfloat16"):
        build = kerasdl.BUILDERS[fitted.builder]
        model = build(**{**fitted.arguments, "optimizer": None})
    model.set_weights(kept.model.get_weights())
    return Classifier(model, kept.encoder, kept.labels, kept.temperature, kept.tta)


def compared(rows: list[dict]) -> str:
    """Return a Markdown table of how bfloat16 differs, seed by seed, from float32."""
    text = [
        "| data | backend | seeds | float32, % | bfloat16, % | difference | "
        "time of training, times float32 | answers, bfloat16 minus float32 | "
        "their time, times float32 |",
        "|---" * 9 + "|",
    ]
    for data, backend in sorted({(row["data"], row["backend"]) for row in rows}):
        pairs = [
            [by_precision[name] for name in COMPARED]
            for by_precision in _by_seed(rows, data, backend)
            if set(COMPARED) <= set(by_precision)
        ]
        if not pairs:
            continue
        plain, half = (
            100 * np.array([pair[place]["accuracy"] for pair in pairs])
            for place in (0, 1)
        )
        answers = [r["half_accuracy"] - r["accuracy"] for pair in pairs for r in pair]
        times = [pair[1]["seconds"] / pair[0]["seconds"] for pair in pairs]
        answer_times = [
            r["half_predict_seconds"] / r["predict_seconds"] for p in pairs for r in p
        ]
        text.append(
            f"| {data} | {backend} | {len(pairs)} | {_spread(plain)} | {_spread(half)} "
            f"| {_spread(half - plain)} | {np.median(times):.2f} "
            f"| {_spread(100 * np.array(answers))} | {np.median(answer_times):.2f} |"
        )
    return "\n".join(text)


def _by_seed(rows: list[dict], data: str, backend: str) -> list[dict]:
    """Return a dictionary for each seed, from precision to row."""
    found = {}
    for row in rows:
        if (row["data"], row["backend"]) == (data, backend):
            found.setdefault(row["seed"], {})[row["precision"]] = row
    return list(found.values())


def _spread(values: np.ndarray) -> str:
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
