"""Defines what a word is, in scripts with spaces between words and in scripts without.

This is the only module that knows ranges of scripts. In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese
and others), a word is what a reader sees as one character: a grapheme cluster, that is a letter with its vowel signs, tone
marks and the consonants below it. A tone mark alone has no meaningful time, and a subtitle must not begin with one. The
symbols of the alphabet, of the language model and of the character error rate stay code points, as in the tools and papers
with which figures are compared.
"""

import regex


WORD_BOUNDARIES = ("spaces", "characters")

# The languages of Unicode's line breaking classes ID and SA (UAX #14) that are written without spaces between words.
_NO_SPACES = {
    "zh", "cmn", "gan", "hak", "hsn", "lzh", "nan", "wuu", "yue", "zho",  # Chinese
    "ja", "jpn", "ii", "iii",  # Japanese, Yi
}  # fmt: skip
# Here a space parts sentences or phrases, not words; some texts have U+200B between words.
_SPACES_BETWEEN_PHRASES = {
    "th", "tha", "nod", "tts", "lo", "lao", "km", "khm", "my", "mya", "mnw", "shn", "ksw", "khb", "tdd", "blt", "aho",
}  # fmt: skip

UNSPACED = (
    r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}ー〆\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}]--[\p{Nd}\p{P}\p{S}]]"
)
_STACKING = "[\u1039\u17d2\u1a60]"  # the consonant behind such a sign stands below the one before it
_CLUSTER = rf"\X(?:(?<={_STACKING})(?=\p{{L}})\X)*"
_UNSPACED = regex.compile(UNSPACED, regex.VERSION1)
_WITHOUT_MARKS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}ー〆]")
_SPACES_BESIDE = regex.compile(rf" (?={UNSPACED})|(?<={UNSPACED}) ", regex.VERSION1)
_WORDS = {
    "spaces": regex.compile(r"[^ ]+"),
    "characters": regex.compile(rf"(?={UNSPACED}){_CLUSTER}|(?:(?!{UNSPACED})[^ ])+", regex.VERSION1),
}
# In a text as written: with the punctuation behind them.
WRITTEN_WORDS = {
    "spaces": regex.compile(r"\S+"),
    "characters": regex.compile(rf"(?={UNSPACED}){_CLUSTER}[^\w\s]*|(?:(?!{UNSPACED})\S)+", regex.VERSION1),
}


def usual_word_boundaries(language: str | None) -> str:
    """`"characters"` for a language that is written without spaces between words, else `"spaces"`."""
    return "characters" if language in _NO_SPACES or language in _SPACES_BETWEEN_PHRASES else "spaces"


def has_spaces_between_phrases(language: str | None) -> bool:
    """Whether `language` has no spaces between words, but between sentences."""
    return language in _SPACES_BETWEEN_PHRASES


def is_unspaced(character: str) -> bool:
    """Whether `character` begins with a letter of a script without spaces between words."""
    return _UNSPACED.match(character) is not None


def word_spans(text: str, word_boundaries: str) -> list[tuple[int, int]]:
    """Where the words of a text without punctuation begin and end.

    With `"characters"` each grapheme cluster of a script without spaces is a word, and so are letters of other scripts
    in a row.
    """
    return [match.span() for match in _WORDS[word_boundaries].finditer(text)]


def split_words(text: str, word_boundaries: str) -> list[str]:
    """The words of a text without punctuation, see `word_spans`."""
    return _WORDS[word_boundaries].findall(text)


def drop_spaces(text: str) -> str:
    """`text` without the spaces beside letters of scripts without spaces, where they part no words."""
    return _SPACES_BESIDE.sub("", text)


def whole_words(text: str, word_boundaries: str) -> str:
    """The beginning of `text` whose words cannot change, whatever letters come after it.

    The last word may go on, unless a space follows it or it is a character that takes no marks.
    """
    spans = word_spans(text, word_boundaries)
    if not spans or spans[-1][1] < len(text) or (word_boundaries == "characters" and _WITHOUT_MARKS.match(text[-1])):
        return text
    return text[: spans[-1][0]]
