"""The text rules: written text becomes spoken words, in lower case, with single spaces between them.

They follow Unicode where it has a rule: canonical composition (NFC, UAX #15), marks inside words (UAX #29), joiners that are
spelling (UAX #31), casing by language (SpecialCasing.txt). Compatibility forms are folded one kind at a time, because
folding all of them (NFKC) would damage Thai, Lao, Armenian and Korean. Characters without a rule stay in the text, so that a
tokenizer can report them as unknown.
"""

import re
import unicodedata

import regex

from .numerals import spell_numerals
from .script import drop_spaces, has_spaces_between_phrases, is_unspaced


# Unicode calls these punctuation, but they are read aloud; dropping them would lose words in silence.
_SPOKEN_PUNCTUATION = "%&@#‰§"

_APOSTROPHES = dict.fromkeys(map(ord, "‘’‛ʻʼ`´′՚\u1fbd\u1fbf"), "'")
_SAME_SIGNS = {ord("‧"): "·", ord("٪"): "%"}
# Where the glottal stop is a letter, no apostrophe is a quotation mark.
_GLOTTAL_STOPS = {"haw": "ʻ", "sm": "ʻ", "to": "ʻ", "ty": "ʻ", "gn": "ʼ", "nv": "ʼ"}

# Letters with an English spelling that Unicode does not decompose.
_ENGLISH_LETTERS = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "ß": "ss", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)

# Words that begin with an apostrophe, which therefore opens no quotation.
_ELISIONS = {
    "bout", "cause", "em", "gainst", "n", "neath", "pon", "til", "till", "tis", "twas", "tween", "twere", "twill",
    "twixt", "twould",
}  # fmt: skip
_ELISIONS_OF = {"nl": {"s", "t", "n", "k", "m", "r", "ns"}, "af": {"n", "k", "t"}}

# The end of a word whose apostrophe most likely closes no quotation: dogs' tails, doin' it, o' them, th' garden.
_POSSESSIVE_OR_ELIDED = re.compile(r"(?:[sn]|\b(?:o|th|tha|wi|ol))$")

_LETTERS = regex.compile(r"\p{L}[\p{L}\p{M}]*")

_AMPERSAND = {
    "af": "en", "ca": "i", "cs": "a", "da": "og", "de": "und", "en": "and", "es": "y", "et": "ja", "fi": "ja", "fr": "et",
    "hr": "i", "hu": "és", "id": "dan", "is": "og", "it": "e", "lt": "ir", "lv": "un", "nb": "og", "nl": "en", "nn": "og",
    "no": "og", "pl": "i", "pt": "e", "ro": "și", "sk": "a", "sl": "in", "sv": "och", "tr": "ve",
}  # fmt: skip

# Compatibility forms that are written for their look alone, by the tag of their decomposition (UAX #44). Not superscripts
# and fractions, which are read in another way: m², 5½, ™.
_LOOKS = {
    "<circle>", "<compat>", "<final>", "<font>", "<initial>", "<isolated>", "<medial>", "<narrow>", "<noBreak>", "<small>",
    "<square>", "<vertical>", "<wide>",
}  # fmt: skip
# Letters of their own in Thai, Lao, Armenian, Tibetan and Korean, and № which no letters spell.
_NO_LOOKS = regex.compile(r"[\u0e33\u0eb3\u0edc\u0edd\u0587\u0f77\u0f79№\u3131-\u318e]")


class _Table(dict):
    """A table for `str.translate` which decides once for each character."""

    def __missing__(self, codepoint: int) -> str | int | None:
        self[codepoint] = self.decide(chr(codepoint))
        return self[codepoint]

    def decide(self, character: str) -> str | None:
        raise NotImplementedError


class _PlainForms(_Table):
    """Letters instead of ligatures, full-width, circled, squared and presentation forms."""

    def decide(self, character: str) -> str:
        tag, _, codes = unicodedata.decomposition(character).partition(" ")
        # Accents that stand alone would become a space and a mark; kinds of spaces matter in numbers.
        if tag not in _LOOKS or _NO_LOOKS.match(character) or codes.startswith("0020"):
            return character
        return "".join(self.decide(chr(int(code, 16))) for code in codes.split())


class _PunctuationToSpace(_Table):
    def decide(self, character: str) -> str:
        category = unicodedata.category(character)
        return " " if category.startswith("P") or category in ("Cc", "Cs") else character


_PLAIN_FORMS = _PlainForms()
_PUNCTUATION_TO_SPACE = _PunctuationToSpace((ord(mark), mark) for mark in "'·:׳״" + _SPOKEN_PUNCTUATION)

