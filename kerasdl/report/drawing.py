"""What the plots of a run show, drawn onto figures that are given."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kerasdl.evaluate import confusion, reliability_bins, wilson_interval

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
# Beyond this many classes the numbers in the confusion matrix would not be legible.
MOST_NUMBERED_CLASSES = 12
LONGEST_LABEL = 18
MOST_POINTS = 2000


def draw_curve(
    figure: Figure | SubFigure, name: str, train: Sequence, held_out: Sequence
) -> None:
    """Draw a metric over the epochs, training beside validation."""
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


def draw_confusion(
    figure: Figure | SubFigure,
    labels: np.ndarray,
    probabilities: np.ndarray,
    label_names: Sequence[str],
) -> None:
    """Draw how often each true class was predicted as each class."""
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
    names = [short_label(name) for name in label_names]
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


def draw_reliability(
    figure: Figure | SubFigure, labels: np.ndarray, probabilities: np.ndarray
) -> None:
    """Draw the accuracy observed against the confidence stated, and the shares."""
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


def short_label(label: str, longest: int = LONGEST_LABEL) -> str:
    """Make a label fit on an axis, whatever characters it holds."""
    label = " ".join(label.encode("utf-8", "replace").decode().split())
    label = "".join(c if c.isprintable() else "?" for c in label)
    return label if len(label) <= longest else label[: longest - 1] + "…"


def draw_values(
    figure: Figure | SubFigure, values: np.ndarray, predicted: np.ndarray
) -> None:
    """Draw predicted against true values, both `(count,)`."""
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


def draw_residuals(
    figure: Figure | SubFigure, values: np.ndarray, predicted: np.ndarray
) -> None:
    """Draw how often which error occurs; both arrays are `(count,)`."""
    axes = figure.subplots()
    axes.hist(predicted - values, bins="auto", color=COLOURS["first"])
    axes.axvline(0, color=COLOURS["quiet"], linewidth=1, linestyle=(0, (3, 3)))
    axes.set(xlabel="predicted minus true", ylabel="examples", title="Errors")
    axes.grid(visible=False, axis="x")
