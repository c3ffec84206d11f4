"""The `kerasdl` command: options in, one clear sentence out when something is wrong.

Exit codes: 0 done, 1 failed while running (a full disk, say), 2 refused before anything
was written, 130 ended by Ctrl-C, 143 ended by SIGTERM.
"""

import os
import signal
import sys
from types import FrameType

import typer

from kerasdl.errors import InputError
from kerasdl.untrusted import shown
from kerasdl_apps import (
    bench_command,
    devices_command,
    images_commands,
    launch_command,
    models,
    runs_commands,
    sentiment_commands,
    tabular_commands,
)

# What typer raises for a misspelt option, a missing argument and the like.
UsageError = typer.BadParameter.__base__


class Ended(SystemExit):
    """Ctrl-C or SIGTERM; typer would end on a KeyboardInterrupt without a word."""


app = typer.Typer(
    name="kerasdl",
    help="Train, measure and use Keras models on TensorFlow, JAX and PyTorch.",
    add_completion=False,
    rich_markup_mode=None,  # importing rich would take half of the time of --help
    pretty_exceptions_enable=False,
)
app.add_typer(sentiment_commands.app, name="sentiment")
app.add_typer(images_commands.app, name="images")
app.add_typer(tabular_commands.app, name="tabular")
app.command(name="models")(models.show)
app.command(name="devices")(devices_command.show)
app.command(name="bench")(bench_command.bench)
app.command(
    name="launch",
    # What follows the command is its own.
    context_settings={"allow_interspersed_args": False},
)(launch_command.launch)
app.command(name="runs")(runs_commands.list_runs)
app.command(name="compare")(runs_commands.compare)


def main() -> None:
    """Run the command line and exit with its code."""
    # TensorFlow's banner is of no use to whoever runs an app.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    sys.exit(_run(sys.argv[1:] or ["--help"]))


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, prog_name="kerasdl", standalone_mode=False) or 0
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _fail(_usage(error), 2)
    except Ended as ended:
        return _fail(signal.strsignal(ended.code - 128).lower(), ended.code)
    except InputError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("KERASDL_DEBUG"):
            raise
        return _fail(_one_sentence(error), 1)


def _usage(error: UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "kerasdl"
    return f"{error.format_message().rstrip('.?')}; see {command} --help"


def _one_sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    if isinstance(error, MemoryError):
        return "out of memory; try a smaller --batch-size or less data"
    first_line = str(error).partition("\n")[0]
    return (
        f"{type(error).__name__}: {first_line} (set KERASDL_DEBUG=1 for the traceback)"
    )


def _fail(message: str, code: int) -> int:
    sentence = shown(" ".join(message.splitlines()))
    print("error:", sentence, file=sys.stderr)  # noqa: T201
    return code


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Ended(128 + number)
