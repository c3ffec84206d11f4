"""Batches and steps on JAX with little Python around them.

Whatever Python does takes a core from the step that is being computed, and the others
wait for that one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import keras

from kerasdl.backend.handed_over import HandedOver

# Of examples that JAX holds: they are copies.
MOST_BYTES = 1e9


@contextmanager
def handed_over(
    model: keras.Model,
    source: keras.utils.PyDataset,
    steps: int,  # noqa: ARG001
) -> Iterator:
    """Let `fit` take the batches of a source with little in between.

    Args:
        model: Compiled model.
        source: A `kerasdl.data.batches.BatchSource`.
        steps: Steps of the whole training.

    Yields:
        What `fit` is to be given.
    """
    if (
        keras.distribution.distribution() is not None
        or keras.config.is_nnx_enabled()
        or model.run_eagerly
        or not model.jit_compile
        or model.steps_per_execution > 1
    ):
        yield HandedOver(source)
        return
    examples = _held(source.examples())
    model.train_function = TrainFunction(model)
    try:
        yield HandedOver(source) if examples is None else Held(source, examples)
    finally:
        model.train_function = None


class TrainFunction:
    """What Keras makes of the model's training step, with a state of `Values`.

    Args:
        model: Compiled model.
    """

    def __init__(self, model: keras.Model):
        def step(state, batch):  # JAX would find an old one compiled
            return model.train_step(state, batch)

        self._step = jax.jit(step, donate_argnums=0)

    def __call__(self, state, batches: Iterator):
        """Return the logs of the next batch, and the state after it."""
        logs, state = self._step(tuple(map(list, state)), next(batches))
        return logs, tuple(map(Values, state))


class Values(Sequence):
    """Values of variables, which Keras keeps in the model after each step.

    Of a list it looks at each member then, whether it is a layer or a variable.

    Args:
        values: A list of them.
    """

    def __init__(self, values: list):
        self._values = values

    def __getitem__(self, index):
        return self._values[index]

    def __iter__(self):
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Held(HandedOver):
    """Batches of examples that JAX holds, whose rows it takes step by step.

    Args:
        source: A `kerasdl.data.batches.BatchSource`.
        examples: All of its examples as one batch, of arrays of JAX.
    """

    def __init__(self, source: keras.utils.PyDataset, examples):
        super().__init__(source)
        self.examples = examples

    def __iter__(self):
        for i in range(self.source.num_batches):
            yield _taken(self.examples, self.source.rows(i))


@jax.jit
def _taken(examples, rows):
    return jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), examples)


def _held(examples):
    """Return arrays of JAX; `None` where NumPy is to take the rows of a batch."""
    if examples is None or jax.default_backend() != "cpu":
        return None
    if sum(array.nbytes for array in jax.tree.leaves(examples)) > MOST_BYTES:
        return None
    try:
        return jax.device_put(examples)
    except (MemoryError, jax.errors.JaxRuntimeError):
        return None
