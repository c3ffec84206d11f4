"""Tokenizers: how a vocabulary is learnt from texts, and read from a file."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from kerasdl.errors import InputError
from kerasdl.untrusted import brief, read_json

PADDING, UNKNOWN = "[PAD]", "[UNK]"
PADDING_ID, UNKNOWN_ID = 0, 1
LEVELS = ("word", "subword")

# What counts as one word, in this order: an emoticon, a rating such as 8/10, a number,
# the verb before "n't", "n't" itself (so that "didn't like" and "don't like" share the
# bigram "n't like"), a word with an inner apostrophe, or one mark that carries feeling.
WORD_PATTERN = "|".join(
    [
        r"[:;=][-o']?(?:[()\[\]/|*]+|[dp]+(?!\w))",
        r"<3",
        r"\d+(?:\.\d+)?/\d+",
        r"\d+(?:[.,]\d+)*",
        r"[^\W\d_]+(?=n't\b)",
        r"n't\b",
        r"\w+(?:'\w+)?",
        r"[!?]+|\.\.+|[.,;:\"()&$%*/-]",
        "[\u2600-\u27bf\U0001f300-\U0001faff]",  # emoji, one by one
    ]
)
# A quarter of a million subwords take half of that.
LARGEST_TOKENIZER = 2**25
# What texts decide about a tokenizer's model.
LEARNT = ("vocab", "merges")


def read_tokenizer(path: Path, level: str) -> tokenizers.Tokenizer:
    """Read a vocabulary into a tokenizer of ours.

    A tokenizer's file may hold regular expressions that never end and replacements
    that double a text forty times. Only a vocabulary and merges are taken from it, and
    all else must stand there as we write it.

    Raises:
        InputError: If anything is otherwise.
    """
    stored = read_json(path, most=LARGEST_TOKENIZER)
    make = word_tokenizer if level == "word" else subword_tokenizer
    ours, _ = make(1, 1)
    ours.add_special_tokens([PADDING, UNKNOWN])
    plan = json.loads(ours.to_str())
    model = stored.get("model")
    if not isinstance(model, dict):
        raise InputError(f"{path}: the tokenizer has no vocabulary")
    learnt = {name: model.pop(name, None) for name in LEARNT if name in plan["model"]}
    if not _is_vocabulary(learnt["vocab"]) or not _are_merges(learnt.get("merges", [])):
        raise InputError(f"{path}: the tokenizer's vocabulary is not valid")
    for name in learnt:
        del plan["model"][name]
    for name in sorted({*plan, *stored}):
        if name not in plan or stored.get(name, ...) != plan[name]:
            raise InputError(
                f"{path}: {brief(repr(name))} of the tokenizer is not as kerasdl "
                f"writes it for level={level!r}; get the bundle again"
            )
    plan["model"] |= learnt
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(plan))
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"{path}: the tokenizer cannot be read: {brief(error)}"
        ) from error


def _is_vocabulary(vocabulary: object) -> bool:
    """Say whether each token has an id of its own, from 0 without a gap."""
    if not isinstance(vocabulary, dict):
        return False
    ids = vocabulary.values()
    whole = all(type(number) is int for number in ids)
    return (
        whole
        and sorted(ids) == list(range(len(vocabulary)))
        and vocabulary.get(PADDING) == PADDING_ID
        and vocabulary.get(UNKNOWN) == UNKNOWN_ID
    )


def _are_merges(merges: object) -> bool:
    return isinstance(merges, list) and all(
        isinstance(pair, list) and [type(part) for part in pair] == [str, str]
        for pair in merges
    )


def word_tokenizer(vocabulary_size: int, min_count: int):
    """Return an untrained tokenizer of words, and its trainer."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(WORD_PATTERN), behavior="removed", invert=True
    )
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_count,
        special_tokens=[PADDING, UNKNOWN],
        show_progress=False,
    )
    return tokenizer, trainer


def subword_tokenizer(vocabulary_size: int, min_count: int):
    """Return an untrained tokenizer of byte-level subwords, and its trainer."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_count,
        special_tokens=[PADDING, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def _normalizer():
    return normalizers.Sequence(
        [
            normalizers.Replace(tokenizers.Regex(r"(?i)<\s*br\s*/?\s*>"), " "),
            normalizers.Replace(tokenizers.Regex("[\u2018\u2019`\u00b4]"), "'"),
            normalizers.Replace(tokenizers.Regex("[\u201c\u201d]"), '"'),
            normalizers.NFKC(),
            normalizers.Lowercase(),
        ]
    )
