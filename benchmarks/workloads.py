"""What is trained in the benchmarks of speed: kerasdl's builder, its twin, its data."""

import atexit
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from flops import count
from photos import PHOTO_SIDE, write_photos
from twins import networks

VOCABULARY, LENGTH = 10_000, 200
# Different ones; the others of an epoch are the same again.
PHOTOS = 256
RATE = 1e-3


@dataclass(frozen=True)
class Workload:
    """A network, as kerasdl builds it and as its twins are written.

    Attributes:
        builder: Name of kerasdl's builder.
        arguments: Its arguments.
        network: The twins' network, a function of operations and inputs.
        shape: Shape of one example; of texts the number of tokens.
        classes: Number of classes.
        batch: Examples of a step.
        most: Examples at most, for the sake of memory.
        of_photos: Whether images are read from JPEGs, again in each epoch.
    """

    builder: str
    arguments: Mapping
    network: Callable
    shape: tuple[int, ...]
    classes: int
    batch: int
    most: int
    of_photos: bool = False

    @property
    def is_text(self) -> bool:
        """Whether examples are tokens."""
        return "vocabulary_size" in self.arguments

    def data(self, examples: int) -> tuple[np.ndarray | list[Path], np.ndarray]:
        """Return random inputs and classes."""
        random = np.random.default_rng(0)
        labels = random.integers(0, self.classes, examples)
        if self.of_photos:
            return list(islice(cycle(_photos()), examples)), labels
        if self.is_text:
            tokens = random.integers(1, VOCABULARY, (examples, *self.shape))
            return tokens.astype("int32"), labels
        return random.standard_normal((examples, *self.shape), "float32"), labels

    def build(self, **options):
        """Return kerasdl's model."""
        import kerasdl

        first = VOCABULARY if self.is_text else self.shape
        build = kerasdl.BUILDERS[self.builder]
        arguments = {k: v for k, v in self.arguments.items() if k != "vocabulary_size"}
        return build(first, self.classes, **arguments, **options)

    def operations(self) -> int:
        """Return multiplications and additions of one example, forward; on JAX."""
        dtype = "int32" if self.is_text else "float32"
        shapes = {"input": (self.shape, dtype)}
        return count(partial(self.build, optimizer=None), shapes)["forward_flops"]


@cache
def _photos() -> list[Path]:
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    write_photos(folder / "photos", PHOTOS)
    return sorted((folder / "photos").iterdir())


def _vit(patch, **changes):
    sizes = {"width": 192, "depth": 12, "heads": 3, **changes}
    return partial(networks.vit, patch=patch, classes=10, **sizes)


_RESNET20 = {"units": (3, 3, 3), "width": 16, "bottleneck": False, "imagenet": False}
WORKLOADS = {
    "mlp": Workload(
        "mlp",
        {"hidden": (256, 256)},
        partial(networks.mlp, hidden=(256, 256), classes=10),
        *((784,), 10, 128, 300_000),
    ),
    "resnet20": Workload(
        "resnet",
        {"variant": "resnet20"},
        partial(networks.resnet, **_RESNET20, classes=10),
        *((32, 32, 3), 10, 64, 20_000),
    ),
    "bilstm": Workload(
        "lstm_sentiment",
        {
            "vocabulary_size": VOCABULARY, "units": (64,), "bidirectional": True,
            "embedding_dim": 128, "dropout": 0.0,
        },
        partial(networks.bilstm, vocabulary=VOCABULARY, width=128, units=64, classes=2),
        *((LENGTH,), 2, 64, 50_000),
    ),
    "encoder": Workload(
        "transformer_classifier",
        {"vocabulary_size": VOCABULARY, "dropout": 0.0},
        partial(
            networks.encoder, vocabulary=VOCABULARY, width=128,
            depth=2, heads=4, classes=2,
        ),
        *((LENGTH,), 2, 64, 50_000),
    ),
    "vit": Workload(
        "vit",
        {"variant": "vit_ti16", "patch_size": 8},
        _vit(8),
        *((64, 64, 3), 10, 64, 10_000),
    ),
    "resnet50": Workload(
        "resnet",
        {"variant": "resnet50"},
        partial(
            networks.resnet, units=(3, 4, 6, 3), width=64,
            bottleneck=True, imagenet=True, classes=1000,
        ),
        *((224, 224, 3), 1000, 16, 512),
    ),
    "jpegs": Workload(
        "resnet",
        {"variant": "resnet20"},
        partial(networks.resnet, **_RESNET20, classes=10),
        *((PHOTO_SIDE, PHOTO_SIDE, 3), 10, 64, 20_000),
        of_photos=True,
    ),
}  # fmt: skip
