"""Tiny bundles of every kind, what a stranger could do to them, and who would notice.

The watch is an audit hook of Python itself: it sees every file that is opened and every
pickle, process and connection, whoever asks for them.
"""

import base64
import io
import json
import marshal
import os
import pickle
import struct
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors.numpy

import kerasdl
from kerasdl import bundle
from kerasdl.data.arrays import ArrayEncoder
from kerasdl.data.images import ImageEncoder
from kerasdl.data.rows import Columns, RowEncoder
from kerasdl.data.text import TextEncoder
from kerasdl.manifest import seal
from kerasdl.predict import Classifier, Regressor

TEXTS = ["a good, good film", "bad film!!!", "", "not good but not bad :-)"]
ROWS = [
    {"age": age, "sex": sex, "dose": dose}
    for age, sex, dose in zip(
        [31, 42, None, 58, 63, 70, 29, 44],
        ["f", "m", "f", "m", "f", "f", "m", None],
        [0.1, 0.5, 0.25, 0.75, 0.3, 0.9, 0.2, 0.4],
        strict=True,
    )
]
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
SERIES = np.random.default_rng(1).normal(size=(2, 5, 3)).astype("f")
VGG = {"stackwise_num_repeats": [1], "stackwise_num_filters": [8]}
# Where JAX may keep what it has compiled: it does so whatever a bundle says.
COMPILED = os.environ.get("JAX_COMPILATION_CACHE_DIR", "nowhere")
# What nothing that only reads may do.
FORBIDDEN = (
    *("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.fork"),
    *("os.posix_spawn", "socket.connect", "socket.getaddrinfo", "urllib.Request"),
    *("shutil.unpack_archive", "code.__new__", "os.remove", "os.rename", "os.mkdir"),
    *("os.symlink", "os.link", "webbrowser.open", "ftplib.connect"),
)


def text_bundle(folder: Path, level: str = "word") -> Path:
    """Write a bundle for texts, with words in order and a bag of n-grams."""
    encoder = TextEncoder.fit(
        TEXTS, min_count=1, level=level, max_tokens=20, ngram_orders=(1, 2)
    )
    arguments = {**encoder.sizes, "embedding_dim": 4, "units": 3}
    return _save(folder, "sentiment", arguments, Classifier, encoder)


def image_bundle(folder: Path) -> Path:
    """Write a bundle for images."""
    encoder = ImageEncoder((8, 8), 3, (0.5,) * 3, (0.25,) * 3)
    arguments = {"input_shape": [8, 8, 3], "num_classes": 2, "filters": [4]}
    return _save(folder, "cnn", arguments, Classifier, encoder)


def table_bundle(folder: Path) -> Path:
    """Write a bundle for rows of a table."""
    columns = Columns.of({name: [row[name] for row in ROWS] for name in ROWS[0]})
    encoder, _ = RowEncoder.fit_encode(columns, min_count=1)
    arguments = {"input_shape": list(encoder.sizes["input_shape"]), "hidden": [4]}
    return _save(folder, "mlp", arguments, Classifier, encoder)


def series_bundle(folder: Path) -> Path:
    """Write a bundle that forecasts series."""
    arguments = {"input_shape": [5, 3], "units": [4], "num_outputs": 1, "horizon": 2}
    encoder = ArrayEncoder("series", (5, 3))
    return _save(folder, "rnn", arguments, Regressor, encoder)


def pretrained_bundle(folder: Path) -> Path:
    """Write a bundle around a backbone of KerasHub."""
    encoder = ImageEncoder((8, 8), 3, (0.5,) * 3, (0.25,) * 3)
    arguments = {
        "input_shape": [8, 8, 3],
        "num_classes": 2,
        "backbone": "VGGBackbone",
        "config": VGG,
    }
    return _save(folder, "pretrained_classifier", arguments, Classifier, encoder)


# Kind: what writes it, and examples for it.
KINDS = {
    "text": (text_bundle, TEXTS),
    "image": (image_bundle, IMAGES),
    "table": (table_bundle, ROWS),
    "series": (series_bundle, SERIES),
}


def _save(folder, builder, arguments, answers, encoder) -> Path:
    model = kerasdl.BUILDERS[builder](**arguments, optimizer=None)
    labels = [["no", "yes"]] if answers is Classifier else []
    return bundle.save_bundle(
        folder,
        answers(model, encoder, *labels),
        builder=builder,
        arguments=arguments,
        metrics={},
        card="# Tiny\n",
        keras_copy=False,
    )


def edit_json(folder: Path, name: str, edit) -> None:
    """Change a JSON file of a bundle, and make the checksums fit again."""
    path = folder / name
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))
    seal(folder)


def edit_spec(folder: Path, **changes) -> None:
    """Change fields of the spec, and make the checksums fit again."""
    edit_json(folder, bundle.SPEC, lambda spec: spec.update(changes))


