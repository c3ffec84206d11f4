"""A training step beside a hand-written PyTorch loop of the same network.

    python benchmarks/step_time.py [--quick] [--backends torch jax]

Every measurement is a process of its own; Keras and PyTorch take turns, so that what
else the machine does meets both. `milliseconds` is the median step, the first ones left
out; `ratio` is Keras's over PyTorch's.
"""

import argparse
import json
import os
import statistics
import time

import numpy as np
from common import RESULTS, in_own_process

from kerasdl.installed import BACKENDS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "step_time.json"
CLASSES = 10
BATCH_SIZE = 64
WARM_UP = 3
# Builder, its arguments, and the images' size.
MODELS = {
    "resnet20": ("resnet", {"variant": "resnet20"}, 32),
    "vit_ti16": ("vit", {"variant": "vit_ti16"}, 64),
}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, model = options.one
        step = _keras_step(model) if side == "keras" else _torch_step(model)
        print(1000 * _median_seconds(step, options.steps))
        return
    if options.quick:
        options.steps = options.repeats = 1
    rows = [
        measure(backend, model, options)
        for model in options.models
        for backend in options.backends
    ]
    if not options.quick:
        record = {"cores": os.cpu_count(), "batch_size": BATCH_SIZE, "rows": rows}
        PATH.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(backend: str, model: str, options) -> dict:
    """Time Keras on a backend and the PyTorch loop, in turn."""
    times = {"keras": [], "torch": []}
    for _ in range(options.repeats):
        for side, found in times.items():
            found.append(
                float(
                    in_own_process(
                        __file__,
                        *("--one", side, model, "--steps", str(options.steps)),
                        KERAS_BACKEND=backend,
                    )
                )
            )
    least = {side: min(found) for side, found in times.items()}
    row = {
        "model": model,
        "backend": backend,
        "milliseconds": round(least["keras"], 1),
        "torch_loop_milliseconds": round(least["torch"], 1),
        "ratio": round(least["keras"] / least["torch"], 2),
    }
    print(json.dumps(row), flush=True)
    return row


def _median_seconds(step, steps: int) -> float:
    seconds = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def _batch(model: str):
    random = np.random.default_rng(0)
    size = MODELS[model][2]
    images = random.normal(size=(BATCH_SIZE, size, size, 3)).astype("float32")
    return images, random.integers(0, CLASSES, BATCH_SIZE)


def _keras_step(model: str):
    import kerasdl

    images, labels = _batch(model)
    builder, arguments, _ = MODELS[model]
    network = kerasdl.BUILDERS[builder](
        images.shape[1:], CLASSES, **arguments, optimizer="adamw"
    )
    return lambda: network.train_on_batch(images, labels)


def _torch_step(model: str):
    import torch
    from torch import nn

    images, labels = _batch(model)
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(labels)
    network = torch_resnet20() if model == "resnet20" else _torch_vit(images.shape[-1])
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    loss_of = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss = loss_of(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_resnet20(channels: int = 3):
    """Write out ResNet-20 with shortcuts of padding (He et al. 2015, section 4.2)."""
    from torch import nn
    from torch.nn import functional

    class Unit(nn.Module):
        def __init__(self, inputs, width):
            super().__init__()
            self.stride, self.missing = (1 if inputs == width else 2), width - inputs
            self.conv1 = nn.Conv2d(inputs, width, 3, self.stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x):
            y = functional.relu(self.norm1(self.conv1(x)))
            y = self.norm2(self.conv2(y))
            if self.missing:
                half = self.missing // 2
                x = x[:, :, :: self.stride, :: self.stride]
                x = functional.pad(x, (0, 0, 0, 0, half, half))
            return functional.relu(x + y)

    widths = [16, *[16] * 3, *[32] * 3, *[64] * 3]
    units = [Unit(*widths[i : i + 2]) for i in range(9)]
    stem = [
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)]
    return nn.Sequential(*stem, *units, *pool)


def _torch_vit(size: int):
    """Write out ViT-Ti/16, attention through PyTorch's fused kernel."""
    import torch
    from torch import nn
    from torch.nn import functional

    width, heads, patch = 192, 3, 16

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1 = nn.LayerNorm(width, 1e-6)
            self.norm2 = nn.LayerNorm(width, 1e-6)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )

        def forward(self, x):
            batch, length, _ = x.shape
            qkv = self.qkv(self.norm1(x)).view(batch, length, 3, heads, -1)
            mixed = functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
            return x + self.mlp(self.norm2(x))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, width, patch, patch)
            self.token = nn.Parameter(torch.zeros(1, 1, width))
            places = (size // patch) ** 2 + 1
            self.positions = nn.Parameter(torch.zeros(1, places, width))
            self.blocks = nn.Sequential(*(Block() for _ in range(12)))
            self.norm = nn.LayerNorm(width, 1e-6)
            self.logits = nn.Linear(width, CLASSES)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
            return self.logits(self.norm(self.blocks(x))[:, 0])

    return Transformer()


if __name__ == "__main__":
    main()
