"""The text encoder, against naive implementations in plain Python."""

import time
from collections import Counter

import numpy as np
import pytest

from kerasdl.data.batches import Ragged
from kerasdl.data.text import (
    MAX_NGRAM_WORDS,
    NUM_HASHES,
    TextEncoder,
    hash_ngrams,
    keep_ends,
)
from kerasdl.data.tokenizing import PADDING_ID, UNKNOWN_ID
from kerasdl.errors import InputError

pytestmark = pytest.mark.backend_free

TEXTS = [
    "A good film; I didn't like the end, though... 8/10 :-)",
    "a bad film! The end is good. 😀 Déjà vu — 日本語",
    "",
    "good good good",
]


def words(text, **options):
    """Split a text into words with an encoder that knows all of them."""
    encoder = TextEncoder.fit([text], min_count=1, **options)
    return encoder.decode(encoder.encode([text])["tokens"][0]).split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Didn't, DON'T can't", "did n't , do n't ca n't"),
        ("didn\u2019t it`s", "did n't it's"),
        ("\u201cGreat\u201d", '" great "'),
        ("line<br />break<BR>here<br/>", "line break here"),
        ("8/10 or 7.5/10, 1,000 and 3.5", "8/10 or 7.5/10 , 1,000 and 3.5"),
        ("fun :-) :D ;) =p :( <3 :'(", "fun :-) :d ;) =p :( <3 :'("),
        ("note:plot title:director :dull", "note : plot title : director : dull"),
        ("What?! No!!! Well... hm..", "what ?! no !!! well ... hm .."),
        ("\ufb01ne \uff46\uff55\uff4c\uff4c \u2460", "fine full 1"),
        ("rock'n'roll the dog's", "rock'n roll the dog's"),
        ("50% & $5*(x)-y/z", "50 % & $ 5 * ( x ) - y / z"),
        ("été naïve 日本", "été naïve 日本"),
        (" \t\n\u200b ", ""),
        ("nul\0byte", "nul byte"),
    ],
)
def test_words_are_split_deliberately(text, expected):
    assert words(text) == expected.split()


@pytest.mark.parametrize("text", [*TEXTS, "new words, ÄÖÜ ß 🎬🎬", "tabs\tand\nlines"])
def test_subwords_decode_exactly(text):
    encoder = TextEncoder.fit(TEXTS, level="subword", vocabulary_size=300)
    ids = encoder.encode([text])["tokens"][0]
    assert encoder.decode(ids) == text.lower()
    assert UNKNOWN_ID not in ids
    assert PADDING_ID not in ids


def test_words_decode_to_words():
    encoder = TextEncoder.fit(["the good film", "the bad film"], min_count=1)
    ids = encoder.encode(["The film, the ugly film"])["tokens"][0]
    assert encoder.decode(ids) == "the film [UNK] the [UNK] film"


def test_rare_words_are_unknown_and_the_vocabulary_is_bounded():
    texts = ["aa aa aa bb bb cc", "dd dd ee"]
    encoder = TextEncoder.fit(texts, min_count=2)
    assert encoder.vocabulary_size == 2 + 3  # aa, bb, dd
    assert encoder.decode(encoder.encode(["aa cc"])["tokens"][0]) == "aa [UNK]"
    small = TextEncoder.fit(texts, min_count=1, vocabulary_size=4)
    assert small.vocabulary_size == 4
    assert small.encode(["aa"])["tokens"][0][0] == 2  # the most frequent comes first


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_long_texts_keep_head_and_tail(limit):
    names = [f"w{i}" for i in range(9)]
    encoder = TextEncoder.fit([" ".join(names)], min_count=1, max_tokens=limit)
    found = encoder.decode(encoder.encode([" ".join(names)])["tokens"][0]).split()
    head = limit // 2
    assert found == names[:head] + names[9 - (limit - head) :]
    assert len(keep_ends(names, limit)) == limit
    assert keep_ends(names, 9) == names


