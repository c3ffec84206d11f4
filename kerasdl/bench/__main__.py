"""One trial: a request in JSON on standard input, what was found on standard output."""

import json
import sys

from kerasdl.errors import InputError
from kerasdl.quiet import quiet_stderr


def main() -> None:
    """Measure what is asked for, and print one line of JSON."""
    request = json.load(sys.stdin)
    try:
        with quiet_stderr():
            from kerasdl.bench.measuring import measure  # noqa: PLC0415 - once quiet
        from kerasdl.recipe import Recipe  # noqa: PLC0415

        recipe = Recipe.from_json(request.pop("recipe"))
        found = measure(recipe, **request)
    except InputError as error:
        found = {"skipped": str(error)}
    except Exception as error:  # of any kind: it is this backend's, not the others'
        found = {"failed": f"{type(error).__name__}: {error}"}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


main()
