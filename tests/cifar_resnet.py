"""He et al. 2015, section 4.2, in plain PyTorch: the weights as published, the network.

Option A: where channels grow, the shortcut skips every second pixel and pads with zero
channels, half of them before and half after.
"""

import numpy as np
import pytest

STAGES, UNITS = (1, 2, 3), 3


def published(width=16, seed=0):
    """Return random weights of a ResNet-20 under the names of its implementations."""
    random = np.random.default_rng(seed)

    def conv(outputs, inputs):
        scale = (2 / 9 / inputs) ** 0.5
        return random.normal(0, scale, (outputs, inputs, 3, 3)).astype("float32")

    def norm(name, width):
        return {
            f"{name}.weight": random.uniform(0.5, 1.0, width).astype("float32"),
            f"{name}.bias": random.normal(0, 0.1, width).astype("float32"),
            f"{name}.running_mean": random.normal(0, 0.1, width).astype("float32"),
            f"{name}.running_var": random.uniform(0.5, 1.5, width).astype("float32"),
            f"{name}.num_batches_tracked": np.array(7),
        }

    state = {"conv1.weight": conv(width, 3), **norm("bn1", width)}
    before = width
    for stage in STAGES:
        after = width * 2 ** (stage - 1)
        for unit in range(UNITS):
            name = f"layer{stage}.{unit}"
            state[f"{name}.conv1.weight"] = conv(after, before)
            state |= norm(f"{name}.bn1", after)
            state[f"{name}.conv2.weight"] = conv(after, after)
            state |= norm(f"{name}.bn2", after)
            before = after
    state["linear.weight"] = random.normal(0, 0.3, (10, before)).astype("float32")
    state["linear.bias"] = random.normal(0, 0.1, 10).astype("float32")
    return state


def logits(state, images, *, plain=False):
    """Compute what the network makes of images `(batch, height, width, channels)`."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    weights = {name: torch.tensor(value) for name, value in state.items()}

    def conv(x, name, stride=1):
        return functional.conv2d(x, weights[f"{name}.weight"], None, stride, padding=1)

    def norm(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(weights[f"{name}.{part}"] for part in names))

    def shortcut(x, stride):
        more = x.shape[1] // 2 if stride == 2 else 0
        return functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more, more))

    x = norm(conv(torch.tensor(images.transpose(0, 3, 1, 2)), "conv1"), "bn1").relu()
    for stage in STAGES:
        for unit in range(UNITS):
            name, stride = f"layer{stage}.{unit}", 2 if stage > 1 and unit == 0 else 1
            y = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2")
            x = (y if plain else y + shortcut(x, stride)).relu()
    pooled = x.mean((2, 3))
    return (pooled @ weights["linear.weight"].T + weights["linear.bias"]).numpy()
