"""`kerasdl images check FOLDER`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kerasdl_apps.options import Json
from kerasdl_apps.output import (
    check_writable,
    console,
    print_json,
    print_line,
)


def check(
    folder: Annotated[Path, typer.Argument(help="Folder of class folders of photos.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write a page with the pictures (HTML).")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Decode nothing: a look at files and classes."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Examine a folder of photos: damage, copies, labels that may be wrong, classes.

    Exits with 1 if something would stop training (damaged files, an empty class, fewer
    than two classes), else with 0, whatever the warnings.
    """
    if out:
        check_writable(out)
    from kerasdl.doctor import check_images

    with _progress() as progress:
        findings = check_images(folder, full=not fast, progress=progress)
    if out:
        from kerasdl.doctor import write_page

        write_page(out, findings)
    if as_json:
        print_json(findings.to_json())
    else:
        for line in findings.lines() or ["nothing was found"]:
            print_line(line)
        if findings.ignored:
            print_line(findings.ignored)
        classes = {label for counts in findings.classes.values() for label in counts}
        print_line(f"{findings.images:,} readable images of {len(classes):,} classes")
        if out:
            print_line(f"page     {out}")
    return int(findings.stops_training)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show how many images have been looked at, where somebody watches."""
    from rich.progress import Progress

    screen = console()
    with Progress(
        console=screen, transient=True, disable=not screen.is_terminal
    ) as bar:
        task = bar.add_task("Looking at images", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)