def mix(value):
    """SplitMix64's finaliser on Python integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def naive_hashes(ids, orders):
    """Hash each n-gram of one text by itself."""
    found = set()
    for order in orders:
        for start in range(len(ids) - order + 1):
            gram = 0
            for word in ids[start : start + order]:
                gram = mix((gram * 3 + int(word)) % 2**64)
            found.add(gram % NUM_HASHES)
    return sorted(found)


@pytest.mark.parametrize("orders", [(1,), (1, 2, 3), (2,), (4, 1)])
def test_ngrams_are_hashed_as_in_plain_python(orders):
    random = np.random.default_rng(0)
    rows = [random.integers(1, 30, n) for n in (0, 1, 2, 3, 9, 40, 0)]
    ragged = Ragged.from_lengths(
        np.concatenate(rows), np.array([len(row) for row in rows])
    )
    found = hash_ngrams(ragged, orders)
    assert found.values.dtype == np.uint32
    assert len(found) == len(rows)
    for i, row in enumerate(rows):
        assert found[i].tolist() == naive_hashes(row, orders)


def test_bag_holds_the_ngrams_of_enough_texts():
    texts = ["a good film", "a good plot", "good good film", "zzz"]
    encoder, inputs = TextEncoder.fit_encode(texts, min_count=2, ngram_orders=(1, 2))
    ids = [encoder.tokenizer.encode(text).ids for text in texts]
    counts = Counter(h for row in ids for h in naive_hashes(row, (1, 2)))
    known = sorted(h for h, count in counts.items() if count >= 2)
    assert encoder.known_hashes.tolist() == known
    assert encoder.num_ngrams == len(known) + 1
    for i, row in enumerate(ids):
        kept = [known.index(h) + 1 for h in naive_hashes(row, (1, 2)) if h in known]
        assert inputs["ngrams"][i].tolist() == kept
    again = encoder.encode(texts)
    for name in ("tokens", "ngrams"):
        np.testing.assert_array_equal(again[name].values, inputs[name].values)
        np.testing.assert_array_equal(again[name].offsets, inputs[name].offsets)
    row = Ragged.from_lengths(np.array(ids[0]), np.array([len(ids[0])]))
    np.testing.assert_array_equal(encoder.bag(row)[0], inputs["ngrams"][0])


def write(encoder, folder):
    for name, content in encoder.contents().items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("level", ["word", "subword"])
@pytest.mark.parametrize("orders", [(), (1, 2)])
def test_files_rebuild_the_encoder(level, orders, tmp_path):
    encoder = TextEncoder.fit(
        TEXTS, level=level, vocabulary_size=300, ngram_orders=orders, max_tokens=7
    )
    write(encoder, tmp_path)
    again = TextEncoder.from_folder(encoder.config, tmp_path)
    assert again.config == encoder.config
    assert again.num_ngrams == encoder.num_ngrams
    assert again.vocabulary_size == encoder.vocabulary_size
    expected, found = encoder.encode(TEXTS), again.encode(TEXTS)
    assert set(found) == {"tokens", "ngrams"} if orders else {"tokens"}
    for name in found:
        np.testing.assert_array_equal(found[name].values, expected[name].values)
        np.testing.assert_array_equal(found[name].offsets, expected[name].offsets)


@pytest.mark.parametrize(
    "change", [{"ngram_orders": None}, {"depth": 3}, {"tokenizer": None}]
)
def test_files_that_do_not_fit_are_refused(change, tmp_path):
    encoder = TextEncoder.fit(TEXTS)
    write(encoder, tmp_path)
    with pytest.raises(InputError, match="settings of the tokenizer are not valid"):
        TextEncoder.from_folder(encoder.config | change, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="the tokenizer has no vocabulary"):
        TextEncoder.from_folder(encoder.config, tmp_path)


def test_texts_do_not_depend_on_each_other_or_on_their_order():
    encoder = TextEncoder.fit(TEXTS, min_count=1, ngram_orders=(1, 3))
    together = encoder.encode(TEXTS[::-1])
    for i, text in enumerate(TEXTS[::-1]):
        for name, ragged in encoder.encode([text]).items():
            np.testing.assert_array_equal(ragged[0], together[name][i])


def test_empty_texts_and_no_texts():
    encoder = TextEncoder.fit(TEXTS, ngram_orders=(1, 2))
    for texts in ([], ["", " \n"]):
        inputs = encoder.encode(texts)
        for ragged in inputs.values():
            assert len(ragged) == len(texts)
            assert ragged.lengths.sum() == 0


def test_inputs_can_be_left_out():
    assert set(TextEncoder.fit(TEXTS).encode(TEXTS)) == {"tokens"}
    bag = TextEncoder.fit(TEXTS, max_tokens=0, ngram_orders=(1,))
    assert set(bag.encode(TEXTS)) == {"ngrams"}


def test_words_carry_their_place():
    encoder = TextEncoder.fit(TEXTS, min_count=1)
    text = "It <br /> didn\u2019t END :-)"
    found = encoder.words(text)
    assert [word for word, _, _ in found] == ["It", "did", "n\u2019t", "END", ":-)"]
    assert all(text[start:end] == word for word, start, end in found)


def test_unknown_level_is_refused():
    with pytest.raises(ValueError, match=r"level='words'.*did you mean 'word'"):
        TextEncoder.fit(TEXTS, level="words")


@pytest.mark.slow
def test_ten_megabytes_in_one_text():
    encoder = TextEncoder.fit(TEXTS, min_count=1, ngram_orders=(1, 2))
    text = "a good film, " * (10 * 2**20 // 13)
    started = time.process_time()
    inputs = encoder.encode([text, "good"])
    assert time.process_time() - started < 60
    assert inputs["tokens"].lengths.tolist() == [400, 1]
    assert inputs["ngrams"].lengths.max() <= 2 * MAX_NGRAM_WORDS


def test_emoji_are_words_of_their_own():
    texts = ["loved it \U0001f60d\U0001f60d \u2764", "meh \U0001f620"]
    words = [word for word, _, _ in TextEncoder.fit(texts, min_count=1).words(texts[0])]
    assert words == ["loved", "it", "\U0001f60d", "\U0001f60d", "\u2764"]


@pytest.mark.parametrize("change", [{"ngram_orders": (0, 1)}, {"min_count": 0}])
def test_sizes_below_one_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TextEncoder.fit(["good"], **change)
