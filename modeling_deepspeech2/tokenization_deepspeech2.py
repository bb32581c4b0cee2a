"""Text in, symbol ids out, and back: the alphabet of Deep Speech 2.

A transcript goes through the text rules (`DeepSpeech2CTCTokenizer.normalize`), which leave what is heard: lower-case
letters, apostrophes and one space between words. What remains is cut into symbols, single characters or the
non-overlapping bigrams of the paper's section 3.6, and each symbol becomes its id in the vocabulary. Ids of CTC frames
come back as text, with the times of characters and words. A character that is not in the vocabulary is dropped when
encoding, and named in the log. Nothing here reads audio or searches over hypotheses.
"""

import json
import logging
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from transformers import AddedToken, Wav2Vec2CTCTokenizer

from .errors import UserError
from .remote_code import travels_with_code


try:  # Only texts with digits need it, and only with numerals="spell".
    import num2words
except ImportError:
    num2words = None

try:  # The same for Mandarin.
    import cn2an
except ImportError:
    cn2an = None


logger = logging.getLogger(__name__)

NUMERALS = ("keep", "spell")
LABEL_UNITS = ("character", "bigram")

_CJK = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CJK_IDEOGRAPH = re.compile(f"[{_CJK}]")
_LETTERS = re.compile(rf"[^\W\d_{_CJK}]+")
_SPACES_BY_CJK = re.compile(rf" (?=[{_CJK}])|(?<=[{_CJK}]) ")

# Unicode calls these punctuation, but they are read aloud; dropping them would lose words in silence.
_SPOKEN_PUNCTUATION = "%&@#‰§"

_APOSTROPHES = dict.fromkeys(map(ord, "‘’‛ʻʼ`´"), "'")

# Letters with an English spelling that Unicode does not decompose.
_ENGLISH_LETTERS = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "ß": "ss", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)

# Words that begin with an apostrophe, which therefore opens no quotation.
_ELISIONS = {
    "bout", "cause", "em", "gainst", "n", "neath", "pon", "til", "till", "tis", "twas", "tween", "twere", "twill",
    "twixt", "twould",
}  # fmt: skip

# The end of a word whose apostrophe most likely closes no quotation: dogs' tails, doin' it, o' them, th' garden.
_POSSESSIVE_OR_ELIDED = re.compile(r"(?:[sn]|\b(?:o|th|tha|wi|ol))$")

_LONGEST_NUMBER = 12  # digits; anything longer is a code, and is read digit by digit
_POINT_DECIMAL_LANGUAGES = {"am", "bn", "en", "he", "ja", "kn", "ko", "te", "th"}  # 1,000.5; the others write 1.000,5


class _ByCategory(dict):
    """A table for `str.translate` which decides once for each character, from its Unicode category."""

    def __init__(self, category: str, replacement: str | None, keep: str = ""):
        super().__init__((ord(character), character) for character in keep)
        self.category, self.replacement = category, replacement

    def __missing__(self, codepoint: int) -> str | int | None:
        in_category = unicodedata.category(chr(codepoint)).startswith(self.category)
        self[codepoint] = self.replacement if in_category else codepoint
        return self[codepoint]


_DROP_FORMAT_CHARACTERS = _ByCategory("Cf", None)  # byte order mark, zero width, direction marks, soft hyphen
_PUNCTUATION_TO_SPACE = _ByCategory("P", " ", keep="'" + _SPOKEN_PUNCTUATION)


def _is_letter(character: str) -> bool:
    """Whether `character` belongs to a word written with letters (combining marks included, ideographs not)."""
    return unicodedata.category(character)[:1] in "LM" and not _CJK_IDEOGRAPH.match(character) if character else False


def _quotation_marks(text: str) -> set[int]:
    """Positions of the apostrophes in `text` that are single quotation marks: 'quoted', but not dogs' or 'tis.

    A mark before a word opens; the next strong closing mark closes it. A mark after a likely possessive or elision
    (dogs' tails, doin' it) closes nothing but a quotation of that very word ('yes' and no).
    """
    marks: set[int] = set()
    opened: list[int] = []
    for match in re.finditer("'", text):
        position = match.start()
        before, after = text[position - 1 : position], text[position + 1 : position + 2]
        if _is_letter(after):
            if before.isalnum() or _is_letter(before):
                continue  # inside a word
            word = _LETTERS.match(text, position + 1)
            quoted_word = word is not None and text.startswith("'", word.end()) and word[0] != "n"
            if word is None or word[0] not in _ELISIONS or quoted_word:
                opened.append(position)
        elif opened and before and not before.isspace() and not (text[: position + 1].endswith("'n'")):
            word_goes_on = text[position + 1 : position + 2] == " " and _is_letter(text[position + 2 : position + 3])
            weak = word_goes_on and _POSSESSIVE_OR_ELIDED.search(text[max(0, position - 4) : position])
            if not weak or _LETTERS.fullmatch(text, opened[-1] + 1, position):
                marks.update((opened.pop(), position))
    return marks


