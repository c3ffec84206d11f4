"""How fast a recipe trained, and where that holds."""

import importlib.metadata
import json
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import kerasdl
from kerasdl.installed import BACKENDS
from kerasdl.recipe import PRECISIONS, Recipe

FIXED_PRECISIONS = tuple(name for name in PRECISIONS if name != "auto")
MOST_ROUNDS = 1000
TIME = re.compile(r"[0-9]{4}(-[0-9]{2}){2} [0-9]{2}:[0-9]{2}")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a recipe trained on one backend, in one precision, on one machine.

    Attributes:
        app: Name of the app.
        model: Name of the recipe in it.
        settings: What `settings_of` says of the recipe.
        backend: One of `BACKENDS`.
        precision: One of `FIXED_PRECISIONS`.
        per_second: Examples per second of each round.
        start_up: Seconds from the start of the process until steps take no longer than
            later ones: imports, building, compiling; reading the data does not count.
        device: Name of the first device, as the backend calls it.
        machine: What `kerasdl.machine.machine` said.
        versions: What `versions` said.
        measured: When, as `2026-01-31 12:00`.
    """

    app: str
    model: str
    settings: Mapping
    backend: str
    precision: str
    per_second: tuple[float, ...]
    start_up: float
    device: str
    machine: str
    versions: Mapping[str, str]
    measured: str

    def __post_init__(self):
        """Refuse what a damaged file or a stranger may have put there.

        Raises:
            ValueError: Names the field.
        """
        checks = {
            "settings": isinstance(self.settings, Mapping),
            "backend": self.backend in BACKENDS,
            "precision": self.precision in FIXED_PRECISIONS,
            "per_second": 0 < len(self.per_second) <= MOST_ROUNDS
            and all(_is_positive(rate) for rate in self.per_second),
            "start_up": _is_positive(self.start_up),
            "versions": isinstance(self.versions, Mapping),
        }
        texts = ("app", "model", "device", "machine", "measured")
        checks |= {name: isinstance(getattr(self, name), str) for name in texts}
        checks["measured"] &= bool(TIME.fullmatch(str(self.measured)))
        for name, is_right in checks.items():
            if not is_right:
                raise ValueError(f"{name} is not valid")

    @property
    def rate(self) -> float:
        """Examples per second, the median of the rounds."""
        return statistics.median(self.per_second)

    @property
    def subject(self) -> tuple:
        """What another measurement takes the place of this one by."""
        settings = json.dumps(self.settings, sort_keys=True)
        return settings, self.backend, self.precision, self.machine

    def to_json(self) -> dict:
        """Return the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object) -> "Speed":
        """Return what `to_json` has returned.

        Raises:
            ValueError: If it is nothing of the kind.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or set(content) != names:
            raise ValueError("there are other fields than those of a measurement")
        if not isinstance(content["per_second"], list):
            raise ValueError("per_second is not valid")
        return cls(**{**content, "per_second": tuple(content["per_second"])})


def settings_of(recipe: Recipe) -> dict:
    """Return what of a recipe decides which backend is fastest, ready for JSON.

    Optimizer and schedule do not: they cost every backend about the same. Of the data,
    TensorFlow compiles for many examples alone; what is measured stands for many.
    """
    settings = {
        "build": recipe.name,
        "arguments": recipe.arguments,
        "batch_size": recipe.batch_size,
        "image_size": recipe.encoder.get("image_size"),
    }
    return json.loads(json.dumps(settings))


def versions(backend: str) -> dict[str, str]:
    """Return the versions that decide how fast a backend is, without importing it."""
    found = {"kerasdl": kerasdl.__version__}
    for name in ("keras", backend):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # it goes by another name
            found[name] = "unknown"
    return found


def _is_positive(number: object) -> bool:
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return is_number and 0 < number < math.inf
