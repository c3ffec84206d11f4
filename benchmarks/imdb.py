"""Sentiment on the official IMDB split: every recipe, and the references beside them.

    python benchmarks/imdb.py --models sentiment ngram_classifier --seeds 0 1 2
    python benchmarks/imdb.py --models sentiment_unlabelled --ship saved_models/NAME
    python benchmarks/imdb.py --references
    python benchmarks/imdb.py --table

Each run is a process of its own and adds one row to `benchmarks/results/imdb.json`; the
backend is Keras's (`KERAS_BACKEND`). The test split is read once per run, at the end.
`seconds` is wall time from the raw reviews to the test metrics: reading, encoding,
training, calibration, prediction.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
RESULTS = Path(__file__).parent / "results" / "imdb.json"
PERCENT = {"accuracy": 100, "accuracy_without_duplicates": 100}
SHOWN = ("accuracy", "accuracy_without_duplicates", "log_loss", "ece", "seconds")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--references", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--quick", action="store_true", help="do the scripts run?")
    parser.add_argument("--ship", help="write the model as a small bundle, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_recipe(options.one, options.seeds[0], options)))
        return
    for model in options.models:
        for seed in options.seeds:
            record(_in_own_process(model, seed, options), options.quick)
    if options.references:
        for row in run_references(quick=options.quick):
            record(row, options.quick)
    if options.table:
        print(table(json.loads(RESULTS.read_text())))


def run_recipe(model: str, seed: int, options: argparse.Namespace) -> dict:
    """Train one recipe and measure it on the official test split."""
    import keras
    from kerasdl_apps import sentiment
    from rich.console import Console

    import kerasdl
    from kerasdl.data.sources import imdb

    recipe = sentiment.recipe(model, quick=options.quick, data="imdb", seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run = kerasdl.train(recipe, out=f"{folder}/run", console=Console(stderr=True))
        if options.ship:
            ship(run, options.ship)
    # Predicted once more, so that the training is timed without this.
    splits = imdb()
    right = run.predictor.probabilities(splits.test.texts).argmax(1)
    right = right == splits.test.labels
    return {
        "model": model,
        "backend": keras.backend.backend(),
        "seed": seed,
        "accuracy_without_duplicates": _without_duplicates(splits, right),
        **{name: run.metrics[name] for name in SHOWN if name in run.metrics},
        **{name: run.metrics[name] for name in ("f1", "roc_auc", "temperature")},
        "parameters": run.predictor.model.count_params(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


def ship(run, folder: str) -> None:
    """Write a run's model as an 8-bit bundle, with the metrics of those 8 bits."""
    import kerasdl
    from kerasdl.bundle import read_bundle, save_bundle
    from kerasdl.data.sources import imdb
    from kerasdl.evaluate import classification_metrics

    spec = read_bundle(run.folder / "bundle")
    parts = {
        "model": run.predictor.model,
        "builder": spec.builder,
        "arguments": spec.arguments,
        "encoder": run.predictor.encoder,
        "label_names": tuple(spec.labels),
        "temperature": spec.temperature,
        "card": (run.folder / "bundle" / "MODEL_CARD.md").read_text(),
        "storage": "int8",
        "keras_copy": False,
    }
    save_bundle(folder, **parts, metrics={})
    test = imdb().test
    small = kerasdl.load(folder).probabilities(test.texts)
    measured = classification_metrics(test.labels, small, test.label_names)
    save_bundle(folder, **parts, metrics={"set": test.name, **measured})
    print(f"{folder}: {measured['accuracy']:.2%} in 8 bits", file=sys.stderr)


def run_references(*, quick: bool) -> list[dict]:
    """Measure scikit-learn's linear models on the same split."""
    from kerasdl.data.sources import imdb

    splits = imdb()
    texts, labels = splits.train.texts, splits.train.labels
    if quick:
        texts, labels = texts[::25], labels[::25]
    rows = []
    for name, fit in REFERENCES.items():
        start = time.perf_counter()
        predicted = fit(texts, labels, splits.test.texts)
        seconds = time.perf_counter() - start
        right = predicted == splits.test.labels
        rows.append(
            {
                "model": name,
                "backend": "scikit-learn",
                "seed": 0,
                "accuracy": float(right.mean()),
                "accuracy_without_duplicates": _without_duplicates(splits, right),
                "seconds": round(seconds, 1),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
        )
    return rows


def nb_svm(order: int):
    """Return a fit of NB-SVM on binary n-grams, each review scaled to unit length."""

    def fit(texts, labels, test):
        from scipy import sparse
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.preprocessing import normalize
        from sklearn.svm import LinearSVC

        vectorizer = CountVectorizer(
            binary=True, ngram_range=(1, order), token_pattern=r"(?u)\b\w+\b|[!?]"
        )
        x = vectorizer.fit_transform(texts)
        positive, negative = (1 + np.asarray(x[labels == c].sum(0))[0] for c in (1, 0))
        ratio = np.log(positive / positive.sum() / (negative / negative.sum()))
        weigh = sparse.diags(ratio)
        model = LinearSVC(C=2).fit(normalize(x @ weigh), labels)
        return model.predict(normalize(vectorizer.transform(test) @ weigh))

    return fit


def tfidf_regression(texts, labels, test):
    """Fit a logistic regression on TF-IDF bigrams."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=10, solver="liblinear")
    model.fit(vectorizer.fit_transform(texts), labels)
    return model.predict(vectorizer.transform(test))


REFERENCES = {
    "TF-IDF bigrams, logistic regression": tfidf_regression,
    "NB-SVM, trigrams, unit length": nb_svm(3),
}


def _without_duplicates(splits, right: np.ndarray) -> float:
    """Return the accuracy on the test reviews that do not stand in train as well."""
    known = set(splits.train.texts)
    fresh = np.array([text not in known for text in splits.test.texts])
    return float(right[fresh].mean())


def _in_own_process(model: str, seed: int, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--one", model, "--seeds", str(seed)]
    command += ["--quick"] * options.quick
    command += ["--ship", options.ship] if options.ship else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def record(row: dict, quick: bool) -> None:
    """Add a row to the results, in place of an earlier one of the same run."""
    print(json.dumps(row))
    if quick:
        return
    key = ("model", "backend", "seed")
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [old for old in rows if any(old[k] != row[k] for k in key)]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n")


def table(rows: list[dict]) -> str:
    """Return the results as a Markdown table: mean over seeds, and spread."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["model"], row["backend"]].append(row)
    head = ("model", "backend", "seeds", "accuracy, %", "without duplicates, %")
    head = (*head, "log loss", "ECE", "seconds")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (model, backend), group in sorted(groups.items()):
        cells = [
            _cell([row[name] * PERCENT.get(name, 1) for row in group if name in row])
            for name in SHOWN
        ]
        lines.append(f"| {model} | {backend} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    mean = np.mean(values)
    digits = 0 if mean >= 100 else 2 if mean >= 1 else 4
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}"


if __name__ == "__main__":
    main()
