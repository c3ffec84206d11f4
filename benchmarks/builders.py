"""Every image builder after one epoch of 10,000 Fashion-MNIST images.

    python benchmarks/builders.py
    python benchmarks/builders.py --builders resnet vit --data fashion.npz
    python benchmarks/builders.py --check
    python benchmarks/builders.py --table

The smallest variant of each builder, with its own optimizer and learning rate, sees
the images once, at 28 x 28 pixels or the smallest size it takes (14 x 14 or 7 x 7 for
the slowest; AlexNet and VGG have fewer units), and is measured on 2,000 more of the
train split. Each run is a process of its own, in which a warning, even a logged one, is
an error. It adds one row to `benchmarks/results/builders.json`; the backend is Keras's
(`KERAS_BACKEND`). `--check` compares with the recorded rows instead: it fails where a
change made learning worse.

Only the preparation of the data needs TensorFlow: `--data FILE.npz` is written where it
is missing and read where it is there, so that a machine without it can run the rest.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from common import RESULTS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "builders.json"
TRAINED, MEASURED = 10_000, 2_000
QUICK = 500
# Divides all of them, so that no last batch of another size is compiled.
BATCH_SIZE = 100
SEED = 0
# Fall of the accuracy that is no chance: four standard errors at 85 %.
TOLERANCE = 0.03
KEY = ("builder", "backend", "device")


@dataclass(frozen=True)
class Workload:
    """How a builder meets the images.

    Attributes:
        shape: Shape of one example. Images below it are enlarged by a whole factor,
            then framed in black; larger ones are averaged over squares of a whole
            factor; `(28, 28)` reads the rows as a series.
        arguments: Arguments of the builder.
    """

    shape: tuple[int, ...] = (28, 28, 1)
    arguments: dict = field(default_factory=dict)


WORKLOADS = {
    "alexnet": Workload((63, 63, 1), {"hidden_units": [256, 256]}),
    "cnn": Workload(),
    "densenet": Workload((7, 7, 1), {"variant": "densenet40"}),
    "efficientnet": Workload((14, 14, 1), {"variant": "efficientnet_b0"}),
    "inception": Workload(),
    "lenet5": Workload(),
    "mlp": Workload((784,)),
    "resnet": Workload((14, 14, 1), {"variant": "resnet20"}),
    "rnn": Workload((28, 28)),
    "vgg": Workload(
        (32, 32, 1), {"variant": "vgg11", "width": 16, "hidden_units": [256]}
    ),
    "vit": Workload(arguments={"variant": "cct_2_3x2"}),
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--builders", nargs="*", choices=WORKLOADS, default=[])
    parser.add_argument("--data", type=Path, help="images and labels, an .npz file")
    parser.add_argument("--quick", action="store_true", help="do the builders run?")
    parser.add_argument("--check", action="store_true", help="compare, record nothing")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", choices=WORKLOADS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(PATH.read_text())))
    elif options.one:
        print(json.dumps(run_builder(options.one, options.data, quick=options.quick)))
    else:
        sys.exit(run_all(options))


def run_all(options: argparse.Namespace) -> str | None:
    """Run the builders, and return what went wrong."""
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder, "fashion.npz")
        if not data.exists():
            prepare(data)
        for name in options.builders or available():
            row = _in_own_process(name, data, quick=options.quick)
            if row is None:
                faults.append(f"{name} failed")
                continue
            print(json.dumps(row), flush=True)
            if options.check:
                faults += compare(row)
            elif not options.quick:
                record(row)
    return "\n".join(faults) or None


def available() -> list[str]:
    """Return the workloads whose builders exist."""
    import kerasdl

    return [name for name in WORKLOADS if name in kerasdl.BUILDERS]


def prepare(path: Path) -> None:
    """Write the images of the train split that are used, and their labels."""
    import tensorflow_datasets

    split = f"train[:{TRAINED}]+train[-{MEASURED}:]"
    batch = tensorflow_datasets.as_numpy(
        tensorflow_datasets.load("fashion_mnist", split=split, batch_size=-1)
    )
    np.savez_compressed(path, images=batch["image"][..., 0], labels=batch["label"])


def run_builder(name: str, data: Path, *, quick: bool) -> dict:
    """Train one builder and measure it."""
    import keras

    import kerasdl
    from kerasdl import backend

    workload = WORKLOADS[name]
    with np.load(data) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype("int32")
    x = fit_shape(images, workload.shape)
    x = (x - x[:TRAINED].mean()) / x[:TRAINED].std()
    trained, measured = (QUICK, QUICK) if quick else (TRAINED, MEASURED)
    held = slice(TRAINED, TRAINED + measured)

    for logger in (None, "absl", "jax", "tensorflow"):
        logging.getLogger(logger).addHandler(_Refuse(logging.WARNING))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.set_seed(SEED)
        model = kerasdl.BUILDERS[name](workload.shape, 10, **workload.arguments)
        start = time.perf_counter()
        history = model.fit(
            x[:trained],
            labels[:trained],
            batch_size=BATCH_SIZE,
            shuffle=False,  # Keras's order differs between backends
            verbose=0,
        ).history
        seconds = time.perf_counter() - start
        loss, accuracy = model.evaluate(
            x[held], labels[held], batch_size=BATCH_SIZE, verbose=0
        )
    return {
        "builder": name,
        **asdict(workload),
        "backend": keras.backend.backend(),
        "device": device(),
        "parameters": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        "train_loss": round(float(history["loss"][0]), 4),
        "loss": round(float(loss), 4),
        "accuracy": round(float(accuracy), 4),
        "seconds": round(seconds, 1),
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


class _Refuse(logging.Handler):
    """Raise what TensorFlow and JAX log instead of warning."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeWarning(record.getMessage())


