"""Make the embedded review sample from the VADER movie-review snippets.

Run from the project's root:

    python benchmarks/make_reviews_sample.py ../shared/data/reviews_sample

The source holds an id, the mean human score (-4 to 4) and a snippet a line.
Snippets near neutral are left out, of texts that differ only in case or white space the
first is kept, and a fifth of each class becomes the test split.
"""

import argparse
import hashlib
import lzma
from pathlib import Path

SAMPLES = Path(__file__).parents[1] / "kerasdl" / "data" / "samples"
MARGIN = 1.0
TEST_FRACTION = 0.2
SEED = "kerasdl"
ATTRIBUTION = """\
reviews.tsv.xz: movie-review snippets with two labels made from mean human scores.
Made by benchmarks/make_reviews_sample.py from movieReviewSnippets_GroundTruth.txt of
VADER (C.J. Hutto and E.E. Gilbert: VADER: A Parsimonious Rule-based Model for Sentiment
Analysis of Social Media Text, ICWSM 2014), https://github.com/cjhutto/vaderSentiment,
which comes under this licence:

"""


def make_sample(source: Path) -> str:
    """Return the sample as tab-separated lines: split, label, text."""
    snippets = (source / "movieReviewSnippets_GroundTruth.txt").read_text("utf-8")
    texts = {"negative": {}, "positive": {}}
    seen = set()
    for line in snippets.splitlines():
        _, score, text = line.split("\t")
        key = " ".join(text.casefold().split())
        if abs(float(score)) >= MARGIN and key not in seen:
            seen.add(key)
            texts["positive" if float(score) > 0 else "negative"][text] = _digest(key)
    rows = []
    for label, digests in texts.items():
        ordered = sorted(digests, key=digests.get)
        tests = round(TEST_FRACTION * len(ordered))
        rows += [f"test\t{label}\t{text}" for text in ordered[:tests]]
        rows += [f"train\t{label}\t{text}" for text in ordered[tests:]]
    # Sorted again over both classes, so that a slice of the file holds both labels.
    rows.sort(key=_digest)
    return "".join(f"{row}\n" for row in rows)


def _digest(text: str) -> str:
    return hashlib.sha256(f"{SEED}\t{text}".encode()).hexdigest()


def main() -> None:
    """Write the sample and its licence into the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    packed = lzma.compress(make_sample(source).encode(), preset=9 | lzma.PRESET_EXTREME)
    (SAMPLES / "reviews.tsv.xz").write_bytes(packed)
    licence = (source / "LICENSE.txt").read_text("utf-8").strip()
    (SAMPLES / "LICENSE-reviews.txt").write_text(
        f"{ATTRIBUTION}{licence}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
