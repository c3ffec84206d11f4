"""Early stopping that a checkpoint can hold."""

import keras


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's early stopping, which can give its state and take it back."""

    STATE = ("wait", "best", "best_epoch", "stopped_epoch", "best_weights")

    def state_dict(self) -> dict:
        """Return what the epochs so far have left."""
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` has returned, after `on_train_begin`."""
        for name in self.STATE:
            setattr(self, name, state[name])
