"""Data augmentation for training speech: speed, silence, rooms, loudness, noise, codecs, and masks over the spectrogram.

The changes depend only on the seed, the utterance's name and the epoch, so that a resumed run repeats them.
"""

import io
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path

import colorednoise
import numpy as np
import soundfile
import soxr
import torch
from transformers.utils import logging

from ..audio import AudioError, read_waveform
from .durations import duration_of, size_of
from .rooms import in_room, room_response
from .sources import DataError, open_source


logger = logging.get_logger(__name__)

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
SHORTEST = 160  # samples: a click is left as it is
NOISE_MEMORY = 256 * 2**20  # bytes of encoded noise that are held
SILENCE_SECONDS = 1.0  # at most, before and after the speech
SILENCE_DECIBELS = (-80.0, -40.0)  # of full scale: from a quiet line to a noisy room
DIGITAL_ZERO_SHARE = 0.25  # of the padded utterances: what editors and telephone gateways leave
# The masks of SpecAugment at full strength, as published for LibriSpeech: two bands of up to a third of the bins (27 of 80),
# and stretches of time whose number grows with the length.
FREQUENCY_MASKS = 2
FREQUENCY_MASK_SHARE = 1 / 3  # of the bins
TIME_MASK_FRAMES = 40  # at most, and at most a tenth of the utterance
FRAMES_PER_TIME_MASK = 200


def noise_recordings(place: str) -> tuple[list[dict], list[str]]:
    """Finds recordings of noise.

    Args:
        place: a folder with audio files, or DATA SET::[CONFIGURATION/]SPLIT, whose first 256 MB are held in memory.

    Returns:
        The audio that can be read, {"bytes": …, "path": …} each, and the names of what cannot.

    Raises:
        DataError: there is no such data set, or no recording that can be read.
    """
    data_set, _, split = place.rpartition("::")
    if data_set:
        found, size = [], 0
        source = open_source(data_set, split, text_column=None)
        tables = (table for shard in range(source.num_shards) for table in source.tables(shard, [source.audio_column]))
        for row in (row for table in tables for row in table.to_pylist()):
            found.append(source.audio(row))
            size += size_of(found[-1])
            if size > NOISE_MEMORY:
                break
    else:
        kinds = {f".{kind.lower()}" for kind in soundfile.available_formats()} | {".opus"}
        files = sorted(file for file in Path(place).rglob("*") if file.suffix.lower() in kinds)
        found = [{"bytes": None, "path": str(file)} for file in files]
    is_readable = [duration_of(audio) > 0 for audio in found]
    unreadable = [str(audio.get("path")) for audio, readable in zip(found, is_readable) if not readable]
    if len(unreadable) == len(found):
        raise DataError(f"There is no recording of noise in {place} that can be read; {len(found)} were tried.")
    return [audio for audio, readable in zip(found, is_readable) if readable], unreadable


