"""Sentiment on the official IMDB split: every recipe beside its references.

    python benchmarks/imdb.py --models sentiment ngram_classifier --seeds 0 1 2
    python benchmarks/imdb.py --references
    python benchmarks/imdb.py --models sentiment --data sample --picture docs/NAME.png
    python benchmarks/imdb.py --table

Each run is a process of its own and adds one row to `benchmarks/results/DATA.json`; the
backend is Keras's (`KERAS_BACKEND`). The test split is read once per run, at the end.
`seconds` is wall time from the raw reviews to the test metrics: reading, encoding,
training, calibration, prediction.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from common import RESULTS, in_own_process, machine, record, table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Columns of the table: title, factor and decimals.
SHOWN = {
    "accuracy": ("accuracy, %", 100, 2),
    "accuracy_without_duplicates": ("without duplicates, %", 100, 2),
    "log_loss": ("log loss", 1, 4),
    "ece": ("ECE", 1, 4),
    "seconds": ("seconds", 1, 0),
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--data", choices=("imdb", "sample"), default="imdb")
    parser.add_argument("--references", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--quick", action="store_true", help="do the scripts run?")
    parser.add_argument("--keep", help="keep the run in this folder")
    parser.add_argument("--picture", help="draw the run, for the README")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_recipe(options.one, options.seeds[0], options)))
        return
    for model in options.models:
        for seed in options.seeds:
            add(_in_own_process(model, seed, options), options)
    if options.references:
        for row in run_references(options):
            add(row, options)
    if options.table:
        rows = json.loads(results_of(options).read_text())
        print(table(rows, ("model", "backend"), SHOWN))


def run_recipe(model: str, seed: int, options: argparse.Namespace) -> dict:
    """Train one recipe and measure it on the official test split."""
    import keras
    from rich.console import Console

    import kerasdl
    from kerasdl.data.sources import load_texts
    from kerasdl_apps import sentiment

    recipe = sentiment.recipe(model, quick=options.quick, data=options.data, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        out = options.keep or f"{folder}/run"
        run = kerasdl.train(recipe, out=out, console=Console(stderr=True))
    # Predicted once more, so that the training is timed without this.
    splits = load_texts(options.data)
    probabilities = run.predictor.answers(splits.test.examples)
    right = probabilities.argmax(axis=1) == splits.test.labels
    if options.picture:
        draw(run, splits.test, probabilities, options.picture)
    return {
        "model": model,
        "backend": keras.backend.backend(),
        "seed": seed,
        "accuracy_without_duplicates": _without_duplicates(splits, right),
        **{name: run.metrics[name] for name in SHOWN if name in run.metrics},
        **{name: run.metrics[name] for name in ("f1", "roc_auc", "temperature")},
        "parameters": run.predictor.model.count_params(),
        "machine": machine(),
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


def draw(run, test, probabilities: np.ndarray, path: str) -> None:
    """Draw a run in one wide picture."""
    from kerasdl.report import RunReport, summary_picture

    report = RunReport(
        title=f"kerasdl {run.recipe.build} on the {run.recipe.data}",
        summary={},
        metrics=run.metrics,
        history=run.history,
        labels=test.labels,
        answers=probabilities,
        label_names=test.label_names,
    )
    summary_picture(path, report)


def run_references(options: argparse.Namespace) -> list[dict]:
    """Measure scikit-learn's linear models on the same split."""
    from kerasdl.data.sources import load_texts

    splits = load_texts(options.data)
    texts, labels = splits.train.examples, splits.train.labels
    if options.quick:
        texts, labels = texts[::25], labels[::25]
    rows = []
    for name, fit in REFERENCES.items():
        start = time.perf_counter()
        predicted = fit(texts, labels, splits.test.examples)
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
                "machine": machine(),
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
    known = set(splits.train.examples)
    fresh = np.array([text not in known for text in splits.test.examples])
    return float(right[fresh].mean())


def _in_own_process(model: str, seed: int, options: argparse.Namespace) -> dict:
    arguments = ["--one", model, "--seeds", str(seed), "--data", options.data]
    arguments += ["--quick"] * options.quick
    arguments += ["--keep", options.keep] if options.keep else []
    arguments += ["--picture", options.picture] if options.picture else []
    return json.loads(in_own_process(__file__, *arguments))


def results_of(options: argparse.Namespace) -> Path:
    """Return the file that holds the results on the chosen data."""
    return RESULTS / f"{options.data}.json"


def add(row: dict, options: argparse.Namespace) -> None:
    """Print a row and add it to the results."""
    print(json.dumps(row))
    if not options.quick:
        record(results_of(options), row, ("model", "backend", "seed"))


if __name__ == "__main__":
    main()
