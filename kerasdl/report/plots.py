"""The plots of a run, drawn with Matplotlib's objects, never pyplot."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from kerasdl.files import whole_file
from kerasdl.report.contents import RunReport
from kerasdl.report.drawing import (
    COLOURS,
    MOST_NUMBERED_CLASSES,
    STYLE,
    draw_confusion,
    draw_curve,
    draw_reliability,
    draw_residuals,
    draw_values,
)

PANEL = (4.6, 3.7)
SMALL_PANEL = (3.4, 3.1)
NOT_DRAWN = (
    *("epoch", "learning_rate", "seconds"),
    *("examples_per_second", "memory_mb", "device_memory_mb"),
)


def save_plots(folder: str | os.PathLike, report: RunReport) -> None:
    """Write each plot of a run into an existing folder as a PNG file."""
    for name, figure in figures(report).items():
        save_png(Path(folder, f"{name}.png"), figure)


def figures(report: RunReport) -> dict[str, Figure]:
    """Draw the plots of a run, by name."""
    drawn = {}
    if curves(report.history):
        drawn["learning_curves"] = learning_curves(report.history)
    given = report.labels, report.answers
    if not report.label_names:
        drawn["predicted_values"] = predicted_values(*given)
        drawn["residuals"] = residuals(*given)
        return drawn
    drawn["reliability_diagram"] = reliability_diagram(*given)
    drawn["confusion_matrix"] = confusion_matrix(*given, report.label_names)
    return drawn


@mpl.rc_context(STYLE)
def summary_picture(path: str | os.PathLike, report: RunReport) -> None:
    """Write curves, confusion matrix and reliability diagram as one wide PNG file."""
    pairs = curves(report.history)
    width, height = SMALL_PANEL
    figure = Figure((width * (2 + len(pairs)), height + 0.6), layout="constrained")
    metrics = report.metrics
    figure.suptitle(
        f"{report.title}: {_interval(metrics)} on {metrics['set']}",
        fontsize=13,
        parse_math=False,
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    *left, middle, right = figure.subfigures(1, 2 + len(pairs))
    for panel, name in zip(left, pairs, strict=True):
        draw_curve(panel, name, *pairs[name])
    names = report.label_names
    if len(names) > MOST_NUMBERED_CLASSES:
        names = [""] * len(names)
    draw_confusion(middle, report.labels, report.answers, names)
    draw_reliability(right, report.labels, report.answers)
    save_png(path, figure)


@mpl.rc_context(STYLE)
def learning_curves(history: dict[str, list[float]]) -> Figure:
    """Plot each metric over the epochs, training beside validation.

    Args:
        history: Metric name to its value after each epoch; `val_` marks validation.
    """
    pairs = curves(history)
    width, height = PANEL
    figure = Figure((width * max(len(pairs), 1), height), layout="constrained")
    if pairs:
        panels = figure.subfigures(1, len(pairs), squeeze=False)[0]
        for panel, name in zip(panels, pairs, strict=True):
            draw_curve(panel, name, *pairs[name])
    return figure


@mpl.rc_context(STYLE)
def confusion_matrix(
    labels: np.ndarray, probabilities: np.ndarray, label_names: Sequence[str]
) -> Figure:
    """Plot how often each true class was predicted as each class.

    Args:
        labels: True classes `(count,)`.
        probabilities: Shape `(count, classes)`.
        label_names: Name of each class.
    """
    width, height = PANEL
    # Every class needs room for its name.
    extra = 0.17 * max(len(label_names) - MOST_NUMBERED_CLASSES, 0)
    figure = Figure((width + extra, height + extra), layout="constrained")
    draw_confusion(figure, labels, probabilities, label_names)
    return figure


@mpl.rc_context(STYLE)
def reliability_diagram(labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Plot the accuracy observed against the confidence stated.

    Args:
        labels: True classes `(count,)`.
        probabilities: Shape `(count, classes)`.
    """
    figure = Figure(PANEL, layout="constrained")
    draw_reliability(figure, labels, probabilities)
    return figure


@mpl.rc_context(STYLE)
def predicted_values(values: np.ndarray, predicted: np.ndarray) -> Figure:
    """Plot predicted against true values, both `(count,)`."""
    figure = Figure(PANEL, layout="constrained")
    draw_values(figure, values, predicted)
    return figure


@mpl.rc_context(STYLE)
def residuals(values: np.ndarray, predicted: np.ndarray) -> Figure:
    """Plot how often which error occurs; values and predictions are `(count,)`."""
    figure = Figure(PANEL, layout="constrained")
    draw_residuals(figure, values, predicted)
    return figure


@mpl.rc_context(STYLE)
def rate_curve(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float,
) -> Figure:
    """Plot the loss over rising learning rates, and mark the rate that is suggested."""
    figure = Figure(PANEL, layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLOURS["quiet"], alpha=0.4, label="each batch")
    axes.plot(rates, smoothed, color=COLOURS["first"], label="smoothed")
    axes.axvline(suggestion, color=COLOURS["second"], label=f"{suggestion:.1e}")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.2 * max(smoothed[: max(len(smoothed) // 2, 1)]))
    axes.set_title("Loss by learning rate")
    axes.set_xlabel("learning rate")
    axes.legend(labelcolor=COLOURS["quiet"])
    return figure


def curves(history: dict[str, list[float]]) -> dict[str, tuple[list, list]]:
    """Pair the columns: metric name to its training and validation values."""
    names = [name.removeprefix("val_") for name in history]
    return {
        name: (history.get(name, []), history.get(f"val_{name}", []))
        for name in dict.fromkeys(names)
        if name not in NOT_DRAWN and any(map(len, history.values()))
    }


def save_png(path: str | os.PathLike, figure: Figure) -> None:
    """Write a figure as a PNG file, in one step."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # A label in another script shows as boxes in the picture, not in the page.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(picture, format="png", dpi=160, facecolor="white")
    with whole_file(path) as partial:
        partial.write_bytes(picture.getvalue())


def _interval(metrics: dict) -> str:
    accuracy, low, high = (
        100 * metrics[name] for name in ("accuracy", "accuracy_low", "accuracy_high")
    )
    return f"{accuracy:.2f} % accuracy ({low:.2f} to {high:.2f})"
