"""Does depth help? Plain and residual networks of 20 and 56 layers on CIFAR-10.

    TFDS_DATA_DIR=/data python benchmarks/depth.py

Figure 6 of He et al. 2015 in small: a fifth of the images, half the width and few
steps, so that two cores need about 15 minutes on TensorFlow. Writes
`benchmarks/results/depth.json` and draws `docs/resnet-depth.png`.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import keras
from cifar10 import first, load, train
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
KINDS = {"plain": "none", "residual": "padding"}
DEPTHS = {20: "tab:blue", 56: "tab:red"}


def main() -> None:
    """Train the four networks, write the curves and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="an .npz file, otherwise tensorflow_datasets")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    options = parser.parse_args()
    results, pictures = ROOT / "benchmarks" / "results", ROOT / "docs"
    if options.quick:
        options.images, options.steps = 256, 2
        results = pictures = Path(tempfile.mkdtemp())
    data = first(load(options.data), train=options.images, test=options.images // 5)
    curves = [curve(data, kind, depth, options) for kind in KINDS for depth in DEPTHS]
    (results / "depth.json").write_text(json.dumps(curves, indent=1) + "\n")
    draw(curves, pictures / "resnet-depth.png")


def curve(data: dict, kind: str, depth: int, options: argparse.Namespace) -> dict:
    """Train one network; return its errors after each epoch."""
    start = time.perf_counter()
    _, history = train(
        data,
        steps=options.steps,
        seed=options.seed,
        validate=True,
        variant=f"resnet{depth}",
        width=options.width,
        shortcut=KINDS[kind],
    )
    return {
        "kind": kind,
        "depth": depth,
        "train_error": [1 - accuracy for accuracy in history["accuracy"]],
        "test_error": [1 - accuracy for accuracy in history["val_accuracy"]],
        "steps": options.steps,
        "images": options.images,
        "width": options.width,
        "seed": options.seed,
        "backend": keras.backend.backend(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def draw(curves: list[dict], path: Path) -> None:
    """Draw errors by epoch: dashed in training, solid on the test images."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = dict(zip(KINDS, figure.subplots(1, 2, sharey=True), strict=True))
    for row in curves:
        axis, color = axes[row["kind"]], DEPTHS[row["depth"]]
        epochs = range(1, len(row["test_error"]) + 1)
        axis.plot(epochs, row["train_error"], "--", color=color, linewidth=1)
        label = f"{row['depth']} layers"
        axis.plot(epochs, row["test_error"], color=color, linewidth=2, label=label)
    for kind, axis in axes.items():
        axis.set(title=kind, xlabel="epoch")
        axis.yaxis.set_major_formatter("{x:.0%}")
        axis.grid(alpha=0.3)
        axis.legend()
    axes["plain"].set_ylabel("error (dashed: training)")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
