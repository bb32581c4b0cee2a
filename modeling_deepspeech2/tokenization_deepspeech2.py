"""The tokenizer: the alphabet of Deep Speech 2, from text to symbol ids and back.

The text rules (`DeepSpeech2CTCTokenizer.normalize`) reduce a transcript to what is spoken: lower-case letters, apostrophes
and one space between words. The result is split into symbols, which are single characters or the non-overlapping bigrams of
section 3.6 of the paper, and each symbol becomes its id in the vocabulary. The ids of CTC frames become text again, with
times for characters and words. A character that is not in the vocabulary is dropped when encoding, and named in the log.
"""

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable
from typing import Any

from transformers import AddedToken, Wav2Vec2CTCTokenizer

from .alphabet import check_vocabulary, choose_symbols
from .errors import UserError
from .numerals import check_numerals_language
from .remote_code import travels_with_code
from .script import WORD_BOUNDARIES, usual_word_boundaries
from .settings_files import check_settings_files
from .spelling import Spelling
from .text_rules import apply_text_rules


logger = logging.getLogger(__name__)

NUMERALS = ("keep", "spell")
LABEL_UNITS = ("character", "bigram")


@travels_with_code
class DeepSpeech2CTCTokenizer(Spelling, Wav2Vec2CTCTokenizer):
    """
    Character or bigram tokenizer for CTC, for English, Mandarin and any other alphabet (sections 3.6, bigrams, and
    3.9, Mandarin, of [Deep Speech 2](https://huggingface.co/papers/1512.02595)).

    The blank is `pad_token`. There is no unknown token: a character outside the vocabulary is dropped when encoding,
    and named once in the log; [`~DeepSpeech2CTCTokenizer.unknown_characters`] counts them beforehand. A text never
    yields the blank, nor the word delimiter except between words, whatever is written in it. `decode` collapses
    repeats and drops blanks, as CTC does; to read labels back, pass `group_tokens=False`.

    Args:
        vocab_file (`str`):
            JSON file with symbol -> id. In a bigram vocabulary the symbols of two characters are the bigrams.
        pad_token (`str`, *optional*, defaults to `"<pad>"`):
            The CTC blank.
        unk_token, bos_token, eos_token (`str`, *optional*):
            None by default; a CTC model that can emit them prints them in its transcripts.
        word_delimiter_token (`str`, *optional*, defaults to `"|"`):
            The symbol for the space between words.
        replace_word_delimiter_char (`str`, *optional*, defaults to `" "`):
            What it becomes in decoded text.
        language (`str`, *optional*):
            `"en"`, `"zh"`, or another code of two or three letters: it decides on upper and lower case, marks within
            words and how numbers are read. None for rules that hold in any alphabet.
        numerals (`str`, *optional*, defaults to `"keep"`):
            `"keep"` leaves digits as they are; `"spell"` writes them as words, with num2words, or cn2an for Mandarin.
        label_unit (`str`, *optional*, defaults to `"character"`):
            `"character"`, or `"bigram"` for non-overlapping pairs within each word.
        word_boundaries (`str`, *optional*):
            What a word is: `"spaces"`, what stands between spaces; `"characters"`, each character of a script that has
            no spaces between words, with its vowel signs and tone marks (letters of other scripts in a row are one
            word). None: `"characters"` for languages that are written so (zh, ja, th, lo, km, my, …), else `"spaces"`.

    Raises:
        ValueError: for an unknown `language`, `numerals`, `label_unit` or `word_boundaries`, or a vocabulary that is missing
            or damaged.
    """

    def __init__(
        self,
        vocab_file: str,
        pad_token: str = "<pad>",
        unk_token: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        word_delimiter_token: str = "|",
        replace_word_delimiter_char: str = " ",
        language: str | None = None,
        numerals: str = "keep",
        label_unit: str = "character",
        word_boundaries: str | None = None,
        **kwargs: Any,
    ):
        _check_settings(language, numerals, label_unit, word_boundaries)
        check_vocabulary(vocab_file)
        self.language = language
        self.numerals = numerals
        self.label_unit = label_unit
        self.word_boundaries = word_boundaries or usual_word_boundaries(language)
        self._named_characters: set[str] = set()
        super().__init__(
            vocab_file,
            pad_token=pad_token,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            word_delimiter_token=word_delimiter_token,
            replace_word_delimiter_char=replace_word_delimiter_char,
            language=language,
            numerals=numerals,
            label_unit=label_unit,
            word_boundaries=self.word_boundaries,
            **kwargs,
        )
        # What `from_pretrained` notes about this very call, and what says nothing, stays out of tokenizer_config.json.
        for field in ("is_local", "local_files_only"):
            self.init_kwargs.pop(field, None)
        for field in ("do_lower_case", "target_lang"):
            if not self.init_kwargs.get(field):
                self.init_kwargs.pop(field, None)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, with a check of the files; raises UserError where one is damaged."""
        check_settings_files(
            pretrained_model_name_or_path,
            ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
            **kwargs,
        )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        language: str | None = None,
        label_unit: str = "character",
        extra_characters: str = "",
        minimum_count: int = 1,
        **kwargs: Any,
    ) -> "DeepSpeech2CTCTokenizer":
        """
        Build the vocabulary that a collection of texts needs: the blank is 0, the word delimiter 1, then characters,
        then bigrams, by code point.

        Symbols ($, %, +, …) are said in more than one way and enter only as `extra_characters`; they and the
        characters that are too rare are named in the log.

        Args:
            texts (`Iterable[str]`): Lines of any source; they go through the text rules.
            language, label_unit: As for the class; so are `numerals` and the other `kwargs`.
            extra_characters (`str`): Characters to include even if they do not occur; with bigrams, all their pairs.
            minimum_count (`int`): How often a character or bigram must occur to be included.

        Raises:
            ValueError: for a bad setting, or an extra character which the text rules never leave in a text.
        """
        numerals, word_boundaries = kwargs.get("numerals", "keep"), kwargs.get("word_boundaries")
        _check_settings(language, numerals, label_unit, word_boundaries)
        rules = language, numerals, word_boundaries or usual_word_boundaries(language)
        for character in extra_characters:
            if character != "'" and apply_text_rules(character, *rules) != character:
                raise UserError(
                    f"extra_characters: found {character!r}, expected only characters which the text rules leave as "
                    f"they are (this one becomes {apply_text_rules(character, *rules)!r})."
                )
        words = (word for text in texts for word in apply_text_rules(text, *rules).split())
        pad_token, delimiter = kwargs.get("pad_token", "<pad>"), kwargs.get("word_delimiter_token", "|")
        characters, frequent, left_out = choose_symbols(words, extra_characters, minimum_count, delimiter, numerals)
        for character, count in left_out:
            logger.warning(
                "Left out of the vocabulary: %r (U+%04X), which occurs %d times.", character, ord(character), count
            )
        symbols = [pad_token, delimiter, *characters, *(frequent if label_unit == "bigram" else ())]
        with tempfile.TemporaryDirectory() as folder:
            vocab_file = os.path.join(folder, "vocab.json")
            with open(vocab_file, "w", encoding="utf-8") as file:
                json.dump({symbol: index for index, symbol in enumerate(symbols)}, file, ensure_ascii=False)
            return cls(vocab_file, language=language, label_unit=label_unit, **kwargs)

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        # `from_pretrained` files the saved delimiter under model-specific tokens, where `__init__` would not find it.
        model_specific_tokens = dict(kwargs.pop("model_specific_special_tokens", None) or {})
        if "word_delimiter_token" in model_specific_tokens:
            kwargs["word_delimiter_token"] = str(model_specific_tokens.pop("word_delimiter_token"))
        if model_specific_tokens:
            kwargs["model_specific_special_tokens"] = model_specific_tokens
        return super().convert_to_native_format(**kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # What was already logged is no part of the tokenizer: `datasets` hashes this state to find its cached results.
        return {**self.__dict__, "_named_characters": set()}

    def _add_tokens(self, new_tokens: list[str] | list[AddedToken], special_tokens: bool = False) -> int:
        # The parent adds every vocabulary entry of several characters, and such tokens swallow the spaces around them.
        if not special_tokens:
            new_tokens = [token for token in new_tokens if str(token) not in self.encoder]
        return super()._add_tokens(new_tokens, special_tokens=special_tokens) if new_tokens else 0

    def _encode_plus(self, text: Any, text_pair: Any = None, is_split_into_words: bool = False, **kwargs: Any) -> Any:
        # The parent tokenizes the words of a pretokenized text one by one and puts no delimiter between them.
        if is_split_into_words:
            text, text_pair = _join_words(text), _join_words(text_pair)
            is_split_into_words = not isinstance(text, str)  # a batch comes back here, one text at a time
        return super()._encode_plus(text, text_pair, is_split_into_words=is_split_into_words, **kwargs)

    def convert_ids_to_tokens(self, ids: int | list[int], skip_special_tokens: bool = False) -> str | list[str]:
        tokens = super().convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens)
        if tokens is None or (isinstance(tokens, list) and None in tokens):
            outside = sorted({int(i) for i in ([ids] if isinstance(ids, int) else ids)} - set(self.decoder))
            raise ValueError(f"ids: found {outside}, expected 0 to {len(self) - 1}.")
        return tokens

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        **kwargs: Any,
    ) -> Any:
        # Padding (-100) and special tokens to skip become blanks, which go only after repeats are joined: "office".
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        blanks = {-100}
        if skip_special_tokens:
            blanks |= set(self.all_special_ids) - {self.word_delimiter_token_id}
        return super()._decode([self.pad_token_id if i in blanks else i for i in ids], **kwargs)


def _join_words(text: Any) -> Any:
    """The text that a list of words makes; anything else as it is."""
    is_words = isinstance(text, (list, tuple)) and len(text) > 0 and all(isinstance(word, str) for word in text)
    return " ".join(text) if is_words else text


def _check_settings(language: str | None, numerals: str, label_unit: str, word_boundaries: str | None) -> None:
    if language is not None and not (isinstance(language, str) and re.fullmatch("[a-z]{2,3}", language)):
        raise UserError(f"language: found {language!r}, expected 'en', 'zh', another code of two or three letters, or None.")
    if numerals not in NUMERALS:
        raise UserError(f"numerals: found {numerals!r}, expected 'keep' or 'spell'.")
    if label_unit not in LABEL_UNITS:
        raise UserError(f"label_unit: found {label_unit!r}, expected 'character' or 'bigram'.")
    if word_boundaries is not None and word_boundaries not in WORD_BOUNDARIES:
        raise UserError(f"word_boundaries: found {word_boundaries!r}, expected 'spaces', 'characters' or None.")
    if numerals == "spell":
        check_numerals_language(language)


__all__ = ["DeepSpeech2CTCTokenizer"]
