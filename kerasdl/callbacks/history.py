"""What each epoch leaves in the logs."""

import time

import keras


class EpochFacts(keras.callbacks.Callback):
    """Add the learning rate and the seconds of each epoch to its logs."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            logs["learning_rate"] = float(rate)
            logs["seconds"] = time.perf_counter() - self._start