def _resolve_apostrophes(text: str) -> str:
    """Keep the apostrophes that spell a word (o'clock, 'tis, dogs'); single quotation marks become spaces."""
    if "'" not in text:
        return text
    text = re.sub("''+", " ", text)
    marks = _quotation_marks(text)

    def keep_or_space(match: re.Match) -> str:
        position = match.start()
        touches_letter = _is_letter(text[position - 1 : position]) or _is_letter(text[position + 1 : position + 2])
        return "'" if touches_letter and position not in marks else " "

    return re.sub("'", keep_or_space, text)


def _spell_numerals(text: str, language: str) -> str:
    """Write the digits of `text` as words, as `language` reads them."""
    text = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)  # Arabic-Indic and the like
    return _spell_mandarin_numerals(text) if language == "zh" else _spell_alphabetic_numerals(text, language)


def _spell_mandarin_numerals(text: str) -> str:
    if cn2an is None:
        raise ImportError("numerals='spell' with language='zh' needs cn2an to read digits: pip install cn2an")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)°c", "℃", text)  # NFKC took apart what cn2an reads as 摄氏度
    # One hyphen between two numbers is a range; cn2an would read it as a minus sign.
    text = re.sub(r"(?<![\d.-])(?!0\d)(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)(?![\d-])", r"\1到\2", text)
    text = re.sub(r"(?<=\d)-(?=\d)", " ", text)
    text = re.sub(
        rf"(?<![\d.])(?:0\d+|\d{{{_LONGEST_NUMBER + 1},}})(?![\d.年月日/])",
        lambda code: "".join("零一二三四五六七八九"[int(digit)] for digit in code[0]),
        text,
    )
    return cn2an.transform(text, "an2cn")


def _spell_alphabetic_numerals(text: str, language: str) -> str:
    if num2words is None:
        raise ImportError(
            f"numerals='spell' with language={language!r} needs num2words to read digits: pip install num2words"
        )
    thousands, point = (",", ".") if language in _POINT_DECIMAL_LANGUAGES else (".", ",")
    suffix = r"(?P<suffix>(?:st|nd|rd|th|s)\b)" if language == "en" else "(?P<suffix>(?!))"
    number = (
        rf"(?:(?<!\w)'(?=\d))?(?P<sign>(?<!\S)[-−])?(?P<whole>\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+(?!\d)|\d+)"
        rf"(?:{re.escape(point)}(?P<fraction>\d+)|{suffix})?"
    )

    def say(value: int | Decimal, **kwargs: Any) -> str:
        return num2words.num2words(value, lang=language, **kwargs)

    def spell(match: re.Match) -> str:
        whole, fraction, suffix = match["whole"].replace(thousands, ""), match["fraction"], match["suffix"]
        sign = -1 if match["sign"] else 1
        try:
            if len(whole) > _LONGEST_NUMBER or (len(whole) > 1 and whole.startswith("0")):
                words = " ".join(say(int(digit)) for digit in whole + (fraction or "")) + (suffix or "")
            elif fraction is not None and language == "en":
                # The fraction apart, because num2words leaves out the zeros at its end.
                words = " ".join([say(int(whole)), "point", *(say(int(digit)) for digit in fraction)])
                words = f"minus {words}" if sign < 0 else words
            elif fraction is not None:
                words = say(sign * Decimal(f"{whole}.{fraction}"))
            elif suffix in ("st", "nd", "rd", "th"):
                words = say(int(whole), to="ordinal")
            else:
                words = say(sign * int(whole))
        except Exception as error:  # num2words has gaps in some languages; the digits stay, and are named as unknown
            logger.warning("num2words does not read %r in language %r: %s", match[0], language, error)
            return match[0]
        if suffix == "s":  # 1980s, 1900s, 6s
            words = words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")
        left = " " if _is_letter(text[: match.start()][-1:]) else ""
        right = " " if _is_letter(text[match.end() : match.end() + 1]) else ""
        return left + words.lower() + right

    return re.sub(number, spell, text)


