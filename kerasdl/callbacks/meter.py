"""How fast a training is, and how much memory it takes."""

import sys
import time

import keras

from kerasdl.backend import device_memory

try:
    import resource
except ImportError:  # Windows, which does not tell in this way
    resource = None


class Meter(keras.callbacks.Callback):
    """Add speed and memory to the logs of each epoch.

    `examples_per_second` counts the time of the training batches, without validation
    and other callbacks' work at the end of the epoch. `memory_mb` is the most memory
    that the process has held so far, `device_memory_mb` the same of an accelerator
    where its backend tells. Put it before what writes the logs.

    Attributes:
        figures: What was measured of the last epoch, by the names above.

    Args:
        examples: Examples of one epoch.
        in_logs: Whether the logs are to have it, and so the history.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mean_squared_error")
        >>> x = keras.ops.ones((8, 1))
        >>> history = model.fit(x, x, callbacks=[Meter(len(x))], verbose=0).history
        >>> history["examples_per_second"][0] > 0
        True
    """

    def __init__(self, examples: int, *, in_logs: bool = True):
        super().__init__()
        self.examples = examples
        self.in_logs = in_logs
        self.figures: dict[str, float] = {}

    def on_epoch_begin(self, epoch, logs=None):
        self._seconds, self._batches = 0.0, 0
        self._last = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        self._seconds += now - self._last
        self._last = now
        self._batches += 1

    def on_epoch_end(self, epoch, logs=None):
        if not self._batches:
            return
        # A resumed epoch has only some of the batches.
        share = self._batches / (self.params.get("steps") or self._batches)
        self.figures = {"examples_per_second": self.examples * share / self._seconds}
        for name, used in (
            ("memory_mb", _peak_memory()),
            ("device_memory_mb", device_memory()),
        ):
            if used is not None:
                self.figures[name] = used / 1e6
        if self.in_logs and logs is not None:
            logs.update(self.figures)


def _peak_memory() -> int | None:
    """Return the most bytes that this process has held in memory, if known."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
