"""Image classification on official test splits: recipes beside their references.

    python benchmarks/images.py --models cnn resnet --data fashion_mnist --seeds 0 1 2
    python benchmarks/images.py --models resnet --data cifar10
    python benchmarks/images.py --references --data fashion_mnist
    python benchmarks/images.py --table

Each run is a process of its own and adds one row to `benchmarks/results/images.json`;
the backend is Keras's (`KERAS_BACKEND`). The test split is read once per run, at the
end. `seconds` is wall time from the raw data to the test metrics. The references are
scikit-learn on raw pixels, and the networks of the recipes `cnn` and `resnet` in a
plain PyTorch loop of as many epochs, with the same optimizer, schedule and batches, but
nothing else. `--models` takes one reference by its name, too.
"""

import argparse
import json
import os
import tempfile
import time

import numpy as np
from common import RESULTS, in_own_process, machine, report, table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "images.json"
KEY = ("model", "data", "backend", "seed")
SHOWN = {
    "accuracy": ("accuracy, %", 100, 2),
    "log_loss": ("log loss", 1, 4),
    "ece": ("ECE", 1, 4),
    "seconds": ("seconds", 1, 0),
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--references", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--quick", action="store_true", help="do the scripts run?")
    parser.add_argument("--keep", help="keep the run in this folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one, options.seeds[0], options)))
        return
    chosen = [*options.models, *(REFERENCES if options.references else ())]
    for model in chosen:
        for seed in options.seeds:
            row = _in_own_process(model, seed, options)
            report(PATH, row, KEY, quick=options.quick)
    if options.table:
        rows = json.loads(PATH.read_text())
        print(table(rows, ("data", "model", "backend"), SHOWN))


def run(model: str, seed: int, options: argparse.Namespace) -> dict:
    """Train a recipe or a reference, and measure it on the test split."""
    start = time.perf_counter()
    measure = run_reference if model in REFERENCES else run_recipe
    return {
        "model": model,
        "data": options.data,
        "seed": seed,
        **measure(model, seed, options),
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
    }


def run_recipe(model: str, seed: int, options: argparse.Namespace) -> dict:
    """Train one recipe."""
    import keras
    from rich.console import Console

    import kerasdl
    from kerasdl_apps import images

    recipe = images.recipe(model, quick=options.quick, data=options.data, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        out = options.keep or f"{folder}/run"
        done = kerasdl.train(recipe, out=out, console=Console(stderr=True))
    names = ("accuracy", "log_loss", "ece", "f1", "temperature")
    return {
        "backend": keras.backend.backend(),
        **{name: done.metrics[name] for name in names},
        "parameters": done.predictor.model.count_params(),
        "epochs": len(done.history["loss"]),
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


def run_reference(name: str, seed: int, options: argparse.Namespace) -> dict:
    """Measure something that people use instead."""
    from kerasdl.data.image_sources import load_images

    splits = load_images(options.data)
    train, test = splits.train, splits.test
    if options.quick:
        train = train.subset(np.arange(500))
    backend, answer = REFERENCES[name]
    probabilities = answer(train.examples, train.labels, test.examples, seed)
    from kerasdl.evaluate import classification_metrics

    metrics = classification_metrics(test.labels, probabilities, test.label_names)
    return {
        "backend": backend,
        **{key: metrics[key] for key in ("accuracy", "log_loss", "ece", "f1")},
    }


def random_forest(images, labels, test, seed: int) -> np.ndarray:
    """Fit 200 trees to raw pixels."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(200, n_jobs=-1, random_state=seed)
    forest.fit(images.reshape(len(images), -1), labels)
    return forest.predict_proba(test.reshape(len(test), -1))


def logistic_regression(images, labels, test, seed: int) -> np.ndarray:
    """Fit a logistic regression to raw pixels."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=0.01, max_iter=100, random_state=seed)
    model.fit(images.reshape(len(images), -1) / 255, labels)
    return model.predict_proba(test.reshape(len(test), -1) / 255)


def cnn_loop(images, labels, test, seed: int) -> np.ndarray:
    """Train the network of the recipe `cnn` in a loop as people write it."""
    import torch
    from torch import nn

    from kerasdl_apps import images as app

    torch.manual_seed(seed)
    recipe = app.cnn()
    arguments = recipe.arguments
    (hidden,), dropout = arguments["hidden_units"], arguments["dropout"]
    side, channels, stages = images.shape[1], images.shape[-1], []
    for i, filters in enumerate(arguments["filters"]):
        rest = [nn.BatchNorm2d(filters), nn.ReLU()]
        rest.insert(0 if i < arguments["early_pools"] else 2, nn.MaxPool2d(2))
        stages += [nn.Conv2d(channels, filters, 3, padding=1), *rest]
        side, channels = side // 2, filters
    network = nn.Sequential(
        *stages,
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(side * side * channels, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, int(labels.max()) + 1),
    )
    return _torch_loop(network, recipe, images, labels, test)


def resnet_loop(images, labels, test, seed: int) -> np.ndarray:
    """Train the network of the recipe `resnet` in a loop as people write it."""
    import torch
    from step_time import torch_resnet20

    from kerasdl_apps import images as app

    torch.manual_seed(seed)
    network = torch_resnet20(images.shape[-1])
    return _torch_loop(network, app.resnet(), images, labels, test)


def _torch_loop(network, recipe, images, labels, test) -> np.ndarray:
    """Train as long and as fast as a recipe does; return probabilities."""
    import torch

    mean, std = images.mean() / 255, images.std() / 255

    def tensor(pixels):
        scaled = (pixels.transpose(0, 3, 1, 2) / np.float32(255) - mean) / std
        return torch.from_numpy(scaled.astype("float32"))

    network = network.to(memory_format=torch.channels_last)
    x, y, size = tensor(images), torch.from_numpy(labels), recipe.batch_size
    steps = recipe.epochs * (len(x) // size)
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, steps, recipe.warmup
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(x))[: len(x) // size * size].view(-1, size):
            optimizer.zero_grad()
            loss_of(network(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(part) for part in tensor(test).split(500)])
    return logits.softmax(-1).double().numpy()


REFERENCES = {
    "logistic regression, pixels": ("scikit-learn", logistic_regression),
    "random forest, pixels": ("scikit-learn", random_forest),
    "cnn in a plain PyTorch loop": ("torch", cnn_loop),
    "resnet in a plain PyTorch loop": ("torch", resnet_loop),
}


def _in_own_process(model: str, seed: int, options: argparse.Namespace) -> dict:
    arguments = ["--one", model, "--seeds", str(seed), "--data", options.data]
    arguments += ["--quick"] * options.quick
    arguments += ["--keep", options.keep] if options.keep else []
    return json.loads(in_own_process(__file__, *arguments))


if __name__ == "__main__":
    main()
