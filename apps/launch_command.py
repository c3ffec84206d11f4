"""`kerasdl launch`: a command in several processes that train together."""

from typing import Annotated

import typer

from kerasdl import launching


def launch(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="What to run, as in -- kerasdl sentiment train"),
    ] = None,
    *,
    processes: Annotated[
        int, typer.Option("--nproc", help="Number of processes on this machine.")
    ],
    port: Annotated[
        int | None, typer.Option(help="Where process 0 listens; by default a free one.")
    ] = None,
) -> int:
    """Run a command in processes that train together; end all when one fails."""
    return launching.launch(command or (), processes=processes, port=port)
