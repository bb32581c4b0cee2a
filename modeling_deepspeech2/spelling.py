"""Converts between text, symbols and words, independent of transformers.

[`DeepSpeech2CTCTokenizer`] adds what transformers requires of a tokenizer; exported models use this module alone.
"""

import logging
import unicodedata
from collections import Counter
from typing import Any

from .alphabet import pairs
from .script import has_spaces_between_phrases, word_spans
from .text_rules import apply_text_rules


logger = logging.getLogger(__name__)


class Spelling:
    """The rules of one alphabet and language, for a class that has the settings and the vocabulary."""

    encoder: dict[str, int]  # symbol -> id
    pad_token: str
    unk_token: str | None
    word_delimiter_token: str
    language: str | None
    numerals: str
    label_unit: str
    word_boundaries: str
    _named_characters: set[str]  # unknown ones that the log has named

    @property
    def language_model_unit(self) -> str:
        """What a language model counts: `"word"`, or `"character"` where there are no spaces between words."""
        return "word" if self.word_boundaries == "spaces" else "character"

    @property
    def error_metric(self) -> str:
        """The error rate to look at: `"wer"`, or `"cer"` where there are no spaces between words."""
        return "wer" if self.word_boundaries == "spaces" else "cer"

    @property
    def utterance_separator(self) -> str:
        """The separator between two utterances in a text: a space, or nothing in Chinese and Japanese."""
        no_space = self.word_boundaries == "characters" and not has_spaces_between_phrases(self.language)
        return "" if no_space else " "

    def normalize(self, text: str) -> str:
        """
        Apply the text rules: spoken words, in lower case, with single spaces between them.

        Invisible characters go, except joiners that are part of the spelling; line ends, tabs and runs of spaces become
        one space; full-width and other typographic forms become plain letters; punctuation becomes a space, except marks
        within a word (it's, col·legi, EU:n) and apostrophes at its edge; "&" becomes a word where the language is
        known. Other symbols ($, %, +, …) stay, apart from letters, to be named as unknown, because they are spoken.
        English loses accents. Scripts without spaces between words lose the spaces beside their characters. With
        `numerals="spell"` digits become words, and so do percent, money, hours and years.

        Raises:
            ImportError: when a text has digits to spell and num2words (or cn2an for Mandarin) is not installed.
        """
        return apply_text_rules(text, self.language, self.numerals, self.word_boundaries)

    def unknown_characters(self, text: str) -> Counter:
        """Count the characters of `text`, after the text rules, that are not in the vocabulary."""
        counts = Counter(self.normalize(text))
        return Counter({c: count for c, count in counts.items() if c != " " and not self.is_known(c)})

    def is_known(self, character: str) -> bool:
        """Whether a character that the text rules have left has a symbol of its own."""
        return character in self.encoder and character not in (self.word_delimiter_token, self.pad_token)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Apply the text rules and cut `text` into symbols of the vocabulary, the word delimiter between words."""
        # Not the parent's, which looks for special tokens in the text: a transcript with "<pad>" or "|" in it must not
        # put a blank or a space among the labels.
        tokens: list[str] = []
        for word in self.normalize(text).split():
            symbols = self._tokenize_word(word)
            if symbols:
                tokens += [self.word_delimiter_token, *symbols] if tokens else symbols
        return tokens

    def _tokenize_word(self, word: str) -> list[str]:
        known = {character for character in set(word) if self.is_known(character)}  # each is asked for once: it takes time
        for character in sorted(set(word) - known):
            self._name_unknown(character)
        if self.unk_token is None:
            word = "".join(character for character in word if character in known)
        symbols: list[str] = []
        for piece in pairs(word) if self.label_unit == "bigram" else word:
            if len(piece) == 2 and piece in self.encoder:
                symbols.append(piece)
            else:
                symbols += [character if character in known else self.unk_token for character in piece]
        return symbols

    def _name_unknown(self, character: str) -> None:
        if character not in self._named_characters:
            self._named_characters.add(character)
            logger.warning(
                "Character %r (U+%04X, %s) is not in the vocabulary and is left out of the labels.",
                character,
                ord(character),
                unicodedata.name(character, "unnamed"),
            )

    def word_offsets(self, offsets: list[dict[str, Any]], word_delimiter_char: str = " ") -> list[dict[str, Any]]:
        """Group symbols into words.

        Args:
            offsets: of symbols, each with "char", "start_offset" and "end_offset".
            word_delimiter_char: the "char" of the delimiter.

        Returns:
            Words, each with "word" and the offsets where its first symbol begins and its last one ends.
        """
        written = [" " if offset["char"] == word_delimiter_char else offset["char"] for offset in offsets]
        words, text = [], "".join(written)
        symbols = [offset for offset, symbol in zip(offsets, written) for _ in symbol]  # a bigram may hold two words
        for start, end in word_spans(text, self.word_boundaries):
            first, last = symbols[start], symbols[end - 1]
            words.append({"word": text[start:end], "start_offset": first["start_offset"], "end_offset": last["end_offset"]})
        return words

    # The name by which the parent and transformers' pipeline call it.
    _get_word_offsets = word_offsets
