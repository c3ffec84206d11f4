"""Turn texts into integers: words or subwords in order, and bags of n-grams.

The words come from the `tokenizers` library (Rust, every backend, saved as JSON). The
n-grams are hashed from word ids with NumPy, so that they need no list of strings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import safetensors.numpy
import tokenizers

from kerasdl.checks import check_choice, check_positive
from kerasdl.data.batches import Ragged
from kerasdl.data.tokenizing import (
    LEVELS,
    read_tokenizer,
    subword_tokenizer,
    word_tokenizer,
)
from kerasdl.errors import InputError
from kerasdl.untrusted import open_tensors

# N-grams are told apart by this many hashes. Far fewer would let pairs of rare n-grams
# pass for one that counts: on IMDB 2^22 cost half a point of accuracy.
NUM_HASHES = 2**32
# N-grams of a text longer than this many words come from its head and tail only, so
# that one endless review cannot exhaust the memory.
MAX_NGRAM_WORDS = 4096
LONGEST_NGRAM = 64
TEXTS_PER_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """Encode texts as the integer inputs of the text builders.

    Args:
        tokenizer: A trained tokenizer of the `tokenizers` library.
        level: `"word"` or `"subword"` (byte-level BPE).
        max_tokens: Length limit of the sequence input; a longer text keeps its head
            and its tail. 0 leaves the sequence input out.
        ngram_orders: Lengths of the n-grams in words; empty leaves the bag input out.
        known_hashes: Hashes of the n-grams that count, ascending.
    """

    tokenizer: tokenizers.Tokenizer = field(repr=False)
    level: str = "word"
    max_tokens: int = 400
    ngram_orders: tuple[int, ...] = ()
    known_hashes: np.ndarray = field(
        default_factory=lambda: np.zeros(0, np.uint32), repr=False
    )

    files: ClassVar = ("tokenizer.json", "ngrams.safetensors")
    no_examples: ClassVar = ()

    @classmethod
    def fit(cls, texts: Sequence[str], **options) -> "TextEncoder":
        """Learn the vocabulary, as `fit_encode`, and return the encoder alone."""
        return cls.fit_encode(texts, **options)[0]

    @classmethod
    def fit_encode(
        cls,
        texts: Sequence[str],
        *,
        level: str = "word",
        vocabulary_size: int = 30_000,
        min_count: int = 2,
        max_tokens: int = 400,
        ngram_orders: tuple[int, ...] = (),
    ) -> tuple["TextEncoder", dict[str, Ragged]]:
        """Learn the vocabulary from training texts, and encode them in the same pass.

        Args:
            texts: Training texts.
            level: `"word"` or `"subword"`.
            vocabulary_size: Most token ids, padding and unknown included.
            min_count: Words seen more rarely become unknown; n-grams seen in fewer
                texts do not count.
            max_tokens: As in `TextEncoder`.
            ngram_orders: As in `TextEncoder`.

        Returns:
            The encoder, and what `encode` returns for `texts`.

        Raises:
            ValueError: If an argument is out of range.

        Example:
            >>> encoder = TextEncoder.fit(["good fun", "no fun"], min_count=1)
            >>> encoder.decode(encoder.encode(["fun, no ?"])["tokens"][0])
            'fun [UNK] no [UNK]'
        """
        check_choice("level", level, LEVELS)
        check_positive(vocabulary_size=vocabulary_size, min_count=min_count)
        if ngram_orders:
            check_positive(ngram_orders=tuple(ngram_orders))
        make = word_tokenizer if level == "word" else subword_tokenizer
        tokenizer, trainer = make(vocabulary_size, min_count)
        tokenizer.train_from_iterator(texts, trainer, length=len(texts))
        encoder = cls(
            tokenizer=tokenizer,
            level=level,
            max_tokens=max_tokens,
            ngram_orders=tuple(ngram_orders),
        )
        inputs = encoder._hash(texts)
        if ngram_orders:
            hashes = np.sort(inputs["ngrams"].values)
            first = np.flatnonzero(_starts_run(hashes))
            counts = np.diff(first, append=len(hashes))
            known = hashes[first[counts >= min_count]]
            encoder = replace(encoder, known_hashes=known)
        return encoder, encoder._keep_known(inputs)

    @classmethod
    def from_folder(cls, config: Mapping, folder: Path) -> "TextEncoder":
        """Rebuild an encoder from its settings and the files of a bundle.

        Raises:
            InputError: If they do not make an encoder.
        """
        path, ngrams = (folder / name for name in cls.files)
        if not _is_config(config):
            raise InputError(f"{folder}: the settings of the tokenizer are not valid")
        return cls(
            tokenizer=read_tokenizer(path, config["level"]),
            known_hashes=_read_hashes(ngrams),
            **{**config, "ngram_orders": tuple(config["ngram_orders"])},
        )

    def contents(self) -> dict[str, bytes]:
        """Return the content of each of `files`."""
        tokenizer, ngrams = self.files
        return {
            tokenizer: self.tokenizer.to_str().encode(),
            ngrams: safetensors.numpy.save({"hashes": self.known_hashes}),
        }

    @property
    def config(self) -> dict:
        """The settings, ready for JSON."""
        return {
            "level": self.level,
            "max_tokens": self.max_tokens,
            "ngram_orders": list(self.ngram_orders),
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments of a builder that the texts decide."""
        return {
            "vocabulary_size": self.vocabulary_size,
            "num_ngrams": self.num_ngrams,
        }

    def check(self, examples: Sequence[str] | str) -> list[str]:
        """Return texts as a list; a single string counts as one text.

        Raises:
            InputError: If an item is not a string.
        """
        texts = [examples] if isinstance(examples, str) else list(examples)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {i} is {type(text).__name__}; give strings")
        return texts

    @property
    def num_ngrams(self) -> int:
        """Number of n-gram ids, padding included."""
        return len(self.known_hashes) + 1

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, padding and unknown included."""
        return self.tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> dict[str, Ragged]:
        """Encode texts, empty ones included.

        Args:
            texts: Any texts.

        Returns:
            Model input name to int32 sequences without padding: `tokens` in reading
            order, `ngrams` the distinct n-grams that count, ascending.
        """
        return self._keep_known(self._hash(texts))

    def bag(self, words: Ragged) -> Ragged:
        """Return the distinct n-grams that count, given each text's token ids."""
        hashed = hash_ngrams(words, self.ngram_orders)
        return self._keep_known({"ngrams": hashed})["ngrams"]

    def ngram_ids(self, hashes: np.ndarray) -> np.ndarray:
        """Return the ids of n-gram hashes, 0 for those that do not count."""
        if not len(self.known_hashes):
            return np.zeros(len(hashes), np.int32)
        place = np.searchsorted(self.known_hashes, hashes)
        place = place.clip(max=len(self.known_hashes) - 1).astype(np.int32)
        return np.where(self.known_hashes[place] == hashes, place + 1, 0)

    def _hash(self, texts: Sequence[str]) -> dict[str, Ragged]:
        chunks = [
            self._hash_chunk(texts[start : start + TEXTS_PER_CHUNK])
            for start in range(0, max(len(texts), 1), TEXTS_PER_CHUNK)
        ]
        return {name: _join([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _hash_chunk(self, texts: Sequence[str]) -> dict[str, Ragged]:
        ids = [e.ids for e in self.tokenizer.encode_batch_fast(list(texts))]
        inputs = {}
        if self.max_tokens:
            inputs["tokens"] = _ragged(keep_ends(row, self.max_tokens) for row in ids)
        if self.ngram_orders:
            words = _ragged(keep_ends(row, MAX_NGRAM_WORDS) for row in ids)
            inputs["ngrams"] = hash_ngrams(words, self.ngram_orders)
        return inputs

    def _keep_known(self, inputs: dict[str, Ragged]) -> dict[str, Ragged]:
        """Turn n-gram hashes into ids from 1, without those that do not count."""
        if "ngrams" not in inputs:
            return inputs
        hashed = inputs["ngrams"]
        ids = self.ngram_ids(hashed.values)
        rows = np.repeat(np.arange(len(hashed)), hashed.lengths)[ids > 0]
        lengths = np.bincount(rows, minlength=len(hashed))
        return {**inputs, "ngrams": Ragged.from_lengths(ids[ids > 0], lengths)}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; exact for subwords, words joined by spaces."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def words(self, text: str) -> list[tuple[str, int, int]]:
        """Return each token's text with its start and end in `text`, in order."""
        offsets = self.tokenizer.encode(text).offsets
        return [(text[start:end], start, end) for start, end in offsets]


def keep_ends(items: list, limit: int) -> list:
    """Keep the head and the tail of a list that is longer than `limit`.

    Example:
        >>> keep_ends([1, 2, 3, 4, 5, 6], 4)
        [1, 2, 5, 6]
    """
    if len(items) <= limit:
        return items
    head = limit // 2
    return items[:head] + items[len(items) - (limit - head) :]


def hash_ngrams(words: Ragged, orders: Sequence[int]) -> Ragged:
    """Hash the distinct n-grams of each text.

    Args:
        words: Word ids of each text.
        orders: Lengths of the n-grams.

    Returns:
        Hashes below `NUM_HASHES`, uint32, ascending and distinct within a text.
    """
    rows = np.repeat(np.arange(len(words), dtype=np.uint64), words.lengths)
    ids = words.values.astype(np.uint64)
    keys = [np.zeros(0, np.uint64)]
    gram = np.zeros(len(ids), np.uint64)
    for order in range(1, max(orders) + 1):
        # An n-gram extends the (n-1)-gram that starts at the same word.
        gram = _mix(gram[: len(ids) - order + 1] * np.uint64(3) + ids[order - 1 :])
        if order in orders:
            row = rows[: len(gram)]
            inside = row == rows[order - 1 :]
            hashed = gram[inside] % np.uint64(NUM_HASHES)
            keys.append(row[inside] * np.uint64(NUM_HASHES) + hashed)
    distinct = np.sort(np.concatenate(keys))
    distinct = distinct[_starts_run(distinct)]
    counts = np.bincount(
        (distinct // np.uint64(NUM_HASHES)).astype(np.int64), minlength=len(words)
    )
    return Ragged.from_lengths(distinct.astype(np.uint32), counts)


def _starts_run(ascending: np.ndarray) -> np.ndarray:
    """Mark where a sorted array takes a new value."""
    return np.concatenate([[True], ascending[1:] != ascending[:-1]])[: len(ascending)]


def _mix(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _ragged(rows) -> Ragged:
    rows = [np.asarray(row, np.int32) for row in rows]
    lengths = np.array([len(row) for row in rows], np.int64)
    return Ragged.from_lengths(np.concatenate([np.zeros(0, np.int32), *rows]), lengths)


def _join(parts: list[Ragged]) -> Ragged:
    return Ragged.from_lengths(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )


def _is_config(config: Mapping) -> bool:
    """Say whether these are settings such as `TextEncoder.config` returns."""
    if set(config) != {"level", "max_tokens", "ngram_orders"}:
        return False
    orders, longest = config["ngram_orders"], config["max_tokens"]
    return (
        config["level"] in LEVELS
        and type(longest) is int
        and 0 <= longest < NUM_HASHES
        and isinstance(orders, list)
        and all(type(order) is int and 1 <= order <= LONGEST_NGRAM for order in orders)
    )


def _read_hashes(path: Path) -> np.ndarray:
    """Read which n-grams count, once the header says that this is what is there."""
    with open_tensors(path) as tables:
        names = list(tables.keys())
        entry = tables.get_slice("hashes") if names == ["hashes"] else None
        if entry and entry.get_dtype() == "U32" and len(entry.get_shape()) == 1:
            hashes = tables.get_tensor("hashes")
            if np.all(hashes[1:] > hashes[:-1]):
                return hashes
    raise InputError(
        f"{path} holds no table of n-grams in ascending order; get the bundle again"
    )
