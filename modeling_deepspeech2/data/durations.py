"""Tables of where every utterance of a data set is stored and how long it is, made before any training.

A table takes 24 bytes per utterance. Durations come from a column of the data set if it has one, otherwise from the audio,
once: the table is kept in the cache of `datasets`.
"""

import contextlib
import logging
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..audio import AudioError, read_header


logger = logging.getLogger(__name__)

FORMAT = 3  # of the table in the cache
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
        """Hours of speech, every utterance once, whatever its weight in an epoch."""
        return float(self.seconds.sum(dtype=np.float64)) / 3600

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
            draws.append(
                zlib.crc32(str(name or audio.get("path") or f"{shard}/{number}").encode("utf-8", "surrogateescape"))
            )
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
    """Seconds, by the file's header, or by decoding where it says none; 0 where it cannot be read."""
    try:
        return read_header(audio, "").seconds or 0.0
    except (AudioError, OSError):
        return 0.0  # the collator will name it


def size_of(audio: dict) -> int:
    """Bytes that an utterance takes in memory while it waits to be decoded."""
    return OVERHEAD + len(audio.get("bytes") or b"")


def cache_file(fingerprint: str) -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "deepspeech2_durations" / f"{fingerprint}-{FORMAT}.npz"


def load_durations(file: Path) -> DurationIndex | None:
    """The table as it was saved; None where there is none, or one that is damaged, which is said."""
    if not file.exists():
        return None
    try:
        with np.load(file) as arrays:
            index = DurationIndex(**arrays)
        if len({len(getattr(index, field.name)) for field in fields(index)}) != 1:
            raise ValueError("its columns differ in length")
        return index
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning(f"The cache of durations {file} is damaged ({error}) and is made anew.")
        return None


def save_durations(index: DurationIndex, file: Path) -> None:
    """Writes the table whole or not at all; without it the durations are measured again the next time."""
    new = file.with_name(f"{file.stem}-{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(new, "wb") as opened:
            np.savez(opened, **{field.name: getattr(index, field.name) for field in fields(index)})
        new.replace(file)
    except OSError as error:
        logger.warning(f"The cache of durations {file} cannot be written ({error}).")
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
