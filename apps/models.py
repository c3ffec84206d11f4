"""`kerasdl models`: every builder with its family, size and paper."""

import inspect
import math
import re
import sys

from kerasdl_apps.options import Backend, Json, load_backend
from kerasdl_apps.output import print_json, print_line

LINK = re.compile(r"\[([^\]]+)\]\(\s*(\S+?)\)", re.DOTALL)


def show(
    *,
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> None:
    """List every builder: family, default size, trained parameters, paper."""
    load_backend()
    rows = describe()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        count = row["parameters"]
        counted = "" if count is None else f", {count:,} parameters"
        print_line(f"{row['builder']}: {row['family']}{counted}")
        print_line(f"    {row['size']}")
        if row["variants"]:
            print_line(f"    variants {', '.join(row['variants'])}")
        print_line(f"    {row['paper']} {row['link']}".rstrip() or "    kerasdl's own")


def describe() -> list[dict]:
    """Return one dictionary per builder, read from the builders themselves."""
    from kerasdl import BUILDERS

    return [_describe(name, BUILDERS[name]) for name in sorted(BUILDERS)]


def _describe(name: str, builder) -> dict:
    module = sys.modules[builder.__module__]
    has_variants = "variant" in inspect.signature(builder).parameters
    reference = inspect.getdoc(builder).partition("Reference:")[2]
    paper = LINK.search(reference)
    return {
        "builder": name,
        "family": builder.__module__.rpartition(".")[2],
        "size": ", ".join(_sizes(builder)) or "as its backbone",
        "parameters": _count(builder),
        "variants": sorted(getattr(module, "VARIANTS", ())) if has_variants else [],
        "paper": " ".join(paper[1].split()) if paper else "",
        "link": paper[2] if paper else "",
    }


def _count(builder) -> int | None:
    """Count the parameters at the default size, where there is one."""
    import keras

    arguments = inspect.signature(builder).parameters.values()
    if any(argument.default is argument.empty for argument in arguments):
        return None
    # Shapes are enough: nothing is allocated.
    with keras.StatelessScope(initialize_variables=False):
        weights = builder(optimizer=None).trainable_weights
    return sum(math.prod(weight.shape) for weight in weights)


def _sizes(builder) -> list[str]:
    """Name the defaults that decide the number of parameters."""
    skipped = {"optimizer", "learning_rate", "name"}
    return [
        f"{parameter.name}={parameter.default}"
        for parameter in inspect.signature(builder).parameters.values()
        if parameter.name not in skipped
        and (
            parameter.name == "variant"
            or (
                isinstance(parameter.default, (int, tuple))
                and not isinstance(parameter.default, bool)
            )
        )
    ]
