"""The one table of builders: tiny arguments, inputs and what must come out.

A parameter count is published, or a formula of its own, written from the architecture,
not from the code.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np

import kerasdl

TOKENS, NGRAMS = 30, 40
BATCH = 8


@dataclass(frozen=True)
class Texts:
    """Random texts of different lengths, right-padded, the last one empty.

    Attributes:
        names: Names of the model's inputs.
    """

    names: tuple[str, ...] = ("tokens",)

    def batch(self, seed: int = 0, *, count: int = BATCH, width: int = 12):
        """Return the model's input, a dictionary where it has several."""
        random = np.random.default_rng(seed)
        sizes = {"tokens": TOKENS, "ngrams": NGRAMS}
        lengths = np.append(random.integers(2, width + 1, count - 1), 0)
        batch = {}
        for name in self.names:
            ids = np.stack(
                [
                    random.permutation(np.arange(1, sizes[name]))[:width]
                    for _ in range(count)
                ]
            ).astype("int32")
            batch[name] = ids * (np.arange(width) < lengths[:, None])
        return batch if len(batch) > 1 else batch.popitem()[1]


@dataclass(frozen=True)
class Arrays:
    """Random arrays: images, series or rows of numbers.

    Attributes:
        shape: Shape of one example.
        names: Name of the model's input.
    """

    shape: tuple[int, ...]
    names: tuple[str, ...] = ("image",)

    def batch(self, seed: int = 0, *, count: int = BATCH):
        """Return the model's input `(count, *shape)`."""
        random = np.random.default_rng(seed)
        return random.normal(size=(count, *self.shape)).astype("float32")


@dataclass(frozen=True)
class Case:
    """One builder.

    Attributes:
        builder: Name in `kerasdl.BUILDERS`.
        tiny: Arguments of a model that trains in a moment.
        inputs: Makes batches that fit the tiny model.
        parameters: Trainable parameters of the defaults, where there is a formula.
        bad: Arguments, one of them refused, and a piece of the message that names it.
        published: Arguments and the published number of trainable parameters.
        still: Arguments that leave out everything random in training.
        frozen: Path of a weight that may stay still, and why.
        rate: Learning rate with which Adam overfits one batch.
        steps: Steps in which it does.
    """

    builder: str
    tiny: dict
    inputs: Texts | Arrays
    bad: list[tuple[dict, str]]
    parameters: Callable[[], int] | None = None
    published: list[tuple[dict, int]] = field(default_factory=list)
    still: dict = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    rate: float = 0.05
    steps: int = 30

    def build(self, **changes) -> keras.Model:
        """Build the tiny model."""
        return kerasdl.BUILDERS[self.builder](**{**self.tiny, **changes})

    def batch(self, seed: int = 0, **options):
        """Return a batch for the tiny model."""
        return self.inputs.batch(seed, **options)


def lstm_parameters() -> int:
    """Four gates, each with input, recurrent and bias weights, in two layers."""
    embedding = 30_000 * 128
    first = 4 * (128 * 128 + 128 * 128 + 128)
    second = 4 * (128 * 64 + 64 * 64 + 64)
    return embedding + first + second + (64 * 2 + 2)


def cnn_parameters() -> int:
    """Kernels three, four and five words wide, pooled twice."""
    kernels = sum(width * 128 * 100 + 100 for width in (3, 4, 5))
    return 30_000 * 128 + kernels + (2 * 300 * 2 + 2)


def transformer_parameters() -> int:
    """Two blocks: attention has 4 square matrices, the network two of 1 to 4."""
    d = 128
    attention = 4 * (d * d + d)
    network = (d * 4 * d + 4 * d) + (4 * d * d + d)
    norms = 2 * 2 * d
    return 30_000 * d + 2 * (attention + network + norms) + 2 * d + (2 * d * 2 + 2)


def ngram_parameters() -> int:
    """One weight per n-gram, one bias; the ratios are counted, not trained."""
    return 2**20 + 1


