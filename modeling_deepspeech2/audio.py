"""Any audio file -> mono waveform at the model's sampling rate.

In comes a path or the bytes of a file, read by soundfile (wav, flac, mp3, ogg and more) and, where that does not know the
format, by the ffmpeg program if there is one; out go float32 samples. What cannot be speech is refused with a reason.
"""

import io
import os
import shutil

import numpy as np
from transformers.pipelines.audio_utils import ffmpeg_read
from transformers.utils import logging


try:
    import soundfile
    import soxr
except ImportError as error:
    raise ImportError("Reading audio files needs two packages: pip install soundfile soxr") from error

logger = logging.get_logger(__name__)


class AudioError(ValueError):
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
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
            if len(samples) < file.frames:
                logger.warning(
                    f"{name} is cut short: it declares {file.frames / rate:.2f} s, but holds {len(samples) / rate:.2f} s."
                )
    except soundfile.LibsndfileError as error:
        samples, rate = _read_by_ffmpeg(source, sampling_rate, name, error), sampling_rate
    return to_mono(samples.T, rate, sampling_rate, name)


def _read_by_ffmpeg(
    source: str | os.PathLike | bytes, sampling_rate: int, name: str, error: soundfile.LibsndfileError
) -> np.ndarray:
    if shutil.which("ffmpeg") is None:
        raise AudioError(
            f"{name} is not in an audio format that soundfile knows ({error.error_string}); formats beyond wav, flac, mp3 "
            "and ogg need the ffmpeg program."
        ) from error
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read()
    try:
        return ffmpeg_read(source, sampling_rate)[:, None]
    except ValueError as ffmpeg_error:
        raise AudioError(f"{name} is not audio: neither soundfile nor ffmpeg can read it.") from ffmpeg_error


def to_mono(samples: np.ndarray, rate: int, sampling_rate: int, name: str = "the audio array") -> np.ndarray:
    """Averages the channels of an array, resamples it, and refuses what holds no usable samples.

    Args:
        samples: shape (samples,) or (channels, samples); the shorter of two axes is taken for the channels.
        rate, sampling_rate: samples a second before and after, in hertz.
    """
    if not rate > 0:
        raise AudioError(f"The sampling rate of {name} must be positive, but is {rate}.")
    samples = np.asarray(samples)
    if samples.ndim == 2:
        samples = samples.mean(int(samples.shape[0] > samples.shape[1]))
    if samples.ndim != 1:
        raise AudioError(f"{name} must have the shape (samples,) or (channels, samples), but has {samples.shape}.")
    if len(samples) == 0:
        raise AudioError(f"{name} holds no samples.")
    samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds samples that are not finite numbers (NaN or infinity).")
    return samples if rate == sampling_rate else soxr.resample(samples, rate, sampling_rate)
