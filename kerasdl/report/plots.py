"""The plots of a run, drawn with Matplotlib's objects, never pyplot."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kerasdl.evaluate import confusion, reliability_bins, wilson_interval
from kerasdl.files import whole_file
from kerasdl.report.contents import RunReport

# Drawn with these colours; the page replaces each by the CSS variable of that name.
COLOURS = {
    "ink": "#1c2024",
    "quiet": "#6b737c",
    "line": "#dfe2e6",
    "first": "#2563c9",
    "second": "#d9622b",
    "paper": "#fdfdfc",
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["quiet"],
    "ytick.labelcolor": COLOURS["quiet"],
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    # Text stays text, and equal reports are equal bytes.
    "svg.fonttype": "none",
    "svg.hashsalt": "kerasdl",
}
PANEL = (4.6, 3.7)
SMALL_PANEL = (3.4, 3.1)
# Beyond this many classes the numbers in the confusion matrix would not be legible.
MOST_NUMBERED_CLASSES = 12
LONGEST_LABEL = 18
MOST_POINTS = 2000
NOT_DRAWN = ("epoch", "learning_rate", "seconds")


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
        _draw_curve(panel, name, *pairs[name])
    names = report.label_names
    if len(names) > MOST_NUMBERED_CLASSES:
        names = [""] * len(names)
    _draw_confusion(middle, report.labels, report.answers, names)
    _draw_reliability(right, report.labels, report.answers)
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
            _draw_curve(panel, name, *pairs[name])
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
    _draw_confusion(figure, labels, probabilities, label_names)
    return figure


@mpl.rc_context(STYLE)
def reliability_diagram(labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Plot the accuracy observed against the confidence stated.

    Args:
        labels: True classes `(count,)`.
        probabilities: Shape `(count, classes)`.
    """
    figure = Figure(PANEL, layout="constrained")
    _draw_reliability(figure, labels, probabilities)
    return figure


@mpl.rc_context(STYLE)
def predicted_values(values: np.ndarray, predicted: np.ndarray) -> Figure:
    """Plot predicted against true values, both `(count,)`."""
    figure = Figure(PANEL, layout="constrained")
    _draw_values(figure, values, predicted)
    return figure


@mpl.rc_context(STYLE)
def residuals(values: np.ndarray, predicted: np.ndarray) -> Figure:
    """Plot how often which error occurs; values and predictions are `(count,)`."""
    figure = Figure(PANEL, layout="constrained")
    _draw_residuals(figure, values, predicted)
    return figure


def curves(history: dict[str, list[float]]) -> dict[str, tuple[list, list]]:
    """Pair the columns: metric name to its training and validation values."""
    names = [name.removeprefix("val_") for name in history]
    return {
        name: (history.get(name, []), history.get(f"val_{name}", []))
        for name in dict.fromkeys(names)
        if name not in NOT_DRAWN and any(map(len, history.values()))
    }


def _draw_curve(
    figure: Figure | SubFigure, name: str, train: Sequence, held_out: Sequence
) -> None:
    axes = figure.subplots()
    series = {"training": (train, "first"), "validation": (held_out, "second")}
    for label, (raw, colour) in series.items():
        values = np.array(raw, float)
        values[~np.isfinite(values)] = np.nan
        marker = "o" if len(values) < 16 else None
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=COLOURS[colour],
            label=label,
            marker=marker,
            markersize=4,
        )
    axes.set_title(name.replace("_", " ").capitalize(), parse_math=False)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.7, max(len(train), len(held_out)) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")
    axes.legend(labelcolor=COLOURS["quiet"])
    if not np.isfinite([*train, *held_out]).all():
        axes.text(0.5, 0.5, "not a number", transform=axes.transAxes, ha="center")


