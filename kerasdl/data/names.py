"""What to say of data that are not there."""

import difflib
from collections.abc import Sequence
from pathlib import Path


def no_such_data(data: str, names: Sequence[str], otherwise: str) -> str:
    """Say that there are no such data, with the nearest name or path.

    Args:
        data: What was asked for.
        names: Names of data sets.
        otherwise: What may be given besides the names, for want of a near one.
    """
    parent = Path(data).expanduser().parent
    beside = sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []
    close = difflib.get_close_matches(data.casefold(), names, n=1)
    close += [
        str(parent / name)
        for name in difflib.get_close_matches(Path(data).name, beside, n=1)
    ]
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else f"give {', '.join(names)}{otherwise}"
    )
    return f"there is no data called {data!r}: {hint}"
