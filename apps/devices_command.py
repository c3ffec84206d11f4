"""`kerasdl devices`: what there is to compute on, and how fast it multiplies."""

import os
import platform

from kerasdl_apps.options import Backend, Json, load_backend
from kerasdl_apps.output import print_json, print_line


def show(
    *,
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> None:
    """List the devices, their speed, and what precision `auto` takes."""
    load_backend()
    found = describe()
    if as_json:
        print_json(found)
        return
    print_line(f"backend    {found['backend']}")
    for place, device in enumerate(found["devices"]):
        print_line(f"device {place}   {_in_words(device)}")
    print_line(f"cores      {found['cores']}")
    for name, peak in found["peak"].items():
        print_line(f"matrices   {peak / 1e9:,.0f} GFLOP/s in {name}")
    print_line(f"precision  auto is {found['auto']} ({found['reason']})")


def describe() -> dict:
    """Return backend, devices, the speed of matrix products, and what `auto` takes."""
    from keras import backend as keras_backend

    from kerasdl import backend
    from kerasdl.machine import cpu_facts
    from kerasdl.precision import choose, peak

    devices = [
        {**device, **_of_the_machine(cpu_facts())}
        if device["kind"] == "cpu"
        else device
        for device in backend.devices()
    ]
    choice = choose()
    return {
        "backend": keras_backend.backend(),
        "cores": os.cpu_count(),
        "devices": devices,
        "peak": {name: round(peak(name)) for name in ("float32", "bfloat16")},
        "auto": choice.precision,
        "reason": choice.reason,
    }


def _of_the_machine(facts: dict[str, str]) -> dict:
    """Return name and memory of the machine, which backends do not tell."""
    name = facts.get("model name", platform.machine())
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return {"name": name}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"name": name, "memory": memory}


def _in_words(device: dict) -> str:
    words = [device["name"]]
    if device["memory"]:
        words.append(f"{device['memory'] / 2**30:.1f} GiB")
    if device["capability"]:
        words.append("capability " + ".".join(map(str, device["capability"])))
    return ", ".join(words)
