"""The page of a run: one HTML file that needs nothing else, and its plots as pictures.

Plots use Matplotlib's objects, never pyplot. The page holds them as SVG whose colours
are CSS variables, so that they follow the reader's light or dark scheme.
"""

import html
import io
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kerasdl.evaluate import confusion, reliability_bins, wilson_interval
from kerasdl.files import whole_file

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
UNKNOWN = "\N{EN DASH}"
NOT_DRAWN = ("epoch", "learning_rate", "seconds")
EXCERPT_CHARACTERS = 600
COLOURED_WORDS = 40


@dataclass(frozen=True)
class ErrorExample:
    """A text that the model got wrong.

    Attributes:
        text: The whole text, as the model saw it.
        label: Name of the true class.
        predicted: Name of the class that the model chose.
        probability: What the model gave the class it chose.
        words: Words (or phrases) with their push: above 0 towards the chosen class,
            below 0 away from it.
    """

    text: str
    label: str
    predicted: str
    probability: float
    words: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class RunReport:
    """All that the page of a run shows.

    Attributes:
        title: Heading of the page.
        summary: Facts on data, model and environment, in the order shown.
        metrics: As `classification_metrics` returns, and `set`: what was measured on.
        history: Metric name to its value after each epoch, as Keras names them.
        labels: True classes `(count,)`.
        probabilities: Shape `(count, classes)`.
        label_names: Name of each class.
        errors: Texts that the model got wrong, the most confident first.
        notes: Remarks, a sentence each.
    """

    title: str
    summary: dict[str, str]
    metrics: dict
    history: dict[str, list[float]]
    labels: np.ndarray
    probabilities: np.ndarray
    label_names: Sequence[str]
    errors: Sequence[ErrorExample] = ()
    notes: Sequence[str] = ()


def write_report(path: str | os.PathLike, report: RunReport) -> None:
    """Write the page of a run as one self-contained HTML file.

    Args:
        path: The file; one that exists is replaced in one step.
        report: What to show.
    """
    page = _page(report).encode("utf-8", errors="replace")
    with whole_file(path) as partial:
        partial.write_bytes(page)


def save_plots(folder: str | os.PathLike, report: RunReport) -> None:
    """Write each plot of a run into an existing folder as a PNG file."""
    figures = {
        "confusion_matrix": confusion_matrix(
            report.labels, report.probabilities, report.label_names
        ),
        "reliability_diagram": reliability_diagram(report.labels, report.probabilities),
    }
    if _curves(report.history):
        figures["learning_curves"] = learning_curves(report.history)
    for name, figure in figures.items():
        _save_png(Path(folder, f"{name}.png"), figure)


@mpl.rc_context(STYLE)
def summary_picture(path: str | os.PathLike, report: RunReport) -> None:
    """Write curves, confusion matrix and reliability diagram as one wide PNG file."""
    curves = _curves(report.history)
    width, height = SMALL_PANEL
    figure = Figure((width * (2 + len(curves)), height + 0.6), layout="constrained")
    metrics = report.metrics
    figure.suptitle(
        f"{report.title}: {_interval(metrics)} on {metrics['set']}",
        fontsize=13,
        parse_math=False,
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    *left, middle, right = figure.subfigures(1, 2 + len(curves))
    for panel, name in zip(left, curves, strict=True):
        _draw_curve(panel, name, *curves[name])
    names = report.label_names
    if len(names) > MOST_NUMBERED_CLASSES:
        names = [""] * len(names)
    _draw_confusion(middle, report.labels, report.probabilities, names)
    _draw_reliability(right, report.labels, report.probabilities)
    _save_png(path, figure)


@mpl.rc_context(STYLE)
def learning_curves(history: dict[str, list[float]]) -> Figure:
    """Plot each metric over the epochs, training beside validation.

    Args:
        history: Metric name to its value after each epoch; `val_` marks validation.
    """
    curves = _curves(history)
    width, height = PANEL
    figure = Figure((width * max(len(curves), 1), height), layout="constrained")
    if curves:
        panels = figure.subfigures(1, len(curves), squeeze=False)[0]
        for panel, name in zip(panels, curves, strict=True):
            _draw_curve(panel, name, *curves[name])
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


def most_confident_errors(
    labels: np.ndarray, probabilities: np.ndarray, limit: int
) -> np.ndarray:
    """Find the errors that the model was most certain of.

    Args:
        labels: True classes `(count,)`.
        probabilities: Shape `(count, classes)`.
        limit: How many to return at most.

    Returns:
        Row numbers, the most confident first.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order[:limit]]


# Plots


def _curves(history: dict[str, list[float]]) -> dict[str, tuple[list, list]]:
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


def _save_png(path: str | os.PathLike, figure: Figure) -> None:
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # A label in another script shows as boxes in the picture, not in the page.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(picture, format="png", dpi=160, facecolor="white")
    with whole_file(path) as partial:
        partial.write_bytes(picture.getvalue())


@mpl.rc_context(STYLE)
def _svg(figure: Figure, description: str) -> str:
    """Return a figure as inline SVG in the colours of the page."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(text, format="svg", transparent=True)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    label = html.escape(description)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


# Page


def _page(report: RunReport) -> str:
    sections = [
        _header(report),
        _plots(report),
        _classes(report),
        _errors(report.errors),
        _epochs(report.history),
        _facts(report),
    ]
    body = "\n".join(section for section in sections if section)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(report.title)}</title>
