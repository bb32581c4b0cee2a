"""Builds and checks alphabets: the characters and pairs of a text that become symbols, and whether a file is whole."""

import json
import os
from collections import Counter
from collections.abc import Iterable

from .errors import UserError
from .text_rules import enters_alphabet


def pairs(word: str) -> list[str]:
    """The non-overlapping pairs of a word, its last character alone when their number is odd (section 3.6)."""
    return [word[start : start + 2] for start in range(0, len(word), 2)]


def choose_symbols(
    words: Iterable[str], extra_characters: str, minimum_count: int, delimiter: str, numerals: str
) -> tuple[list[str], list[str], list[tuple[str, int]]]:
    """Which symbols the words need.

    Args:
        words: after the text rules, as often as they occur.
        extra_characters: characters to include even if they do not occur, with all their pairs.
        minimum_count: how often a character or pair must occur to be included.
        delimiter: the symbol between words, which is no character of a word.
        numerals: `"keep"`, or `"spell"` where digits are no symbols.

    Returns:
        Characters by code point; pairs by code point; and characters left out with their counts, the most frequent first.
        Signs that are read aloud as a word ($, %, +, …) enter only as extra characters.
    """
    word_counts = Counter(words)
    character_counts: Counter = Counter()
    pair_counts: Counter = Counter()
    for word, count in word_counts.items():
        for character in word:
            character_counts[character] += count
        for pair in pairs(word):
            pair_counts[pair] += count
    characters = {
        one for one, count in character_counts.items() if count >= minimum_count and enters_alphabet(one, numerals)
    }
    characters = (characters | set(extra_characters)) - {delimiter}
    frequent = {pair for pair, count in pair_counts.items() if count >= minimum_count and characters.issuperset(pair)}
    frequent |= {first + second for first in extra_characters for second in extra_characters}
    left_out = [(one, count) for one, count in character_counts.most_common() if one not in characters]
    return sorted(characters), sorted(pair for pair in frequent if len(pair) == 2), left_out


def check_vocabulary(file: str | os.PathLike | None) -> None:
    """Raises UserError where the file is not JSON of the kind {symbol: id}, with each id once."""
    if file is None or not os.path.isfile(file):
        raise UserError(f"The vocabulary of the tokenizer is missing: expected {file or 'vocab.json'}.")
    try:
        with open(file, encoding="utf-8") as opened:
            vocabulary = json.load(opened)
    except ValueError as error:
        raise UserError(f"The vocabulary {file} is damaged ({error}): copy it again.") from error
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    if not ids or not all(type(i) is int and i >= 0 for i in ids) or len(set(ids)) < len(ids):
        raise UserError(f"The vocabulary {file} is damaged: expected symbols, each with an id of its own, from 0 on.")
