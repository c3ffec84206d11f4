"""What augmentation adds to a training step: ResNet-20, 128 images of 32x32x3.

    KERAS_BACKEND=jax python benchmarks/augment_speed.py

The policies take turns, so that a busy machine slows all of them alike; printed is the
quickest round, in ms a step, and what it is above no augmentation.
"""

import time

import keras
import numpy as np

from kerasdl.augment import POLICIES, augmented
from kerasdl.data.images import ImageEncoder
from kerasdl.models.resnet import resnet

BATCH, CLASSES, ROUNDS, STEPS = 128, 10, 15, 1


def main() -> None:
    """Time a training step under each policy."""
    random = np.random.default_rng(0)
    labels = np.eye(CLASSES, dtype="float32")[random.integers(0, CLASSES, BATCH)]
    image = random.normal(size=(BATCH, 32, 32, 3)).astype("float32")
    inputs = {"image": image, "target": labels}
    encoder = ImageEncoder((32, 32), 3, (0.5,) * 3, (0.25,) * 3)
    model = resnet((32, 32, 3), CLASSES, variant="resnet20")
    times = {policy: [] for policy in POLICIES}
    wrappers = {policy: augmented(model, policy, encoder) for policy in POLICIES}
    for wrapper in wrappers.values():
        wrapper.train_on_batch(inputs, labels)
    for _ in range(ROUNDS):
        for policy, wrapper in wrappers.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                wrapper.train_on_batch(inputs, labels)
            times[policy].append((time.perf_counter() - start) * 1000 / STEPS)
    print(keras.backend.backend())
    none = min(times["none"])
    for policy, values in times.items():
        value = min(values)
        print(f"{policy:8} {value:8.1f} ms  {value - none:+8.1f} ms")


if __name__ == "__main__":
    main()
