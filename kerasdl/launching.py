"""Processes on this machine that train together: started, watched, ended together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kerasdl.errors import InputError
from kerasdl.signals import caught_signals

# Seconds that workers have to end in order after SIGTERM, before SIGKILL.
GRACE = 20.0
# Seconds between two looks at the workers.
INTERVAL = 0.02
HOST = "127.0.0.1"


def launch(command: Sequence[str], *, processes: int, port: int | None = None) -> int:
    """Run a command in several processes that find each other.

    Each gets `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and
    `MASTER_PORT`, as under `torchrun`, and its share of the cores. What rank 0 prints
    passes through; lines of rank 1 go to standard error behind `[1]`.

    The first worker that fails is named on standard error, and the others are stopped.
    A first Ctrl-C or SIGTERM is handed to every worker, which may end in order; a
    second one kills them. No worker, nor what it has started, outlives this call or
    this process, even if that is killed.

    Args:
        command: Program and arguments; the program `kerasdl` is this version of it.
        processes: Number of processes, at least 1.
        port: Where rank 0 listens; a free one by default.

    Returns:
        0, or the exit code of the worker that failed first: 128 + number of the signal
        if one has ended it.

    Raises:
        InputError: If the command cannot be started, or the port is in use.
    """
    if not command:
        raise InputError(
            "there is no command to launch; write it behind --, as in "
            "kerasdl launch --nproc 2 -- kerasdl sentiment train"
        )
    if processes < 1:
        raise InputError(f"{processes} processes; expected 1 or more")
    port = _free_port(port)
    workers: list[_Worker] = []
    with caught_signals() as received, _guarded() as tell:
        try:
            for rank in range(processes):
                environment = _environment(rank, processes, port)
                workers.append(_Worker(rank, _program(command), environment, tell))
            return _watch(workers, received)
        finally:
            for worker in workers:
                worker.send(signal.SIGKILL)
                worker.finish()


class _Worker:
    """One of the processes, and whatever it starts: a session of its own.

    A terminal's Ctrl-C would otherwise reach it at once and, forwarded, again.
    """

    def __init__(
        self,
        rank: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        tell: Callable[[str], None],
    ):
        self.rank = rank
        self._tell = tell
        self._ended = False
        try:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,  # all would read from one terminal
                stdout=subprocess.PIPE if rank else None,
                stderr=subprocess.STDOUT if rank else None,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(
                f"cannot start {command[0]!r}: {error.strerror.lower()}"
            ) from error
        tell(f"+{self._process.pid}")
        if rank:
            self._reader = threading.Thread(target=self._pass_on, daemon=True)
            self._reader.start()

    def _pass_on(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip("\r\n")
                text = text.rpartition("\r")[-1]  # a progress bar, as it was at last
                # Where nobody reads, the worker must not wait.
                with contextlib.suppress(OSError, ValueError):
                    _say(f"[{self.rank}] {text}")

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal's number, `None` while it runs.

        What the worker has left behind ends with it, at once: its number may soon be
        that of another process.
        """
        code = self._process.poll()
        if code is not None and not self._ended:
            self._send(signal.SIGKILL)
            self._ended = True
            self._tell(f"-{self._process.pid}")
        return code

    def send(self, number: int) -> None:
        """Send a signal to the worker and what it has started, while it runs."""
        if self.poll() is None:
            self._send(number)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def finish(self) -> None:
        """Wait for the end of the worker and of its output."""
        self._process.wait()
        self.poll()
        if self.rank:
            self._reader.join(timeout=1)


def _watch(workers: Sequence[_Worker], received: Sequence[int]) -> int:
    """Wait for the workers, and return the code to exit with."""
    in_order = {0}
    while True:
        codes = {worker: worker.poll() for worker in workers}
        failed = [w for w, code in codes.items() if code not in {None, *in_order}]
        if failed:
            # Of two that end at once, the one that was killed is the cause.
            return _stop_the_others(min(failed, key=codes.get), codes, received)
        if None not in codes.values():
            return next((_exit_code(code) for code in codes.values() if code), 0)
        if len(received) > 1:
            return 128 + received[-1]
        if received and len(in_order) == 1:
            in_order |= {-received[0], 128 + received[0]}
            for worker in workers:
                worker.send(received[0])
        time.sleep(INTERVAL)


def _stop_the_others(
    failed: _Worker, codes: Mapping[_Worker, int | None], received: Sequence[int]
) -> int:
    """Say which worker failed, let the others end, and return its exit code."""
    code = codes[failed]
    how = (
        f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
    )
    others = [worker for worker in codes if codes[worker] is None]
    then = "; the others are stopped" if others else ""
    _say(f"error: worker {failed.rank} {how}{then}")
    for worker in others:
        worker.send(signal.SIGTERM)
    limit, before = time.monotonic() + GRACE, len(received)
    while any(worker.poll() is None for worker in others):
        if time.monotonic() > limit or len(received) > before:
            break
        time.sleep(INTERVAL)
    return _exit_code(code)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _program(command: Sequence[str]) -> list[str]:
    """Replace `kerasdl` by this very version, whether or not it is on the path."""
    if command[0] == "kerasdl":
        return [sys.executable, "-P", "-m", "kerasdl_apps", *command[1:]]
    return [*command]


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    return {
        "RANK": f"{rank}",
        "WORLD_SIZE": f"{processes}",
        "LOCAL_RANK": f"{rank}",
        "LOCAL_WORLD_SIZE": f"{processes}",
        "MASTER_ADDR": HOST,
        "MASTER_PORT": f"{port}",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", f"{_cores(processes)}"),
    }


def _cores(processes: int) -> int:
    """Return the share of this process's cores that each worker has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return max(1, len(os.sched_getaffinity(0)) // processes)
    return max(1, (os.cpu_count() or 1) // processes)


def _free_port(port: int | None) -> int:
    """Return a port on which nobody listens: this one, if one is given."""
    if port is not None and not 0 < port < 2**16:
        raise InputError(f"port {port}; expected 1 to 65535")
    with socket.socket() as probe:
        # As the libraries do, which take a port that was just given up.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port or 0))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror.lower()}); choose "
                "another one with --port, or leave it out"
            ) from error
        return probe.getsockname()[1]


@contextlib.contextmanager
def _guarded() -> Iterator[Callable[[str], None]]:
    """Run the process that outlives this one, should this one be killed."""
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", Path(__file__).with_name("guard.py"), f"{GRACE}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        bufsize=0,
    )

    def tell(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody has killed the guard
            guard.stdin.write(f"{line}\n".encode())

    with guard:
        yield tell
