"""Reads audio of any kind as a mono waveform at the model's sampling rate, at once or in blocks.

`audio_files` opens the source; audio that cannot be speech is refused with a reason.
"""

import math
import os
from collections.abc import Iterator
from numbers import Real

import numpy as np

from .audio_files import HIGHEST_RATE, LOWEST_RATE, AudioHeader, AudioSource, name_of, open_audio
from .waveform import AudioError, ChannelMixer, check_samples, mono


try:
    import soxr
except ImportError as error:
    raise ImportError("Reading audio files needs two packages: pip install soundfile soxr") from error

BLOCK_SECONDS = 20.0  # that are decoded at a time, so that a small file that holds hours is noticed early


def read_audio(
    source: AudioSource,
    sampling_rate: int,
    name: str | None = None,
    channel: int | None = None,
    max_seconds: float = math.inf,
) -> np.ndarray:
    """Reads a file, averages its channels and resamples it.

    Args:
        source: path, URL, `-` for the standard input, bytes of a file, or an open binary file.
        sampling_rate: wanted samples a second, in hertz.
        name: what messages call the file; its path if not given.
        channel: read this channel alone, counted from 0.
        max_seconds: refuse what is longer, before it is decoded where the file says its length.

    Returns:
        float32 samples, shape (samples,).

    Raises:
        AudioError: no known audio format, no samples, samples that no recording holds, or more than `max_seconds`.
        FileNotFoundError: there is no such file.
    """
    name = name or name_of(source)
    with open_audio(source, name) as file:
        return _whole(file, sampling_rate, name, channel, max_seconds)


def _whole(file, sampling_rate: int, name: str, channel: int | None = None, max_seconds: float = math.inf) -> np.ndarray:
    samples = list(_mixed(file, BLOCK_SECONDS, name, channel, max_seconds))
    return to_mono(np.concatenate(samples) if samples else np.zeros(0), file.header.rate, sampling_rate, name)


def _mixed(
    file, seconds: float, name: str, channel: int | None = None, max_seconds: float = math.inf, start: float = 0.0
) -> Iterator[np.ndarray]:
    """Blocks of a file, one channel of each, checked."""
    header = file.header
    if channel is not None and not 0 <= channel < header.channels:
        raise AudioError(f"{name} has {header.channels} channels, of which {channel + 1} is none.")
    too_long = AudioError(f"{name} lasts longer than {max_seconds:g} s, which is all that is taken here.")
    if (header.seconds or 0.0) > max_seconds:
        raise too_long
    mixer = ChannelMixer(name, channel)
    found = 0
    for block in file.blocks(seconds, start):
        found += len(block)
        if found > max_seconds * header.rate:
            raise too_long
        check_samples(block, name)
        yield mixer(block)


def read_audio_blocks(
    source: AudioSource, sampling_rate: int, seconds: float, name: str | None = None, channel: int | None = None
) -> Iterator[np.ndarray]:
    """`read_audio` for recordings of any length: pieces of about `seconds`, one after the other, in bounded memory.

    Raises:
        AudioError, FileNotFoundError: as `read_audio`, when the file is opened or read.
    """
    name = name or name_of(source)
    with open_audio(source, name) as file:
        rate = file.header.rate
        resampler = None if rate == sampling_rate else soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32")
        has_samples = has_given = False
        for samples in _mixed(file, seconds, name, channel):
            has_samples = True
            samples = resampler.resample_chunk(samples) if resampler else samples
            if len(samples):
                has_given = True
                yield samples
        if not has_samples:
            raise AudioError(f"{name} holds no samples.")
        if resampler and len(rest := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
            has_given = True
            yield rest
        if not has_given:
            raise AudioError(f"{name} is shorter than one sample at {sampling_rate} hertz.")


def read_waveform(audio: dict, sampling_rate: int, name: str) -> np.ndarray:
    """The samples of an utterance of a data set, shape (samples,).

    Args:
        audio: {"bytes": …, "path": …}, one of them None; the path of a file on this machine, or a URL.

    Raises:
        AudioError: the samples cannot be read, or there are none.
        OSError: there is no such file, or it may not be read.
    """
    with open_audio(_source(audio, name), name, streams=False) as file:
        return _whole(file, sampling_rate, name_of(name))


def read_header(audio: dict, name: str) -> AudioHeader:
    """Rate, channels and seconds of an utterance of a data set, decoded where its header does not say how long it is.

    Raises:
        AudioError, OSError: as [`read_waveform`].
    """
    with open_audio(_source(audio, name), name, streams=False) as file:
        header = file.header
        if header.seconds is None:
            header.seconds = sum(map(len, file.blocks(BLOCK_SECONDS))) / header.rate
        return header


def read_part(audio: dict, start: float, seconds: float, name: str) -> tuple[np.ndarray, int]:
    """Samples of a part of a recording, at the file's own rate, and that rate in hertz.

    Raises:
        AudioError, OSError: as [`read_waveform`].
    """
    with open_audio(_source(audio, name), name, streams=False) as file:
        rate = file.header.rate
        wanted, pieces = round(seconds * rate), []
        for block in _mixed(file, min(seconds, BLOCK_SECONDS), name_of(name), start=start):
            pieces.append(block[: wanted - sum(map(len, pieces))])
            if sum(map(len, pieces)) >= wanted:
                break
        return to_mono(np.concatenate(pieces) if pieces else np.zeros(0), rate, rate, name_of(name)), rate


def _source(audio: dict, name: str) -> AudioSource:
    source = audio.get("bytes") if audio.get("bytes") is not None else audio.get("path")
    if source is None:
        raise AudioError(f"{name} has neither bytes nor a path.")
    return source


def audio_header(source: str | os.PathLike) -> AudioHeader | None:
    """The header of a file; None if it cannot be read twice or cannot be decoded."""
    try:
        with open_audio(source, name_of(source), streams=False) as file:
            return file.header
    except (AudioError, OSError):
        return None


def audio_seconds(path: str | os.PathLike) -> float | None:
    """Length of a file by its header; None if the header has none, or if there is no such file."""
    header = audio_header(path)
    return header and header.seconds


def to_mono(samples: np.ndarray, rate: float, sampling_rate: int, name: str = "the audio array") -> np.ndarray:
    """Averages the channels of an array, resamples it, and refuses what holds no usable samples.

    Args:
        samples: as of [`mono`].
        rate, sampling_rate: samples a second before and after, in hertz.

    Raises:
        AudioError: no samples, samples that no recording holds, or a rate that cannot be one of speech.
    """
    if not (isinstance(rate, Real) and LOWEST_RATE <= rate < math.inf):
        raise AudioError(f"The sampling rate of {name} must be at least {LOWEST_RATE} hertz, but is {rate!r}.")
    if rate > HIGHEST_RATE:
        raise AudioError(f"The sampling rate of {name} must be at most {HIGHEST_RATE} hertz, but is {rate!r}.")
    samples = mono(samples, name)
    if len(samples) == 0:
        raise AudioError(f"{name} holds no samples.")
    if rate != sampling_rate:
        samples = soxr.resample(samples, rate, sampling_rate)
    if len(samples) == 0:
        raise AudioError(f"{name} is shorter than one sample at {sampling_rate} hertz.")
    return samples
