"""How long building a large model takes, and how much of it the random numbers.

    python benchmarks/build_time.py [--backends torch jax] [--repeats 3]

Every build is a process of its own, imports excluded, and is repeated; the least of the
times is reported. `zeros` starts all of the model's random kernels at zero, `keras`
draws them with Keras's truncated normal distribution, `kerasdl` with ours, which is the
default. `share` is that of the random numbers in building with Keras's.
"""

import argparse
import json
import os
import time

from common import RESULTS, in_own_process, machine

from kerasdl.installed import BACKENDS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "build_time.json"
MODELS = {
    "resnet152": ("resnet", {"variant": "resnet152"}),
    "vit_l16": ("vit", {"variant": "vit_l16"}),
}
NUMBERS = ("zeros", "keras", "kerasdl")
# Seconds that building may take.
LIMITS = {"tensorflow": 4, "jax": 6, "torch": 4}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(build(*options.one))
        return
    rows = [
        measure(backend, model, options.repeats)
        for backend in options.backends
        for model in options.models
    ]
    record = {"machine": machine(), "rows": rows}
    PATH.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measure(backend: str, model: str, repeats: int) -> dict:
    """Build a model with each kind of numbers, in turn."""
    seconds = {numbers: [] for numbers in NUMBERS}
    for _ in range(repeats):
        for numbers, times in seconds.items():
            times.append(
                float(
                    in_own_process(
                        __file__, "--one", model, numbers, KERAS_BACKEND=backend
                    )
                )
            )
    least = {numbers: round(min(times), 2) for numbers, times in seconds.items()}
    row = {
        "backend": backend,
        "model": model,
        **least,
        "share": round(1 - least["zeros"] / least["keras"], 2),
        "within_limit": least["kerasdl"] < LIMITS[backend],
    }
    print(json.dumps(row), flush=True)
    return row


def build(model: str, numbers: str) -> float:
    """Return the seconds in which this process builds a model."""
    import keras

    import kerasdl
    from kerasdl.initializers import TruncatedNormal

    if numbers == "keras":
        TruncatedNormal.__call__ = _draw_with_keras
    elif numbers == "zeros":
        TruncatedNormal.__call__ = lambda _, shape, dtype=None: keras.ops.zeros(
            shape, dtype
        )
    builder, arguments = MODELS[model]
    function = kerasdl.BUILDERS[builder]
    # What starts the backend up is no part of a model.
    keras.layers.Dense(1).build((None, 1))
    start = time.perf_counter()
    function(**arguments)
    return time.perf_counter() - start


def _draw_with_keras(initializer, shape, dtype=None):
    import keras

    stddev = initializer.stddev_of(shape)
    return keras.initializers.TruncatedNormal(stddev=stddev)(shape, dtype)


if __name__ == "__main__":
    main()
