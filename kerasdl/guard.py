"""Ends worker processes whose launcher is gone: `kerasdl.launching` runs this file.

A line of standard input names a process group: `+1234` has begun, `-1234` is over. The
end of the input says that the launcher is gone, however it went: the system closes a
pipe even for a process that is killed. A parent-death signal (`prctl`) exists on Linux
only, and would reach the workers but not what they have started.
"""

import os
import signal
import sys
import time


def main(grace: float) -> None:
    """Wait for the end of the launcher, then end the groups that are left."""
    groups = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    limit = time.monotonic() + grace
    _send(groups, signal.SIGTERM)
    while (groups := _send(groups, 0)) and time.monotonic() < limit:
        time.sleep(0.05)
    _send(groups, signal.SIGKILL)


def _send(groups: set[int], number: int) -> set[int]:
    """Send a signal, where 0 only asks; return the groups that were there."""
    found = set()
    for group in groups:
        try:
            os.killpg(group, number)
            found.add(group)
        except OSError:
            pass
    return found


if __name__ == "__main__":
    main(float(sys.argv[1]))
