"""The section of the page on what the model got wrong, in words and pictures."""

import html
import re
from collections.abc import Sequence

import numpy as np

from kerasdl.report.contents import ErrorExample
from kerasdl.report.formats import percent
from kerasdl.report.pictures import picture_tag

EXCERPT_CHARACTERS = 600
COLOURED_WORDS = 40


def errors_section(errors: Sequence[ErrorExample]) -> str:
    """Return the section as HTML; nothing without errors."""
    if not errors:
        return ""
    articles = "\n".join(_article(example) for example in errors)
    certain = errors[0].probability is not None
    title = "Most confidently wrong" if certain else "Largest errors"
    if any(example.picture for example in errors):
        articles = f'<div class="gallery">\n{articles}\n</div>'
    return f"<section>\n<h2>{title}</h2>\n{_legend(errors)}\n{articles}\n</section>"


def _legend(errors: Sequence[ErrorExample]) -> str:
    if any(example.words for example in errors):
        return (
            '<p class="quiet">Words that pushed <mark class="towards">towards the '
            'wrong answer</mark> and <mark class="away">away from it</mark>; '
            "the deeper the colour, the harder.</p>"
        )
    if any(example.heatmap for example in errors):
        return (
            '<p class="quiet">Beside each image, where the network looked: the lighter '
            "a place, the more it mattered to the wrong answer.</p>"
        )
    return ""


def _article(example: ErrorExample) -> str:
    certainty = (
        "" if example.probability is None else f" with {percent(example.probability)}"
    )
    return f"""<article>
<h3>Said <b>{html.escape(example.predicted)}</b>{certainty},
is <b>{html.escape(example.label)}</b></h3>
{_pictures(example)}{_words(example)}
</article>"""


def _pictures(example: ErrorExample) -> str:
    if not example.picture:
        return ""
    image = f"{example.label}, taken for {example.predicted}"
    pictures = picture_tag(example.picture, image)
    if example.heatmap:
        pictures += picture_tag(example.heatmap, f"Heatmap over the image of {image}")
    return f'<div class="pictures">{pictures}</div>\n'


def _words(example: ErrorExample) -> str:
    if not example.picture:
        return f"<p>{_coloured(example.text, example.words)}</p>"
    if not example.text:
        return ""
    return f'<p class="source">{html.escape(example.text)}</p>'


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
