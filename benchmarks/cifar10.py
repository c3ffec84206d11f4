"""ResNets on CIFAR-10 by the recipe of He et al. 2015, section 4.2.

    python benchmarks/cifar10.py --variants resnet20 resnet56 --seeds 0 1 2
    python benchmarks/cifar10.py --export cifar10.npz
    python benchmarks/cifar10.py --data cifar10.npz --precision mixed_bfloat16

64,000 steps of 128 images, SGD with momentum, images padded, cropped and flipped at
random. The paper has 91.25 % with 20 layers and 93.03 % with 56. Each run adds one row
to `benchmarks/results/cifar10.json`, measured once, after the last step; the backend is
Keras's (`KERAS_BACKEND`). Reading the data from tensorflow_datasets needs TensorFlow,
reading the `.npz` that `--export` writes does not.

Differs: images are divided by the deviation of their channel, and the mean that is
subtracted is the channel's, as published weights expect.
"""

import argparse
import json
import os
import time

import keras
import numpy as np
from common import RESULTS, machine, record

import kerasdl
from kerasdl import backend

PATH = RESULTS / "cifar10.json"
KEY = ("model", "backend", "precision", "seed", "steps")
PARTS = ("train_images", "train_labels", "test_images", "test_labels")
CHANNEL_MEAN = np.array([125.3, 123.0, 113.9], "float32")
CHANNEL_DEVIATION = np.array([63.0, 62.1, 66.7], "float32")
STEPS, BATCH_SIZE, PAD = 64_000, 128, 4
RATE, MOMENTUM, DECAY = 0.1, 0.9, 1e-4


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--data", help="an .npz file, otherwise tensorflow_datasets")
    parser.add_argument("--export", help="write the data as this .npz file, no more")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    options = parser.parse_args()
    data = load(options.data)
    if options.export:
        np.savez_compressed(options.export, **data)
        return
    if options.quick:
        data, options.steps = first(data, train=256, test=256), 4
    keras.config.set_dtype_policy(options.precision)
    for variant in options.variants:
        for seed in options.seeds:
            row = run(data, variant, seed, options)
            print(json.dumps(row))
            if not options.quick:
                record(PATH, row, KEY)


def load(path: str | None = None) -> dict[str, np.ndarray]:
    """Read images `(count, 32, 32, 3)` uint8 and labels, as `PARTS` names them."""
    if path:
        with np.load(path) as file:
            return {part: file[part] for part in PARTS}
    import tensorflow_datasets as tfds

    data = {}
    for split in ("train", "test"):
        rows = tfds.as_numpy(tfds.load("cifar10", split=split, batch_size=-1))
        data[f"{split}_images"], data[f"{split}_labels"] = rows["image"], rows["label"]
    return data


def first(data: dict, *, train: int, test: int) -> dict[str, np.ndarray]:
    """Return only the first images of each split."""
    counts = {"train": train, "test": test}
    return {part: data[part][: counts[part.split("_")[0]]] for part in PARTS}


def run(data: dict, variant: str, seed: int, options: argparse.Namespace) -> dict:
    """Train one network and measure it on the test images."""
    start = time.perf_counter()
    model, _ = train(data, steps=options.steps, seed=seed, variant=variant)
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(*test_set(data), batch_size=500, verbose=0)
    return {
        "model": variant,
        "backend": keras.backend.backend(),
        "precision": options.precision,
        "seed": seed,
        "steps": options.steps,
        "accuracy": accuracy,
        "log_loss": loss,
        "seconds": round(seconds, 1),
        "images_per_second": round(options.steps * BATCH_SIZE / seconds),
        "machine": machine(),
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


def train(data: dict, *, steps: int, seed: int, validate: bool = False, **arguments):
    """Train a ResNet for this many steps; return it and its history."""
    backend.set_seed(seed)
    batches = Augmented(data["train_images"], data["train_labels"], seed=seed)
    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay(
            [steps // 2, steps * 3 // 4], [RATE, RATE / 10, RATE / 100]
        ),
        momentum=MOMENTUM,
        # The paper's decay is part of the gradient, and momentum adds it up; Keras
        # subtracts it from the weights by itself, once.
        weight_decay=DECAY / (1 - MOMENTUM),
    )
    model = kerasdl.resnet((32, 32, 3), 10, optimizer=optimizer, **arguments)
    history = model.fit(
        batches,
        epochs=max(round(steps / len(batches)), 1),
        validation_data=test_set(data) if validate else None,
        verbose=2,
    ).history
    return model, history


def normalise(images: np.ndarray) -> np.ndarray:
    """Bring pixels to mean 0 and deviation 1."""
    return (images - CHANNEL_MEAN) / CHANNEL_DEVIATION


def test_set(data: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised test images and their labels."""
    return normalise(data["test_images"]), data["test_labels"]


class Augmented(keras.utils.PyDataset):
    """Shuffled batches of images, each cropped and flipped at random."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, seed: int):
        super().__init__(workers=min(4, os.cpu_count()), max_queue_size=32)
        count, height, width, channels = images.shape
        padded = np.empty((count, height + 2 * PAD, width + 2 * PAD, channels), "uint8")
        padded[:] = CHANNEL_MEAN.round()
        padded[:, PAD:-PAD, PAD:-PAD] = images
        self.crops = np.lib.stride_tricks.sliding_window_view(
            padded, (height, width), axis=(1, 2)
        )
        self.labels, self.seed, self.epoch = labels, seed, 0
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.labels) // BATCH_SIZE

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng((self.seed, self.epoch, index))
        rows = self.order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        top, left = random.integers(0, 2 * PAD + 1, (2, len(rows)))
        images = self.crops[rows, top, left].transpose(0, 2, 3, 1)
        flipped = random.random(len(rows)) < 0.5
        images[flipped] = images[flipped, :, ::-1]
        return normalise(images), self.labels[rows]

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self.epoch += 1
        random = np.random.default_rng((self.seed, self.epoch))
        self.order = random.permutation(len(self.labels))


if __name__ == "__main__":
    main()
