"""What is known of every utterance of a data set before any of its audio is decoded: where it stands, and how long it is.

In comes a stream of rows for each shard, out goes a table of 24 bytes an utterance. Durations come from a column where the
data set has one, else from the audio, once: the table is kept in the cache of `datasets`.
"""

import io
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import datasets
import fsspec
import numpy as np
import soundfile
from tqdm.auto import tqdm

from ..audio import AudioError, read_audio


FORMAT = 2  # of the table in the cache
DECODED_RATE = 16_000  # hertz, where a length can only be told by decoding
OVERHEAD = 1_000  # bytes of an utterance beside its audio: name, transcript, objects


@dataclass
class DurationIndex:
    """One entry for each utterance.

    Args:
        shards, rows: the shard that holds it, and its place there.
        seconds: its duration; 0 where it cannot be read.
        sizes: bytes that it takes while it waits to be decoded.
        draws: a number drawn by its name, the same in every run.
        weights: how often an epoch reads it.
    """

    shards: np.ndarray
    rows: np.ndarray
    seconds: np.ndarray
    sizes: np.ndarray
    draws: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hours(self) -> float:
        """Hours of speech that an epoch reads."""
        return float((self.seconds * self.weights).sum(dtype=np.float64)) / 3600

    def select(self, mask: np.ndarray) -> "DurationIndex":
        return DurationIndex(*(getattr(self, field.name)[mask] for field in fields(self)))

    @classmethod
    def join(cls, parts: list["DurationIndex"], num_shards: list[int]) -> "DurationIndex":
        """One table of several, whose shards are counted on."""
        first = np.cumsum([0, *num_shards[:-1]])
        shards = np.concatenate([part.shards + start for part, start in zip(parts, first)])
        return cls(shards, *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)[1:]))


def measure_durations(rows_of_shards: Iterable[Iterable[tuple]], bar: tqdm) -> DurationIndex:
    """Reads every row once.

    Args:
        rows_of_shards: for each shard its rows: the audio, with bytes or a path, its seconds or None, its name or None.
    """
    shards, numbers, seconds, sizes, draws = [], [], [], [], []
    for shard, rows in enumerate(rows_of_shards):
        for number, (audio, duration, name) in enumerate(rows):
            shards.append(shard)
            numbers.append(number)
            seconds.append(duration_of(audio) if duration is None else duration)
            sizes.append(size_of(audio))
            draws.append(zlib.crc32(str(name or audio.get("path") or f"{shard}/{number}").encode()))
            bar.update()
    return DurationIndex(
        np.array(shards, dtype=np.int32),
        np.array(numbers, dtype=np.int32),
        np.array(seconds, dtype=np.float32),
        np.array(sizes, dtype=np.int32),
        np.array(draws, dtype=np.uint32),
        np.ones(len(shards), dtype=np.float32),
    )


def duration_of(audio: dict) -> float:
    """Seconds, by the file's header, or by decoding a kind that soundfile does not know; 0 where it cannot be read."""
    try:
        if audio.get("bytes") is not None:
            return soundfile.info(io.BytesIO(audio["bytes"])).duration
        with fsspec.open(audio["path"]) as file:  # on this machine or on the Hub
            return soundfile.info(file).duration
    except (soundfile.LibsndfileError, OSError, TypeError, KeyError):
        pass
    try:
        return len(read_waveform(audio, DECODED_RATE, "")) / DECODED_RATE
    except (AudioError, OSError):
        return 0.0  # the collator will name it


def size_of(audio: dict) -> int:
    """Bytes that an utterance takes in memory while it waits to be decoded."""
    return OVERHEAD + len(audio.get("bytes") or b"")


def read_waveform(audio: dict, sampling_rate: int, name: str) -> np.ndarray:
    """The samples, shape (samples,), of {"bytes": …, "path": …}, the path on this machine or on the Hub.

    Raises:
        AudioError: they cannot be read, or there is nothing to read.
        OSError: there is no such file, or no connection.
    """
    source = audio["bytes"] if audio.get("bytes") is not None else audio.get("path")
    if source is None:
        raise AudioError(f"{name} has neither bytes nor a path.")
    if isinstance(source, str) and "://" in source:
        with fsspec.open(source) as file:
            source = file.read()
    return read_audio(source, sampling_rate, name=name)


def cache_file(fingerprint: str) -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "deepspeech2_durations" / f"{fingerprint}-{FORMAT}.npz"


def load_durations(file: Path) -> DurationIndex | None:
    if not file.exists():
        return None
    with np.load(file) as arrays:
        return DurationIndex(**arrays)


def save_durations(index: DurationIndex, file: Path) -> None:
    """Writes the table whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npz", delete=False) as new:
        np.savez(new, **{field.name: getattr(index, field.name) for field in fields(index)})
    Path(new.name).replace(file)
