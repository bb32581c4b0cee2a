"""Any audio file -> mono waveform at the model's sampling rate.

In comes a path or the bytes of a file, read by soundfile (wav, flac, mp3, ogg and more) and, where that does not know the
format, by the ffmpeg program if there is one; out go float32 samples, all at once or, for hours of audio, in blocks. What
cannot be speech is refused with a reason.
"""

import io
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from numbers import Real

import numpy as np
from transformers.pipelines.audio_utils import ffmpeg_read
from transformers.utils import logging

from .errors import UserError


try:
    import soundfile
    import soxr
except ImportError as error:
    raise ImportError("Reading audio files needs two packages: pip install soundfile soxr") from error

logger = logging.get_logger(__name__)

LOWEST_RATE = 1_000  # hertz; what is below holds no speech, and is most likely a rate in kilohertz

# What libsndfile notes about a file that ends too early. Sizes near 2³¹ and 2³² stand in files that were written to a pipe,
# whose length was not yet known.
_DECLARED_BYTES = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
_UNKNOWN_BYTES = 0x7FFF_0000
_LARGEST_OGG_PAGE = 65_307  # bytes


class AudioError(UserError):
    """Audio that cannot be used; the message names the file and the reason."""


def read_audio(source: str | os.PathLike | bytes, sampling_rate: int, name: str | None = None) -> np.ndarray:
    """Reads a file, averages its channels and resamples it.

    Args:
        source: path of the file, or its content.
        sampling_rate: wanted samples a second, in hertz.
        name: what messages call the file; its path if not given.

    Returns:
        float32 samples, shape (samples,).

    Raises:
        AudioError: no known audio format, no samples, or samples that are not numbers.
        FileNotFoundError: there is no such file.
    """
    if name is None:
        name = "the audio bytes" if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes) and not os.path.exists(source):
        raise FileNotFoundError(f"There is no audio file {name}.")
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except soundfile.LibsndfileError as error:
        return to_mono(_read_by_ffmpeg(source, sampling_rate, name, error), sampling_rate, sampling_rate, name)
    with file:
        try:
            samples = file.read(dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{name} is damaged or cut short ({error.error_string.strip()}).") from error
        if len(samples) and _is_cut_short(file, len(samples), source):
            logger.warning(
                f"{name} is cut short: it ends before its format says, after {len(samples) / file.samplerate:.2f} s."
            )
        # Averaged here, where it is known which axis the channels are.
        return to_mono(samples.mean(1), file.samplerate, sampling_rate, name)


def read_audio_blocks(
    source: str | os.PathLike | bytes, sampling_rate: int, seconds: float, name: str | None = None
) -> Iterator[np.ndarray]:
    """`read_audio` for recordings of any length: pieces of about `seconds`, one after the other, in bounded memory.

    Raises:
        AudioError, FileNotFoundError: as `read_audio`, as soon as it is known.
    """
    if name is None:
        name = "the audio bytes" if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes) and not os.path.exists(source):
        raise FileNotFoundError(f"There is no audio file {name}.")
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except soundfile.LibsndfileError as error:
        yield from _read_blocks_by_ffmpeg(source, sampling_rate, seconds, name, error)
        return
    with file:
        resampler = None
        samples_read = samples_given = 0
        while True:
            try:
                block = file.read(max(1, round(seconds * file.samplerate)), dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(f"{name} is damaged or cut short ({error.error_string.strip()}).") from error
            samples_read += len(block)
            last = len(block) == 0
            if samples_read == 0:
                raise AudioError(f"{name} holds no samples.")
            samples = block[:, 0] if last else to_mono(block.mean(1), file.samplerate, file.samplerate, name)
            if file.samplerate != sampling_rate:
                resampler = resampler or soxr.ResampleStream(file.samplerate, sampling_rate, 1, dtype="float32")
                samples = resampler.resample_chunk(samples, last=last)
            samples_given += len(samples)
            if len(samples):
                yield samples
            if last:
                break
        if samples_given == 0:
            raise AudioError(f"{name} is shorter than one sample at {sampling_rate} hertz.")
        if _is_cut_short(file, samples_read, source):
            logger.warning(
                f"{name} is cut short: it ends before its format says, after {samples_read / file.samplerate:.2f} s."
            )


def audio_seconds(path: str | os.PathLike) -> float | None:
    """Length of a file as its header says, None where soundfile does not know the format or there is no such file."""
    try:
        header = soundfile.info(os.fspath(path))
    except soundfile.LibsndfileError:
        return None
    return header.frames / header.samplerate


def _is_cut_short(file: soundfile.SoundFile, samples_read: int, source: str | os.PathLike | bytes) -> bool:
    if samples_read < file.frames:
        return True
    if file.format == "OGG":
        return not _has_last_ogg_page(source)
    sizes = [(int(declared), int(found)) for declared, found in _DECLARED_BYTES.findall(file.extra_info)]
    return any(found < declared < _UNKNOWN_BYTES for declared, found in sizes)


def _has_last_ogg_page(source: str | os.PathLike | bytes) -> bool:
    """Whether the file's last page is whole and marked as the stream's end (RFC 3533, section 6).

    libsndfile notes the same, but misses the mark in some whole files of one page.
    """
    if isinstance(source, bytes):
        end = source[-_LARGEST_OGG_PAGE:]
    else:
        with open(source, "rb") as file:
            file.seek(max(0, os.path.getsize(source) - _LARGEST_OGG_PAGE))
            end = file.read()
    page = end[max(0, end.rfind(b"OggS")) :]
    header = 27 + page[26] if len(page) > 26 else 27
    return len(page) >= header + sum(page[27:header]) and bool(page[5] & 4)


def _need_ffmpeg(name: str, error: soundfile.LibsndfileError) -> None:
    if shutil.which("ffmpeg") is None:
        raise AudioError(
            f"{name} is damaged, or in no audio format that soundfile knows ({error.error_string.strip().rstrip('.')}); "
            "formats beyond wav, flac, mp3 and ogg need the ffmpeg program."
        ) from error


def _read_by_ffmpeg(
    source: str | os.PathLike | bytes, sampling_rate: int, name: str, error: soundfile.LibsndfileError
) -> np.ndarray:
    _need_ffmpeg(name, error)
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read()
    try:
        return ffmpeg_read(source, sampling_rate)
    except ValueError as ffmpeg_error:
        raise AudioError(f"{name} is not audio: neither soundfile nor ffmpeg can read it.") from ffmpeg_error


def _read_blocks_by_ffmpeg(
    source: str | os.PathLike | bytes, sampling_rate: int, seconds: float, name: str, error: soundfile.LibsndfileError
) -> Iterator[np.ndarray]:
    if isinstance(source, bytes):  # they are in memory anyhow
        yield to_mono(_read_by_ffmpeg(source, sampling_rate, name, error), sampling_rate, sampling_rate, name)
        return
    _need_ffmpeg(name, error)
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", os.fspath(source), "-ac", "1", "-ar", str(sampling_rate)]
    block_bytes = 4 * max(1, round(seconds * sampling_rate))
    with subprocess.Popen([*command, "-f", "f32le", "-"], stdout=subprocess.PIPE) as process:
        try:
            found = False
            while block := process.stdout.read(block_bytes):
                found = True
                yield to_mono(np.frombuffer(block[: len(block) // 4 * 4], "<f4"), sampling_rate, sampling_rate, name)
        finally:
            process.kill()  # for a reader that stops in the middle; a finished process is not hurt
    if not found:
        raise AudioError(f"{name} is not audio: neither soundfile nor ffmpeg can read it.") from error


def to_mono(samples: np.ndarray, rate: int, sampling_rate: int, name: str = "the audio array") -> np.ndarray:
    """Averages the channels of an array, resamples it, and refuses what holds no usable samples.

    Args:
        samples: shape (samples,) or (channels, samples); the shorter of two axes is taken for the channels. Floating
            point in [-1, 1], or integers of 16 or 32 bits, as they stand in wav files.
        rate, sampling_rate: samples a second before and after, in hertz.

    Raises:
        AudioError: no samples, samples that are not such numbers, or a rate that cannot be one of speech.
    """
    if not (isinstance(rate, Real) and LOWEST_RATE <= rate < math.inf):
        raise AudioError(f"The sampling rate of {name} must be at least {LOWEST_RATE} hertz, but is {rate!r}.")
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise AudioError(f"{name} must have the shape (samples,) or (channels, samples), but has {samples.shape}.")
    if samples.size == 0:
        raise AudioError(f"{name} holds no samples.")
    if samples.dtype.kind == "i" and samples.dtype.itemsize in (2, 4):
        samples = samples / -np.iinfo(samples.dtype).min
    elif samples.dtype.kind != "f":
        raise AudioError(
            f"{name} must hold floating point samples in [-1, 1] or integers of 16 or 32 bits, but holds {samples.dtype}."
        )
    samples = samples.astype(np.float32, copy=False)
    if samples.ndim == 2:
        samples = samples.mean(int(samples.shape[0] > samples.shape[1]))
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds samples that are not finite numbers (NaN or infinity).")
    if rate != sampling_rate:
        samples = soxr.resample(samples, rate, sampling_rate)
    if len(samples) == 0:
        raise AudioError(f"{name} is shorter than one sample at {sampling_rate} hertz.")
    return samples
