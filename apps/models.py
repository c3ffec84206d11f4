"""`kerasdl models`: every builder with its family, size and paper."""

import inspect
import re

from kerasdl_apps.options import (
    Backend,
    Json,
    load_backend,
    print_json,
    print_line,
)

LINK = re.compile(r"\[([^\]]+)\]\(\s*(\S+?)\)", re.DOTALL)


def show(
    *,
    backend: Backend = None,  # noqa: ARG001 - its callback has chosen
    as_json: Json = False,
) -> None:
    """List every builder: family, default size, parameters, paper."""
    load_backend()
    rows = describe()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_line(
            f"{row['builder']}: {row['family']}, {row['parameters']:,} parameters"
        )
        print_line(f"    {row['size']}")
        print_line(f"    {row['paper']} {row['link']}".rstrip() or "    kerasdl's own")


def describe() -> list[dict]:
    """Return one dictionary per builder, read from the builders themselves."""
    from kerasdl import BUILDERS

    return [_describe(name, BUILDERS[name]) for name in sorted(BUILDERS)]


def _describe(name: str, builder) -> dict:
    import keras

    # Shapes are enough to count parameters: nothing is allocated.
    with keras.StatelessScope(initialize_variables=False):
        parameters = builder(optimizer=None).count_params()
    reference = inspect.getdoc(builder).partition("Reference:")[2]
    paper = LINK.search(reference)
    return {
        "builder": name,
        "family": builder.__module__.rpartition(".")[2],
        "size": ", ".join(_sizes(builder)),
        "parameters": parameters,
        "paper": " ".join(paper[1].split()) if paper else "",
        "link": paper[2] if paper else "",
    }


def _sizes(builder) -> list[str]:
    """Name the defaults that decide the number of parameters."""
    skipped = {"optimizer", "learning_rate", "name"}
    return [
        f"{parameter.name}={parameter.default}"
        for parameter in inspect.signature(builder).parameters.values()
        if parameter.name not in skipped
        and isinstance(parameter.default, (int, tuple))
        and not isinstance(parameter.default, bool)
    ]
