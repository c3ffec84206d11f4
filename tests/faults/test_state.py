"""Rows 8 and 13 of the table of faults: what goes on as if nothing had happened."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import resuming
from recording import record
from resuming import Killed
from test_images_app import pictures
from test_training import weights

import kerasdl
from kerasdl import backend
from kerasdl.checkpoint import Store
from kerasdl.fit import fit
from kerasdl.phases import Phases
from kerasdl.recipe import Recipe

pytestmark = pytest.mark.faults

PLAIN = Recipe(
    build="cnn",
    kind="image",
    arguments={"filters": (8,)},
    epochs=5,
    patience=9,
    batch_size=8,
    learning_rate=0.03,
    schedule="constant",
)
EVERYTHING = {
    "augment": "strong",
    "ema": 0.9,
    "plateau": 1,
    "accumulate": 2,
    "warmup": 0.1,
    "schedule": "cosine",
    "patience": 3,
}
# Row 8, one by one and together; `early stopping` ends the training before its time.
SETTINGS = {
    "early stopping": {"epochs": 30, "patience": 3},
    "plateau": {"plateau": 2, "epochs": 8},
    "schedule": {"schedule": "one_cycle", "optimizer": "sgd"},
    "EMA": {"ema": 0.9},
    "SWA": {"swa": 0.6},
    "accumulation": {"accumulate": 3},
    "MixUp": {"augment": "strong"},
    "schedule-free": {"optimizer": "schedule_free_adamw"},
    "SAM": {"sam": 0.05},
    "all at once": EVERYTHING,
}


def noisy():
    """Pictures whose labels cannot be learnt: the validation loss soon gets worse."""
    shown = pictures()
    labels = np.random.default_rng(1).permutation(shown.labels)
    return replace(shown, labels=labels)


def train(recipe, folder):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    backend.set_seed(0)
    phases = Phases(folder, saving={"every_steps": 1})
    fitted = fit(recipe, kerasdl.cnn, noisy(), phases=phases)
    values = weights(fitted.predictor.model)
    history = {**fitted.history, "seconds": 0}
    return {path: w.tobytes() for path, w in values.items()}, history


@pytest.mark.parametrize("setting", SETTINGS)
def test_training_goes_on_as_it_was(setting, kill, tmp_path):
    recipe = replace(PLAIN, **SETTINGS[setting])
    expected = train(recipe, tmp_path / "whole")
    epochs = len(expected[1]["loss"])
    steps = -(-int(0.9 * len(pictures())) // recipe.batch_size)
    # The last one in the last epoch, after which patience ends.
    kills = (steps - 2, steps, 2 * steps + 3, (epochs - 1) * steps + 2)
    states = []
    for step in kills:
        kill(step)
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            train(recipe, folder)
        kill(-1)
        states.append(saved_state(folder))
        assert train(recipe, folder) == expected
    if setting == "early stopping":
        assert epochs < recipe.epochs
        assert states[-1]["EarlyStopping"]["wait"] == 2
    if setting == "plateau":
        assert len(set(expected[1]["learning_rate"])) > 1
        assert any(state["LowerRateOnPlateau"]["wait"] for state in states)
    record(f"8 {setting}", len(kills), equal=len(kills))


def saved_state(folder):
    """Return what the callbacks had in the newest checkpoint."""
    state = Store(folder / "checkpoints" / "training").newest().state
    return dict(state["callbacks"])


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_loss_scale_goes_on_as_it_was(policy, tmp_path, monkeypatch):
    plain, before = resuming.tiny_model, keras.config.dtype_policy()

    def scaled():
        model = plain()
        inner = keras.optimizers.Adam(0.05)
        # High enough to overflow at first: steps are left out, the scale falls.
        scale = 2.0**30 if policy == "mixed_float16" else 64.0
        optimizer = keras.optimizers.LossScaleOptimizer(
            inner, initial_scale=scale, dynamic_growth_steps=4
        )
        model.compile(optimizer, model.loss, metrics=["accuracy"])
        return model

    monkeypatch.setattr(resuming, "tiny_model", scaled)
    keras.config.set_dtype_policy(policy)
    try:
        expected = resuming.run(tmp_path / "whole", epochs=6)
        for step in (3, 6, 10, 25):
            assert resuming.run(tmp_path / str(step), kill=step, epochs=6) is None
            assert resuming.run(tmp_path / str(step), epochs=6) == expected
    finally:
        keras.config.set_dtype_policy(before)
    record(f"8 loss scale, {policy}", 4, equal=4)


class Raise(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.step -= 1
        if self.step == 0:
            raise RuntimeError("a callback of mine")


def test_a_callback_that_raises(tmp_path):
    expected = resuming.run(tmp_path / "whole", before=[Raise(-1)])
    for step in (1, 5, 7, 12, 21):
        with pytest.raises(RuntimeError, match="a callback of mine"):
            resuming.run(tmp_path / str(step), before=[Raise(step)])
        assert resuming.run(tmp_path / str(step), before=[Raise(-1)]) == expected
    record("13", 5, equal=5)
