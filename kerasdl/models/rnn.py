"""Recurrent networks (Hochreiter 1997, Cho 2014) for series of numbers."""

import keras
from keras import layers, ops

from kerasdl.blocks import bidirectional as both_directions
from kerasdl.blocks import classify
from kerasdl.checks import (
    check_choice,
    check_outputs,
    check_rates,
    check_sequences,
    check_shape,
    check_sizes,
)
from kerasdl.layers import GRU, LSTM, Dense
from kerasdl.tasks import Optimizer, Rate, compile_classifier, compile_regressor

CELLS = {"lstm": LSTM, "gru": GRU}
# Added to a window's deviation, so that one without any change stays finite.
EPSILON = 1e-3


def rnn(
    input_shape: tuple[int | None, int] = (96, 1),
    num_classes: int = 2,
    *,
    num_outputs: int | None = None,
    horizon: int = 1,
    cell: str = "lstm",
    units: tuple[int, ...] = (64,),
    bidirectional: bool = False,
    normalize: bool = False,
    dropout: float = 0.0,
    optimizer: Optimizer = "adam",
    learning_rate: Rate = 1e-3,
    name: str = "rnn",
) -> keras.Model:
    """Build a compiled recurrent network for series, a classifier or a forecaster.

    One recurrent layer per entry of `units`; a dense layer on the last state gives the
    logits, or all steps of the forecast at once.

    Args:
        input_shape: Shape of a series `(length, channels)`; a length of `None` takes
            any.
        num_classes: Number of classes, i.e. logits, of a classifier.
        num_outputs: Number of values forecast per step; makes the model a forecaster.
        horizon: Number of steps forecast.
        cell: `"lstm"` or `"gru"`.
        units: State size of each recurrent layer, from the first to the last.
        bidirectional: Read each layer's input in both directions.
        normalize: Bring each channel of each series to mean 0 and deviation 1, and the
            forecast, then of the first `num_outputs` channels, back: for series whose
            level wanders.
        dropout: Drop rate after each recurrent layer, in `[0, 1)`.
        optimizer: Keras optimizer or its name; `None` for an uncompiled model.
        learning_rate: Float or Keras schedule.
        name: Model name.

    Returns:
        Model mapping `series` `(batch, length, channels)` to float32 logits
        `(batch, num_classes)`, or to float32 values `(batch, horizon, num_outputs)`.

    Raises:
        ValueError: If an argument is out of range, a classifier is given a horizon, or
            a normalised forecast has more outputs than the series has channels.

    Example:
        >>> rnn((48, 7), 3).output_shape
        (None, 3)
        >>> rnn((48, 7), num_outputs=1, horizon=24, normalize=True).output_shape
        (None, 24, 1)

    Reference:
        [Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735);
        `normalize` after [RevIN](https://openreview.net/forum?id=cGDAkQo1C0p), without
        its weights.
    """
    check_shape(input_shape, ("length or None", "channels"), any_length=True)
    check_outputs(num_classes, num_outputs)
    check_sizes(horizon=horizon)
    check_choice("cell", cell, CELLS)
    check_sequences(units=units)
    check_rates(dropout=dropout)
    _check_forecast(input_shape[1], num_outputs, horizon, normalize)

    series = keras.Input(tuple(input_shape), name="series")
    x, restore = _normalise(series) if normalize else (series, None)
    for i, size in enumerate(units, start=1):
        if i > 1:
            x = layers.Dropout(dropout, name=f"{cell}{i - 1}_dropout")(x)
        x = _read(
            x,
            CELLS[cell],
            size,
            bidirectional=bidirectional,
            sequences=i < len(units),
            name=f"{cell}{i}",
        )
    if num_outputs is None:
        model = keras.Model(
            series, classify(x, num_classes, dropout=dropout), name=name
        )
        return compile_classifier(
            model, optimizer=optimizer, learning_rate=learning_rate
        )
    x = layers.Dropout(dropout, name="dropout")(x)
    x = Dense(int(horizon * num_outputs), dtype="float32", name="steps")(x)
    x = layers.Reshape((horizon, num_outputs), dtype="float32", name="outputs")(x)
    model = keras.Model(series, restore(x) if normalize else x, name=name)
    return compile_regressor(model, optimizer=optimizer, learning_rate=learning_rate)


def _read(x, cell, units, *, bidirectional, sequences, name):
    if bidirectional:
        return both_directions(cell, units, x, None, sequences=sequences, name=name)
    return cell(units, return_sequences=sequences, name=name)(x)


def _normalise(series):
    """Normalise each channel of each series; return also the way back for forecasts."""
    mean = ops.mean(series, axis=1, keepdims=True)
    deviation = ops.std(series, axis=1, keepdims=True) + EPSILON

    def restore(forecast):
        channels = forecast.shape[-1]
        return forecast * deviation[..., :channels] + mean[..., :channels]

    return (series - mean) / deviation, restore


def _check_forecast(channels, num_outputs, horizon, normalize) -> None:
    if num_outputs is None:
        if horizon != 1:
            raise ValueError(
                f"horizon={horizon} needs num_outputs; a classifier forecasts nothing"
            )
    elif normalize and num_outputs > channels:
        raise ValueError(
            f"num_outputs={num_outputs}; with normalize=True a forecast has at most "
            f"the {channels} channels of the series"
        )
