"""Reading photos: kerasdl beside PyTorch's DataLoader, tf.data and Grain.

    python benchmarks/image_loading.py [--quick]

Decodes 1,000 textured JPEGs of 500 x 375 pixels, resizes and crops them to 224 x 224
and normalises them, in batches of 64. Every measurement is a process of its own, after
a tenth of an epoch to warm up; the loaders take turns, so that what else the machine
does meets all. `photos_per_second` is the median of the repeats. Then one epoch of
20,000 files is streamed for its memory, and 100,000 files are loaded as a data set for
the time to the first batch. Grain is left out where it is not installed.
"""

import argparse
import importlib.util
import io
import json
import os
import resource
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from common import RESULTS, in_own_process, machine
from photos import MEAN, STD, pillow_photo, tensorflow_photo, write_photos
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "image_loading.json"
SIDE, BATCH_SIZE, WORKERS = 224, 64, 2


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stream", type=int, default=20_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options)))
        return
    if options.quick:
        options.photos, options.repeats = 100, 1
        options.stream, options.files = 300, 2000
    with tempfile.TemporaryDirectory() as folder:
        results = measure_all(Path(folder), options)
    print(json.dumps(results, indent=1))
    if not options.quick:
        PATH.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure_all(folder: Path, options) -> dict:
    """Time every loader in turn, then the stream and the start."""
    write_photos(folder / "photos", options.photos)
    has_grain = importlib.util.find_spec("grain") is not None
    loaders = [name for name in LOADERS if name != "grain" or has_grain]
    rates = {name: [] for name in loaders}
    for _ in range(options.repeats):
        for name, found in rates.items():
            found.append(run(name, folder / "photos", options)["photos_per_second"])
    median = {name: statistics.median(found) for name, found in rates.items()}
    fastest = max(rate for name, rate in median.items() if name != "kerasdl")
    stream = run("stream", folder / "photos", options)
    write_files(folder / "many", options.files)
    return {
        "machine": machine(),
        "photos": options.photos,
        "repeats": options.repeats,
        "photos_per_second": {name: round(rate) for name, rate in median.items()},
        "of_the_fastest_other": round(median["kerasdl"] / fastest, 2),
        "stream": {"files": options.stream, **stream},
        "start": {"files": options.files, **run("start", folder / "many", options)},
    }


def run(name: str, folder: Path, options) -> dict:
    """Measure one thing in a process of its own."""
    arguments = ["--one", name, str(folder), "--stream", str(options.stream)]
    found = json.loads(in_own_process(__file__, *arguments, KERAS_BACKEND="torch"))
    print(name, found, flush=True)
    return found


def measure(name: str, folder: str, options) -> dict:
    """Measure one thing in this process."""
    if name == "start":
        return start(folder)
    paths = sorted(Path(folder).iterdir())
    if name == "stream":
        return stream([paths[i % len(paths)] for i in range(options.stream)])
    load = LOADERS[name]
    for _ in load(paths[: max(len(paths) // 10, 2 * BATCH_SIZE)]):
        pass
    begin = time.perf_counter()
    count = sum(len(batch) for batch in load(paths))
    seconds = time.perf_counter() - begin
    if count != len(paths):
        raise RuntimeError(f"{name} gave {count} of {len(paths)} photos")
    return {"photos_per_second": round(count / seconds, 1)}


def write_files(folder: Path, count: int) -> None:
    """Write a folder of ten classes of small JPEGs, each of its own length and text."""
    packed = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(packed, "JPEG")
    content = packed.getvalue()
    random = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        text = f"{number} ".encode() * int(random.integers(1, 1000))
        comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text
        path = folder / str(number % 10) / f"{number}.jpg"
        path.write_bytes(content[:2] + comment + content[2:])


def kerasdl_batches(paths: list[Path]):
    """Yield normalised batches as `model.fit` gets them from kerasdl."""
    from kerasdl.data.batches import BatchSource
    from kerasdl.data.images import ImageEncoder, Photos

    encoder = ImageEncoder((SIDE, SIDE), 3, MEAN, STD)
    source = BatchSource(
        encoder.encode(Photos(tuple(paths))), batch_size=BATCH_SIZE, seed=0
    )
    source.on_epoch_begin()
    for index in range(source.num_batches):
        yield source[index][0]


def torch_batches(paths: list[Path]):
    """Yield normalised batches of PyTorch's DataLoader with Pillow."""
    from torch.utils.data import DataLoader

    class Files:
        def __len__(self):
            return len(paths)

        def __getitem__(self, row):
            return pillow_photo(paths[row], SIDE)

    yield from DataLoader(Files(), BATCH_SIZE, shuffle=True, num_workers=WORKERS)


def tf_batches(paths: list[Path]):
    """Yield normalised batches of tf.data."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(list(map(str, paths)))
    prepare = partial(tensorflow_photo, side=SIDE)
    data = data.shuffle(len(paths)).map(prepare, tf.data.AUTOTUNE)
    yield from data.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def grain_batches(paths: list[Path]):
    """Yield normalised batches of Grain, decoded by Pillow in its threads."""
    import grain

    read = partial(pillow_photo, side=SIDE)
    data = grain.MapDataset.source(paths).shuffle(seed=0).map(read)
    reading = grain.ReadOptions(num_threads=WORKERS, prefetch_buffer_size=BATCH_SIZE)
    yield from data.to_iter_dataset(reading).batch(BATCH_SIZE)


LOADERS = {
    "kerasdl": kerasdl_batches,
    "torch": torch_batches,
    "tf.data": tf_batches,
    "grain": grain_batches,
}


def stream(paths: list[Path]) -> dict:
    """Return the largest memory early in an epoch and at its end."""
    early = None
    for number, _ in enumerate(kerasdl_batches(paths)):
        if number * BATCH_SIZE >= len(paths) // 10 and early is None:
            early = peak_megabytes()
    return {"peak_mb_after_a_tenth": early, "peak_mb": peak_megabytes()}


def peak_megabytes() -> int:
    """Return the most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def start(folder: str) -> dict:
    """Time the steps from a folder to the first batch, without `import keras`."""
    from kerasdl.data.batches import BatchSource
    from kerasdl.data.image_sources import load_images
    from kerasdl.data.images import ImageEncoder
    from kerasdl.data.labelled import check_trainable, hold_out

    begin, busy = time.perf_counter(), time.process_time()
    train = load_images(folder).train
    found = time.perf_counter()
    check_trainable(train)
    kept, _ = hold_out(train, 0.1, seed=0)
    print(train.fingerprint)
    held = time.perf_counter()
    statistics_given = {"mean": MEAN, "std": STD, "cache_mb": 0}
    _, inputs = ImageEncoder.fit_encode(kept.examples, **statistics_given)
    source = BatchSource(inputs, kept.labels, batch_size=BATCH_SIZE, seed=0)
    source.on_epoch_begin()
    source[0]
    end = time.perf_counter()
    return {
        "seconds": round(end - begin, 2),
        # What it takes where nothing else runs.
        "processor_seconds": round(time.process_time() - busy, 2),
        "seconds_to_find": round(found - begin, 2),
        "seconds_to_split": round(held - found, 2),
    }


if __name__ == "__main__":
    main()