def _apply_text_rules(text: str, language: str | None, numerals: str) -> str:
    """The text rules of `DeepSpeech2CTCTokenizer.normalize`, which `from_texts` needs before there is a tokenizer."""
    # Apostrophes before NFKC, which takes the acute accent apart, and after it, because it makes a grave accent.
    text = text.translate(_DROP_FORMAT_CHARACTERS).translate(_APOSTROPHES)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()).translate(_APOSTROPHES)
    if numerals == "spell" and any(map(str.isdecimal, text)):
        text = _spell_numerals(text, language)
    if language == "en":
        letters = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        text = unicodedata.normalize("NFC", "".join(letters)).translate(_ENGLISH_LETTERS)
    text = _resolve_apostrophes(text).translate(_PUNCTUATION_TO_SPACE)
    text = " ".join(text.split())
    return _SPACES_BY_CJK.sub("", text) if language == "zh" else text


def _pairs(word: str) -> list[str]:
    """The non-overlapping pairs of a word, its last character alone when their number is odd."""
    return [word[start : start + 2] for start in range(0, len(word), 2)]


@travels_with_code
class DeepSpeech2CTCTokenizer(Wav2Vec2CTCTokenizer):
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
            `"en"`, `"zh"`, or another code of two or three letters, used to read numbers. None for any other alphabet.
        numerals (`str`, *optional*, defaults to `"keep"`):
            `"keep"` leaves digits as they are; `"spell"` writes them as words, with num2words, or cn2an for Mandarin.
        label_unit (`str`, *optional*, defaults to `"character"`):
            `"character"`, or `"bigram"` for non-overlapping pairs within each word.

    Raises:
        ValueError: for an unknown `language`, `numerals` or `label_unit`, or a vocabulary that is missing or damaged.
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
        **kwargs: Any,
    ):
        _check_text_rules(language, numerals, label_unit)
        _check_vocabulary(vocab_file)
        self.language = language
        self.numerals = numerals
        self.label_unit = label_unit
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
            **kwargs,
        )
        # What `from_pretrained` notes about this very call, and what says nothing, stays out of tokenizer_config.json.
        for field in ("is_local", "local_files_only"):
            self.init_kwargs.pop(field, None)
        for field in ("do_lower_case", "target_lang"):
            if not self.init_kwargs.get(field):
                self.init_kwargs.pop(field, None)

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
        numerals = kwargs.get("numerals", "keep")
        _check_text_rules(language, numerals, label_unit)
        for character in extra_characters:
            if character != "'" and _apply_text_rules(character, language, numerals) != character:
                raise ValueError(
                    f"extra_characters: found {character!r}, expected only characters which the text rules leave as "
                    f"they are (this one becomes {_apply_text_rules(character, language, numerals)!r})."
                )

        word_counts = Counter()
        for text in texts:
            word_counts.update(_apply_text_rules(text, language, numerals).split())
        character_counts, pair_counts = Counter(), Counter()
        for word, count in word_counts.items():
            for character in word:
                character_counts[character] += count
            if label_unit == "bigram":
                for pair in _pairs(word):
                    pair_counts[pair] += count

        delimiter = kwargs.get("word_delimiter_token", "|")
        characters = set(extra_characters) | {
            character
            for character, count in character_counts.items()
            if count >= minimum_count and not _is_symbol(character)
        }
        characters.discard(delimiter)
        pairs = {first + second for first in extra_characters for second in extra_characters} | {
            pair for pair, count in pair_counts.items() if count >= minimum_count and characters.issuperset(pair)
        }
        symbols = [kwargs.get("pad_token", "<pad>"), delimiter, *sorted(characters)]
        if label_unit == "bigram":
            symbols += sorted(pair for pair in pairs if len(pair) == 2)
        for character, count in sorted(character_counts.items(), key=lambda item: -item[1]):
            if character not in characters:
                logger.warning(
                    "Left out of the vocabulary: %r (U+%04X), which occurs %d times.", character, ord(character), count
                )
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

    def normalize(self, text: str) -> str:
        """
        Apply the text rules: what is heard, in lower case, with single spaces between words.

        Byte order marks and zero-width characters go; line ends, tabs and runs of spaces become one space; full-width
        and other compatibility forms become plain ones (NFKC); punctuation becomes a space, except apostrophes in or
        at the edge of a word; symbols ($, %, +, …) stay, to be named as unknown, because they are spoken. English
        loses accents. Mandarin loses the spaces beside ideographs. With `numerals="spell"` digits become words.

        Raises:
            ImportError: when a text has digits to spell and num2words (or cn2an for Mandarin) is not installed.
        """
        return _apply_text_rules(text, self.language, self.numerals)

    def unknown_characters(self, text: str) -> Counter:
        """Count the characters of `text`, after the text rules, that are not in the vocabulary."""
        return Counter(c for c in self.normalize(text) if c != " " and not self._is_known(c))

    def _is_known(self, character: str) -> bool:
        return character in self.encoder and character != self.word_delimiter_token and character != self.pad_token

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

    def _encode_plus(self, text: Any, text_pair: Any = None, is_split_into_words: bool = False, **kwargs: Any) -> Any:
        # The parent tokenizes the words of a pretokenized text one by one and puts no delimiter between them.
        if is_split_into_words:
            text, text_pair = _join_words(text), _join_words(text_pair)
            is_split_into_words = not isinstance(text, str)  # a batch comes back here, one text at a time
        return super()._encode_plus(text, text_pair, is_split_into_words=is_split_into_words, **kwargs)

    def _tokenize_word(self, word: str) -> list[str]:
        for character in sorted(set(word)):
            if not self._is_known(character):
                self._name_unknown(character)
        if self.unk_token is None:
            word = "".join(filter(self._is_known, word))
        symbols: list[str] = []
        for piece in _pairs(word) if self.label_unit == "bigram" else word:
            if len(piece) == 2 and piece in self.encoder:
                symbols.append(piece)
            else:
                symbols += [character if self._is_known(character) else self.unk_token for character in piece]
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

    @staticmethod
    def _get_word_offsets(offsets: list[dict[str, Any]], word_delimiter_char: str = " ") -> list[dict[str, Any]]:
        """Group symbol offsets into words, in output frames: an ideograph is a word, letters in a row are one."""
        words: list[dict[str, Any]] = []
        word_is_open = False
        for offset in offsets:
            symbol, start, end = offset["char"], offset["start_offset"], offset["end_offset"]
            if symbol == word_delimiter_char:
                word_is_open = False
                continue
            for character in symbol:  # a bigram may hold two ideographs
                is_ideograph = _CJK_IDEOGRAPH.match(character) is not None
                if word_is_open and not is_ideograph:
                    words[-1]["word"] += character
                    words[-1]["end_offset"] = end
                else:
                    words.append({"word": character, "start_offset": start, "end_offset": end})
                word_is_open = not is_ideograph
        return words


