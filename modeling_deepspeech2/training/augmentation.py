"""Makes training speech more various than it is: speed, loudness, noise, codecs, and masks over the spectrogram.

What an utterance becomes depends on the seed, its name and the epoch alone, so that a resumed run hears the same.
"""

import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import colorednoise
import numpy as np
import soundfile
import soxr
import torch

from ..audio import AudioError, read_audio
from .sources import DataError


# Section 5.3 of the paper adds noise to 40 % of the utterances, at 0 to 30 dB.
SIGNAL_TO_NOISE_DB = (0.0, 30.0)
NOISE_COLOURS = (0.0, 2.0)  # power falls with frequency to this power: 0 is white, 1 pink, 2 brown
CODECS = (
    ("WAV", "ULAW", 8_000),  # a telephone line
    ("WAV", "GSM610", 8_000),  # an old mobile phone
    ("OGG", "OPUS", 8_000),
    ("OGG", "VORBIS", 16_000),
    ("MP3", "MPEG_LAYER_III", 16_000),
)
FREQUENCY_MASKS, FREQUENCY_MASK_BINS = 2, 20
TIME_MASKS, TIME_MASK_SHARE = 2, 0.05  # a share of the utterance


@dataclass
class Augmentation:
    """Args:
    speed: played faster or slower (and so higher or deeper) by up to this share, such as 0.1; 0 for never.
    gain: louder or softer by up to so many decibels.
    noise_share: share of the utterances that noise is added to.
    noise: folder of recordings of noise; without it coloured noise is made up.
    codec_share: share of the utterances that go through a telephone line or a lossy codec.
    spec_augment: masks bands of frequency and stretches of time (Park et al., arXiv 1904.08779, without warping).
    seed, epoch: what the randomness starts from.

    Raises:
        DataError: the folder of noise holds no recording.
    """

    speed: float = 0.0
    gain: float = 0.0
    noise_share: float = 0.0
    noise: str | None = None
    codec_share: float = 0.0
    spec_augment: bool = False
    seed: int = 0
    epoch: int = 0
    recordings: list[Path] = field(init=False, default_factory=list)

    def __post_init__(self):
        if self.noise is None:
            return
        kinds = {f".{kind.lower()}" for kind in soundfile.available_formats()} | {".opus"}
        self.recordings = sorted(file for file in Path(self.noise).rglob("*") if file.suffix.lower() in kinds)
        if not self.recordings:
            raise DataError(f"There is no recording of noise in {self.noise}.")

    def generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, zlib.crc32(name.encode())])

    def change(self, waveform: np.ndarray, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
        """(samples,) -> (samples / speed,)"""
        if self.speed:
            waveform = soxr.resample(waveform, generator.uniform(1 - self.speed, 1 + self.speed), 1.0, quality="MQ")
        if self.gain:
            waveform = waveform * np.float32(10 ** (generator.uniform(-self.gain, self.gain) / 20))
        if self.noise_share and generator.random() < self.noise_share:
            noise = self._noise(len(waveform), sampling_rate, generator)
            waveform = add_noise(waveform, noise, generator.uniform(*SIGNAL_TO_NOISE_DB))
        if self.codec_share and generator.random() < self.codec_share:
            waveform = through_codec(waveform, sampling_rate, *CODECS[generator.integers(len(CODECS))])
        return waveform

    def _noise(self, samples: int, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
        """A stretch of a recording that can be read, or, without recordings, made-up noise."""
        for number in generator.permutation(len(self.recordings)):
            try:
                noise = read_audio(str(self.recordings[number]), sampling_rate, name=self.recordings[number].name)
            except (AudioError, OSError):
                continue
            if len(noise):
                start = generator.integers(len(noise))
                return np.resize(np.roll(noise, -start), samples)  # from its beginning again where it is too short
        return colorednoise.powerlaw_psd_gaussian(generator.uniform(*NOISE_COLOURS), samples, random_state=generator)

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


def add_noise(waveform: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """Adds noise so that the speech's mean power is `decibels` above the noise's; silence stays as it is."""
    speech_power, noise_power = np.mean(np.square(waveform)), np.mean(np.square(noise))
    if speech_power == 0 or noise_power == 0:
        return waveform
    return (waveform + noise * np.sqrt(speech_power / noise_power / 10 ** (decibels / 10))).astype(np.float32)


def through_codec(waveform: np.ndarray, sampling_rate: int, container: str, codec: str, codec_rate: int) -> np.ndarray:
    """What is left of a waveform after a codec, of the same length."""
    if len(waveform) == 0:
        return waveform
    peak = max(1.0, float(np.abs(waveform).max()))
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(waveform / peak, sampling_rate, codec_rate), codec_rate, codec, format=container)
    file.seek(0)
    decoded = soxr.resample(soundfile.read(file, dtype="float32")[0], codec_rate, sampling_rate) * np.float32(peak)
    return np.pad(decoded[: len(waveform)], (0, max(0, len(waveform) - len(decoded))))
