"""Several runs in one picture: how they learnt, and how well they did."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kerasdl.report.drawing import COLOURS, STYLE, short_label
from kerasdl.report.plots import save_png

# Told apart by people who do not see red or green, too (Okabe and Ito 2008).
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b737c")
PANEL_WIDTH, HEIGHT = 4.2, 3.3
MOST_MARKERS = 16
LONGEST_NAME, NAMES_IN_A_ROW = 48, 2


@dataclass(frozen=True)
class Series:
    """A run as the picture shows it.

    Attributes:
        name: What it is called.
        history: Logged quantity to its value after each epoch.
        scores: Metric to its value and the ends of its interval, if it has one.
    """

    name: str
    history: Mapping[str, Sequence[float]]
    scores: Mapping[str, tuple[float, tuple[float, float] | None]]


@mpl.rc_context(STYLE)
def comparison_picture(path: str | os.PathLike, runs: Sequence[Series]) -> None:
    """Write curves and metrics of runs side by side as one PNG file.

    Args:
        path: The file.
        runs: The runs, in order.
    """
    curves = [
        name
        for name in ("loss", "accuracy", "mean_absolute_error")
        if any(name in run.history or f"val_{name}" in run.history for run in runs)
    ]
    metrics = list(dict.fromkeys(name for run in runs for name in run.scores))
    panels = len(curves) + bool(metrics)
    legend_height = 0.2 * max(2, math.ceil(len(runs) / NAMES_IN_A_ROW)) + 0.2
    height = max(HEIGHT, 0.55 * len(runs) * max(len(metrics), 1) + 0.6)
    figure = Figure(
        (PANEL_WIDTH * max(panels, 1), height + legend_height), layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    above, below = figure.subfigures(2, 1, height_ratios=(legend_height, height))
    _draw_legend(above, runs)
    parts = below.subfigures(1, max(panels, 1), squeeze=False)[0]
    for part, name in zip(parts, curves, strict=False):
        _draw_curves(part, name, runs)
    if metrics:
        _draw_scores(parts[-1], metrics, runs)
    save_png(path, figure)


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _draw_legend(figure: SubFigure, runs: Sequence[Series]) -> None:
    lines = [Line2D([], [], color=_colour(i), linewidth=3) for i in range(len(runs))]
    styles = [
        Line2D([], [], color=COLOURS["quiet"]),
        Line2D([], [], color=COLOURS["quiet"], linewidth=1, linestyle=(0, (3, 2))),
    ]
    # Long names: the folder is what tells runs apart.
    names = [short_label(run.name, LONGEST_NAME) for run in runs]
    for place, handles, texts, columns in (
        ("upper left", lines, names, NAMES_IN_A_ROW),
        ("upper right", styles, ["validation", "training"], 1),
    ):
        legend = figure.legend(
            handles,
            texts,
            loc=place,
            ncols=columns,
            labelcolor=COLOURS["ink"],
            borderaxespad=0.8,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_curves(figure: SubFigure, name: str, runs: Sequence[Series]) -> None:
    axes = figure.subplots()
    longest = 1
    for number, run in enumerate(runs):
        for key, style in (
            (name, {"linewidth": 1, "linestyle": (0, (3, 2))}),
            (f"val_{name}", {}),
        ):
            values = np.array(run.history.get(key, ()), float)
            if not np.isfinite(values).any():
                continue
            values[~np.isfinite(values)] = np.nan
            longest = max(longest, len(values))
            marker = "o" if len(values) < MOST_MARKERS else None
            axes.plot(
                np.arange(1, len(values) + 1),
                values,
                color=_colour(number),
                marker=marker if key != name else None,
                markersize=4,
                **style,
            )
    axes.set_title(name.replace("_", " ").capitalize())
    axes.set_xlabel("epoch")
    axes.set_xlim(0.7, longest + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")


def _draw_scores(
    figure: SubFigure, metrics: Sequence[str], runs: Sequence[Series]
) -> None:
    rows = figure.subplots(len(metrics), squeeze=False)[:, 0]
    for axes, metric in zip(rows, metrics, strict=True):
        scored = [number for number, run in enumerate(runs) if metric in run.scores]
        for row, number in enumerate(scored):
            value, ends = runs[number].scores[metric]
            if ends:
                axes.hlines(row, *ends, color=_colour(number), alpha=0.35, linewidth=5)
            axes.plot(value, row, "o", color=_colour(number), markersize=6)
            axes.annotate(
                f"{value:.4g}",
                (value, row),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set_title(metric.replace("_", " ").capitalize())
        axes.set_ylim(len(scored) - 0.5, -0.8)
        axes.set_yticks([])
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