# Stretching signs of Arabic and N'Ko; marks of emphasis, exclamation and question on a letter within an Armenian word; and
# the enclosing marks of emoji.
_INSIDE_WORDS = dict.fromkeys([*map(ord, "\u0640\u07fa\u055b\u055c\u055e\u055f"), *range(0x20DD, 0x20E5)])

# Invisible and unspoken: byte order and direction marks, soft hyphens, variation selectors, fillers.
# Kept are joiners that spell (UAX #31, 2.3: between Arabic letters, after a virama; and Bengali's before one), and the
# variants of Mongolian letters.
_INVISIBLE = regex.compile(
    r"(?!(?<=[\p{Arabic}&&\p{L}]\p{M}*)\u200c[\p{Arabic}&&\p{L}])"
    r"(?!(?<=\p{L}\p{M}*\p{ccc=9}\p{M}*)(?:\u200c\p{L}|\u200d))"
    r"(?!(?<=\u09b0)\u200d\u09cd)"
    r"(?!(?<=\p{Mongolian})[\u180b-\u180f])"
    r"[\p{Default_Ignorable_Code_Point}\p{Cf}]",
    regex.VERSION1,
)
_JOINERS_IN_A_ROW = re.compile("(\u200c)\u200c+|(\u200d)\u200d+")
_ZERO_WIDTH_SPACES = {0x200B: " "}
# The letters that stand for a consonant, a virama and a joiner in Malayalam since Unicode 5.1.
_CHILLUS = dict(zip("ണനരലളക", "ൺൻർൽൾൿ"))
_CHILLU = re.compile("([ണനരലളക])\u0d4d\u200d")

# Marks inside a word; elsewhere they are punctuation.
_WORD_MARK = re.compile("[·:׳״]")
_HEBREW_MARK = r"(?<=\p{Hebrew}\p{M}*)(?:׳|״(?=\p{Hebrew}))"
_KEPT_MARK = regex.compile(rf"(?<=l)·(?=l)|{_HEBREW_MARK}")
_KEPT_MARKS = {
    **dict.fromkeys(
        ("ca", "oc"), regex.compile(rf"(?<=\p{{L}}\p{{M}}*)·(?=\p{{L}})|{_HEBREW_MARK}")
    ),  # col·legi; Gascon des·har
    **dict.fromkeys(("fi", "sv"), regex.compile(rf"(?<=[\p{{L}}\p{{N}}]\p{{M}}*):(?=\p{{L}})|{_HEBREW_MARK}")),  # EU:n, tv:n
}
# As most keyboards write them: before the last letters of an abbreviation, and behind a letter of foreign sound.
_GERSHAYIM = regex.compile(r'(?<=\p{Hebrew}\p{M}*)["”](?=\p{Hebrew}{1,3}(?![\p{Hebrew}"”]))')
_GERESH = regex.compile(r"(?<=\p{Hebrew}\p{M}*)'")

_SYMBOL = rf"[\p{{S}}{_SPOKEN_PUNCTUATION}]"
_SYMBOL_AT_LETTER = regex.compile(rf"(?<=\p{{L}}\p{{M}}*)(?={_SYMBOL})|(?<={_SYMBOL})(?=\p{{L}})")

# Letters that one language writes with two code points, or by the keyboard of a neighbour.
_SPELLINGS = {
    "ca": str.maketrans("•", "·"),
    "fa": str.maketrans("يىك", "ییک"),
    "ur": str.maketrans("يك", "یک"),
    "ro": str.maketrans("şţŞŢ", "șțȘȚ"),
}
_STRESS = regex.compile("(?<=[аеиоуъыэюяєії])\u0301", regex.IGNORECASE)  # an aid for readers
_STRESSED = {"be", "bg", "ru", "uk"}
_DOTTED_I = {"az", "aze", "crh", "gag", "tr", "tur"}
_DOT_ABOVE = re.compile("([iįj])\u0307")
# A Thai or Lao vowel typed as two signs, the tone mark between or before them.
_TYPED_AM = re.compile("([\u0e48-\u0e4b]?)\u0e4d([\u0e48-\u0e4b]?)\u0e32|([\u0ec8-\u0ecb]?)\u0ecd([\u0ec8-\u0ecb]?)\u0eb2")


