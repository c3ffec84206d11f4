"""Callbacks that need not wait for the batch that is still being computed."""

from collections.abc import Iterator, Mapping

import keras


class PendingLogs(Mapping):
    """The logs of a batch; reading one waits until it is computed.

    Args:
        logs: Name to what a backend will know.
    """

    def __init__(self, logs: Mapping | None):
        self._logs = logs or {}

    def __getitem__(self, name: str) -> float:
        return float(keras.ops.convert_to_numpy(self._logs[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._logs)

    def __len__(self) -> int:
        return len(self._logs)


class PromptCallbacks(keras.callbacks.CallbackList):
    """The callbacks of a `fit`, told of a batch once its step is started.

    Keras's own list makes numbers of all logs of each batch, if any callback is told of
    batches. Where a step is only started, as on JAX and on GPUs, the device then has
    nothing to do until the next batch is made. Here `on_train_batch_end` is handed
    `PendingLogs`.

    Args:
        callbacks: What `fit` would be given.
        model: What is trained.
        epochs: As of `fit`.
        steps: Batches of an epoch.
    """

    def __init__(self, callbacks, model: keras.Model, *, epochs: int, steps: int):
        super().__init__(
            callbacks, add_history=True, verbose=0, epochs=epochs, steps=steps
        )
        self._trained = model

    def on_train_begin(self, logs=None):
        self.set_model(self._trained)  # when it is built, as in `fit`
        super().on_train_begin(logs)

    def on_train_batch_end(self, batch, logs=None):
        logs = PendingLogs(logs)
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs=logs)
