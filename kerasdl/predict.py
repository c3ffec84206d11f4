"""Examples in, labels with calibrated probabilities, or values with a range, out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerasdl.backend import forward
from kerasdl.data.batches import BatchSource, Dense, Ragged
from kerasdl.data.encoders import Encoder
from kerasdl.data.images import ImageEncoder
from kerasdl.errors import InputError
from kerasdl.evaluate import conformal_margin, fit_temperature, softmax

BATCH_SIZE = 64
# Examples are encoded a chunk at a time, so that memory does not grow with their
# number.
EXAMPLES_PER_CHUNK = 4096
# So few validation examples can all be right by luck: they may make the probabilities
# more cautious, not bolder.
FEWEST_FOR_CONFIDENCE = 50


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about one example.

    Attributes:
        example: The example.
        label: Most probable label.
        probability: Calibrated probability of `label`.
        probabilities: Calibrated probability of every label.
    """

    example: Any
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class ValuePrediction:
    """What a regressor says about one example.

    Attributes:
        example: The example.
        value: Expected value.
        low: Lower end of the range that holds the true value in 9 cases of 10.
        high: Upper end of that range.
    """

    example: Any
    value: float
    low: float
    high: float


class Predictor:
    """A trained model behind its encoder: examples in, raw outputs out.

    Args:
        model: The model.
        encoder: Turns examples into the model's inputs.

    Raises:
        InputError: If the encoder does not make an input that the model needs.
    """

    def __init__(self, model: keras.Model, encoder: Encoder):
        if isinstance(model.output, dict):  # heads that only training has
            model = keras.Model(model.input, model.output["logits"], name=model.name)
        self.model = model
        self.encoder = encoder
        self._forward = forward(self.model)
        needed = {tensor.name for tensor in keras.tree.flatten(model.input)}
        if missing := sorted(needed - set(encoder.encode(encoder.no_examples))):
            raise InputError(
                f"the encoder does not make the model's input {missing[0]!r}"
            )

    def outputs(self, examples, *, mirrored: bool = False) -> np.ndarray:
        """Return what the model itself says, `(count, units)` float32 as a rule.

        Args:
            examples: What the encoder takes.
            mirrored: Ask for the mirror images instead; of images only.
        """
        return self._outputs(self.encoder.check(examples), mirrored=mirrored)

    def _outputs(self, examples, *, mirrored: bool = False) -> np.ndarray:
        """Return the outputs for examples that are checked already."""
        chunks = []
        for start in range(0, max(len(examples), 1), EXAMPLES_PER_CHUNK):
            inputs = self.encoder.encode(examples[start : start + EXAMPLES_PER_CHUNK])
            if mirrored:
                inputs = {name: images.mirrored() for name, images in inputs.items()}
            chunks.append(self.encoded_outputs(inputs))
        return np.concatenate(chunks)

    def encoded_outputs(self, inputs: Mapping[str, Ragged | Dense]) -> np.ndarray:
        """Return the outputs `(count, units)` for examples that are encoded already."""
        source = BatchSource(inputs, batch_size=BATCH_SIZE)
        count = len(next(iter(inputs.values())))
        outputs = np.zeros((count, *self.model.output_shape[1:]), np.float32)
        for rows in source.plan(0) if count else ():
            # Few batch sizes, so that JAX compiles few programs.
            padded = source.pad(np.resize(rows, _next_power_of_two(len(rows))))
            batch = keras.tree.map_structure(
                lambda tensor, padded=padded: padded[tensor.name], self.model.input
            )
            outputs[rows] = self._forward(batch)[: len(rows)]
        return outputs


