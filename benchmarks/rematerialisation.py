"""What rematerialisation saves and costs: memory and time of a training step.

    python benchmarks/rematerialisation.py [--models resnet vit transformer] \
        [--backends torch jax tensorflow] [--batch 256]

Each model trains on random data in two processes of its own, as it is and with
`kerasdl.rematerialise`. `step_mb` is how much the largest resident memory of the
process grew from before the first step, in millions of bytes: features, gradients and
optimizer, and what compiling takes. `seconds` is the fastest step. `loss` is that of
the last of them, equal in both if the steps are.
"""

import argparse
import json
import resource
import time

from common import RESULTS, in_own_process, machine, record

from kerasdl.installed import BACKENDS

PATH = RESULTS / "rematerialisation.json"
# name: builder, its arguments
MODELS = {
    "resnet": ("resnet", {"input_shape": (32, 32, 3), "variant": "resnet20"}),
    "vit": (
        "vit",
        {
            "input_shape": (32, 32, 3),
            "patch_size": 4,
            "width": 96,
            "depth": 8,
            "num_heads": 4,
            "dropout": 0.1,
        },
    ),
    "transformer": (
        "transformer_classifier",
        {"vocabulary_size": 5000, "depth": 6, "width": 96},
    ),
}
CLASSES, TOKENS, STEPS = 10, 128, 4


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[*MODELS])
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.batch)))
        return
    for backend in options.backends:
        for model in options.models:
            for again in ("no", "yes"):
                line = in_own_process(
                    *(__file__, "--one", model, again, "--batch", str(options.batch)),
                    KERAS_BACKEND=backend,
                )
                row = json.loads(line)
                print(json.dumps(row), flush=True)
                record(PATH, row, ("model", "backend", "rematerialised", "batch"))


def measure(name: str, again: str, batch: int) -> dict:
    """Train a few steps; return what they took."""
    import keras
    import numpy as np

    import kerasdl
    from kerasdl import backend

    backend.set_seed(0)
    builder, arguments = MODELS[name]
    model = kerasdl.BUILDERS[builder](**arguments, num_classes=CLASSES)
    segments = kerasdl.rematerialise(model) if again == "yes" else 1
    random = np.random.default_rng(0)
    if "input_shape" in arguments:
        shape = (batch, *arguments["input_shape"])
        inputs = random.normal(size=shape).astype("float32")
    else:
        inputs = random.integers(1, arguments["vocabulary_size"], (batch, TOKENS))
        inputs = inputs.astype("int32")
    labels = random.integers(0, CLASSES, batch)
    before, times = peak(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        loss, _ = model.train_on_batch(inputs, labels)
        loss = float(loss)
        times.append(time.perf_counter() - start)
    return {
        "model": name,
        "backend": keras.backend.backend(),
        "rematerialised": again == "yes",
        "segments": segments,
        "batch": batch,
        "step_mb": round((peak() - before) / 1e6),
        "seconds": round(min(times), 3),
        "loss": round(loss, 5),
        "machine": machine(),
    }


def peak() -> int:
    """Return the largest resident memory so far, in bytes (Linux)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
