"""Prepares samples for the network: takes off the silence before the speech, and amplifies a quiet recording.

Networks are trained on speech of usual loudness with little around it; digital zero, the steady hum of a line, or a voice 30
dB below the usual level lie outside what they know. Both steps look only at what has arrived so far, frame by frame, so
that a live stream and a file give the same samples, in whatever pieces they come.
"""

from __future__ import annotations

import logging

import numpy as np


logger = logging.getLogger(__name__)

FRAMES_PER_SECOND = 100
NOTHING = 1e-5  # amplitude below that of 16-bit samples: digital zero
STEADY_FRAMES = 20  # that must be equally loud to be silence
STEADY_DB = 3.0  # above their mean is no longer silence
LOUDEST_SILENCE = -40.0  # dBFS
USUAL_LEVEL = -32.0  # dBFS of the loudest frame, from which on nothing is amplified
TARGET_LEVEL = -18.0  # dBFS of the loudest frame after amplification
HEADROOM = 8.0  # dB above that, before the gain is lowered
SPEECH_RANGE = 15.0  # dB between the loudest and the quietest frame, if there is speech
MEASURED_FRAMES = 50  # from the beginning of quiet speech on, to find its level
WAITING_FRAMES = 100  # without speech that are held back at most
_EMPTY = np.zeros(0, np.float32)


class Conditioner:
    """The state of one recording or stream.

    >>> conditioner = Conditioner(16_000)
    >>> for samples in pieces:
    ...     give(conditioner(samples))
    >>> give(conditioner(last=True))

    Args:
        rate: of the samples, in hertz.
    """

    def __init__(self, rate: int):
        self.size = max(1, rate // FRAMES_PER_SECOND)  # samples in a frame
        self.skipped = 0  # samples taken off the beginning
        self.gain: float | None = None  # dB; None: not known yet
        self._held = _EMPTY  # samples that wait for a decision
        self._is_silent = True  # nothing but silence so far
        self._floor = np.inf  # dBFS of the quietest frame of what is held or was silence

    def __call__(self, samples: np.ndarray = _EMPTY, last: bool = False) -> np.ndarray:
        """The samples that can be passed on, shape (samples,), float32; `last`: nothing comes after."""
        if self.gain == 0.0 and not self._is_silent and not len(self._held):
            return samples
        self._held = np.concatenate([self._held, samples])
        if self._is_silent:
            self._skip_silence(last)
            if self._is_silent:
                return _EMPTY
        if self.gain is None:
            return self._find_level(last)
        return self._amplify(last)

    def _levels(self, samples: np.ndarray) -> np.ndarray:
        """dBFS of each whole frame."""
        frames = samples[: len(samples) // self.size * self.size].reshape(-1, self.size)
        return 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-12)

    def _skip(self, samples: int) -> None:
        self._held = self._held[samples:]
        self.skipped += samples

    def _skip_silence(self, last: bool) -> None:
        while True:
            sounding = np.flatnonzero(np.abs(self._held) > NOTHING)
            if not len(sounding):  # digital zero so far
                self._skip(len(self._held))
                return
            if sounding[0]:
                self._floor = -120.0
                self._skip(int(sounding[0]))
            levels = self._levels(self._held)
            if len(levels) < STEADY_FRAMES:
                self._is_silent = not last
                return
            steady = levels[:STEADY_FRAMES]
            level = float(10 * np.log10(np.mean(10 ** (steady / 10))))
            if level > LOUDEST_SILENCE or np.abs(steady - level).max() > STEADY_DB:
                self._is_silent = False
                return
            self._floor = min(self._floor, level)
            louder, quieter = levels > level + STEADY_DB, levels < level - 2 * STEADY_DB
            louder[:-1] &= louder[1:]  # two in a row
            changes = np.flatnonzero(louder[:-1] | quieter[:-1])
            if not len(changes):
                # The last frames may be the beginning of speech, the first ones are compared with what comes.
                if last:
                    self._skip(len(self._held))
                elif len(levels) > 2 * STEADY_FRAMES:
                    self._skip((len(levels) - 2 * STEADY_FRAMES) * self.size)
                return
            first = int(changes[0])
            self._skip(max(0, first - 1) * self.size if louder[first] else first * self.size)
            if louder[first]:
                self._is_silent = False
                return

    def _find_level(self, last: bool) -> np.ndarray:
        levels = self._levels(self._held)
        if not len(levels):
            return self._release(len(self._held)) if last else _EMPTY
        if (usual := np.flatnonzero(levels > USUAL_LEVEL)).size and not self._is_measured(levels[: usual[0]]):
            self.gain = 0.0
            return self._release(len(self._held))
        if self._is_measured(levels) or last:
            floors = np.minimum.accumulate(np.minimum(levels, self._floor))
            speech = np.flatnonzero(levels > floors + SPEECH_RANGE)
            if len(speech):
                level = float(levels[speech[0] : speech[0] + MEASURED_FRAMES].max())
                self.gain = TARGET_LEVEL - level
                logger.info(f"Quiet speech of {level:.0f} dBFS is amplified by {self.gain:.0f} dB.")
                return self._amplify(last)
            self.gain = 0.0
            return self._release(len(self._held))
        if (waiting := len(levels) - WAITING_FRAMES) > 0:
            self._floor = min(self._floor, float(levels[:waiting].min()))
            return self._release(waiting * self.size)
        return _EMPTY

    def _is_measured(self, levels: np.ndarray) -> bool:
        """Whether so much speech has come that its level is known."""
        floors = np.minimum.accumulate(np.minimum(levels, self._floor))
        speech = np.flatnonzero(levels > floors + SPEECH_RANGE)
        return len(speech) > 0 and len(levels) >= speech[0] + MEASURED_FRAMES

    def _amplify(self, last: bool) -> np.ndarray:
        """Whole frames with the gain that each has; a louder voice lowers it from there on."""
        assert self.gain is not None
        levels = self._levels(self._held)
        gains = np.full(len(levels) + 1, self.gain)
        while len(loud := np.flatnonzero(levels + gains[:-1] > TARGET_LEVEL + HEADROOM)):
            first = int(loud[0])
            gains[first:] = max(0.0, TARGET_LEVEL - float(levels[first]))
            if gains[first] == 0.0:
                break
        self.gain = float(gains[-1])
        factors = np.repeat(10 ** (gains / 20), self.size)
        held = self._held * factors[: len(self._held)].astype(np.float32)
        whole = len(held) if last or self.gain == 0.0 else len(levels) * self.size
        self._held = self._held[whole:]
        return held[:whole]

    def _release(self, samples: int) -> np.ndarray:
        released, self._held = self._held[:samples], self._held[samples:]
        return released


def condition(waveform: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """A whole recording, and how many samples were taken off its beginning."""
    conditioner = Conditioner(rate)
    return conditioner(waveform, last=True), conditioner.skipped