class Classifier(Predictor):
    """A trained classifier, ready for examples.

    Args:
        model: Model with one logit per label, or one logit for two labels.
        encoder: Turns examples into the model's inputs.
        labels: Class names, in the order of the logits.
        temperature: Divides the logits, so that the probabilities are calibrated.
        tta: Test-time augmentation: average the logits for each image and its mirror
            image; of images only.

    Raises:
        InputError: If the encoder does not make an input that the model needs, or `tta`
            is asked of other inputs than images.
    """

    def __init__(
        self,
        model: keras.Model,
        encoder: Encoder,
        labels: Sequence[str],
        temperature: float = 1.0,
        tta: bool = False,
    ):
        super().__init__(model, encoder)
        if tta and not isinstance(encoder, ImageEncoder):
            raise InputError("tta=True, but only images have mirror images")
        self.labels = tuple(labels)
        self.temperature = temperature
        self.tta = tta

    @property
    def answer_settings(self) -> dict[str, float]:
        """What a bundle keeps besides model, encoder and labels."""
        settings = {"temperature": float(self.temperature)}
        return {**settings, "tta": True} if self.tta else settings

    @staticmethod
    def are_settings(settings: Any) -> bool:
        """Say whether these are such settings as `answer_settings` returns."""
        if isinstance(settings, dict) and settings.get("tta") is True:
            settings = {name: settings[name] for name in settings if name != "tta"}
        return _are_numbers(settings, {"temperature"}) and settings["temperature"] > 0

    def __call__(self, examples) -> list[Prediction]:
        """Classify examples.

        Args:
            examples: What the encoder takes: texts (a single string counts as one
                text), or rows of a table.

        Returns:
            One prediction per example, in order.

        Raises:
            InputError: If an example is not what the encoder takes.
        """
        examples = self.encoder.check(examples)
        rows = self._answers(self._averaged(examples, self.tta)).tolist()
        return [
            self._prediction(example, row)
            for example, row in zip(examples, rows, strict=True)
        ]

    def targets(self, labels: np.ndarray, *, smoothing: float = 0.0) -> np.ndarray:
        """Turn labels into what the model is trained on.

        Args:
            labels: Classes `(count,)`, or soft labels `(count, classes)`.
            smoothing: Share of each label given to all classes alike (Szegedy et al.
                2016, section 7).

        Returns:
            The labels as they are, or smoothed ones `(count, classes)`, float32.
        """
        if smoothing == 0:
            return labels
        classes = len(self.labels)
        shares = np.eye(classes)[labels] if labels.ndim == 1 else labels
        return (shares * (1 - smoothing) + smoothing / classes).astype(np.float32)

    def calibrate(self, examples, labels: np.ndarray) -> None:
        """Set the temperature by examples that the model was not trained on.

        Args:
            examples: The examples.
            labels: Their classes `(count,)`.
        """
        logits = self._averaged(self.encoder.check(examples), self.tta)
        temperature = fit_temperature(logits, labels)
        few = len(labels) < FEWEST_FOR_CONFIDENCE
        self.temperature = max(temperature, 1.0) if few else temperature

    def answers(self, examples, *, tta: bool | None = None) -> np.ndarray:
        """Return calibrated probabilities `(count, classes)`, float64.

        Args:
            examples: What the encoder takes.
            tta: Test-time augmentation, where it differs from the classifier's own.
        """
        examples = self.encoder.check(examples)
        return self._answers(self._averaged(examples, self.tta if tta is None else tta))

    def _averaged(self, examples, tta: bool) -> np.ndarray:
        """Return the logits for checked examples, mirror images included if asked."""
        outputs = self._outputs(examples)
        if tta:
            outputs = (outputs + self._outputs(examples, mirrored=True)) / 2
        return outputs

    def _answers(self, outputs: np.ndarray) -> np.ndarray:
        return softmax(outputs, self.temperature)

    def _prediction(self, example, row: list[float]) -> Prediction:
        best = int(np.argmax(row))
        named = dict(zip(self.labels, row, strict=True))
        return Prediction(example, self.labels[best], row[best], named)


class Regressor(Predictor):
    """A trained regressor, ready for examples.

    Attributes:
        labels: None: there are no classes.

    Args:
        model: Model whose outputs are in units of `scale` around `mean`.
        encoder: Turns examples into the model's inputs.
        mean: Value for an output of 0.
        scale: What an output of 1 adds to it.
        margin: The true value lies this near to the predicted one in 9 cases of 10.

    Raises:
        InputError: If the encoder does not make an input that the model needs.
    """

    labels = ()

    def __init__(
        self,
        model: keras.Model,
        encoder: Encoder,
        mean: float = 0.0,
        scale: float = 1.0,
        margin: float = 0.0,
    ):
        super().__init__(model, encoder)
        self.mean = mean
        self.scale = scale
        self.margin = margin

    @property
    def answer_settings(self) -> dict[str, float]:
        """What a bundle keeps besides model and encoder."""
        return {
            "mean": float(self.mean),
            "scale": float(self.scale),
            "margin": float(self.margin),
        }

    @staticmethod
    def are_settings(settings: Any) -> bool:
        """Say whether these are such settings as `answer_settings` returns."""
        return _are_numbers(settings, {"mean", "scale", "margin"})

    def __call__(self, examples) -> list[ValuePrediction]:
        """Predict the values of examples, one prediction each, in order.

        Raises:
            InputError: If an example is not what the encoder takes.
        """
        examples = self.encoder.check(examples)
        values = self._answers(self._outputs(examples)).tolist()
        return [
            ValuePrediction(example, value, value - self.margin, value + self.margin)
            for example, value in zip(examples, values, strict=True)
        ]

    def targets(self, values: np.ndarray, *, smoothing: float = 0.0) -> np.ndarray:
        """Turn values into what the model is trained on, `(count, 1)` float32.

        Raises:
            ValueError: If `smoothing` is not 0: only classes can be smoothed.
        """
        if smoothing:
            raise ValueError(f"label_smoothing={smoothing}; values cannot be smoothed")
        return ((values - self.mean) / self.scale).astype(np.float32)[:, None]

    def calibrate(self, examples, values: np.ndarray) -> None:
        """Set the margin by examples that the model was not trained on.

        Args:
            examples: The examples.
            values: Their values `(count,)`.
        """
        self.margin = conformal_margin(self.answers(examples) - values)

    def answers(self, examples) -> np.ndarray:
        """Return predicted values, float64.

        Their shape is `(count,)`, or the model's output shape where that holds more
        than one value.
        """
        return self._answers(self.outputs(examples))

    def _answers(self, outputs: np.ndarray) -> np.ndarray:
        values = self.mean + self.scale * outputs.astype(np.float64)
        return values[:, 0] if values.shape[1:] == (1,) else values


def _are_numbers(settings: Any, names: set[str]) -> bool:
    return (
        isinstance(settings, dict)
        and set(settings) == names
        and all(
            isinstance(value, (int, float)) and math.isfinite(value)
            for value in settings.values()
        )
    )


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
