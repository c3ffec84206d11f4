"""Make the small bundle that comes with kerasdl out of a trained one.

    python benchmarks/imdb.py --models sentiment_unlabelled --keep runs/unlabelled
    python benchmarks/ship.py runs/unlabelled saved_models/sentiment-imdb

N-grams that hardly tell the classes apart are dropped, tables are stored in 8 bits, and
the result is measured on the official IMDB test split.
"""

import os
import sys
from dataclasses import replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasdl
from kerasdl.bundle import find_bundle, read_bundle, save_bundle
from kerasdl.data.sources import imdb
from kerasdl.evaluate import classification_metrics
from kerasdl.predict import Classifier

# An n-gram whose log-count ratio is at most this share of the largest is dropped: on
# IMDB one in seven, which together hold 0.1 % of the squared length of the texts.
SMALLEST_RATIO = 3.5 / 127


def main(source: str, target: str) -> None:
    """Shrink the bundle `source` into `target` and measure it."""
    folder = find_bundle(source)
    spec, predictor = read_bundle(folder), kerasdl.load(folder)
    bag = predictor.model.get_layer("bag")
    ratio = keras.ops.convert_to_numpy(bag.ratio.value)
    keep = np.abs(ratio).max(axis=1) > SMALLEST_RATIO * np.abs(ratio).max()
    keep[0] = True  # padding
    arguments = {**spec.arguments, "num_ngrams": int(keep.sum())}
    model = kerasdl.BUILDERS[spec.builder](**arguments, optimizer=None)
    for short, long in zip(model.weights, predictor.model.weights, strict=True):
        value = keras.ops.convert_to_numpy(long.value)
        short.assign(value if short.shape == long.shape else value[keep])
    encoder = predictor.encoder
    encoder = replace(encoder, known_hashes=encoder.known_hashes[keep[1:]])
    small = Classifier(model, encoder, spec.labels, **spec.answer)
    parts = {
        "builder": spec.builder,
        "arguments": arguments,
        "storage": "int8",
        "keras_copy": False,
    }
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    save_bundle(target, small, **parts, card=card, metrics={})
    test = imdb().test
    probabilities = kerasdl.load(target).answers(test.examples)
    measured = classification_metrics(test.labels, probabilities, test.label_names)
    card += (
        f"\nThis copy has {keep.sum() - 1:,} of {len(keep) - 1:,} n-grams and tables of"
        f" 8 bits; so it has {measured['accuracy']:.2%} on {test.name}, log loss"
        f" {measured['log_loss']:.4f}, expected calibration error"
        f" {measured['ece']:.2%}.\n"
    )
    metrics = {"set": test.name, **measured}
    save_bundle(target, small, **parts, card=card, metrics=metrics)
    size = sum(path.stat().st_size for path in find_bundle(target).iterdir())
    print(f"{target}: {measured['accuracy']:.2%}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
