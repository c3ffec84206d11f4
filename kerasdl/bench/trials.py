"""Start the processes that measure, one for each backend and precision."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

from kerasdl.bench.speed import Speed, settings_of, versions
from kerasdl.machine import machine
from kerasdl.recipe import Recipe
from kerasdl.signals import caught_signals
from kerasdl.untrusted import brief

# A trial that takes so many times as long as it measures, and this besides, is ended.
PATIENCE, BESIDES = 20, 600


class NoResultError(Exception):
    """A trial that has measured nothing; the message says why.

    Attributes:
        is_failure: Whether something went wrong, rather than being out of the question.
    """

    def __init__(self, reason: str, *, is_failure: bool):
        super().__init__(brief(reason))
        self.is_failure = is_failure


def measure(
    recipe: Recipe,
    backend: str,
    precision: str,
    *,
    app: str,
    model: str,
    seconds: float,
) -> Speed:
    """Measure how fast a recipe trains, in a process of its own.

    Args:
        recipe: What to train; random examples take the place of its data.
        backend: One of `kerasdl.installed.BACKENDS`.
        precision: One of `kerasdl.bench.speed.FIXED_PRECISIONS`.
        app: Name of the app, to store the result by.
        model: Name of the recipe in it.
        seconds: How long to measure, once all is compiled.

    Returns:
        The speed.

    Raises:
        NoResultError: If the trial failed, or the device lacks the precision.
    """
    recipe = replace(recipe, precision=precision)
    found = _found(recipe, backend, seconds)
    for name, is_failure in (("skipped", False), ("failed", True)):
        if name in found:
            raise NoResultError(found[name], is_failure=is_failure)
    return Speed(
        app=app,
        model=model,
        settings=settings_of(recipe),
        backend=backend,
        precision=precision,
        per_second=tuple(found["per_second"]),
        start_up=found["start_up"],
        device=found["device"],
        machine=machine(),
        versions=versions(backend),
        measured=time.strftime("%Y-%m-%d %H:%M"),
    )


def _found(recipe: Recipe, backend: str, seconds: float) -> dict:
    request = {"recipe": recipe.to_json(), "seconds": seconds, "began": time.time()}
    limit = BESIDES + PATIENCE * seconds
    with contextlib.ExitStack() as stack:
        # A signal that came before we have the process in hand would leave it behind.
        with caught_signals() as received:
            process = stack.enter_context(_process(backend))
            stack.callback(process.kill)
        for number in received:
            signal.raise_signal(number)
        try:
            output, errors = process.communicate(json.dumps(request), timeout=limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"it was not done in {limit:.0f} s, and was ended"}
    if process.returncode:
        return {"failed": _how(process.returncode, errors)}
    return json.loads(output.splitlines()[-1])


def _process(backend: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "kerasdl.bench"],
        env={**os.environ, "KERAS_BACKEND": backend},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _how(code: int, errors: str) -> str:
    """Say how a process ended that has not said so itself."""
    if code < 0:
        memory = ", perhaps for lack of memory" if code == -9 else ""
        return f"its process was killed by signal {-code}{memory}"
    last = (errors.splitlines() or [""])[-1]
    return f"its process ended with exit code {code}: {last}"
