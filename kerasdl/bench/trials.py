"""Start the processes that measure, one for each backend and precision."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

from kerasdl.bench.speed import Speed, settings_of, versions
from kerasdl.machine import machine
from kerasdl.recipe import Recipe
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
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "kerasdl.bench"],
            env={**os.environ, "KERAS_BACKEND": backend},
            input=json.dumps(request),
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"it was not done in {limit:.0f} s, and was ended"}
    if done.returncode:
        return {"failed": _how(done)}
    return json.loads(done.stdout.splitlines()[-1])


def _how(done: subprocess.CompletedProcess) -> str:
    """Say how a process ended that has not said so itself."""
    if done.returncode < 0:
        memory = ", perhaps for lack of memory" if done.returncode == -9 else ""
        return f"its process was killed by signal {-done.returncode}{memory}"
    last = (done.stderr.splitlines() or [""])[-1]
    return f"its process ended with exit code {done.returncode}: {last}"