<style>{STYLESHEET}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _header(report: RunReport) -> str:
    metrics = report.metrics
    others = {
        "log loss": _number(metrics["log_loss"]),
        "calibration error": _percent(metrics["ece"]),
        "F1, macro": _percent(metrics["f1"]),
        "ROC AUC": _number(metrics["roc_auc"]),
    }
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in others.items()
    )
    low, high = _percent(metrics["accuracy_low"]), _percent(metrics["accuracy_high"])
    return f"""<header>
<h1>{html.escape(report.title)}</h1>
<p class="set">Measured on {html.escape(str(metrics["set"]))},
{metrics["count"]:,} examples</p>
<div class="numbers">
<div class="main"><dl><div><dt>accuracy</dt>
<dd>{_percent(metrics["accuracy"])}</dd></div></dl>
<p>95 % interval {low} to {high}</p></div>
<dl>{tiles}</dl>
</div>
</header>"""


def _plots(report: RunReport) -> str:
    metrics = report.metrics
    pictures = [
        _svg(
            learning_curves({name: train, f"val_{name}": held_out}),
            f"Learning curve: {name.replace('_', ' ')} on training and validation data "
            "by epoch; the values stand in the table of epochs below",
        )
        for name, (train, held_out) in _curves(report.history).items()
    ]
    pictures.append(
        _svg(
            reliability_diagram(report.labels, report.probabilities),
            "Reliability diagram: accuracy against confidence, with the share of "
            f"examples below; expected calibration error {_percent(metrics['ece'])}",
        )
    )
    figures = "\n".join(f"<figure>{picture}</figure>" for picture in pictures)
    matrix = _svg(
        confusion_matrix(report.labels, report.probabilities, report.label_names),
        "Confusion matrix: true classes in rows, predicted classes in columns; "
        f"{_percent(metrics['accuracy'])} lie on the diagonal",
    )
    wide = ' class="wide"' if len(report.label_names) > MOST_NUMBERED_CLASSES else ""
    figures += f"\n<figure{wide}>{matrix}</figure>"
    return f'<section class="plots" aria-label="Plots">\n{figures}\n</section>'


def _classes(report: RunReport) -> str:
    rows = [
        [
            html.escape(label),
            *(_percent(row[key]) for key in ("precision", "recall", "f1")),
            f"{row['count']:,}",
        ]
        for label, row in report.metrics["per_class"].items()
    ]
    table = _table(["class", "precision", "recall", "F1", "examples"], rows)
    return f"<section>\n<h2>Classes</h2>\n{table}\n</section>"


def _errors(errors: Sequence[ErrorExample]) -> str:
    if not errors:
        return ""
    articles = "\n".join(_error(example) for example in errors)
    legend = ""
    if any(example.words for example in errors):
        legend = (
            '<p class="quiet">Words that pushed <mark class="towards">towards the '
            'wrong answer</mark> and <mark class="away">away from it</mark>; '
            "the deeper the colour, the harder.</p>"
        )
    return (
        f"<section>\n<h2>Most confidently wrong</h2>\n{legend}\n{articles}\n</section>"
    )


