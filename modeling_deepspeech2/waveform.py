"""Converts samples of any type to mono float32, or says why they cannot be speech.

Files, arrays and microphones all pass through here, so that the same array means the same everywhere.
"""

import logging

import numpy as np

from .errors import UserError


logger = logging.getLogger(__name__)

# Floating-point audio lies in [-1, 1], and some decoders overshoot; forty decibels more are another unit or a broken filter.
LARGEST_SAMPLE = 100.0
# An average this far below its channels means that they cancel each other, as inverted copies do.
CANCELLED_POWER = 0.01
HEARD_ENERGY = 0.01  # sum of squares: what is less may be rounding
MIXED_SAMPLES = 1 << 14  # for which the channels are judged: a second or less


class AudioError(UserError):
    """Audio that cannot be used; the message names the file and the reason."""


def mono(samples: np.ndarray, name: str = "the audio array") -> np.ndarray:
    """Averages the channels of an array and checks its samples.

    Args:
        samples: shape (samples,) or (channels, samples); the shorter of two axes is taken for the channels. Floating
            point in [-1, 1], or integers of 16 or 32 bits, as wav files hold them.
        name: what messages call it.

    Returns:
        float32 samples, shape (samples,); none where there are none.

    Raises:
        AudioError: another shape or type, or samples that no recording holds (NaN, infinity, or far beyond full scale).
    """
    try:
        samples = np.asarray(samples.detach().cpu() if hasattr(samples, "detach") else samples)
    except (TypeError, ValueError) as error:  # arrays of different lengths, or a tensor of bfloat16
        raise AudioError(f"{name} is no array of samples: {error}") from error
    if samples.ndim not in (1, 2):
        raise AudioError(f"{name} must have the shape (samples,) or (channels, samples), but has {samples.shape}.")
    if samples.size == 0:
        return np.zeros(0, np.float32)
    if samples.dtype.kind == "i" and samples.dtype.itemsize in (2, 4):
        samples = samples / -np.iinfo(samples.dtype).min
    elif samples.dtype.kind != "f":
        raise AudioError(
            f"{name} must hold floating point samples in [-1, 1] or integers of 16 or 32 bits, but holds {samples.dtype}."
        )
    check_samples(samples, name)
    samples = samples.astype(np.float32, copy=False)
    if samples.ndim == 1:
        return samples
    return ChannelMixer(name)(samples if samples.shape[0] > samples.shape[1] else samples.T)


def check_samples(samples: np.ndarray, name: str) -> None:
    """Refuses what no recording holds; one such sample would spoil the whole transcript.

    Raises:
        AudioError: NaN, infinity, or amplitudes beyond `LARGEST_SAMPLE`.
    """
    largest = float(np.abs(samples).max(initial=0.0))
    if not np.isfinite(largest):
        raise AudioError(f"{name} holds samples that are not finite numbers (NaN or infinity).")
    if largest > LARGEST_SAMPLE:
        raise AudioError(
            f"{name} holds samples of up to {largest:.3g}, far beyond full scale, which is 1: it is damaged, or holds "
            f"integers as floating point numbers, which must be divided by their full scale first."
        )


class ChannelMixer:
    """Averages the channels of a recording that comes block by block.

    Where the channels cancel each other (inverted copies, as a wrongly wired cable makes), the average would be silence:
    from there on the louder channel is taken, and a warning says so. They may do so only in a part of the recording.

    Args:
        name: what messages call the recording.
        channel: take this one alone, counted from 0.
    """

    def __init__(self, name: str, channel: int | None = None):
        self.name, self.channel = name, channel
        self.energies = self.energy_of_mean = 0.0  # sums of squares so far

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """(samples, channels) -> (samples,)"""
        starts = range(0, len(block), MIXED_SAMPLES)
        return np.concatenate([self._mix(block[start : start + MIXED_SAMPLES]) for start in starts] or [block[:, 0]])

    def _mix(self, block: np.ndarray) -> np.ndarray:
        if self.channel is not None:
            return block[:, self.channel]
        mean = block.mean(1)
        if block.shape[1] == 1:
            return mean
        energies, energy_of_mean = np.square(block, dtype=np.float64).sum(0), np.square(mean, dtype=np.float64).sum()
        self.energies, self.energy_of_mean = self.energies + energies, self.energy_of_mean + energy_of_mean
        if not _cancel(energies, energy_of_mean) and not _cancel(self.energies, self.energy_of_mean):
            return mean
        self.channel = int(self.energies.argmax())
        logger.warning(
            f"The channels of {self.name} cancel each other when they are averaged (inverted copies?): only channel "
            f"{self.channel + 1} of {block.shape[1]} is used."
        )
        return block[:, self.channel]


def _cancel(energies: np.ndarray, energy_of_mean: float) -> bool:
    energy = energies.mean()
    return energy >= HEARD_ENERGY and energy_of_mean < CANCELLED_POWER * energy