def safetensors_file(header, data: bytes = b"", *, claimed: int | None = None) -> bytes:
    """Return a safetensors file with any header, which may claim another length."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    length = len(header) if claimed is None else claimed
    return struct.pack("<Q", length) + header + data


def stored(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a bundle's weights."""
    return safetensors.numpy.load_file(folder / bundle.WEIGHTS)


class Gadget:
    """Pickles to a call that makes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def payloads(canary: Path) -> dict[str, bytes]:
    """Return files that make a canary when a careless reader opens them."""
    pickled = pickle.dumps(Gadget(canary))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:  # as torch.save writes
        zipped.writestr("archive/data.pkl", pickled)
        zipped.writestr("archive/version", "3")
    arrays = io.BytesIO()
    np.save(arrays, np.array([Gadget(canary)], object), allow_pickle=True)
    model = io.BytesIO()
    with zipfile.ZipFile(model, "w") as zipped:
        zipped.writestr("config.json", json.dumps(keras_config(lambda_layer(canary))))
        zipped.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        zipped.writestr("../../escaped", b"out of the folder")
    return {
        "pickle": pickled,
        "torch": archive.getvalue(),
        "npy": arrays.getvalue(),
        "keras": model.getvalue(),
    }


def lambda_layer(canary: Path) -> dict:
    """Return a Lambda layer whose code makes a file (CVE-2024-3660)."""
    code = compile(f"lambda x: open({str(canary)!r}, 'w') and x", "x", "eval")
    body = base64.b64encode(marshal.dumps(code.co_consts[0])).decode()
    return {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {
            "name": "lambda",
            "function": {
                "class_name": "__lambda__",
                "config": {"code": body, "defaults": None, "closure": None},
            },
        },
        "registered_name": None,
    }


def function(module: str, name: str) -> dict:
    """Return a reference to a function as Keras serialises it."""
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }


def layer(module: str, class_name: str, /, **config) -> dict:
    """Return an object as Keras serialises it."""
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def gadgets(canary: Path) -> dict[str, dict]:
    """Return serialised objects in the manner of the published advisories."""
    call = {"arguments": {"safe_mode": False}, "name": "gadget"}
    pickled = base64.b64encode(pickle.dumps(Gadget(canary))).decode()
    return {
        "CVE-2024-3660": lambda_layer(canary),
        "CVE-2025-1550": function("os", "system"),
        "CVE-2025-8747": layer(
            *("keras.layers", "Lambda"),
            **call,
            function=function("keras.utils", "get_file"),
        ),
        "CVE-2025-9906": layer(
            *("keras.layers", "Lambda"),
            **call,
            function=function("keras.config", "enable_unsafe_deserialization"),
        ),
        "CVE-2025-12058": layer(
            "keras.layers", "StringLookup", vocabulary=str(canary.parent / "secret")
        ),
        "CVE-2025-49655": layer(
            "keras.layers", "TorchModuleWrapper", module=pickled, name="torch"
        ),
        "CVE-2026-1462": layer(
            "keras.layers", "TFSMLayer", filepath=str(canary.parent), name="saved"
        ),
    }


def keras_config(inner: dict) -> dict:
    """Return the configuration of a Sequential model with one layer."""
    return layer("keras", "Sequential", name="model", layers=[inner])


class Watch:
    """Record what happens in a block that should only read.

    Attributes:
        events: What was forbidden.
        opened: Paths of files that were opened.
    """

    def __init__(self):
        self.is_on = False
        self.events: list[tuple] = []
        self.opened: list[str] = []
        sys.addaudithook(self._hook)  # which cannot be taken away again

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.is_on or (arguments and str(arguments[0]).startswith(COMPILED)):
            return
        if event in FORBIDDEN:
            self.events.append((event, *map(str, arguments)))
        if event == "open" and isinstance(arguments[0], str | bytes | Path):
            self.opened.append(str(arguments[0]))

    @contextmanager
    def __call__(self, folder: Path, *, may_write: bool = False):
        """Check that a block does nothing forbidden and opens files of a folder only.

        Python's own modules, which it may import, do not count, nor, where the block
        may write into the folder, changes in it.
        """
        self.events, self.opened, self.is_on = [], [], True
        try:
            yield
        finally:
            self.is_on = False
        own = (*sys.path, sys.prefix, sys.base_prefix, "/proc", "/sys", str(folder))
        own = tuple(root for root in own if root)
        # A temporary file without a name takes the place of standard error.
        nameless = tempfile.gettempdir()
        outside = [
            path
            for path in self.opened
            if path != nameless
            and not path.startswith(own)
            and not (may_write and "/" not in path)  # by `rmtree`
        ]
        events = [
            event for event in self.events if not (may_write and _is_in(folder, event))
        ]
        assert not events, events
        assert not outside, outside


def _is_in(folder: Path, event: tuple) -> bool:
    """Say whether a change is one within a folder, or by `rmtree`, name by name."""
    name, path, *rest = event
    by_descriptor = name == "os.remove" and rest != ["-1"] and "/" not in path
    return path.startswith(str(folder)) or by_descriptor


WATCH = Watch()