def _error(example: ErrorExample) -> str:
    return f"""<article>
<h3>Said <b>{html.escape(example.predicted)}</b> with {_percent(example.probability)},
is <b>{html.escape(example.label)}</b></h3>
<p>{_coloured(example.text, example.words)}</p>
</article>"""


def _coloured(text: str, words: Sequence[tuple[str, float]]) -> str:
    """Return the stretch of a text where the words push hardest, as HTML."""
    text = " ".join(re.sub(r"<br\s*/?>", " ", text, flags=re.I).split())
    pushes = _strongest(words)
    found = _occurrences(text, pushes)
    start, end = _excerpt(text, found)
    hardest = max(map(abs, pushes.values()), default=1)
    pieces, at = ["… " if start else ""], start
    for left, right, push in found:
        if start <= left and right <= end:
            side = "towards" if push > 0 else "away"
            pieces += [
                html.escape(text[at:left]),
                f'<mark class="{side}" title="{push:+.2f}" '
                f'style="--push:{abs(push) / hardest:.2f}">'
                f"{html.escape(text[left:right])}</mark>",
            ]
            at = right
    pieces += [html.escape(text[at:end]), " …" if end < len(text) else ""]
    return "".join(pieces) or '<i class="quiet">empty text</i>'


def _strongest(words: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Keep the words that push hardest, each in lower case with its hardest push."""
    pushes = {}
    for word, push in sorted(words, key=lambda pair: -abs(pair[1])):
        if word.strip() and np.isfinite(push) and push:
            pushes.setdefault(" ".join(word.lower().split()), float(push))
    return dict(list(pushes.items())[:COLOURED_WORDS])


def _occurrences(text: str, pushes: dict[str, float]) -> list[tuple[int, int, float]]:
    """Find the words in a text: start, end and push of each, left to right."""
    if not pushes:
        return []
    # Long ones first, so that a phrase wins over its first word.
    longest_first = sorted(pushes, key=len, reverse=True)
    words = "|".join(map(re.escape, longest_first))
    pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)
    return [
        (match.start(), match.end(), pushes[match.group().lower()])
        for match in pattern.finditer(text)
        # Lower-casing is not always the inverse of matching without case.
        if match.group().lower() in pushes
    ]


def _excerpt(text: str, found: Sequence[tuple[int, int, float]]) -> tuple[int, int]:
    """Choose the stretch of at most `EXCERPT_CHARACTERS` that holds most push."""
    if len(text) <= EXCERPT_CHARACTERS:
        return 0, len(text)
    margin = EXCERPT_CHARACTERS // 8
    best, start, first, push = 0.0, 0, 0, 0.0
    for last, (_, right, weight) in enumerate(found):
        push += abs(weight)
        while (
            right - found[first][0] > EXCERPT_CHARACTERS - 2 * margin and first < last
        ):
            push -= abs(found[first][2])
            first += 1
        if push > best:
            best, start = push, max(found[first][0] - margin, 0)
    end = min(start + EXCERPT_CHARACTERS, len(text))
    start = end - EXCERPT_CHARACTERS
    return _whole_words(text, start, end)


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Shrink a stretch to whole words, unless they are absurdly long."""
    if start:
        space = text.find(" ", start, start + 40)
        start = space + 1 if space >= 0 else start
    if end < len(text):
        space = text.rfind(" ", end - 40, end)
        end = space if space >= 0 else end
    return start, end


def _epochs(history: dict[str, list[float]]) -> str:
    columns = [name for name in history if name != "epoch"]
    count = max((len(history[name]) for name in columns), default=0)
    if not count:
        return ""
    rows = [
        [str(epoch + 1), *(_nth(history[name], epoch) for name in columns)]
        for epoch in range(count)
    ]
    head = ["epoch", *(html.escape(name.replace("_", " ")) for name in columns)]
    return f"<section>\n<h2>Epochs</h2>\n{_table(head, rows)}\n</section>"


def _nth(values: Sequence[float], index: int) -> str:
    if index >= len(values):
        return UNKNOWN
    value = values[index]
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.3g}"


