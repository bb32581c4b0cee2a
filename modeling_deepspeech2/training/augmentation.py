"""Makes training speech more various than it is: speed and pitch, and masks over the spectrogram.

What an utterance becomes depends on the seed, its name and the epoch alone, so that a resumed run hears the same.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import soxr
import torch


FREQUENCY_MASKS, FREQUENCY_MASK_BINS = 2, 20
TIME_MASKS, TIME_MASK_SHARE = 2, 0.05  # a share of the utterance


@dataclass
class Augmentation:
    """Args:
    speed: played faster or slower (and so higher or deeper) by up to this share, such as 0.1; 0 for never.
    spec_augment: masks bands of frequency and stretches of time (Park et al., arXiv 1904.08779, without warping).
    seed, epoch: what the randomness starts from.
    """

    speed: float = 0.0
    spec_augment: bool = False
    seed: int = 0
    epoch: int = 0

    def generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, zlib.crc32(name.encode())])

    def change_speed(self, waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(samples,) -> (samples / speed,)"""
        if not self.speed:
            return waveform
        return soxr.resample(waveform, generator.uniform(1 - self.speed, 1 + self.speed), 1.0, quality="MQ")

    def mask(self, features: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Sets masked parts of normalised features, shape (frames, bins), to zero, the mean."""
        if not self.spec_augment:
            return features
        frames, bins = features.shape
        features = features.clone()
        for _ in range(FREQUENCY_MASKS):
            width = generator.integers(0, min(FREQUENCY_MASK_BINS, bins) + 1)
            first = generator.integers(0, bins - width + 1)
            features[:, first : first + width] = 0
        for _ in range(TIME_MASKS):
            width = generator.integers(0, int(TIME_MASK_SHARE * frames) + 1)
            first = generator.integers(0, frames - width + 1)
            features[first : first + width] = 0
        return features