def _draw_confusion(
    figure: Figure | SubFigure,
    labels: np.ndarray,
    probabilities: np.ndarray,
    label_names: Sequence[str],
) -> None:
    counts = confusion(labels, probabilities)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    classes = len(label_names)
    axes = figure.subplots()
    # Transparency rather than a colour map: empty cells show the page, dark or light.
    axes.pcolormesh(
        np.ones_like(shares),
        cmap=ListedColormap([COLOURS["first"]]),
        alpha=shares,
    )
    if classes <= MOST_NUMBERED_CLASSES:
        for (row, column), share in np.ndenumerate(shares):
            axes.text(
                column + 0.5,
                row + 0.5,
                _cell(counts[row, column], share, classes),
                ha="center",
                va="center",
                fontsize=11 if classes < 4 else 7,
                color=COLOURS["paper" if share > 0.5 else "ink"],
            )
    names = [_short(name) for name in label_names]
    crowded = classes > 4
    size = 9 if classes < 9 else 7
    ticks = np.arange(classes) + 0.5
    axes.set_xticks(
        ticks, names, rotation=90 if crowded else 0, fontsize=size, parse_math=False
    )
    axes.set_yticks(ticks, names, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")


def _cell(count: int, share: float, classes: int) -> str:
    return f"{count:,}\n{100 * share:.1f} %" if classes < 4 else f"{count:,}"


def _draw_reliability(
    figure: Figure | SubFigure, labels: np.ndarray, probabilities: np.ndarray
) -> None:
    bins = reliability_bins(labels, probabilities)
    confidence, accuracy, count = bins["confidence"], bins["accuracy"], bins["count"]
    correct = np.rint(accuracy * count)
    interval = np.array(
        [wilson_interval(k, n) for k, n in zip(correct, count, strict=True)]
    ).T
    lowest = 1 / probabilities.shape[1]
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot(
        [0, 1], [0, 1], color=COLOURS["quiet"], linewidth=1, linestyle=(0, (3, 3))
    )
    above.vlines(confidence, *interval, color=COLOURS["first"], alpha=0.35, linewidth=4)
    above.plot(confidence, accuracy, "o-", color=COLOURS["first"], markersize=4.5)
    above.set(ylabel="accuracy", title="Reliability")
    above.set_ylim(min(lowest, interval.min()) - 0.04, 1.04)
    above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    below.bar(confidence, count / count.sum(), width=0.02, color=COLOURS["first"])
    below.set(xlabel="confidence in the predicted class, %", ylabel="share")
    below.set_xlim(lowest - 0.02, 1.02)
    below.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    below.yaxis.set_major_locator(MaxNLocator(2))
    below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _short(label: str) -> str:
    """Make a label fit on an axis, whatever characters it holds."""
    label = " ".join(label.encode("utf-8", "replace").decode().split())
    label = "".join(c if c.isprintable() else "?" for c in label)
    if len(label) <= LONGEST_LABEL:
        return label
    return label[: LONGEST_LABEL - 1] + "…"


def _draw_values(
    figure: Figure | SubFigure, values: np.ndarray, predicted: np.ndarray
) -> None:
    axes = figure.subplots()
    both = np.concatenate([values, predicted])
    ends = both.min(), both.max()
    axes.plot(ends, ends, color=COLOURS["quiet"], linewidth=1, linestyle=(0, (3, 3)))
    axes.plot(
        values,
        predicted,
        "o",
        color=COLOURS["first"],
        alpha=max(0.1, min(0.7, 200 / len(values))),
        markersize=4,
        markeredgewidth=0,
        # Thousands of points would make the page heavy.
        rasterized=len(values) > MOST_POINTS,
    )
    axes.set(xlabel="true", ylabel="predicted", title="Predicted against true values")


def _draw_residuals(
    figure: Figure | SubFigure, values: np.ndarray, predicted: np.ndarray
) -> None:
    axes = figure.subplots()
    axes.hist(predicted - values, bins="auto", color=COLOURS["first"])
    axes.axvline(0, color=COLOURS["quiet"], linewidth=1, linestyle=(0, (3, 3)))
    axes.set(xlabel="predicted minus true", ylabel="examples", title="Errors")
    axes.grid(visible=False, axis="x")


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
