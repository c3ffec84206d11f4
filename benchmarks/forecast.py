"""Forecasts of `rnn` beside naive, seasonal-naive and linear ones.

    KERASDL_TEST_DATA=../shared/data python benchmarks/forecast.py

Two series, each cut in time into 70 % training, 10 % validation and 20 % test:

- `pm2.5`: Beijing's fine dust, hourly 2010-2014, with the weather: the next 24 hours
  from the last 72. Gaps are filled with the value before them.
- `sunspots`: monthly 1749-1983: the next 12 months from the last 132, one solar cycle.

Every model gets the same windows, standardised by the training part; a window's
targets lie in one part. Ridge regression maps all values of a window to all of the
forecast; its penalty, and whether it forecasts values or their change since the last
step, are chosen on validation. The test part is read for the network once, at the end.

What the network's settings have seen: four series were looked at first, on a cut of 70,
20 and 10 %, whose validation part holds the first half of the test part here. There the
network led ridge regression on these two and trailed it, after a few epochs and without
tuning, on ETTh1 (all channels) and on daily minimum temperatures; whether to normalise,
and the cell, come from there too. Epochs, learning rate and dropout of `sunspots` were
then chosen on the validation part here (seven settings), on which ridge regression
still led. The results are those of series picked for recurrent networks, not of series
in general.

Errors are in deviations of the training part, over all steps of
the horizon; `skill` is one minus the ratio to ridge regression. Mean and spread are
over three seeds.
"""

