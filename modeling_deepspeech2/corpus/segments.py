"""Cuts long recordings with transcripts into utterances of about seven seconds (section 5 of the paper).

A trained model aligns a recording with its transcript, and both are cut where the model finds a pause between two words.
`filtering` decides whether a segment's transcript is right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..transcription.alignment import AlignedLine, align
from .transcripts import Line


MEASURED_SECONDS = 0.1  # over which the loudness is taken, to cut where it is lowest
SILENCE_DB = 25.0  # below the usual word; so quiet are pauses that can be left out
NOISE_DB = 6.0  # above the quietest twentieth of the recording; so loud are pauses in a noisy room
NOISY_SILENCE_DB = 15.0  # but at least so far below the usual word


@dataclass
class Segment:
    text: str
    speaker: str | None
    start: float  # seconds
    end: float


@dataclass
class CuttingSettings:
    """Where recordings are cut into segments.

    Args:
        seconds: that a segment should last.
        max_seconds: that a segment may last; longer ones, in which nobody pauses, are given up.
        pause: shortest run of blanks between two words, in seconds, that is cut at.
        edge: silence that is kept before the first and after the last word, in seconds, where there is so much.
    """

    seconds: float = 7.0
    max_seconds: float = 15.0
    pause: float = 0.3
    edge: float = 0.5

    def __post_init__(self):
        for name in ("seconds", "pause", "edge"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be positive and finite, but is {getattr(self, name)}.")
        if not self.max_seconds >= self.seconds:
            raise UserError(f"max_seconds must be at least seconds, {self.seconds:g}, but is {self.max_seconds:g}.")


@dataclass
class _Word:
    start: float
    end: float
    line: int
    first: int  # where it stands in its line
    last: int


def segment_recording(
    waveform: np.ndarray, lines: list[Line], model: Any, processor: Any, settings: CuttingSettings
) -> list[Segment]:
    """Aligns a recording with its transcript, and cuts both.

    Args:
        waveform: at the model's sampling rate, shape (samples,).
        lines: the whole transcript; cuts are made wherever the speaker changes.

    Raises:
        UserError: a transcript without a character of the alphabet, or one that is too long for the recording.
    """
    rate = processor.feature_extractor.sampling_rate
    alignment = align(waveform, [line.text for line in lines], model, processor)
    return cut(alignment.lines, lines, waveform, rate, settings)


def cut(
    aligned: list[AlignedLine], lines: list[Line], waveform: np.ndarray, rate: int, settings: CuttingSettings
) -> list[Segment]:
    """Cuts an aligned recording into segments.

    The cuts are those that make the sum over all segments of ((length − seconds) / seconds)² and over all cuts of pause /
    run of blanks least, so that long pauses are preferred. A word that the alignment found in silence was said on one side
    of the pause or on the other, and a cut beside it costs one more. Within the run it is cut where it is quietest.
    """
    words, spoken = _words(aligned, lines)
    runs = [after.start - before.end for before, after in zip(words, words[1:])]
    changes = [spoken[before.line].speaker != spoken[after.line].speaker for before, after in zip(words, words[1:])]
    level = _Loudness(waveform, rate, words)
    ends = _best_cuts(words, runs, changes, lambda word: level.is_silent(word.start, word.end), settings)
    segments, first, opens = [], 0, 0.0
    for end in ends:
        is_last = end == len(words)
        closes = len(waveform) / rate if is_last else level.quietest(words[end - 1].end, words[end].start)
        start = level.trimmed(opens, words[first].start - settings.edge)[1]
        stop = level.trimmed(words[end - 1].end + settings.edge, closes)[0]
        segments.append(Segment(_text(words[first:end], spoken), spoken[words[first].line].speaker, start, stop))
        first, opens = end, closes
    return segments


def _words(aligned: list[AlignedLine], lines: list[Line]) -> tuple[list[_Word], list[Line]]:
    """Words in time, and the lines that hold any."""
    remaining, spoken, words = iter(lines), [], []
    for number, line in enumerate(aligned):
        spoken.append(next(own for own in remaining if own.text.strip() == line.text))
        place = 0
        for word in line.words:
            # A word as written may have inner spaces of its own, before a dash, which the line had more of.
            first = line.text.find(word.text.split()[0], place)
            place = first
            for piece in word.text.split():
                place = line.text.find(piece, place) + len(piece)
            words.append(_Word(word.start, word.end, number, first, place))
    return words, [Line(own.text.strip(), own.speaker) for own in spoken]


def _text(words: list[_Word], lines: list[Line]) -> str:
    """The transcript between two words as it was written."""
    pieces = []
    for number in range(words[0].line, words[-1].line + 1):
        own = [word for word in words if word.line == number]
        pieces.append(lines[number].text[own[0].first : own[-1].last])
    return " ".join(pieces)


def _best_cuts(
    words: list[_Word],
    runs: list[float],
    changes: list[bool],
    is_lost: Callable[[_Word], bool],
    settings: CuttingSettings,
) -> list[int]:
    """Before which word each segment ends."""
    places = [0, *(i + 1 for i, run in enumerate(runs) if changes[i] or run >= settings.pause), len(words)]
    best, come_from = [0.0], [0]
    must = 0  # the last change of speakers: no segment starts before it
    for here in range(1, len(places)):
        candidates = []
        for before in range(here - 1, must - 1, -1):
            length = words[places[here] - 1].end - words[places[before]].start
            if candidates and length > 2 * settings.max_seconds:
                break
            cost = best[before] + ((length - settings.seconds) / settings.seconds) ** 2
            if length > settings.max_seconds:
                cost += 1e6  # only where there is no other way
            candidates.append((cost, before))
        cost, before = min(candidates)
        is_end = places[here] == len(words)
        if not is_end:
            cost += settings.pause / max(runs[places[here] - 1], 0.02)
            cost += any(map(is_lost, words[places[here] - 1 : places[here] + 1]))
        best.append(cost)
        come_from.append(before)
        if not is_end and changes[places[here] - 1]:
            must = here
    ends, here = [], len(places) - 1
    while here:
        ends.append(places[here])
        here = come_from[here]
    return ends[::-1]


class _Loudness:
    """Where a recording is quiet."""

    def __init__(self, waveform: np.ndarray, rate: int, words: list[_Word]):
        self.waveform, self.rate = waveform, rate
        self.size = round(MEASURED_SECONDS * rate)
        spoken = [self._power(word.start, word.end).max(initial=0.0) for word in words]
        usual = float(np.median(spoken))
        noise = float(np.percentile(self._power(0.0, len(waveform) / rate)[:: self.size], 5, method="lower"))
        quiet, noisy = (usual * 10 ** (-decibels / 10) for decibels in (SILENCE_DB, NOISY_SILENCE_DB))
        self.silence = max(quiet, min(noise * 10 ** (NOISE_DB / 10), noisy))

    def _power(self, start: float, end: float) -> np.ndarray:
        """Mean power of every tenth of a second that begins at a sample of a stretch and ends in it."""
        first, last = max(0, round(start * self.rate)), min(round(end * self.rate), len(self.waveform))
        last = min(max(last, first + self.size), len(self.waveform))
        sums = np.cumsum(np.square(self.waveform[first:last], dtype=np.float64))
        return (sums[self.size :] - sums[: -self.size]) / self.size

    def is_silent(self, start: float, end: float) -> bool:
        return bool(self._power(start, end).max(initial=0.0) <= self.silence)

    def quietest(self, start: float, end: float) -> float:
        """The middle of the quietest tenth of a second, in seconds."""
        power = self._power(start, end)
        if len(power) <= 1:
            return (start + end) / 2
        # In digital silence all is equally quiet: then the middle.
        quiet = np.flatnonzero(power <= power.min() * 1.01 + 1e-12)
        return start + (int(quiet[len(quiet) // 2]) + self.size / 2) / self.rate

    def trimmed(self, start: float, end: float) -> tuple[float, float]:
        """Where to end before a stretch, and where to begin after it: inside it only what is silent is left out.

        Speech that is not in the transcript must stay, so that the filter notices it.
        """
        return (start, end) if start < end and self.is_silent(start, end) else (end, start)


def segment_samples(segment: Segment, waveform: np.ndarray, rate: int) -> np.ndarray:
    return waveform[math.floor(segment.start * rate) : math.ceil(segment.end * rate)]
