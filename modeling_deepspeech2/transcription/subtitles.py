"""Turns words with times into subtitles: readable cues of one or two lines, as SRT or WebVTT.

A cue ends at a pause, before it becomes too long to show at once, and usually at the end of a line of the text. The lines of
Chinese, Japanese and Korean are shorter: 16 characters.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..hypotheses import Span
from ..script import is_unspaced


LINE_WIDTH = 42  # columns
WIDE = 2.6  # columns of a wide character, which says more than a letter: 16 in a line
LINES = 2
LONGEST_CUE = 7.0  # seconds
SHORTEST_CUE = 1.0
PAUSE = 0.7  # seconds between words that end a cue


@dataclass
class Cue:
    """What is shown at a time."""

    start: float  # seconds
    end: float
    lines: list[str]


def make_cues(utterances: Iterable[list[Span]]) -> Iterator[Cue]:
    """The words of each utterance, or of each line of a text, in order of time -> cues that do not overlap.

    A cue stays long enough to be seen where nothing follows at once, for words end early in CTC.
    """
    waiting: Cue | None = None
    for words in utterances:
        for group in _groups(words):
            cue = Cue(group[0].start, group[-1].end, _break([word.text for word in group]))
            if waiting is not None:
                waiting.end = min(max(waiting.end, waiting.start + SHORTEST_CUE), max(cue.start, waiting.start))
                yield waiting
            waiting = cue
    if waiting is not None:
        waiting.end = max(waiting.end, waiting.start + SHORTEST_CUE)
        yield waiting


def srt(cues: Iterable[Cue]) -> Iterator[str]:
    """The parts of an SRT file, one for each cue."""
    for number, cue in enumerate(cues, 1):
        times = f"{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}"
        yield f"{number}\n{times}\n{chr(10).join(cue.lines)}\n\n"


def vtt(cues: Iterable[Cue]) -> Iterator[str]:
    """The parts of a WebVTT file, the header first."""
    yield "WEBVTT\n\n"
    for cue in cues:
        text = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{text}\n\n"


def join_words(words: Iterable[str]) -> str:
    """Words in a row: with spaces between them, but none beside a character of a script without spaces between words."""
    text = ""
    for word in words:
        text += " " + word if text and not (_has_no_spaces(text[-1]) or _has_no_spaces(word[0])) else word
    return text


def _groups(words: list[Span]) -> Iterator[list[Span]]:
    """Words that are shown together."""
    group: list[Span] = []
    for word in words:
        if group:
            is_too_wide = len(_fill([*(one.text for one in group), word.text], LINE_WIDTH)) > LINES
            if is_too_wide or word.end - group[0].start > LONGEST_CUE or word.start - group[-1].end > PAUSE:
                yield group
                group = []
        group.append(word)
    if group:
        yield group


def _break(words: list[str]) -> list[str]:
    """Words -> as few lines as they need, of nearly equal width."""
    lines = _fill(words, LINE_WIDTH)
    width = max(map(_width, lines))
    while width > 1 and len(narrower := _fill(words, width - 1)) == len(lines) and max(map(_width, narrower)) < width:
        lines, width = narrower, max(map(_width, narrower))
    return lines


def _fill(words: list[str], width: float) -> list[str]:
    """Words -> lines, each filled before the next is begun; a word that is too wide stands alone."""
    lines: list[list[str]] = []
    for word in words:
        if lines and _width(join_words([*lines[-1], word])) <= width:
            lines[-1].append(word)
        else:
            lines.append([word])
    return [join_words(line) for line in lines]


def _has_no_spaces(character: str) -> bool:
    is_wide = unicodedata.east_asian_width(character) in "WF" and not "\uac00" <= character <= "\ud7a3"  # Korean has spaces
    return is_wide or is_unspaced(character)


def _width(text: str) -> float:
    """Columns of a line."""
    letters = (character for character in text if unicodedata.category(character) != "Mn")  # marks stand above or below
    return sum(WIDE if unicodedata.east_asian_width(character) in "WF" else 1 for character in letters)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