def sentiment_parameters() -> int:
    """The bag, word vectors, a convolution and two LSTMs."""
    convolution = 5 * 128 * 128 + 128
    lstm = 2 * 4 * (128 * 64 + 64 * 64 + 64)
    deep = 30_000 * 128 + convolution + lstm + (2 * 128 * 2 + 2)
    return ngram_parameters() + deep


BAD_RATE = ({"dropout": 1.0}, "dropout=1.0")
BAD_CLASSES = ({"num_classes": 1}, "num_classes=1")
BAD_OPTIMIZER = ({"optimizer": "adamm"}, "adamm")
TOKEN_BAD = [
    BAD_RATE,
    BAD_CLASSES,
    BAD_OPTIMIZER,
    ({"dropout": float("nan")}, "dropout=nan"),
    ({"dropout": "much"}, "dropout='much'"),
    ({"word_dropout": -0.1}, "word_dropout=-0.1"),
    ({"vocabulary_size": 0}, "vocabulary_size=0"),
    ({"vocabulary_size": 10.0}, r"vocabulary_size=10\.0"),
]

CASES = [
    Case(
        "lstm_sentiment",
        {"vocabulary_size": TOKENS, "units": (6, 5), "embedding_dim": 7},
        Texts(),
        [
            *TOKEN_BAD,
            ({"units": ()}, r"units=\(\)"),
            ({"units": (4, 0)}, r"units=\(4, 0\)"),
            ({"units": True}, "units=True"),
            ({"embedding_dim": -1}, "embedding_dim=-1"),
            ({"pool": 0}, "pool=0"),
            ({"cell": "lst"}, "cell='lst'.*did you mean 'lstm'"),
            ({"pooling": "mean"}, "pooling='mean'"),
            ({"head": "sigmoid"}, "head='sigmoid'"),
            ({"head": "single", "num_classes": 3}, "num_classes=2, not 3"),
        ],
        parameters=lstm_parameters,
        still={"dropout": 0.0, "word_dropout": 0.0},
    ),
    Case(
        "ngram_classifier",
        {"num_ngrams": NGRAMS},
        Texts(("ngrams",)),
        [BAD_CLASSES, BAD_OPTIMIZER, ({"num_ngrams": 0}, "num_ngrams=0")],
        parameters=ngram_parameters,
        rate=0.5,
    ),
    Case(
        "sentiment",
        {
            "vocabulary_size": TOKENS,
            "num_ngrams": NGRAMS,
            "embedding_dim": 7,
            "units": 5,
        },
        Texts(("tokens", "ngrams")),
        [
            *TOKEN_BAD,
            ({"num_ngrams": -3}, "num_ngrams=-3"),
            ({"pool": 0}, "pool=0"),
            ({"units": 0}, "units=0"),
        ],
        parameters=sentiment_parameters,
        still={"dropout": 0.0, "word_dropout": 0.0},
    ),
    Case(
        "text_cnn",
        {"vocabulary_size": TOKENS, "filters": 6, "embedding_dim": 7},
        Texts(),
        [
            *TOKEN_BAD,
            ({"kernel_sizes": (3, -1)}, r"kernel_sizes=\(3, -1\)"),
            ({"filters": 0}, "filters=0"),
        ],
        parameters=cnn_parameters,
        still={"dropout": 0.0, "word_dropout": 0.0},
    ),
    Case(
        "transformer_classifier",
        {"vocabulary_size": TOKENS, "width": 8, "depth": 1, "num_heads": 2},
        Texts(),
        [
            *TOKEN_BAD,
            ({"num_heads": 3}, "num_heads=3 does not divide width=8"),
            ({"num_heads": 8, "positions": "rotary"}, "num_heads=8.*even"),
            ({"norm": "batch"}, "norm='batch'"),
            ({"positions": "rotari"}, "positions='rotari'.*'rotary'"),
            ({"depth": 0}, "depth=0"),
            ({"max_tokens": 0}, "max_tokens=0"),
        ],
        parameters=transformer_parameters,
        still={"dropout": 0.0, "word_dropout": 0.0},
        rate=0.01,
    ),
]
