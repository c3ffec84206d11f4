"""Real processes that train, to be killed, stopped, and run out of space."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from recording import BACKEND

from kerasdl import runs

# As a user's, whatever `conftest` says.
ENVIRONMENT = {
    **os.environ,
    "KERAS_BACKEND": BACKEND,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
}
MAIN = "from kerasdl_apps.cli import main; main()"
KILLED = -signal.SIGKILL


class Server:
    """One warm process that forks trainings: see `server.py`."""

    def __init__(self, cache, environment):
        environment = {
            **environment,
            "KERAS_BACKEND": BACKEND,
            # What the first child compiles, the others read.
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.answer()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, what, folder, **options):
        command = {"what": what, "folder": str(folder), **options}
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.answer()


def start(*arguments, before="", shell="", **environment):
    """Start the real command line.

    Args:
        *arguments: Of `kerasdl`.
        before: Python to run before it.
        shell: What a shell does before it, in a mount table of its own.
        **environment: More variables.
    """
    command = [sys.executable, "-c", before + MAIN, *map(str, arguments)]
    if shell:
        inside = ["sh", "-c", f'set -e; {shell}; exec "$@"', "sh"]
        command = ["unshare", "--mount", *inside, *command]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **environment},
    )


def finish(*arguments, **options):
    """Run the real command line to its end; return exit code and standard error."""
    process = start(*arguments, **options)
    _, errors = process.communicate()
    return process.returncode, errors


def can_mount() -> bool:
    """Say whether this process may mount a file system that nobody else sees."""
    command = "unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def leftovers(folder):
    """Return what a save that was cut short has left."""
    return [path for path in folder.rglob(".*") if path.is_dir()]


def run_result(out: Path) -> tuple:
    """Return what a run leaves, times apart."""
    rows = (out / "history.csv").read_text().splitlines()
    place = rows[0].split(",").index("seconds")
    metrics = json.loads((out / "metrics.json").read_text())
    return (
        [row.split(",")[:place] for row in rows],
        {**metrics, "seconds": 0},
        (out / "bundle" / "weights.safetensors").read_bytes(),
        (out / runs.CHECKPOINT_FILE).read_bytes(),
        sorted(path.name for path in out.rglob("*")),
    )
