"""What the system says of the machine, which needs no backend."""

import os
import platform
from functools import cache
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/gpus")


@cache
def cpu_facts() -> dict[str, str]:
    """Return what Linux says of the first processor, nothing on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    return _facts(text.partition("\n\n")[0])


def machine() -> str:
    """Name processor, cores and NVIDIA GPUs, by which one machine counts as another.

    Cores are those that this process may use; GPUs that `CUDA_VISIBLE_DEVICES` hides
    altogether do not count.
    """
    parts = [cpu_facts().get("model name") or platform.machine(), f"{_cores()} cores"]
    if os.environ.get("CUDA_VISIBLE_DEVICES") not in {"", "-1"}:
        parts += _gpus()
    return ", ".join(parts)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> list[str]:
    try:
        texts = [path.read_text() for path in sorted(NVIDIA.glob("*/information"))]
    except OSError:
        return []
    return [_facts(text).get("Model", "GPU") for text in texts]


def _facts(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
