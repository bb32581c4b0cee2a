"""What one utterance of a data set tells before any training: its samples, its loudness, its bandwidth, its text."""

from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from ..audio import AudioError, read_header, read_waveform
from ..data.sources import Utterance
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer


FULL_SCALE = 0.99  # from here on a sample is clipped
SILENCE_DB = 40.0  # frames so far below the loud ones (the 95th percentile) are silence
SILENT_PEAK = 0.001  # an utterance whose peak is so low holds nothing else

# Bandwidth: below which frequency 99.9 % of the energy lies, after a first difference, which lifts the weak high frequencies
# of speech. Material of a lower sampling rate keeps an empty band above half that rate, however it is stored.
ROLL_OFF = 0.999
SOURCE_RATES = {8_000: "8 kHz telephone", 11_025: "11 kHz"}


@dataclass
class AudioMeasurements:
    """What the samples of one utterance tell, at the model's sampling rate."""

    seconds: float = 0.0
    sampling_rate: int = 0  # of the file
    channels: int = 0
    peak: float = 0.0
    clipped: float = 0.0  # share of the samples at full scale
    silence: float = 0.0  # share of the frames
    leading: float = 0.0  # seconds of silence at the start
    trailing: float = 0.0  # and at the end
    roll_off: float = 0.0  # hertz
    recording: int = 0  # hash of the samples
    spectrum: np.ndarray | None = None  # of the first difference, its sum 1, shape (bins,)
    error: str = ""


def measure_audio(utterance: Utterance, sampling_rate: int = 16_000) -> AudioMeasurements:
    """Reads and measures one utterance; what cannot be read says why in `error`."""
    if utterance.problem:
        return AudioMeasurements(error=utterance.problem)
    try:
        waveform = read_waveform(utterance.audio, sampling_rate, utterance.name)
        header = read_header(utterance.audio, utterance.name)
    except (AudioError, OSError) as error:
        return AudioMeasurements(error=str(error))
    samples = np.round(waveform * 32_767).astype("<i2")
    found = AudioMeasurements(
        seconds=len(waveform) / sampling_rate,
        sampling_rate=header.rate,
        channels=header.channels,
        peak=float(np.abs(waveform).max()),
        clipped=float((np.abs(waveform) >= FULL_SCALE).mean()),
        recording=_hash(samples.tobytes()),
    )
    extractor = DeepSpeech2FeatureExtractor(sampling_rate=sampling_rate)
    power = extractor.log_power(waveform).exp().numpy().mean(1)
    loud = power > np.percentile(power, 95) * 10 ** (-SILENCE_DB / 10)
    frame = extractor.hop_length / sampling_rate
    if found.peak < SILENT_PEAK or not loud.any():
        found.silence = 1.0
        return found
    found.silence = float(1 - loud.mean())
    found.leading = float(loud.argmax() * frame)
    found.trailing = float(loud[::-1].argmax() * frame)
    if len(waveform) < extractor.n_fft:
        return found
    spectrum = extractor.log_power(np.diff(waveform)).exp().numpy().astype(np.float64).mean(0)
    found.spectrum = spectrum / spectrum.sum()
    found.roll_off = roll_off(found.spectrum, sampling_rate)
    return found


def roll_off(spectrum: np.ndarray, sampling_rate: int) -> float:
    """The frequency in hertz below which 99.9 % of a power spectrum lies, shape (bins,) from 0 to half the sampling rate."""
    shares = np.cumsum(spectrum) / spectrum.sum()
    return float(np.searchsorted(shares, ROLL_OFF) * sampling_rate / 2 / (len(spectrum) - 1))


def source_rate(frequency: float, sampling_rate: int = 16_000) -> int:
    """The sampling rate that a recording with this roll-off was most likely made at."""
    return next((rate for rate in SOURCE_RATES if frequency <= rate / 2), sampling_rate)


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little", signed=True)


def measure_text(text: str, tokenizer: DeepSpeech2CTCTokenizer, characters: Counter) -> dict:
    """Hash and lengths of a transcript; its characters are counted in `characters`."""
    normalized = tokenizer.normalize(text)
    labels = tokenizer(text)["input_ids"]
    occurring = Counter(normalized.replace(" ", ""))
    characters.update(occurring)
    return {
        "sentence": _hash(normalized.encode()),
        "characters": occurring.total(),
        "labels": len(labels),
        # CTC needs a frame for each label, and a blank between two equal ones.
        "needed": len(labels) + sum(a == b for a, b in zip(labels, labels[1:])),
        "unknown": sum(tokenizer.unknown_characters(text).values()),
    }
