"""Keeps the utterances of an epoch in one file, from which each can be read alone.

A data set can only be read in stretches: a row group of a parquet file is compressed as a whole. To go through it from the
shortest utterance to the longest, every reader would read all of it again and again.
"""

import contextlib
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow
from tqdm.auto import tqdm

from .batching import EpochPlan
from .durations import DurationIndex
from .sources import SpeechData, Utterance


# Each utterance is a record batch of its own. What is no audio is JSON, for the name of a file need not be UTF-8.
SCHEMA = pyarrow.schema([("fields", pyarrow.string()), ("audio", pyarrow.binary())])
A_DAY = 86_400.0  # seconds


class UtteranceFile:
    """Utterances of a data set, by their numbers there. The file may be deleted as soon as it is open.

    Args:
        index: of the data set.
        file: as [`write_utterances`] has written it.
    """

    def __init__(self, index: DurationIndex, file: Path):
        self.index = index
        self.reader = pyarrow.ipc.open_file(pyarrow.OSFile(str(file)))

    def stream(self, numbers: np.ndarray) -> Iterator[Utterance]:
        """The utterances of these numbers, in this order; nothing else is read."""
        for number in numbers.tolist():
            (row,) = self.reader.get_batch(number).to_pylist()
            fields = json.loads(row["fields"])
            fields["audio"]["bytes"] = row["audio"]
            yield Utterance(**fields)


def is_worth_a_copy(plan: EpochPlan, readers: int) -> bool:
    """Whether the readers together would read the data more than twice, which is what a copy costs."""
    return len(plan.window_ends) * readers > 2


def folder_of_copies() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "deepspeech2_sorted"


def write_utterances(data: SpeechData, file: Path) -> None:
    """Reads the data once, and writes it whole or not at all.

    Raises:
        OSError: it cannot be written, or would take more than half of the free space.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(file.parent)
    needed, free = int(data.index.sizes.sum(dtype=np.int64)), shutil.disk_usage(file.parent).free
    if needed > free / 2:
        raise OSError(f"{needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free")
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as new:
        path = Path(new.name)
    utterances, is_silent = data.stream(np.arange(len(data.index))), not data.show_progress
    try:
        with pyarrow.ipc.new_file(str(path), SCHEMA) as writer:
            for utterance in tqdm(utterances, "copying", len(data.index), False, unit=" utterances", disable=is_silent):
                fields = dataclasses.asdict(utterance)
                row = {"audio": fields["audio"].pop("bytes", None), "fields": json.dumps(fields)}
                writer.write_batch(pyarrow.RecordBatch.from_pylist([row], SCHEMA))
        path.replace(file)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Deletes unfinished copies of killed processes; a finished one is deleted as soon as all readers have opened it."""
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > A_DAY:
                file.unlink()
