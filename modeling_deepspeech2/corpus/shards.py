"""Writes utterances as a data set that `run_ctc.py` and the Hub read: parquet shards and a card.

Rows keep the order in which they arrive, in shards of about the same size. A shard is written whole or not at all, and at
most one row group is held in memory.
"""

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from datasets import Audio, Features, Value
from filelock import FileLock, Timeout
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.sources import DataError
from ..errors import UserError


FEATURES = Features(
    {
        "id": Value("string"),
        "audio": Audio(),
        "text": Value("string"),
        "speaker_id": Value("string"),
        "source": Value("string"),
        "duration": Value("float32"),
    }
)
GROUP_ROWS = 64
CARD = "README.md"
LOCK = ".lock"
# What stands in a folder of parts: splits and recordings that are done, durations, and a data set on its way.
_PARTS = re.compile(r"data_set|old|\.lock|durations\.jsonl|[^.].*\.(json|arrow|new)")

_TEMPLATE = """---
{metadata}
---

# {name}

{description}

| split | utterances | hours | speakers | shards |
| --- | ---: | ---: | ---: | ---: |
{table}

Columns: `id`, `audio`, `text`, `speaker_id` (or null), `source` (the file it comes from), `duration` in seconds. Each
split goes from the shortest utterance to the longest.
"""


@dataclass(kw_only=True)
class ShardSettings:
    """Splits and shards of a data set.

    Args:
        validation_share, test_share: of the speech, drawn where the source has no splits of its own.
        shard_megabytes: size of a shard; training mixes as many as its memory holds.

    Raises:
        UserError: a share outside [0, 0.5), or shards of no size.
    """

    validation_share: float = 0.05
    test_share: float = 0.05
    shard_megabytes: int = 64

    def __post_init__(self):
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 0.5:
                raise UserError(f"{name} must lie in [0, 0.5), but is {getattr(self, name)}.")
        if self.shard_megabytes < 1:
            raise UserError(f"shard_megabytes must be at least 1, but is {self.shard_megabytes}.")


def parts_of(output: Path) -> Path:
    """The folder beside a data set that keeps what is done until the data set is whole.

    Raises:
        UserError: the output has no name, as the working folder "." has none.
    """
    if not output.name:
        raise UserError(f"found the output {output}, expected a folder of its own, such as my_speech.")
    if output.is_symlink() and not output.exists():
        raise UserError(f"The output {output} is a link that leads nowhere: name a folder.")
    return output.with_name(f"{output.name}.parts")


@contextlib.contextmanager
def own_parts(output: Path) -> Iterator[Path]:
    """`parts_of` a data set, made if need be, for one call at a time.

    Raises:
        DataError: another call is writing the same data set, or the folder holds something else.
    """
    work = parts_of(output)
    if work.exists() and not work.is_dir():
        raise DataError(f"{work} is a file, but unfinished parts are to be kept there: move it away.")
    work.mkdir(parents=True, exist_ok=True)
    foreign = sorted(path.name for path in work.iterdir() if not _PARTS.fullmatch(path.name))
    if foreign:
        raise DataError(f"{work}, where unfinished parts are kept, holds {foreign[0]}, which is none: move it away.")
    lock = FileLock(work / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise DataError(f"Another call is writing {output} already: wait for it to end, or name another folder.") from error
    try:
        yield work
    finally:
        lock.release()
        if work.exists() and [path.name for path in work.iterdir()] == [LOCK]:
            shutil.rmtree(work)


def place_of(output: Path) -> Path:
    """The folder that a data set takes by a renaming; that which a link leads to.

    Raises:
        DataError: a disk of its own, which cannot be renamed.
    """
    parts_of(output)  # has a name
    place = output.resolve() if output.is_symlink() else output
    if place.is_mount():
        raise DataError(f"The folder {output} is the root of a disk, which cannot be exchanged: name a folder in it.")
    return place


def is_training(split: str) -> bool:
    """Whether a split, "[configuration/]split", is for training."""
    return split.rpartition("/")[2].startswith("train")


def split_order(names: Iterable[str]) -> list[str]:
    """Splits for training first."""
    return sorted(set(names), key=lambda split: (not is_training(split), split))


def write_shards(rows: Iterable[dict], folder: Path, split: str, shard_bytes: int) -> dict:
    """Writes one split.

    Args:
        rows: with the columns of `FEATURES`.
        shard_bytes: a shard ends when it has reached so many.

    Returns:
        utterances, hours, speakers and shards of the split.
    """
    schema = FEATURES.arrow_schema
    writer, size, group = None, 0, []
    parts: list[Path] = []
    facts = {"utterances": 0, "seconds": 0.0, "speakers": set()}

    def write_group() -> None:
        if writer is not None and group:
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
            group.clear()

    try:
        for row in rows:
            if writer is None:
                parts.append(folder / f"{split}-{len(parts):05d}.part")
                writer, size = pyarrow.parquet.ParquetWriter(parts[-1], schema), 0
            group.append(row)
            size += len(row["audio"]["bytes"])
            facts["utterances"] += 1
            facts["seconds"] += row["duration"]
            facts["speakers"].add(row["speaker_id"])
            if len(group) == GROUP_ROWS or size >= shard_bytes:
                write_group()
            if size >= shard_bytes:
                writer.close()
                writer = None
        write_group()
        if writer is not None:
            writer.close()
    except BaseException:
        if writer is not None:
            with contextlib.suppress(OSError):  # where the disk is full, there is no room for the end of the file either
                writer.close()
        for part in parts:
            part.unlink(missing_ok=True)
        raise
    for number, part in enumerate(parts):
        part.rename(folder / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")
    return {
        "utterances": facts["utterances"],
        "hours": facts["seconds"] / 3600,
        "speakers": len(facts["speakers"] - {None}),
        "shards": len(parts),
    }


def write_card(
    folder: Path, splits: dict[str, dict], language: str | None, description: str, name: str | None = None
) -> None:
    """Writes README.md, which also tells `datasets` which files are the splits.

    Args:
        splits: of each split what [`write_shards`] returned.
        name: of the data set, if not the folder's.
    """
    metadata = DatasetCardData(
        language=language,
        pretty_name=name or folder.name,
        task_categories=["automatic-speech-recognition"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}-*.parquet"} for split in splits],
            }
        ],
    )
    table = [
        f"| {split} | {facts['utterances']:,} | {facts['hours']:.2f} | {facts['speakers'] or '–'} | {facts['shards']} |"
        for split, facts in splits.items()
    ]
    card = _TEMPLATE.format(
        metadata=metadata.to_yaml(), name=name or folder.name, description=description, table="\n".join(table)
    )
    DatasetCard(card, ignore_metadata_errors=True).save(folder / CARD)