def apply_text_rules(text: str, language: str | None, numerals: str, word_boundaries: str) -> str:
    """The text rules of `DeepSpeech2CTCTokenizer.normalize`, which `from_texts` needs before there is a tokenizer."""
    text = _plain(text, language)
    text = _lower(text, language)
    if numerals == "spell":
        text = spell_numerals(text, language)
    if language == "en":
        letters = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        text = unicodedata.normalize("NFC", "".join(letters)).translate(_ENGLISH_LETTERS)
    if "&" in text and language in _AMPERSAND:
        text = re.sub("&+", f" {_AMPERSAND[language]} ", text)
    text = _resolve_apostrophes(text, language)
    text = _resolve_word_marks(text, language).translate(_PUNCTUATION_TO_SPACE)
    text = " ".join(_SYMBOL_AT_LETTER.sub(" ", text).split())
    return drop_spaces(text) if word_boundaries == "characters" else text


def enters_alphabet(character: str, numerals: str) -> bool:
    """Whether a character that the rules leave spells words: not a sign or a number that is read aloud as a word."""
    category = unicodedata.category(character)
    is_digit = category == "Nd" and numerals == "keep"
    return category[0] in "LM" or category == "Nl" or is_digit or character in "'·:׳״\u200c\u200d"


def _plain(text: str, language: str | None) -> str:
    """One way to write each letter, nothing invisible, one kind of apostrophe."""
    if not text.isascii():
        text = text.translate(_ZERO_WIDTH_SPACES) if has_spaces_between_phrases(language) else text
        text = unicodedata.normalize("NFC", text.translate(_INSIDE_WORDS)).translate(_PLAIN_FORMS).translate(_SAME_SIGNS)
        text = _CHILLU.sub(lambda match: _CHILLUS[match[1]], text)
        text = _INVISIBLE.sub("", _JOINERS_IN_A_ROW.sub(r"\1\2", text))
        text = _TYPED_AM.sub(_compose_am, text).replace("เเ", "แ")
        text = _STRESS.sub("", text) if language in _STRESSED else text
        text = unicodedata.normalize("NFC", text.translate(_SPELLINGS.get(language or "", {})))
    return text.translate(_APOSTROPHES)


def _compose_am(match: re.Match) -> str:
    tones = "".join(filter(None, match.groups()))
    return tones + ("\u0eb3" if "\u0ecd" in match[0] else "\u0e33")


def _lower(text: str, language: str | None) -> str:
    if language == "chr":  # the usual letters of Cherokee are its upper case
        return text.upper()
    if language in _DOTTED_I:
        text = text.replace("I\u0307", "i").translate({ord("I"): "ı", ord("İ"): "i"})
    # "İ" of another language, and the dot that Lithuanian dictionaries keep below an accent.
    return unicodedata.normalize("NFC", _DOT_ABOVE.sub(r"\1", text.lower()))


def _is_letter(character: str) -> bool:
    """Whether `character` belongs to a word written with letters (combining marks included, ideographs not)."""
    return unicodedata.category(character)[:1] in "LM" and not is_unspaced(character) if character else False


def _quotation_marks(text: str, elisions: set[str]) -> set[int]:
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
            if word is None or word[0] not in elisions or quoted_word:
                opened.append(position)
        elif opened and before and not before.isspace() and not (text[: position + 1].endswith("'n'")):
            word_goes_on = text[position + 1 : position + 2] == " " and _is_letter(text[position + 2 : position + 3])
            weak = word_goes_on and _POSSESSIVE_OR_ELIDED.search(text[max(0, position - 4) : position])
            if not weak or _LETTERS.fullmatch(text, opened[-1] + 1, position):
                marks.update((opened.pop(), position))
    return marks


def _resolve_apostrophes(text: str, language: str | None) -> str:
    """Keep the apostrophes that spell a word (o'clock, 'tis, dogs'); single quotation marks become spaces."""
    if "'" not in text:
        return text
    if language in _GLOTTAL_STOPS:
        return text.replace("'", _GLOTTAL_STOPS[language])
    if language == "uz":
        text = re.sub("(?<=[og])'", "ʻ", text)
    text = re.sub("''+", " ", text)
    marks = _quotation_marks(text, _ELISIONS_OF.get(language or "", _ELISIONS))

    def keep_or_space(match: re.Match) -> str:
        position = match.start()
        touches_letter = _is_letter(text[position - 1 : position]) or _is_letter(text[position + 1 : position + 2])
        return "'" if touches_letter and position not in marks else " "

    return re.sub("'", keep_or_space, text)


def _resolve_word_marks(text: str, language: str | None) -> str:
    """Keep the marks that spell a word (col·legi, EU:n, צה״ל); elsewhere they become spaces."""
    text = _GERESH.sub("׳", _GERSHAYIM.sub("״", text))
    if not _WORD_MARK.search(text):
        return text
    kept = {match.start() for match in _KEPT_MARKS.get(language or "", _KEPT_MARK).finditer(text)}
    return _WORD_MARK.sub(lambda match: match[0] if match.start() in kept else " ", text)
