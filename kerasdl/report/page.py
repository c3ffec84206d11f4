"""The page of a run: one HTML file that needs nothing else.

Its plots are SVG whose colours are CSS variables, so that they follow the reader's
light or dark scheme.
"""

import html
import io
import os
import re
import warnings
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from kerasdl.files import whole_file
from kerasdl.report.contents import ErrorExample, RunReport
from kerasdl.report.plots import (
    COLOURS,
    MOST_NUMBERED_CLASSES,
    STYLE,
    confusion_matrix,
    curves,
    learning_curves,
    predicted_values,
    reliability_diagram,
    residuals,
)
from kerasdl.report.style import STYLESHEET

UNKNOWN = "\N{EN DASH}"
EXCERPT_CHARACTERS = 600
COLOURED_WORDS = 40


def write_report(path: str | os.PathLike, report: RunReport) -> None:
    """Write the page of a run as one self-contained HTML file.

    Args:
        path: The file; one that exists is replaced in one step.
        report: What to show.
    """
    page = _page(report).encode("utf-8", errors="replace")
    with whole_file(path) as partial:
        partial.write_bytes(page)


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
    name, value, low, high, others = (
        _accuracy(metrics) if report.label_names else _error_size(metrics)
    )
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in others.items()
    )
    return f"""<header>
<h1>{html.escape(report.title)}</h1>
<p class="set">Measured on {html.escape(str(metrics["set"]))},
{metrics["count"]:,} examples</p>
<div class="numbers">
<div class="main"><dl><div><dt>{name}</dt>
<dd>{value}</dd></div></dl>
<p>95 % interval {low} to {high}</p></div>
<dl>{tiles}</dl>
</div>
</header>"""


def _accuracy(metrics: dict) -> tuple[str, str, str, str, dict[str, str]]:
    """Return the main number of a classifier with its interval, and the others."""
    others = {
        "log loss": _number(metrics["log_loss"]),
        "calibration error": _percent(metrics["ece"]),
        "F1, macro": _percent(metrics["f1"]),
        "ROC AUC": _number(metrics["roc_auc"]),
    }
    names = ("accuracy", "accuracy_low", "accuracy_high")
    return "accuracy", *(_percent(metrics[name]) for name in names), others


def _error_size(metrics: dict) -> tuple[str, str, str, str, dict[str, str]]:
    """Return the main number of a regressor with its interval, and the others."""
    others = {
        "mean absolute error": f"{metrics['mae']:.4g}",
        "variance explained": _percent(metrics["r2"]),
    }
    if "margin" in metrics:
        others["90 % lie within ±"] = f"{metrics['margin']:.4g}"
    names = ("rmse", "rmse_low", "rmse_high")
    numbers = (f"{metrics[name]:.4g}" for name in names)
    return "root mean squared error", *numbers, others


def _plots(report: RunReport) -> str:
    pictures = [
        _svg(
            learning_curves({name: train, f"val_{name}": held_out}),
            f"Learning curve: {name.replace('_', ' ')} on training and validation data "
            "by epoch; the values stand in the table of epochs below",
        )
        for name, (train, held_out) in curves(report.history).items()
    ]
    pictures += _class_plots(report) if report.label_names else _value_plots(report)
    wide = len(report.label_names) > MOST_NUMBERED_CLASSES
    *narrow, last = [f"<figure>{picture}</figure>" for picture in pictures]
    if wide:
        last = last.replace("<figure>", '<figure class="wide">', 1)
    figures = "\n".join([*narrow, last])
    return f'<section class="plots" aria-label="Plots">\n{figures}\n</section>'


def _class_plots(report: RunReport) -> list[str]:
    metrics = report.metrics
    return [
        _svg(
            reliability_diagram(report.labels, report.answers),
            "Reliability diagram: accuracy against confidence, with the share of "
            f"examples below; expected calibration error {_percent(metrics['ece'])}",
        ),
        _svg(
            confusion_matrix(report.labels, report.answers, report.label_names),
            "Confusion matrix: true classes in rows, predicted classes in columns; "
            f"{_percent(metrics['accuracy'])} lie on the diagonal",
        ),
    ]


def _value_plots(report: RunReport) -> list[str]:
    metrics = report.metrics
    return [
        _svg(
            predicted_values(report.labels, report.answers),
            "Predicted against true values: the nearer to the diagonal, the better; "
            f"{_percent(metrics['r2'])} of the variance is explained",
        ),
        _svg(
            residuals(report.labels, report.answers),
            "How often which error occurs; the mean absolute error is "
            f"{metrics['mae']:.4g}",
        ),
    ]


def _classes(report: RunReport) -> str:
    if not report.label_names:
        return ""
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
    certain = errors[0].probability is not None
    title = "Most confidently wrong" if certain else "Largest errors"
    legend = ""
    if any(example.words for example in errors):
        legend = (
            '<p class="quiet">Words that pushed <mark class="towards">towards the '
            'wrong answer</mark> and <mark class="away">away from it</mark>; '
            "the deeper the colour, the harder.</p>"
        )
    return f"<section>\n<h2>{title}</h2>\n{legend}\n{articles}\n</section>"


def _error(example: ErrorExample) -> str:
    certainty = (
        "" if example.probability is None else f" with {_percent(example.probability)}"
    )
    return f"""<article>
<h3>Said <b>{html.escape(example.predicted)}</b>{certainty},
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