@dataclass
class Augmentation:
    """Random changes of training speech: waveforms first, then features (section 5.3 of the paper).

    Args:
        speed_perturbation: played faster or slower (and so higher or deeper) by up to this share, such as 0.1; 0 for never.
        gain: louder or softer by up to so many decibels.
        noise_share: share of the utterances that noise is added to.
        noise: recordings of noise, see [`noise_recordings`]; without any coloured noise is made up.
        room_share: share of the utterances that get the echoes of a room, see [`room_response`].
        codec_share: share of the utterances that go through a telephone line or a lossy codec.
        silence_share: share of the utterances with up to a second of silence or low noise before and after them.
        join_share: share of the batches whose utterances are joined in pairs, two end to end.
        spec_augment: strength of the masks over frequency and time (Park et al., arXiv 1904.08779, without warping): 1 as
            published, 0 for none.
        seed, epoch: what the randomness starts from.
    """

    speed_perturbation: float = 0.0
    gain: float = 0.0
    noise_share: float = 0.0
    noise: list[dict] = field(default_factory=list)
    room_share: float = 0.0
    codec_share: float = 0.0
    silence_share: float = 0.0
    join_share: float = 0.0
    spec_augment: float = 0.0
    seed: int = 0
    epoch: int = 0

    @classmethod
    def from_arguments(cls, arguments: object, noise: list[dict]) -> "Augmentation":
        """From settings whose fields are called like these."""
        own = {field.name for field in fields(cls)} - {"noise", "epoch"}
        return cls(noise=noise, **{name: getattr(arguments, name) for name in own})

    def generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, zlib.crc32(name.encode("utf-8", "surrogateescape"))])

    def joins(self, names: list[str]) -> bool:
        """Whether the utterances of this batch are joined in pairs."""
        return self.join_share > 0 and self.generator("\n".join(names)).random() < self.join_share

    def change(self, waveform: np.ndarray, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
        """(samples,) -> (samples / speed,)"""
        if len(waveform) < SHORTEST:
            return waveform
        if self.speed_perturbation:
            rate = generator.uniform(1 - self.speed_perturbation, 1 + self.speed_perturbation)
            waveform = soxr.resample(waveform, rate, 1.0, quality="MQ")
        if self.silence_share and generator.random() < self.silence_share:
            waveform = self._pad(waveform, sampling_rate, generator)
        if self.room_share and generator.random() < self.room_share:
            waveform = in_room(waveform, room_response(sampling_rate, generator))
        if self.gain:
            waveform = waveform * np.float32(10 ** (generator.uniform(-self.gain, self.gain) / 20))
        if self.noise_share and generator.random() < self.noise_share:
            noise = self._noise(len(waveform), sampling_rate, generator)
            waveform = add_noise(waveform, noise, generator.uniform(*SIGNAL_TO_NOISE_DB))
        if self.codec_share and generator.random() < self.codec_share:
            waveform = through_codec(waveform, sampling_rate, *CODECS[generator.integers(len(CODECS))])
        return waveform

    def _pad(self, waveform: np.ndarray, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
        """Puts silence before and after the speech, each of its own length: digital zero, or noise along the whole."""
        before, after = (int(generator.uniform(0, SILENCE_SECONDS) * sampling_rate) for _ in range(2))
        padded = np.pad(waveform, (before, after))
        if generator.random() < DIGITAL_ZERO_SHARE:
            return padded
        level = 10 ** (generator.uniform(*SILENCE_DECIBELS) / 20)
        noise = coloured_noise(len(padded), generator)
        return (padded + level * noise).astype(np.float32)

    def _noise(self, samples: int, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
        """A stretch of a recording, or generated noise if there are no recordings."""
        if self.noise:
            recording = self.noise[generator.integers(len(self.noise))]
            try:
                noise = read_waveform(recording, sampling_rate, f"the noise {recording.get('path') or 'in the data set'}")
                start = generator.integers(len(noise))
                return np.resize(np.roll(noise, -start), samples)  # from its beginning again where it is too short
            except (AudioError, OSError) as error:  # its header was whole; the utterance is not to blame
                logger.warning_once(f"Generated noise takes the place of a recording: {error}")
        return coloured_noise(samples, generator)

    def mask(self, features: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Sets masked parts of normalised features, shape (frames, bins), to zero, the mean."""
        if not self.spec_augment:
            return features
        frames, bins = features.shape
        features = features.clone()
        widest = int(self.spec_augment * FREQUENCY_MASK_SHARE * bins)
        for _ in range(FREQUENCY_MASKS):
            width = generator.integers(0, widest + 1)
            first = generator.integers(0, bins - width + 1)
            features[:, first : first + width] = 0
        longest = int(self.spec_augment * min(TIME_MASK_FRAMES, frames / 10))
        for _ in range(max(2, frames // FRAMES_PER_TIME_MASK)):
            width = generator.integers(0, longest + 1)
            first = generator.integers(0, frames - width + 1)
            features[first : first + width] = 0
        return features


def coloured_noise(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Noise of a random colour and of power 1."""
    # Made by a Fourier transform, which takes several times as long where the length has large prime factors.
    length = min(odd << (-(-samples // odd) - 1).bit_length() for odd in (1, 3, 5, 9, 15))
    colour = generator.uniform(*NOISE_COLOURS)
    return colorednoise.powerlaw_psd_gaussian(colour, length, random_state=generator)[:samples]


def add_noise(waveform: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """Adds noise so that the speech's mean power is `decibels` above the noise's; silence stays as it is."""
    speech_power, noise_power = np.mean(np.square(waveform)), np.mean(np.square(noise))
    if speech_power == 0 or noise_power == 0:
        return waveform
    return (waveform + noise * np.sqrt(speech_power / noise_power / 10 ** (decibels / 10))).astype(np.float32)


def through_codec(waveform: np.ndarray, sampling_rate: int, container: str, codec: str, codec_rate: int) -> np.ndarray:
    """Passes a waveform through a codec; the length stays the same."""
    if len(waveform) == 0:
        return waveform
    peak = max(1.0, float(np.abs(waveform).max()))
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(waveform / peak, sampling_rate, codec_rate), codec_rate, codec, format=container)
    file.seek(0)
    decoded = soxr.resample(soundfile.read(file, dtype="float32")[0], codec_rate, sampling_rate) * np.float32(peak)
    return np.pad(decoded[: len(waveform)], (0, max(0, len(waveform) - len(decoded))))
