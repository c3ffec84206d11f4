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
from matplotlib.figure import Figure

from kerasdl.files import whole_file
from kerasdl.report.contents import BatchPicture, RunReport
from kerasdl.report.drawing import COLOURS, MOST_NUMBERED_CLASSES, STYLE
from kerasdl.report.errors import errors_section
from kerasdl.report.formats import UNKNOWN, number, percent
from kerasdl.report.pictures import picture_tag
from kerasdl.report.plots import (
    confusion_matrix,
    curves,
    learning_curves,
    predicted_values,
    reliability_diagram,
    residuals,
)
from kerasdl.report.style import STYLESHEET


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
        _batches(report.batches),
        _classes(report),
        errors_section(report.errors),
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
        "log loss": number(metrics["log_loss"]),
        "calibration error": percent(metrics["ece"]),
        "F1, macro": percent(metrics["f1"]),
        "ROC AUC": number(metrics["roc_auc"]),
    }
    names = ("accuracy", "accuracy_low", "accuracy_high")
    return "accuracy", *(percent(metrics[name]) for name in names), others


def _error_size(metrics: dict) -> tuple[str, str, str, str, dict[str, str]]:
    """Return the main number of a regressor with its interval, and the others."""
    others = {
        "mean absolute error": f"{metrics['mae']:.4g}",
        "variance explained": percent(metrics["r2"]),
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
            f"examples below; expected calibration error {percent(metrics['ece'])}",
        ),
        _svg(
            confusion_matrix(report.labels, report.answers, report.label_names),
            "Confusion matrix: true classes in rows, predicted classes in columns; "
            f"{percent(metrics['accuracy'])} lie on the diagonal",
        ),
    ]


def _value_plots(report: RunReport) -> list[str]:
    metrics = report.metrics
    return [
        _svg(
            predicted_values(report.labels, report.answers),
            "Predicted against true values: the nearer to the diagonal, the better; "
            f"{percent(metrics['r2'])} of the variance is explained",
        ),
        _svg(
            residuals(report.labels, report.answers),
            "How often which error occurs; the mean absolute error is "
            f"{metrics['mae']:.4g}",
        ),
    ]


def _batches(batches: Sequence[BatchPicture]) -> str:
    if not batches:
        return ""
    figures = "\n".join(_batch(batch) for batch in batches)
    return f"""<section>
<h2>Training images as the network sees them</h2>
<div class="batches">
{figures}
</div>
</section>"""


def _batch(batch: BatchPicture) -> str:
    labels = ", ".join(batch.labels)
    picture = picture_tag(batch.picture, f"{len(batch.labels)} training images")
    return (
        f"<figure>{picture}\n<figcaption>Row by row: {html.escape(labels)}"
        "</figcaption></figure>"
    )


def _classes(report: RunReport) -> str:
    if not report.label_names:
        return ""
    classes = list(report.metrics["per_class"].items())
    remark = ""
    if len(classes) > 2:
        classes.sort(key=lambda item: (item[1]["count"] == 0, item[1]["recall"]))
        remark = (
            '<p class="quiet">Recall is the accuracy within a class; the class with '
            "the lowest comes first.</p>\n"
        )
    rows = [
        [
            html.escape(label),
            _bar(row["recall"]),
            percent(row["precision"]),
            percent(row["f1"]),
            f"{row['count']:,}",
        ]
        for label, row in classes
    ]
    table = _table(["class", "recall", "precision", "F1", "examples"], rows)
    return f"<section>\n<h2>Classes</h2>\n{remark}{table}\n</section>"


def _bar(share: float) -> str:
    return f'<span class="bar" style="--share:{share:.4f}">{percent(share)}</span>'


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
