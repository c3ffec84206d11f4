"""Which words of a text moved the model, and which way."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from kerasdl.data.batches import Ragged
from kerasdl.data.text import (
    MAX_NGRAM_WORDS,
    TextEncoder,
    hash_ngrams,
    keep_ends,
)
from kerasdl.data.tokenizing import UNKNOWN_ID
from kerasdl.evaluate import two_logits
from kerasdl.layers import Blend, NgramBag
from kerasdl.predict import Classifier

# Each token costs one pass through the model, so a long text is explained by its ends.
MAX_TOKENS = 512


@dataclass(frozen=True)
class Word:
    """A word of a text and its part in the prediction.

    Attributes:
        word: The word as written.
        start: Index of its first character in the text.
        end: Index after its last character.
        push: How much the word raises the log-odds of the predicted label against all
            others; negative where it speaks for another label.
    """

    word: str
    start: int
    end: int
    push: float


def explain(predictor: Classifier, text: str, top: int = 10) -> list[Word]:
    """Find the words that weigh most in the prediction for a text.

    A word's push is what it adds to the calibrated log-odds of the predicted label. Of
    a bag of n-grams it is exact: each n-gram's contribution is shared equally among its
    words. Of the rest of the model it is by how much the log-odds fall when the word
    alone becomes unknown (occlusion).

    Args:
        predictor: The model behind its encoder.
        text: The text; where it is long, its head and tail are explained.
        top: Number of words.

    Returns:
        Words with the largest push either way first; none for a text without words.

    Reference:
        [Visualizing and Understanding Convolutional
        Networks](https://arxiv.org/abs/1311.2901), section 4.2, on words.
    """
    encoder = predictor.encoder
    encoding = encoder.tokenizer.encode(text)
    ids = np.array(encoding.ids, np.int32)
    limit = min(MAX_TOKENS, encoder.max_tokens or MAX_TOKENS)
    words = group_tokens(
        text, encoding.offsets, keep_ends(list(range(len(ids))), limit)
    )
    exact = _exact_pushes(predictor, ids)
    inputs = _occlude(encoder, ids, words, bag=exact is None)
    logits = two_logits(predictor.encoded_outputs(inputs))
    odds = _log_odds(logits / predictor.temperature)
    pushes = odds[0] - odds[1:]
    if exact is not None:
        sign = 1 if logits[0, 1] > logits[0, 0] else -1
        pushes += [sign * exact[word].sum() for word in words]
    strongest = np.argsort(-np.abs(pushes), kind="stable")[:top]
    explained = []
    for i in strongest:
        start = encoding.offsets[words[i][0]][0]
        end = encoding.offsets[words[i][-1]][1]
        word = text[start:end]
        start += len(word) - len(word.lstrip())  # byte-level tokens begin with a space
        explained.append(Word(word.strip(), start, end, float(pushes[i])))
    return explained


def _exact_pushes(predictor: Classifier, ids: np.ndarray) -> np.ndarray | None:
    """Return each token's part in the second class's log-odds, `None` without a bag.

    Only with two classes are the log-odds a sum of what the n-grams add.
    """
    bags = [layer for layer in predictor.model.layers if isinstance(layer, NgramBag)]
    if not bags or len(predictor.labels) != 2:
        return None
    blends = [layer for layer in predictor.model.layers if isinstance(layer, Blend)]
    weight = blends[0].weight_of("bag") if blends else 1.0
    kept = np.array(keep_ends(list(range(len(ids))), MAX_NGRAM_WORDS), np.int64)
    row = Ragged.from_lengths(ids[kept], np.array([len(kept)]))
    bag = predictor.encoder.bag(row)
    added = keras.ops.convert_to_numpy(bags[0].contributions(bag.pad(len(bag.values))))
    shares = ngram_pushes(predictor.encoder, ids[kept], bag.values, added[0, :, 0])
    pushes = np.zeros(len(ids))
    pushes[kept] = 2 * weight / predictor.temperature * shares
    return pushes


def ngram_pushes(
    encoder: TextEncoder, ids: np.ndarray, ngrams: np.ndarray, added: np.ndarray
) -> np.ndarray:
    """Share what each n-gram adds to a score equally among its words.

    Args:
        encoder: Made the n-grams.
        ids: Token ids of one text, at most `MAX_NGRAM_WORDS`.
        ngrams: The text's input `ngrams`, ascending.
        added: What each of these adds to the score, `(n-grams,)`.

    Returns:
        Part of each token in the score, `(tokens,)`; it sums to that of `added`.
    """
    windows_of = [
        np.arange(len(ids) - order + 1)[:, None] + np.arange(order)
        for order in encoder.ngram_orders
    ]
    found = [_window_ids(encoder, ids, windows) for windows in windows_of]
    counts = np.bincount(np.concatenate(found), minlength=encoder.num_ngrams)
    pushes = np.zeros(len(ids))
    for windows, window_ids in zip(windows_of, found, strict=True):
        place = np.searchsorted(ngrams, window_ids).clip(max=max(len(ngrams) - 1, 0))
        share = np.zeros(len(windows))
        known = window_ids > 0
        share[known] = added[place[known]] / counts[window_ids[known]]
        for column in windows.T:  # no token twice in one column
            pushes[column] += share / windows.shape[1]
    return pushes


def _window_ids(
    encoder: TextEncoder, ids: np.ndarray, windows: np.ndarray
) -> np.ndarray:
    """Return the n-gram id of every window: each is hashed as a text of its own."""
    order = windows.shape[1]
    texts = Ragged.from_lengths(ids[windows].ravel(), np.full(len(windows), order))
    return encoder.ngram_ids(hash_ngrams(texts, (order,)).values)


def group_tokens(
    text: str, offsets: Sequence[tuple[int, int]], tokens: Sequence[int]
) -> list[list[int]]:
    """Group tokens into words: pieces of one character or of one run of letters.

    Args:
        text: The text.
        offsets: Start and end in `text` of every token.
        tokens: Indices of the tokens to group, ascending.

    Returns:
        Token indices of each word, in order.

    Example:
        >>> group_tokens("didn't work", [(0, 3), (3, 6), (7, 11)], [0, 1, 2])
        [[0, 1], [2]]
    """
    words: list[list[int]] = []
    for token in tokens:
        start, end = offsets[token]
        if not text[start:end].strip():
            continue
        if words and words[-1][-1] == token - 1:
            previous = offsets[token - 1][1]
            touching = start == previous and text[start - 1 : start + 1].isalnum()
            if touching or start < previous:
                words[-1].append(token)
                continue
        words.append([token])
    return words


def _occlude(
    encoder: TextEncoder, ids: np.ndarray, words: list[list[int]], *, bag: bool
) -> dict[str, Ragged]:
    """Encode a text as it is, then once for each word with that word unknown.

    Args:
        encoder: Encodes.
        ids: Token ids of the text.
        words: Token indices of each word.
        bag: Hide the words from the bag of n-grams, too.
    """
    inputs = {}
    if encoder.max_tokens:
        inputs["tokens"] = _variants(ids, words, encoder.max_tokens)
    if encoder.ngram_orders:
        hidden = words if bag else [[] for _ in words]
        inputs["ngrams"] = encoder.bag(_variants(ids, hidden, MAX_NGRAM_WORDS))
    return inputs


def _variants(ids: np.ndarray, words: list[list[int]], limit: int) -> Ragged:
    kept = np.array(keep_ends(list(range(len(ids))), limit), np.int64)
    rows = np.tile(ids[kept], (len(words) + 1, 1))
    for row, tokens in zip(rows[1:], words, strict=True):
        row[np.isin(kept, tokens)] = UNKNOWN_ID
    return Ragged.from_lengths(rows.ravel(), np.full(len(rows), len(kept)))


def _log_odds(logits: np.ndarray) -> np.ndarray:
    """Return the log-odds of the first row's class against the rest, for every row."""
    best = int(np.argmax(logits[0]))
    rest = np.delete(logits, best, axis=1)
    return logits[:, best] - np.logaddexp.reduce(rest, axis=1)
