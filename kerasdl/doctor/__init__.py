"""The doctor of a folder of photos: what would spoil training, found before it."""

import importlib

_MODULES = {
    "Findings": "kerasdl.doctor.findings",
    "check_images": "kerasdl.doctor.check",
    "fast_check": "kerasdl.doctor.quick",
    "write_page": "kerasdl.doctor.page",
}

__all__ = [*_MODULES]  # noqa: PLE0604 - all are strings


def __getattr__(name: str):
    # On first use, as scikit-learn and Matplotlib take a second to import.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
