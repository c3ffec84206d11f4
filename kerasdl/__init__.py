"""Keras 3 applications: builders, training, and models that can be trusted.

Everything public is imported on first use, so that `import kerasdl` needs no backend.
"""

import importlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping

from kerasdl._version import __version__

# oneDNN's kernels, with which TensorFlow convolves and multiplies quicker, and which it
# takes of its own accord on newer processors alone. Read while it is imported.
if platform.machine() in {"x86_64", "AMD64"}:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_BUILDER_MODULES = {
    "alexnet": "kerasdl.models.alexnet",
    "cnn": "kerasdl.models.cnn",
    "densenet": "kerasdl.models.densenet",
    "efficientnet": "kerasdl.models.efficientnet",
    "inception": "kerasdl.models.inception",
    "lenet5": "kerasdl.models.lenet",
    "lstm_sentiment": "kerasdl.models.text",
    "mlp": "kerasdl.models.mlp",
    "ngram_classifier": "kerasdl.models.ngram",
    "pretrained_classifier": "kerasdl.models.pretrained",
    "resnet": "kerasdl.models.resnet",
    "rnn": "kerasdl.models.rnn",
    "sentiment": "kerasdl.models.sentiment",
    "text_cnn": "kerasdl.models.text",
    "transformer_classifier": "kerasdl.models.transformer",
    "vgg": "kerasdl.models.vgg",
    "vit": "kerasdl.models.vit",
}
_MODULES = {
    **_BUILDER_MODULES,
    "BatchSource": "kerasdl.data.batches",
    "Checkpoint": "kerasdl.callbacks",
    "InputError": "kerasdl.errors",
    "Recipe": "kerasdl.recipe",
    "Run": "kerasdl.results",
    "distribute": "kerasdl.distribution",
    "finetune": "kerasdl.training",
    "load": "kerasdl.bundle",
    "lr_find": "kerasdl.rate_finder",
    "load_torch_weights": "kerasdl.torch_weights",
    "rematerialise": "kerasdl.rematerialisation",
    "standard_callbacks": "kerasdl.callbacks",
    "train": "kerasdl.training",
}

__all__ = ["BUILDERS", "__version__", *_MODULES]  # noqa: PLE0604 - all are strings


class _Builders(Mapping[str, Callable]):
    """Builder name to builder, imported when it is looked up."""

    def __getitem__(self, name: str) -> Callable:
        module = importlib.import_module(_BUILDER_MODULES[name])
        return getattr(module, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_BUILDER_MODULES)

    def __len__(self) -> int:
        return len(_BUILDER_MODULES)


BUILDERS: Mapping[str, Callable] = _Builders()


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'kerasdl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
