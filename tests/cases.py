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


def mlp_parameters() -> int:
    """Two hidden layers of 64 units on 16 features."""
    return (16 * 64 + 64) + (64 * 64 + 64) + (64 * 2 + 2)


def rnn_parameters() -> int:
    """Four gates of 64 units that read one channel."""
    return 4 * (1 * 64 + 64 * 64 + 64) + (64 * 2 + 2)


def ngram_parameters() -> int:
    """One weight per n-gram, one bias; the ratios are counted, not trained."""
    return 2**20 + 1


def sentiment_parameters() -> int:
    """The bag, word vectors, a convolution and two LSTMs."""
    convolution = 5 * 128 * 128 + 128
    lstm = 2 * 4 * (128 * 64 + 64 * 64 + 64)
    deep = 30_000 * 128 + convolution + lstm + (2 * 128 * 2 + 2)
    return ngram_parameters() + deep


CIFAR = {"input_shape": (32, 32, 3), "num_classes": 10}
BAD_RATE = ({"dropout": 1.0}, "dropout=1.0")
SINGLE = "expected an integer of at least 1"
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
IMAGE_BAD = [
    BAD_RATE,
    BAD_CLASSES,
    BAD_OPTIMIZER,
    ({"input_shape": (64, 64)}, r"input_shape=\(64, 64\).*height, width, channels"),
    ({"input_shape": (64, 64, 0)}, r"input_shape=\(64, 64, 0\)"),
]

