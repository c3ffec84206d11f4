"""Wait until all processes are there, and say by name who is not.

JAX ends a process that has waited in vain with a trace of its C++ and no sentence.
"""

import socket
import time

from kerasdl.cluster import Cluster
from kerasdl.errors import InputError

# Seconds between two attempts to reach process 0, and for a line over the network.
INTERVAL, LINE = 0.2, 5.0
GO = b"go\n"


def roll_call(cluster: Cluster, timeout: float) -> None:
    """Return once every process has called this; the address is free again then.

    Args:
        cluster: The processes.
        timeout: Seconds to wait.

    Raises:
        InputError: If a process does not come, or the port of process 0 is in use.
    """
    host, _, port = cluster.address.rpartition(":")
    end = time.monotonic() + timeout
    if cluster.rank == 0:
        _count(cluster, int(port), end, timeout)
    else:
        _report(cluster, (host.strip("[]"), int(port)), end, timeout)


def _count(cluster: Cluster, port: int, end: float, timeout: float) -> None:
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on port {port} ({error.strerror}); choose another"
        ) from error
    absent, present = set(map(str, range(1, cluster.size))), []
    try:
        with server:
            while absent:
                server.settimeout(max(end - time.monotonic(), 0.001))
                caller, _ = server.accept()
                if (rank := _line(caller)) in absent:
                    absent.remove(rank)
                    present.append(caller)
                else:  # a stranger
                    caller.close()
        for caller in present:
            caller.sendall(GO)
    except TimeoutError as error:
        raise InputError(
            f"process {', '.join(sorted(absent, key=int))} of {cluster.size} has not "
            f"joined in {timeout:.0f} s; start all of them"
        ) from error
    finally:
        for caller in present:
            caller.close()


def _line(caller: socket.socket) -> str | None:
    """Return what a caller says, or nothing if it says nothing."""
    caller.settimeout(LINE)
    try:
        with caller.makefile("rb") as file:
            return file.readline(20).decode(errors="replace").strip()
    except OSError:
        return None


def _report(cluster: Cluster, address, end: float, timeout: float) -> None:
    while time.monotonic() < end:
        try:
            with socket.create_connection(address, timeout=INTERVAL) as chief:
                chief.sendall(f"{cluster.rank}\n".encode())
                chief.settimeout(max(end - time.monotonic(), 0.001) + LINE)
                if chief.recv(len(GO)) == GO:
                    return
        except OSError:
            time.sleep(INTERVAL)
    raise InputError(
        f"process {cluster.rank} of {cluster.size} could not join: in {timeout:.0f} s "
        f"process 0 has not called at {cluster.address}; start all of them"
    )
