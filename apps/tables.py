"""Tables of results on standard output."""

import sys
from collections.abc import Sequence

from kerasdl.untrusted import shown
from kerasdl_apps.output import print_line


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people on a terminal, with tabs where it is piped."""
    if not sys.stdout.isatty():
        for row in (header, *rows):
            print_line("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(Text(shown(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console().print(table)
