"""Make the small bundles that come with kerasdl out of trained ones.

    python benchmarks/imdb.py --models sentiment_unlabelled --keep runs/unlabelled
    python benchmarks/ship.py runs/unlabelled saved_models/sentiment-imdb
    python benchmarks/images.py --models cnn_deep --data fashion_mnist --keep runs/f
    python benchmarks/ship.py runs/f saved_models/fashion-mnist

Of texts, n-grams that hardly tell the classes apart are dropped and tables are stored
in 8 bits; networks for images are stored in 16 bits. The result is measured on the
official test split.
"""

import os
import sys
from dataclasses import replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as kerasdl, after Keras here

import keras
import numpy as np

import kerasdl
from kerasdl.bundle import Bundle, find_bundle, read_bundle, save_bundle
from kerasdl.data.image_sources import load_images
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
    if spec.task == "image-classification":
        small, arguments, storage = predictor, spec.arguments, "float16"
        note, test = "weights of 16 bits", load_images("fashion_mnist").test
    else:
        small, arguments, note = without_weak_ngrams(spec, predictor)
        storage, test = "int8", imdb().test
    parts = {
        "builder": spec.builder,
        "arguments": arguments,
        "storage": storage,
        "keras_copy": False,
    }
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    save_bundle(target, small, **parts, card=card, metrics={})
    probabilities = kerasdl.load(target).answers(test.examples)
    measured = classification_metrics(test.labels, probabilities, test.label_names)
    card += (
        f"\nThis copy has {note}; so it has {measured['accuracy']:.2%} on {test.name}, "
        f"log loss {measured['log_loss']:.4f}, expected calibration error "
        f"{measured['ece']:.2%}.\n"
    )
    metrics = {"set": test.name, **measured}
    save_bundle(target, small, **parts, card=card, metrics=metrics)
    size = sum(path.stat().st_size for path in find_bundle(target).iterdir())
    print(f"{target}: {measured['accuracy']:.2%}, {size / 1e6:.2f} MB")


def without_weak_ngrams(
    spec: Bundle, predictor: Classifier
) -> tuple[Classifier, dict, str]:
    """Return a smaller classifier, its builder's arguments, and what it lacks."""
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
    left = f"{keep.sum() - 1:,} of {len(keep) - 1:,} n-grams and tables of 8 bits"
    return small, arguments, left


if __name__ == "__main__":
    main(*sys.argv[1:])