import argparse
import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import RESULTS, machine
from sklearn.linear_model import Ridge

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
PATH = RESULTS / "forecast.json"
SEEDS = (0, 1, 2)
TRAIN_SHARE, VALIDATION_SHARE = 0.7, 0.1
PENALTIES = (1, 10, 100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Task:
    """A series and how it is forecast.

    Attributes:
        read: Reads the series `(time, channels)`, the forecast channel first.
        length: Steps a model sees.
        horizon: Steps it forecasts.
        season: Steps after which the seasonal-naive forecast repeats.
        stride: Steps from one training window of the network to the next.
        network: Arguments of `rnn`.
        learning_rate: Its start; it falls to zero along a cosine.
        training: Arguments of `fit`.
    """

    read: Callable[[], np.ndarray]
    length: int
    horizon: int
    season: int
    stride: int
    network: dict
    learning_rate: float
    training: dict


def read_dust() -> np.ndarray:
    """Return fine dust, the weather and the hour of the day."""
    rows = _read("pollution.csv")
    dust = np.array([np.nan if row[5] == "NA" else float(row[5]) for row in rows])
    first = np.flatnonzero(~np.isnan(dust))[0]
    known = np.where(np.isnan(dust), 0, np.arange(len(dust)))
    dust = dust[np.maximum.accumulate(known)]
    dew, heat, pressure, snow, rain = (
        np.array([float(row[i]) for row in rows]) for i in (6, 7, 8, 11, 12)
    )
    wind = np.log1p([float(row[10]) for row in rows])  # summed up while it lasts
    directions = [np.array([row[9] == name for row in rows]) for name in WINDS]
    day = 2 * np.pi * np.array([float(row[4]) for row in rows]) / 24
    columns = [dust, dew, heat, pressure, wind, snow, rain, *directions]
    return np.stack([*columns, np.sin(day), np.cos(day)], axis=1)[first:]


def read_sunspots() -> np.ndarray:
    """Return the monthly mean number of sunspots."""
    return np.array([[float(row[1])] for row in _read("monthly-sunspots.csv")])


WINDS = ("NW", "NE", "SE", "cv")
TASKS = {
    "pm2.5": Task(
        read_dust,
        length=72,
        horizon=24,
        season=24,
        stride=2,
        network={"cell": "gru", "units": (64,), "dropout": 0.2},
        learning_rate=2e-3,
        training={"epochs": 4, "batch_size": 128},
    ),
    "sunspots": Task(
        read_sunspots,
        length=132,
        horizon=12,
        season=132,
        stride=1,
        network={"cell": "gru", "units": (32,), "normalize": True, "dropout": 0.3},
        learning_rate=5e-3,
        training={"epochs": 20, "batch_size": 64},
    ),
}


def main() -> None:
    """Measure every forecast of every series."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="does the script run?")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--validate", action="store_true", help="validation errors only, for tuning"
    )
    options = parser.parse_args()
    results = []
    for name in options.tasks:
        for row in measure(TASKS[name], options):
            results.append({"series": name, **row})
            print(json.dumps(results[-1]), flush=True)
    if not (options.quick or options.validate):
        PATH.write_text(json.dumps({"results": results, **_facts()}, indent=1) + "\n")


def measure(task: Task, options: argparse.Namespace) -> list[dict]:
    """Return one row per forecast, with its errors and what they cost."""
    series = task.read()
    if options.quick:
        series = series[:1_000]
    parts = dict(zip(("train", "validation", "test"), cut(series, task), strict=True))
    measured = parts["validation" if options.validate else "test"]
    rows = []
    for name, fit in BASELINES.items():
        start = time.perf_counter()
        forecast = fit(task, parts["train"], parts["validation"])
        rows.append(_row(name, [errors(forecast, measured)], start))
    start, found = time.perf_counter(), []
    for seed in SEEDS[:1] if options.quick or options.validate else SEEDS:
        forecast = fit_rnn(task, parts["train"], seed, quick=options.quick)
        found.append(errors(forecast, measured))
    rows.append(_row("rnn", found, start))
    ridge = rows[-2]
    for row in rows:
        row["skill_mae"] = round(1 - row["mae"] / ridge["mae"], 4)
        row["skill_rmse"] = round(1 - row["rmse"] / ridge["rmse"], 4)
    return rows


def cut(series: np.ndarray, task: Task):
    """Yield windows `(count, length, channels)` and targets of each part."""
    ends = np.cumsum([TRAIN_SHARE, VALIDATION_SHARE]) * len(series)
    first, second = ends.astype(int)
    mean, deviation = series[:first].mean(0), series[:first].std(0)
    series = ((series - mean) / np.where(deviation > 0, deviation, 1)).astype("float32")
    for start, end in ((task.length, first), (first, second), (second, len(series))):
        steps = np.arange(start, end - task.horizon + 1)[:, None]
        windows = series[steps + np.arange(-task.length, 0)]
        yield windows, series[steps + np.arange(task.horizon)][..., :1]


def naive(task, train, validation):  # noqa: ARG001 - one signature
    """Repeat the last value."""
    return lambda windows: np.repeat(windows[:, -1:, :1], task.horizon, axis=1)


def seasonal(task, train, validation):  # noqa: ARG001 - one signature
    """Repeat the last season."""
    steps = task.length - task.season + np.arange(task.horizon) % task.season
    return lambda windows: windows[:, steps, :1]


def linear(task, train, validation):  # noqa: ARG001 - one signature
    """Fit the ridge regression that forecasts the validation part best."""
    fits = [
        _ridge(train, penalty, change)
        for penalty in PENALTIES
        for change in (False, True)
    ]
    return min(fits, key=lambda forecast: errors(forecast, validation)[1])


def _ridge(train, penalty, change):
    def level(windows):
        return windows[:, -1:, :1] * float(change)

    def inputs(windows):
        first = windows[..., :1] - level(windows)
        return np.concatenate([first, windows[..., 1:]], -1).reshape(len(windows), -1)

    windows, targets = train
    model = Ridge(penalty, solver="cholesky")
    model.fit(inputs(windows).astype("float64"), (targets - level(windows))[..., 0])
    return lambda windows: (
        model.predict(inputs(windows).astype("float64"))[..., None] + level(windows)
    )


BASELINES = {"naive": naive, "seasonal naive": seasonal, "ridge regression": linear}


def fit_rnn(task, train, seed, *, quick):
    """Train one network."""
    import keras

    import kerasdl
    from kerasdl import backend

    keras.utils.clear_session(free_memory=False)
    backend.set_seed(seed)
    windows, targets = (part[:: task.stride] for part in train)
    batch = task.training["batch_size"]
    # Whole batches only, so that one program is compiled.
    count = len(windows) // batch * batch
    training = {**task.training, "epochs": 1} if quick else task.training
    rate = keras.optimizers.schedules.CosineDecay(
        task.learning_rate, training["epochs"] * count // batch
    )
    model = kerasdl.rnn(
        windows.shape[1:],
        num_outputs=1,
        horizon=task.horizon,
        learning_rate=rate,
        **task.network,
    )
    model.fit(windows[-count:], targets[-count:], verbose=0, **training)
    return lambda windows: model.predict(windows, batch_size=500, verbose=0)


def errors(forecast, part) -> tuple[float, float]:
    """Return mean absolute and root mean squared error."""
    windows, targets = part
    error = forecast(windows) - targets
    return float(np.abs(error).mean()), float(np.sqrt(np.square(error).mean()))


def _row(name, found, start) -> dict:
    mae, rmse = np.transpose(found)
    row = {"model": name, "seeds": len(found)}
    for metric, values in (("mae", mae), ("rmse", rmse)):
        row[metric] = round(values.mean(), 4)
        row[f"{metric}_spread"] = round(values.std(), 4)
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def _read(name: str) -> list[list[str]]:
    path = Path(os.environ["KERASDL_TEST_DATA"]) / "timeseries" / name
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _facts() -> dict:
    import keras

    import kerasdl

    settings = {
        name: {
            "network": task.network,
            "learning_rate": task.learning_rate,
            "training": task.training,
            "length": task.length,
            "horizon": task.horizon,
        }
        for name, task in TASKS.items()
    }
    return {
        "settings": settings,
        "backend": keras.backend.backend(),
        "machine": machine(),
        "versions": {"keras": keras.version(), "kerasdl": kerasdl.__version__},
    }


if __name__ == "__main__":
    main()
