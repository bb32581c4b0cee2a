"""Prepares samples for the network: takes off the silence before the speech, and amplifies a quiet recording.

Networks are trained on speech of usual loudness with little around it; digital zero, the steady hum of a line, or a voice 30
dB below the usual level lie outside what they know. Both steps look only at what has arrived so far, frame by frame, so
that a live stream and a file give the same samples, in whatever pieces they come.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


logger = logging.getLogger(__name__)

FRAMES_PER_SECOND = 100
NOTHING = 1e-5  # amplitude below that of 16-bit samples: digital zero
STEADY_FRAMES = 30  # that must be equally loud to be silence
STEADY_DB = 3.0  # above or below their mean is something else
LOUDEST_SILENCE = -40.0  # dBFS
SILENT_LEVEL = -120.0  # dBFS of digital zero
LASTING_FRAMES = 3  # in a row that are loud, and so no click
USUAL_LEVEL = -32.0  # dBFS that the loudest sound reaches, from which on nothing is amplified: ordinary recordings
TARGET_LEVEL = -18.0  # dBFS that it reaches after amplification, a level well within the training speech
HEADROOM = 8.0  # dB above that, before the gain is lowered
SPEECH_RANGE = 15.0  # dB between the loudest and the quietest frame, if there is speech
MEASURED_FRAMES = 100  # of a live stream from the beginning of quiet speech on, to find its level
MEASURED_FRAMES_OF_FILES = 1_000  # and of a recording that is read as a whole
WAITING_FRAMES = 100  # without speech that are held back at most
BLANK_LOGIT = 10.0
MOST_BLANKS = 1_000  # frames in one piece
_EMPTY = np.zeros(0, np.float32)


class Conditioner:
    """The state of one recording or stream.

    >>> conditioner = Conditioner(16_000)
    >>> for samples in pieces:
    ...     give(conditioner(samples))
    >>> give(conditioner(last=True))

    Args:
        rate: of the samples, in hertz.
        is_whole: for a model that reads recordings as a whole and no streams: their level may take longer to find.
    """

    def __init__(self, rate: int, is_whole: bool = False):
        self.rate, self.size = rate, max(1, rate // FRAMES_PER_SECOND)  # samples in a frame
        self.loudest_silence = LOUDEST_SILENCE
        self.measured = MEASURED_FRAMES_OF_FILES if is_whole else MEASURED_FRAMES
        self.skipped = 0  # samples taken off the beginning
        self.gain: float | None = None  # dB; None: not known yet
        self._frames = 0  # output frames of skipped silence that were asked for
        self._held = _EMPTY  # samples that wait for a decision
        self._stage = "zero"  # then "steady" silence, and "sound"
        self._steady_level: float | None = None  # dBFS of the silence
        self._floor = np.inf  # dBFS of the quietest frame so far

    def __call__(self, samples: np.ndarray = _EMPTY, last: bool = False) -> np.ndarray:
        """The samples that can be passed on, shape (samples,), float32; `last`: nothing comes after."""
        if self._stage == "sound" and self.gain == 0.0 and not len(self._held):
            return samples
        self._held = np.concatenate([self._held, samples])
        while self._stage != "sound" and self._skip_silence(last):
            pass
        if self._stage != "sound":
            return _EMPTY
        return self._find_gain(last) if self.gain is None else self._amplify(last)

    def frames(self, samples_per_frame: int) -> int:
        """Output frames of the silence that was taken off since the last call."""
        before, self._frames = self._frames, round(self.skipped / samples_per_frame)
        return self._frames - before

    def _levels(self, samples: np.ndarray) -> np.ndarray:
        """dBFS of each whole frame."""
        frames = samples[: len(samples) // self.size * self.size].reshape(-1, self.size)
        return 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-12)

    def _lasting_levels(self, levels: np.ndarray) -> np.ndarray:
        """dBFS that each frame and those after it reach: where there is a click, the level of what it stands in."""
        frames = max(0, len(levels) - LASTING_FRAMES + 1)
        return np.minimum.reduce([levels[place : place + frames] for place in range(LASTING_FRAMES)])

    def _skip(self, samples: int) -> None:
        self._held = self._held[samples:]
        self.skipped += samples

    def _skip_silence(self, last: bool) -> bool:
        """Takes off silence; returns whether another stage has begun, so that there may be more."""
        if self._stage == "zero":
            sounding = np.flatnonzero(np.abs(self._held) > NOTHING)
            first = int(sounding[0]) if len(sounding) else len(self._held)
            if self.skipped or first >= self.size or (last and not len(sounding)):
                self._skip(first)
                self._floor = SILENT_LEVEL
            if len(sounding):
                self._stage = "steady"
            return len(sounding) > 0
        levels = self._levels(self._held)
        if self._steady_level is None:
            return self._find_steady_level(levels, last)
        louder = self._lasting_levels(levels) > self._steady_level + STEADY_DB
        changes = np.flatnonzero(louder | (levels[: len(louder)] < self._steady_level - STEADY_DB))
        if not len(changes):
            self._skip(len(self._held) if last else len(louder) * self.size)
            return False
        first = int(changes[0])
        self._stage, self._steady_level = ("sound", None) if louder[first] else ("zero", None)
        self._skip(first * self.size)
        return True

    def _find_steady_level(self, levels: np.ndarray, last: bool) -> bool:
        steady = levels[:STEADY_FRAMES]
        if len(steady) < STEADY_FRAMES and not last:
            return False
        level = float(10 * np.log10(np.mean(10 ** (steady / 10)))) if len(steady) else 0.0
        if len(steady) < STEADY_FRAMES or level > self.loudest_silence or np.abs(steady - level).max() > STEADY_DB:
            self._stage = "sound"
        else:
            self._steady_level, self._floor = level, min(self._floor, level)
        return True

    def _find_gain(self, last: bool) -> np.ndarray:
        """Waits until enough speech has come, or something of the usual level."""
        levels = self._lasting_levels(self._levels(self._held))
        floors = np.minimum.accumulate(np.minimum(levels, self._floor)) if len(levels) else levels
        speech = np.flatnonzero(levels > floors + SPEECH_RANGE)
        end = int(speech[0]) + self.measured if len(speech) else len(levels) + 1
        if (levels[:end] > USUAL_LEVEL).any() or (last and not len(speech)):
            self.gain = 0.0
            return self._release(len(self._held))
        if end <= len(levels) or last:
            level = float(levels[speech[0] : end].max())
            self.gain = TARGET_LEVEL - level
            logger.info(f"Quiet speech of {level:.0f} dBFS is amplified by {self.gain:.0f} dB.")
            before = self._release(max(0, int(speech[0]) - WAITING_FRAMES) * self.size)
            return np.concatenate([before, self._amplify(last)])
        waiting = 0 if len(speech) else max(0, len(levels) - WAITING_FRAMES)
        self._floor = min(self._floor, float(levels[:waiting].min(initial=np.inf)))
        return self._release(waiting * self.size)

    def _amplify(self, last: bool) -> np.ndarray:
        """Whole frames with the gain that each has; a louder voice lowers it from there on."""
        assert self.gain is not None
        levels = self._lasting_levels(self._levels(self._held))
        gains = np.full(len(levels) + LASTING_FRAMES, self.gain)
        while len(loud := np.flatnonzero((levels + (own := gains[: len(levels)]) > TARGET_LEVEL + HEADROOM) & (own > 0))):
            gains[loud[0] :] = max(0.0, TARGET_LEVEL - float(levels[loud[0]]))
        self.gain = float(gains[-1])
        whole = len(self._held) if last or self.gain == 0.0 else len(levels) * self.size
        factors = np.repeat(10 ** (gains / 20), self.size).astype(np.float32)
        return self._release(whole) * factors[:whole]

    def _release(self, samples: int) -> np.ndarray:
        released, self._held = self._held[:samples], self._held[samples:]
        return released


def condition(waveform: np.ndarray, rate: int, is_whole: bool = False) -> tuple[np.ndarray, int, int]:
    """A whole recording, and how many samples were taken off its beginning and end.

    Args:
        waveform: shape (samples,), float32.
        rate: in hertz.
        is_whole: the model reads a recording as a whole. Then steady silence is taken off the end, too.
    """
    conditioner = Conditioner(rate, is_whole)
    samples = conditioner(waveform, last=True)
    after = steady_samples(samples, conditioner) if is_whole and len(samples) else 0
    return samples[: len(samples) - after], conditioner.skipped, after


def steady_samples(samples: np.ndarray, conditioner: Conditioner) -> int:
    """How many samples of steady silence stand at the end of what a conditioner has passed on."""
    backwards = Conditioner(conditioner.rate)
    backwards.loudest_silence += conditioner.gain or 0.0  # which was amplified as well
    backwards.gain = 0.0
    backwards(samples[::-1], last=True)
    return backwards.skipped


def conditioned(pieces: Iterable[np.ndarray], conditioner: Conditioner) -> Iterator[np.ndarray]:
    """The pieces of a recording as a conditioner passes them on; empty ones are left out."""
    for piece in pieces:
        if len(samples := conditioner(piece)):
            yield samples
    if len(samples := conditioner(last=True)):
        yield samples


def with_silence(
    logits: Iterable[Any], conditioner: Conditioner, samples_per_frame: int, vocab_size: int, blank: int
) -> Iterator[Any]:
    """Logits in pieces, shape (frames, vocab_size), with blank frames for the silence that was taken off before them."""
    for piece in logits:
        yield from blank_pieces(conditioner.frames(samples_per_frame), vocab_size, blank)
        yield piece
    yield from blank_pieces(conditioner.frames(samples_per_frame), vocab_size, blank)


def blank_pieces(frames: int, vocab_size: int, blank: int) -> Iterator[np.ndarray]:
    """`blank_logits` in pieces, for a stream may be silent for hours."""
    for start in range(0, frames, MOST_BLANKS):
        yield blank_logits(min(MOST_BLANKS, frames - start), vocab_size, blank)


def blank_logits(frames: int, vocab_size: int, blank: int) -> np.ndarray:
    """Logits of frames in which nothing is said, shape (frames, vocab_size)."""
    logits = np.full((frames, vocab_size), -BLANK_LOGIT, np.float32)
    logits[:, blank] = BLANK_LOGIT
    return logits
