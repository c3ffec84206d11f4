"""The page of the doctor's findings: one HTML file that needs nothing else."""

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from kerasdl.data.pixels import read_image
from kerasdl.doctor.findings import KINDS, Copies, Doubt, Findings
from kerasdl.errors import InputError
from kerasdl.files import whole_file
from kerasdl.report.style import STYLESHEET

THUMBNAIL = 112
MOST_SHOWN = 60  # of each kind of finding; pages of thousands of pictures are no help
MOST_COPIES_SHOWN = 8  # of one picture

STYLE = """
.lines { list-style: none; padding: 0; margin-top: 1.8rem; }
.lines li { border-top: 1px solid var(--line); padding: .5rem 0;
  display: grid; grid-template-columns: 5.5rem minmax(0, 1fr); }
.error::before, .warning::before, .note::before {
  font-size: .85rem; line-height: 1.8; color: var(--quiet);
}
.error::before { content: "error"; color: rgb(var(--towards)); font-weight: 600; }
.warning::before { content: "warning"; color: var(--second); }
.note::before { content: "note"; }
.sheet { display: grid; gap: 1.2rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.row figure { max-width: 11rem; }
.copies { max-width: none; }
img { display: block; height: 7rem; max-width: 100%; object-fit: contain;
  border-radius: .3rem; outline: 1px solid var(--line); }
figcaption { font-size: .78rem; color: var(--quiet); overflow-wrap: anywhere;
  margin-top: .3rem; line-height: 1.4; }
figcaption b { color: var(--ink); }
.good { margin-top: 1.8rem; }
"""


def write_page(path: str | os.PathLike, findings: Findings) -> None:
    """Write what was found in a folder of images, with the pictures, as one HTML file.

    Args:
        path: The file; one that exists is replaced in one step.
        findings: What was found; the images are read again where they are shown.
    """
    page = _page(findings).encode("utf-8", errors="replace")
    with whole_file(path) as partial:
        partial.write_bytes(page)


def _page(findings: Findings) -> str:
    root = Path(findings.folder).expanduser()
    sections = [
        _summary(findings),
        _classes(findings),
        _doubts(findings, root),
        _copies(findings.copies, root),
        *(_faults(findings, what, root) for what in KINDS),
    ]
    title = html.escape(f"Images in {findings.folder}")
    body = "\n".join(section for section in sections if section)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{STYLESHEET}{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="set">{findings.images:,} readable images</p>
</header>
{body}
</main>
</body>
</html>
"""


def _summary(findings: Findings) -> str:
    lines = "".join(
        '<li class="{}">{}</li>'.format(*map(html.escape, line.split(": ", 1)))
        for line in findings.lines()
    )
    ignored = f'<p class="quiet">{html.escape(findings.ignored)}</p>'
    if not lines:
        return f'<p class="good">Nothing was found.</p>\n{ignored}'
    return f'<ul class="lines">{lines}</ul>\n{ignored}'


def _classes(findings: Findings) -> str:
    labels = sorted({label for counts in findings.classes.values() for label in counts})
    head = "".join(
        f'<th scope="col">{html.escape(split or "images")}</th>'
        for split in findings.classes
    )
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(label)}</th>'
        + "".join(f"<td>{c.get(label, 0):,}</td>" for c in findings.classes.values())
        + "</tr>"
        for label in labels
    )
    return _section(
        "Classes",
        f'<div class="scroll"><table><thead><tr><th scope="col">class</th>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>",
    )


def _doubts(findings: Findings, root: Path) -> str:
    doubts = findings.doubts
    if not doubts:
        return ""
    figures = "".join(
        _figure(root, doubt.path, _suggestion(doubt)) for doubt in doubts[:MOST_SHOWN]
    )
    trust = (
        '<p class="quiet">Contradicted by a model of shapes and colours that had not '
        f"seen the picture; it predicts {findings.label_accuracy:.0%} of all labels. "
        f"{_shown(doubts)}</p>"
    )
    title = "Labels that may be wrong"
    return _section(title, f'{trust}\n<div class="sheet">{figures}</div>')


def _suggestion(doubt: Doubt) -> str:
    given, suggested = html.escape(doubt.given), html.escape(doubt.suggested)
    return f"given <b>{given}</b>, rather <b>{suggested}</b> ({doubt.confidence:.0%})"


def _copies(found: Sequence[Copies], root: Path) -> str:
    if not found:
        return ""
    articles = "\n".join(_article(copies, root) for copies in found[:MOST_SHOWN])
    intro = f'<p class="quiet">{_shown(found)}</p>'
    return _section("The same picture more than once", f"{intro}\n{articles}")


def _article(copies: Copies, root: Path) -> str:
    figures = "".join(
        _figure(root, path, "") for path in copies.paths[:MOST_COPIES_SHOWN]
    )
    count = len(copies.paths)
    more = f", {count:,} files" if count > MOST_COPIES_SHOWN else ""
    return (
        f'<article class="copies"><h3><b>{html.escape(KINDS[copies.what].one)}</b>: '
        f'{html.escape(copies.detail)}{more}</h3><div class="row">{figures}</div>'
        "</article>"
    )


def _faults(findings: Findings, what: str, root: Path) -> str:
    faults = [fault for fault in findings.faults if fault.what == what]
    if not faults:
        return ""
    figures = "".join(
        _figure(root, fault.path, html.escape(fault.detail))
        for fault in faults[:MOST_SHOWN]
    )
    title = KINDS[what].many if len(faults) > 1 else KINDS[what].one
    intro = f'<p class="quiet">{_shown(faults)}</p>'
    return _section(
        title[0].upper() + title[1:], f'{intro}\n<div class="sheet">{figures}</div>'
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{content}\n</section>"


def _shown(found: Sequence) -> str:
    if len(found) <= MOST_SHOWN:
        return ""
    return f"The first {MOST_SHOWN} of {len(found):,} are shown; --json lists all."


def _figure(root: Path, path: str, caption: str) -> str:
    name = html.escape(path)
    words = f"{caption}<br>{name}" if caption else name
    return (
        f"<figure>{_thumbnail(root / path, name)}<figcaption>{words}</figcaption>"
        "</figure>"
    )


def _thumbnail(path: Path, name: str) -> str:
    """Return a small copy of an image as HTML, or nothing if it cannot be read."""
    if not path.is_file():
        return ""
    try:
        picture = Image.fromarray(read_image(path))
    except InputError:
        return ""
    picture.thumbnail((2 * THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    code = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{name}" src="data:image/jpeg;base64,{code}">'