def _join_words(text: Any) -> Any:
    """The text that a list of words makes; anything else as it is."""
    is_words = isinstance(text, (list, tuple)) and len(text) > 0 and all(isinstance(word, str) for word in text)
    return " ".join(text) if is_words else text


def _is_symbol(character: str) -> bool:
    """Whether `character` is one of the signs that are read aloud as a word."""
    return unicodedata.category(character).startswith("S") or character in _SPOKEN_PUNCTUATION


def _check_vocabulary(file: str | os.PathLike | None) -> None:
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


def _check_text_rules(language: str | None, numerals: str, label_unit: str) -> None:
    if language is not None and not (isinstance(language, str) and re.fullmatch("[a-z]{2,3}", language)):
        raise ValueError(
            f"language: found {language!r}, expected 'en', 'zh', another code of two or three letters, or None."
        )
    if numerals not in NUMERALS:
        raise ValueError(f"numerals: found {numerals!r}, expected 'keep' or 'spell'.")
    if label_unit not in LABEL_UNITS:
        raise ValueError(f"label_unit: found {label_unit!r}, expected 'character' or 'bigram'.")
    if numerals == "spell" and language is None:
        raise ValueError("language: found None with numerals='spell', expected the language to read the digits in.")
    if numerals == "spell" and language != "zh" and num2words and language not in num2words.CONVERTER_CLASSES:
        raise ValueError(f"language: found {language!r} with numerals='spell', expected one that num2words reads.")


__all__ = ["DeepSpeech2CTCTokenizer"]