def fit_shape(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return pixels from 0 to 1 in examples of a shape, framed if it is larger."""
    if len(shape) == 3:
        shrink = max(1, max(images.shape[1:]) // min(shape[:2]))
        squares = [n for size in images.shape[1:] for n in (size // shrink, shrink)]
        images = images.reshape(-1, *squares).mean(axis=(2, 4))
        factor = min(shape[:2]) // max(images.shape[1:])
        images = images.repeat(factor, axis=1).repeat(factor, axis=2)
        spare = [size - old for size, old in zip(shape, images.shape[1:], strict=False)]
        images = np.pad(images, [(0, 0), *((n // 2, n - n // 2) for n in spare)])
    return images.reshape(-1, *shape).astype("float32") / 255


def device() -> str:
    """Return the name of the device that the backend uses, `"cpu"` without one."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_device_details(gpu)["device_name"]
    return "cpu"


def _in_own_process(name: str, data: Path, *, quick: bool) -> dict | None:
    command = [sys.executable, __file__, "--one", name, "--data", str(data)]
    command += ["--quick"] * quick
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def _recorded_beside(row: dict) -> tuple[list[dict], list[dict]]:
    """Return the recorded rows of the same run, and the others."""
    rows = json.loads(PATH.read_text()) if PATH.exists() else []
    same = [old for old in rows if all(old[key] == row[key] for key in KEY)]
    return same, [old for old in rows if old not in same]


def record(row: dict) -> None:
    """Add a row to the results, in place of an earlier one of the same run."""
    _, others = _recorded_beside(row)
    rows = sorted([*others, row], key=lambda row: [row[key] for key in KEY])
    PATH.write_text(json.dumps(rows, indent=1) + "\n")


def compare(row: dict) -> list[str]:
    """Return what is worse than in the recorded row of the same run."""
    same, _ = _recorded_beside(row)
    if not same:
        return [f"{row['builder']} was never recorded on {row['backend']}"]
    before, now = same[0]["accuracy"], row["accuracy"]
    worse = before - now > TOLERANCE
    return [f"{row['builder']}: accuracy {now}, was {before}"] if worse else []


def table(rows: list[dict]) -> str:
    """Return the results as a Markdown table, a column for each backend and device."""
    places = sorted({(row["backend"], row["device"]) for row in rows})
    head = ["builder", "variant", "input", "parameters"]
    head += [f"{backend}, {device}: accuracy, % (loss)" for backend, device in places]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in sorted({row["builder"] for row in rows}):
        found = {(r["backend"], r["device"]): r for r in rows if r["builder"] == name}
        first = next(iter(found.values()))
        cells = [name, first["arguments"].get("variant", "")]
        cells += [" x ".join(map(str, first["shape"])), f"{first['parameters']:,}"]
        cells += [_cell(found.get(place)) for place in places]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict | None) -> str:
    return f"{100 * row['accuracy']:.1f} ({row['loss']:.2f})" if row else "-"


if __name__ == "__main__":
    main()