CASES = [
    Case(
        "alexnet",
        {"input_shape": (63, 63, 2), "num_classes": 2, "hidden_units": (32, 32)},
        Arrays((63, 63, 2)),
        [
            *IMAGE_BAD,
            ({"input_shape": (64, 62, 3)}, r"input_shape=\(64, 62, 3\).*at least 63"),
            ({"variant": "two_tower"}, "variant='two_tower'.*'two_towers'"),
            ({"hidden_units": (8, 0)}, r"hidden_units=\(8, 0\)"),
            ({"hidden_units": 8}, "hidden_units=8; expected a sequence"),
        ],
        published=[({}, 61_100_840), ({"variant": "two_towers"}, 60_965_224)],
        still={"dropout": 0.0},
        rate=0.001,
        steps=40,
    ),
    Case(
        "cnn",
        {"input_shape": (8, 8, 2), "num_classes": 2, "filters": (4, 6)},
        Arrays((8, 8, 2)),
        [
            *IMAGE_BAD,
            ({"input_shape": (3, 8, 2)}, r"input_shape=\(3, 8, 2\).*at least 4"),
            ({"filters": ()}, r"filters=\(\)"),
            ({"filters": 8}, "filters=8; expected a sequence"),
            ({"kernel_size": 0}, "kernel_size=0"),
            ({"kernel_size": (3, 3)}, rf"kernel_size=\(3, 3\); {SINGLE}"),
            ({"depths": (2,)}, r"depths=\(2,\) for 2 stages"),
            ({"depths": (2, 0)}, r"depths=\(2, 0\)"),
        ],
        published=[({}, 94_986)],
    ),
    Case(
        "cnn",
        {
            "input_shape": (8, 8, 2),
            "num_classes": 2,
            "filters": (4, 6),
            "hidden_units": (5,),
            "dropout": 0.1,
        },
        Arrays((8, 8, 2)),
        [
            ({"hidden_units": 5}, "hidden_units=5; expected a sequence"),
            ({"hidden_units": (0,)}, r"hidden_units=\(0,\)"),
        ],
        # The plain network without its classifier, then 4 x 4 x 128 -> 256 -> 10.
        published=[
            (
                {"hidden_units": (256,)},
                94_986 - 1290 + 2048 * 256 + 2 * 256 + 256 * 10 + 10,
            )
        ],
        still={"dropout": 0.0},
    ),
    Case(
        "densenet",
        {
            "input_shape": (8, 8, 2),
            "num_classes": 2,
            "variant": "densenet_bc100",
            "depths": (1, 2),
            "growth_rate": 4,
        },
        Arrays((8, 8, 2)),
        [
            BAD_RATE,
            BAD_CLASSES,
            BAD_OPTIMIZER,
            ({"variant": "densenet112"}, "variant='densenet112'.*'densenet1"),
            ({"input_shape": (8, 8)}, r"input_shape=\(8, 8\)"),
            ({"input_shape": (8, 1, 2)}, r"input_shape=\(8, 1, 2\).*at least 2"),
            ({"depths": 3}, "depths=3"),
            ({"depths": (2, 0)}, r"depths=\(2, 0\)"),
            ({"growth_rate": -4}, "growth_rate=-4"),
            ({"growth_rate": (4, 4)}, rf"growth_rate=\(4, 4\); {SINGLE}"),
        ],
        published=[
            ({}, 7_978_856),
            ({"variant": "densenet161"}, 28_681_000),
            ({"variant": "densenet169"}, 14_149_480),
            ({"variant": "densenet201"}, 20_013_928),
        ],
        rate=0.01,
    ),
    Case(
        "efficientnet",
        {
            "input_shape": (16, 16, 2),
            "num_classes": 2,
            "width": 0.25,
            "depth": 0.3,
        },
        Arrays((16, 16, 2)),
        [
            BAD_RATE,
            BAD_CLASSES,
            BAD_OPTIMIZER,
            ({"variant": "efficientnet_b8"}, "variant='efficientnet_b8'.*did you mean"),
            ({"input_shape": (16, 0, 2)}, r"input_shape=\(16, 0, 2\)"),
            ({"stochastic_depth": 1.0}, r"stochastic_depth=1\.0"),
            ({"width": 0}, "width=0; expected a number above 0"),
            ({"width": "wide"}, "width='wide'"),
            ({"depth": float("nan")}, "depth=nan"),
            ({"depth": float("inf")}, "depth=inf"),
            ({"depth": True}, "depth=True"),
        ],
        published=[
            ({"variant": f"efficientnet_b{i}"}, count)
            for i, count in enumerate(
                (
                    *(5_288_548, 7_794_184, 9_109_994, 12_233_232),
                    *(19_341_616, 30_389_784, 43_040_704, 66_347_960),
                )
            )
        ],
        still={"dropout": 0.0, "stochastic_depth": 0.0},
        rate=0.01,
    ),
    Case(
        "inception",
        {"input_shape": (16, 16, 2), "num_classes": 2},
        Arrays((16, 16, 2)),
        [*IMAGE_BAD, ({"aux_dropout": -0.5}, r"aux_dropout=-0\.5")],
        published=[({}, 6_998_552), ({"aux_heads": True}, 13_378_280)],
        still={"dropout": 0.0},
        rate=0.001,
    ),
    Case(
        "lenet5",
        {"input_shape": (16, 17, 2), "num_classes": 2},
        Arrays((16, 17, 2)),
        [
            BAD_CLASSES,
            BAD_OPTIMIZER,
            ({"input_shape": (15, 16, 1)}, r"input_shape=\(15, 16, 1\).*at least 16"),
            ({"activation": "tanhh"}, "activation='tanhh'.*'tanh'"),
        ],
        # The second of partial connections is the paper's, section II.B: 1,516 in C3.
        published=[({}, 61_706), ({"partial": True}, 61_706 - 2_416 + 1_516)],
        rate=0.01,
    ),
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
        "mlp",
        {"input_shape": (6,), "hidden": (16, 8)},
        Arrays((6,), ("features",)),
        [
            BAD_RATE,
            BAD_CLASSES,
            BAD_OPTIMIZER,
            ({"input_shape": (6, 0)}, r"input_shape=\(6, 0\)"),
            ({"input_shape": 6}, "input_shape=6"),
            ({"input_shape": ()}, r"input_shape=\(\)"),
            ({"num_outputs": 0}, "num_outputs=0"),
            ({"hidden": ()}, r"hidden=\(\)"),
            ({"hidden": (8, -1)}, r"hidden=\(8, -1\)"),
            ({"hidden": 8}, "hidden=8; expected a sequence"),
            ({"activation": "rleu"}, "activation='rleu'.*did you mean 'relu'"),
            ({"activation": "glu"}, "activation='glu'"),
            ({"norm": "bacth"}, "norm='bacth'.*did you mean 'batch'"),
            ({"l1": -0.1}, "l1=-0.1"),
            ({"l2": float("inf")}, "l2=inf"),
            ({"l2": "much"}, "l2='much'"),
            ({"l2": True}, "l2=True"),
            ({"num_outputs": (2,)}, rf"num_outputs=\(2,\); {SINGLE}"),
        ],
        parameters=mlp_parameters,
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
        "resnet",
        {
            "input_shape": (16, 16, 3),
            "num_classes": 2,
            "variant": "resnet18",
            "width": 4,
        },
        Arrays((16, 16, 3)),
        [
            BAD_CLASSES,
            BAD_OPTIMIZER,
            ({"input_shape": (16, 16)}, r"input_shape=\(16, 16\)"),
            ({"input_shape": (16, 0, 3)}, r"input_shape=\(16, 0, 3\)"),
            ({"variant": "resnet_50"}, "variant='resnet_50'.*did you mean 'resnet50'"),
            ({"version": "v3"}, "version='v3'"),
            ({"stem": "mnist"}, "stem='mnist'"),
            ({"width": 0}, "width=0"),
            ({"width": (4, 8)}, rf"width=\(4, 8\); {SINGLE}"),
            ({"shortcut": "A"}, "shortcut='A'"),
            ({"stochastic_depth": 1.0}, r"stochastic_depth=1\.0"),
            ({"zero_init": True, "version": "v2"}, "zero_init=True with version='v2'"),
            ({"zero_init": True, "shortcut": "none"}, "zero_init=True.*'none'"),
            (
                {"stochastic_depth": 0.1, "shortcut": "none"},
                r"stochastic_depth=0\.1 with shortcut='none'",
            ),
        ],
        published=[
            ({"variant": "resnet18"}, 11_689_512),
            ({"variant": "resnet34"}, 21_797_672),
            ({"variant": "resnet50"}, 25_557_032),
            ({"variant": "resnet101"}, 44_549_160),
            ({"variant": "resnet152"}, 60_192_808),
            ({**CIFAR, "variant": "resnet20"}, 269_722),
            ({**CIFAR, "variant": "resnet56"}, 853_018),
            ({**CIFAR, "variant": "resnet110"}, 1_727_962),
            ({**CIFAR, "variant": "resnet20", "shortcut": "projection"}, 272_474),
            ({**CIFAR, "variant": "resnet56", "shortcut": "projection"}, 855_770),
        ],
        rate=0.01,
    ),
    Case(
        "rnn",
        {"input_shape": (5, 3), "units": (7,)},
        Arrays((5, 3), ("series",)),
        [
            BAD_RATE,
            BAD_CLASSES,
            BAD_OPTIMIZER,
            ({"input_shape": (5,)}, r"input_shape=\(5,\)"),
            ({"input_shape": (0, 3)}, r"input_shape=\(0, 3\)"),
            ({"input_shape": (None, 0)}, r"input_shape=\(None, 0\).*length or None"),
            ({"num_outputs": 0}, "num_outputs=0"),
            ({"num_outputs": 1, "horizon": 0}, "horizon=0"),
            ({"num_outputs": 1, "horizon": (2,)}, rf"horizon=\(2,\); {SINGLE}"),
            ({"horizon": 2}, "horizon=2 needs num_outputs"),
            ({"num_outputs": 4, "normalize": True}, "num_outputs=4.*the 3 channels"),
            ({"cell": "lst"}, "cell='lst'.*did you mean 'lstm'"),
            ({"units": ()}, r"units=\(\)"),
            ({"units": 4}, "units=4; expected a sequence"),
        ],
        parameters=rnn_parameters,
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
    Case(
        "vgg",
        {
            "input_shape": (32, 33, 2),
            "num_classes": 2,
            "variant": "vgg11",
            "width": 16,
            "hidden_units": (64,),
        },
        Arrays((32, 33, 2)),
        [
            *IMAGE_BAD,
            ({"input_shape": (31, 32, 3)}, r"input_shape=\(31, 32, 3\).*at least 32"),
            ({"variant": "vgg12"}, "variant='vgg12'.*did you mean 'vgg1"),
            ({"width": 0}, "width=0"),
            ({"width": (4, 8)}, rf"width=\(4, 8\); {SINGLE}"),
            ({"hidden_units": 64}, "hidden_units=64; expected a sequence"),
            ({"hidden_units": ()}, r"hidden_units=\(\)"),
        ],
        published=[
            ({"variant": "vgg11"}, 132_863_336),
            ({"variant": "vgg11", "normalize": True}, 132_868_840),
            ({"variant": "vgg13"}, 133_047_848),
            ({"variant": "vgg13", "normalize": True}, 133_053_736),
            ({"variant": "vgg16"}, 138_357_544),
            ({"variant": "vgg16", "normalize": True}, 138_365_992),
            ({"variant": "vgg19"}, 143_667_240),
            ({"variant": "vgg19", "normalize": True}, 143_678_248),
        ],
        still={"dropout": 0.0},
        rate=0.001,
    ),
    Case(
        "vit",
        {
            "input_shape": (8, 12, 2),
            "num_classes": 2,
            "variant": "deit_ti16",
            "patch_size": 4,
            "width": 8,
            "depth": 2,
            "num_heads": 2,
        },
        Arrays((8, 12, 2)),
        [
            *IMAGE_BAD,
            ({"variant": "vit_h16"}, "variant='vit_h16'.*did you mean 'vit_"),
            ({"input_shape": (8, 10, 3)}, r"\(8, 10, 3\).*divisible by patch_size=4"),
            ({"patch_size": 0}, "patch_size=0"),
            ({"patch_size": (4, 4)}, rf"patch_size=\(4, 4\); {SINGLE}"),
            ({"variant": "cct_2_3x2"}, "patch_size=4; variant='cct_2_3x2'"),
            ({"num_heads": 3}, "num_heads=3 does not divide width=8"),
            ({"width": 6, "positions": "sinusoidal"}, "width=6.*multiple of 4"),
            ({"depth": -1}, "depth=-1"),
            ({"pooling": "max"}, "pooling='max'"),
            ({"positions": "learnt"}, "positions='learnt'.*'learned'"),
            ({"stochastic_depth": 1.0}, r"stochastic_depth=1\.0"),
        ],
        published=[
            ({"variant": "vit_ti16"}, 5_717_416),
            ({"variant": "deit_s16"}, 22_050_664),
            ({}, 86_567_656),
            ({"variant": "vit_b32"}, 88_224_232),
            ({"variant": "vit_l16"}, 304_326_632),
            ({"variant": "vit_l32"}, 306_535_400),
        ],
        still={"stochastic_depth": 0.0},
        rate=0.01,
    ),
]