def _facts(report: RunReport) -> str:
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in report.summary.items()
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    return (
        f'<section>\n<h2>Run</h2>\n<dl class="facts">{facts}</dl>\n'
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        + "</section>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column names the row; the cells are HTML already."""
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "\n".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"<td>{cell}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{titles}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def _number(value: float | None) -> str:
    return UNKNOWN if value is None or not np.isfinite(value) else f"{value:.3f}"


def _percent(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return UNKNOWN
    return f"{100 * value:.2f}\N{NO-BREAK SPACE}%"


def _interval(metrics: dict) -> str:
    low, high = 100 * metrics["accuracy_low"], 100 * metrics["accuracy_high"]
    return f"{_percent(metrics['accuracy'])} accuracy ({low:.2f} to {high:.2f})"


STYLESHEET = """
:root {
  --paper: #fdfdfc; --card: #f5f5f3; --ink: #1c2024; --quiet: #646c75;
  --line: #dfe2e6; --first: #2563c9; --second: #d9622b;
  --towards: 214 57 43; --away: 37 99 201;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --card: #1e2226; --ink: #e8eaec; --quiet: #9aa3ad;
    --line: #353b42; --first: #5b93ee; --second: #ee8a55;
    --towards: 240 92 76; --away: 91 147 238;
  }
}
* { box-sizing: border-box; margin: 0; }
body {
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 66rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; text-wrap: balance; }
h1, h3, dd, p, li, tbody th { overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3.2rem 0 .9rem; }
h3 { font-size: .9rem; font-weight: 400; color: var(--quiet); margin-bottom: .3rem; }
h3 b { color: var(--ink); }
.set, .quiet { color: var(--quiet); }
.numbers {
  display: grid; grid-template-columns: minmax(15rem, 2fr) 5fr; gap: 1rem;
  margin-top: 1.8rem;
}
.numbers dt { color: var(--quiet); font-size: .85rem; }
.numbers dd { font-size: 1.6rem; font-weight: 600; line-height: 1.3; }
.numbers > dl { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1rem; }
.numbers > dl > div, .main { background: var(--card); border-radius: .6rem; }
.numbers > dl > div, .main { padding: 1rem 1.2rem; }
.main dd { font-size: 2.7rem; line-height: 1.15; color: var(--first); }
.main p { font-size: .85rem; color: var(--quiet); }
.plots {
  display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 2.2rem 2rem;
  margin-top: 2.8rem;
}
.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .45rem .8rem; text-align: right; }
tr { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--quiet); font-weight: 400; font-size: .85rem; }
tbody th { font-weight: 500; min-width: 5.5rem; }
td, thead th { white-space: nowrap; }
article { border-top: 1px solid var(--line); padding: 1rem 0 1.1rem; max-width: 46rem; }
article p { font: 1.02rem/1.65 ui-serif, Charter, Georgia, serif; }
.quiet + article { margin-top: 1rem; }
mark {
  color: inherit; border-radius: .2em; padding: .05em .12em; margin: 0 -.06em;
  --push: .6;
}
.towards {
  background: rgb(var(--towards) / calc(.08 + .5 * var(--push)));
}
.away {
  background: rgb(var(--away) / calc(.08 + .5 * var(--push)));
  text-decoration: underline dotted 1px; text-underline-offset: .2em;
}
.facts { display: grid; grid-template-columns: 1fr 1fr; column-gap: 2.5rem; }
.facts div {
  display: grid; grid-template-columns: 9rem 1fr; gap: 1rem;
  border-top: 1px solid var(--line); padding: .45rem 0; font-size: .92rem;
}
.facts dt { color: var(--quiet); }
.notes { margin-top: 1.4rem; padding-left: 1.1rem; }
@media (max-width: 46rem) {
  main { padding: 1.6rem 1rem 3rem; }
  .numbers, .plots, .facts { grid-template-columns: minmax(0, 1fr); }
  .numbers > dl { grid-template-columns: 1fr 1fr; }
  .numbers dd { font-size: 1.3rem; }
  .main dd { font-size: 2.4rem; }
}
"""
