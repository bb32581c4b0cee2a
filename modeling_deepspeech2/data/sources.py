"""Streams the utterances of speech data sets: from the Hub, parquet shards, audio folders and manifests.

A source first gives a table of durations, and later the utterances that are asked for, still encoded. Nothing else is held
in memory.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow
from datasets import IterableDataset, get_dataset_config_names, get_dataset_split_names, load_dataset_builder
from datasets.fingerprint import Hasher
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from datasets.packaged_modules.parquet.parquet import Parquet
from tqdm.auto import tqdm

from ..audio import AudioError, name_of, read_waveform
from .columns import check_audio, check_text
from .durations import (
    DurationIndex,
    cache_file,
    duration_of,
    load_durations,
    measure_durations,
    save_durations,
    size_of,
)
from .errors import DataError
from .parquet_tables import ParquetTables
from .text_tables import PROBLEM, TextTables


logger = logging.getLogger(__name__)

TABLE_ROWS = 256  # rows that are read at a time
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
LONGEST_UTTERANCE = 86_400.0  # seconds that a column of durations can mean


@dataclass
class Utterance:
    """One row of a data set, its audio still undecoded."""

    name: str
    audio: dict  # {"bytes": …, "path": …}
    text: str | None
    seconds: float | None = None  # as its data set says, where it does
    problem: str = ""  # why it cannot be used, if so


def as_text(value: object) -> str:
    """A field of a table, which may be a number or missing, as text."""
    return "" if value is None else str(value)


@dataclass
class Source:
    """One split as a stream of tables; its audio stays undecoded, as bytes or as paths from `folder` on.

    Raises:
        DataError: on reading, where datasets lacks what it needs for files of this kind.
    """

    rows: IterableDataset | ParquetTables | TextTables
    columns: list[str]
    audio_column: str
    text_column: str | None
    folder: Path
    fingerprint: str  # of its files, so that what was measured once can be found again

    @property
    def num_shards(self) -> int:
        return self.rows.num_shards

    def tables_from(self, shard: int, row: int, columns: list[str]) -> Iterator[tuple[int, pyarrow.Table]]:
        """The rows of a shard, some at a time, with the number of the first of them; those before `row` may be left out."""
        if isinstance(self.rows, ParquetTables):
            yield from self.rows.tables(shard, [name for name in columns if name in self.columns], row)
            return
        start = 0
        for table in self.tables(shard, columns):
            yield start, table
            start += table.num_rows

    def tables(self, shard: int, columns: list[str]) -> Iterator[pyarrow.Table]:
        """The rows of a shard, some at a time; columns that it lacks are left out."""
        kept = [name for name in [*columns, PROBLEM] if name in self.columns]
        if isinstance(self.rows, ParquetTables):
            yield from (table for _, table in self.rows.tables(shard, kept))
            return
        if isinstance(self.rows, TextTables):
            yield from self.rows.tables(shard, kept)
            return
        rows = self.rows.shard(self.num_shards, shard).select_columns(kept)
        try:
            yield from rows.with_format("arrow").iter(batch_size=TABLE_ROWS)
        except ImportError as error:
            raise DataError(
                f"This data set is a folder or an archive of audio files, and datasets cannot read it: {error} Or make it "
                f"parquet."
            ) from error

    def audio(self, row: dict) -> dict:
        """{"bytes": …, "path": …}, one of them None"""
        audio = row[self.audio_column] or {}
        if isinstance(audio, bytes):
            return {"bytes": audio, "path": None}
        if not isinstance(audio, str):
            return audio
        return {"bytes": None, "path": audio if "://" in audio else str(self.folder / audio)}


def open_source(path: str, split: str, audio_column: str = "audio", text_column: str | None = "text") -> Source:
    """Opens one split of a data set.

    Args:
        path: a name on the Hub, or a folder: parquet shards, an audio folder with a metadata.csv or metadata.jsonl whose
            column `file_name` names the files, or manifests (JSON lines or CSV) whose column `audio_column` does.
        split: "split", or "configuration/split" where the data set has several configurations.
        audio_column, text_column: what the data set calls them; no text_column where only the audio is wanted.

    Raises:
        DataError: no such data set, configuration, split or column.
    """
    configuration, _, split_name = split.rpartition("/")
    folder = Path(path)
    for base in (folder / split_name, folder):
        for name in METADATA_FILES:
            if (base / name).exists():
                if base == folder and split_name != "train":
                    raise DataError(
                        f"{base / name} beside the audio is one split, 'train'; for {split!r} there must be a folder "
                        f"{folder / split_name} with a {name} of its own."
                    )
                kind = {".csv": "csv", ".jsonl": "json"}[Path(name).suffix]
                files = {"data_files": {split_name: str(base / name)}}
                return _open(kind, None, split_name, "file_name", text_column, base, path, **files)
    if path.startswith((".", "/", "~")) and not folder.exists():
        raise DataError(f"There is no data set folder {path}.")
    return _open(path, configuration or None, split_name, audio_column, text_column, folder, path)


def _open(
    path: str,
    configuration: str | None,
    split: str,
    audio_column: str,
    text_column: str | None,
    folder: Path,
    called: str,
    **files,
) -> Source:
    asked = f"{configuration}/{split}" if configuration else split
    try:
        builder = load_dataset_builder(path, configuration, **files)
        data_files = (builder.config.data_files or {}).get(split)
        if data_files and type(builder).__name__ in ("Csv", "Json"):  # which would make numbers of digits
            rows = TextTables(list(data_files), audio_column, text_column)
            columns = rows.columns
        else:
            rows = builder.as_streaming_dataset(split=split)
            first = None if rows.features else next(iter(rows.with_format("arrow").iter(batch_size=1)), None)
            schema = rows.features.arrow_schema if rows.features else first.schema if first else pyarrow.schema([])
            columns = schema.names
            check_text(schema, text_column, called, is_guessed=isinstance(builder, FolderBasedBuilder))
            check_audio(schema, audio_column, called)
            if data_files and isinstance(builder, Parquet):
                rows = ParquetTables(list(data_files))
    except DataError:
        raise
    except (ValueError, FileNotFoundError, ConnectionError, RuntimeError) as error:  # RuntimeError: a loading script
        known = _configurations(path)
        hint = f" Its configurations are {', '.join(known)}." if len(known) > 1 else ""
        raise DataError(f"Cannot open split {asked!r} of the data set {called}: {error}.{hint}") from error
    for column in (audio_column, text_column):
        if column is not None and column not in columns:
            raise DataError(f"The data set {called} has no column {column!r}; its columns are {', '.join(columns)}.")
    versions = getattr(data_files, "origin_metadata", None)
    fingerprint = Hasher.hash([path, configuration, split, builder.hash, list(data_files or []), versions, audio_column])
    return Source(rows, columns, audio_column, text_column, folder, fingerprint)


def _configurations(path: str) -> list[str]:
    try:
        return get_dataset_config_names(path)
    except Exception:  # only a hint for an error message that is on its way already
        return []


def declared_seconds(value: object) -> float | None:
    """A field of durations as a number; None where it cannot be the length of an utterance."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return seconds if 0 < seconds < LONGEST_UTTERANCE else None


def lasts_otherwise(said: float, measured: float) -> bool:
    """Whether a declared length is another one, and no rounding."""
    return not 0.5 * measured - 0.1 <= said <= 2 * measured + 0.1


def _sample(rows: int) -> list[int]:
    return sorted({*range(min(rows, 8)), *range(0, rows, 32), rows - 1} - {-1})


_ENTRY = re.compile(
    r"(?:(?P<path>.+?)::)?(?P<split>[^*\[]+)"
    r"(?:\[(?P<start>\d+%)?:(?P<stop>\d+%)?\])?"
    r"(?:\*(?P<weight>\d+(?:\.\d+)?))?"
)


@dataclass
class SpeechData:
    """Splits of one or several data sets, and what is known of their utterances.

    Args:
        path: the data set, see [`open_source`].
        splits: what to read, each "[DATA SET::][CONFIGURATION/]SPLIT", after it perhaps a part such as "[:80%]" or "[80%:]",
            drawn by a hash, so that the two share nothing, and "*WEIGHT", how often an epoch reads it.
        duration_column: seconds of each utterance, where there is such a column; else they are measured, once.
        held_out: share of the utterances, drawn by a hash of their names, that `part` tells apart.
        part: "all" utterances, those "kept" for training, or those "held_out".
        show_progress: whether to draw a bar while durations are measured.
    """

    path: str
    splits: list[str]
    audio_column: str = "audio"
    text_column: str = "text"
    duration_column: str = "duration"
    held_out: float = 0.0
    part: str = "all"
    show_progress: bool = True

    def __post_init__(self):
        self.sources, self.weights, self.shares = [], [], []
        for entry in self.splits:
            match = _ENTRY.fullmatch(entry)
            if match is None:
                raise DataError(
                    f"Expected DATA SET::CONFIGURATION/SPLIT[80%:]*WEIGHT, of which only SPLIT must be there; "
                    f"found {entry!r}."
                )
            path = match["path"] or self.path
            self.sources.append(open_source(path, match["split"], self.audio_column, self.text_column))
            self.weights.append(float(match["weight"] or 1))
            start, stop = (int((match[name] or default).rstrip("%")) for name, default in (("start", "0"), ("stop", "100")))
            if not 0 <= start < stop <= 100:
                raise DataError(f"The part of {entry!r} must begin before it ends, and lie within 0% and 100%.")
            self.shares.append((start, stop))

    @cached_property
    def index(self) -> DurationIndex:
        """Every utterance of the part asked for; from the cache, the duration column, or a pass over all headers."""
        parts = []
        for source, weight, (start, stop) in zip(self.sources, self.weights, self.shares):
            file = cache_file(Hasher.hash([source.fingerprint, self.duration_column]))
            part = load_durations(file)
            if part is None:
                part = self._measure(source)
                save_durations(part, file)
            percentile = part.draws // 10_000 % 100  # other digits than those that choose what is held out
            part = part.select((percentile >= start) & (percentile < stop))
            part.weights[:] = weight if self.part != "held_out" else 1  # everything held out is measured, once
            parts.append(part)
        index = DurationIndex.join(parts, [source.num_shards for source in self.sources])
        if self.part != "all":
            is_held_out = index.draws % 10_000 < self.held_out * 10_000
            index = index.select(is_held_out == (self.part == "held_out"))
        return index

    def _measure(self, source: Source) -> DurationIndex:
        declares = self.duration_column in source.columns and self._is_believable(source)
        columns = ["id", self.duration_column] if declares else ["id"]
        if not declares or "id" not in source.columns:
            return self._read_rows(source, [*columns, source.audio_column])
        index = self._read_rows(source, columns)
        if np.isnan(index.seconds).any():  # some rows have none that can be one
            return self._read_rows(source, [*columns, source.audio_column])
        # The audio itself was not read; its size is estimated from the first rows of each shard.
        for shard in np.unique(index.shards).tolist():
            audios = [source.audio(row) for row in next(source.tables(shard, [source.audio_column])).to_pylist()]
            seconds = index.seconds[index.shards == shard]
            first = max(float(seconds[: len(audios)].sum()), 0.01)
            index.sizes[index.shards == shard] = seconds / first * sum(map(size_of, audios)) + 1
        return index

    def _read_rows(self, source: Source, columns: list[str]) -> DurationIndex:
        reads_audio = source.audio_column in columns

        def rows(shard: int) -> Iterator[tuple[dict, float | None, str | None]]:
            for table in source.tables(shard, columns):
                for row in table.to_pylist():
                    seconds = declared_seconds(row.get(self.duration_column))
                    audio = source.audio(row) if reads_audio else {}
                    yield audio, np.nan if seconds is None and not reads_audio else seconds, row.get("id")

        with tqdm(desc="durations", unit=" utterances", leave=False, disable=not self.show_progress) as bar:
            return measure_durations(map(rows, range(source.num_shards)), bar)

    def _is_believable(self, source: Source) -> bool:
        """Compares the column of durations with a sample of the audio; what lies beyond the sample is named when it is read.

        Raises:
            DataError: most of the sample differs: milliseconds or samples would spoil batches and order in silence.
        """
        sampled, lies = 0, []
        for shard in range(source.num_shards):
            table = next(iter(source.tables(shard, ["id", self.duration_column, source.audio_column])), None)
            for row in [] if table is None else table.take(_sample(table.num_rows)).to_pylist():
                said, measured = declared_seconds(row.get(self.duration_column)), duration_of(source.audio(row))
                sampled += bool(said and measured)
                if said and measured and lasts_otherwise(said, measured):
                    lies.append((said, measured))
        if not lies:
            return True
        found = f"says {lies[0][0]:g} of a recording of {lies[0][1]:.2f} s"
        if len(lies) > sampled / 2:
            raise DataError(
                f"The column {self.duration_column!r} of {self.path} must hold seconds, but {found}; name another with "
                f"duration_column, or none to have them measured."
            )
        logger.warning(
            f"The column {self.duration_column!r} of {self.path} is wrong in {len(lies)} of {sampled} rows that were looked "
            f"at (it {found}): the durations are measured instead."
        )
        return False

    @cached_property
    def _is_repeated(self) -> np.ndarray:
        """Whether another utterance has the same name, so that each gets its place as well, and none counts for two."""
        _, place, counts = np.unique(self.index.draws, return_inverse=True, return_counts=True)
        return counts[place] > 1

    def read(self, numbers: np.ndarray) -> dict[int, Utterance]:
        """The utterances of these numbers; each shard that holds some is read once.

        Raises:
            DataError: a shard holds fewer rows than when its durations were measured.
        """
        numbers = numbers[np.lexsort((self.index.rows[numbers], self.index.shards[numbers]))]
        return dict(zip(numbers.tolist(), self.stream(numbers)))

    def stream(self, numbers: np.ndarray) -> Iterator[Utterance]:
        """The utterances of these numbers, in this order; those of one shard that follow each other are read in one pass.

        Raises:
            DataError: a shard holds fewer rows than when its durations were measured.
        """
        shards, rows = self.index.shards[numbers], self.index.rows[numbers]
        passes = np.flatnonzero((np.diff(shards) != 0) | (np.diff(rows) < 0)) + 1
        for some in np.split(numbers, passes) if len(numbers) else []:
            yield from self._pass_over(some)

    def _pass_over(self, numbers: np.ndarray) -> Iterator[Utterance]:
        """The utterances of these numbers, which are of one shard, from its first row to its last."""
        first = np.cumsum([0, *(source.num_shards for source in self.sources)])
        shard, wanted = int(self.index.shards[numbers[0]]), self.index.rows[numbers]
        place = int(np.searchsorted(first, shard, side="right")) - 1
        source, shard, end = self.sources[place], shard - int(first[place]), 0
        columns = ["id", source.audio_column, source.text_column]
        for start, table in source.tables_from(shard, int(wanted[0]), columns):
            end = start + table.num_rows
            here = (wanted >= start) & (wanted < end)
            for number, row in zip(numbers[here].tolist(), table.take(wanted[here] - start).to_pylist()):
                yield self._utterance(number, row, source, self.splits[place])
            if end > wanted[-1]:
                return
        raise DataError(
            f"Shard {shard} of {self.splits[place]} ends before row {wanted[-1]}: it has changed since its durations were "
            f"measured."
        )

    def _utterance(self, number: int, row: dict, source: Source, split: str) -> Utterance:
        audio, text = source.audio(row), row[source.text_column]
        name = row.get("id") or (audio.get("path") and name_of(audio["path"]))
        at = f"{split}, row {self.index.rows[number]}"
        name = at if name is None else f"{name} ({at})" if self._is_repeated[number] else str(name)
        seconds = float(self.index.seconds[number])
        return Utterance(name, audio, text if text is None else str(text), seconds, row.get(PROBLEM) or "")

    def waveforms(self, sampling_rate: int, limit: int, seed: int = 0) -> Iterator[np.ndarray]:
        """Up to `limit` waveforms drawn at random, for the statistics of the features; unreadable ones are passed over.

        Raises:
            DataError: not one of them can be read.
        """
        is_found, problem = False, ""
        numbers = np.random.default_rng(seed).permutation(len(self.index))[:limit]
        for some in np.array_split(np.sort(numbers), max(1, -(-len(numbers) // 500))):
            for utterance in self.read(some).values():
                try:
                    yield read_waveform(utterance.audio, sampling_rate, utterance.name)
                    is_found = True
                except (AudioError, OSError) as error:
                    problem = problem or utterance.problem or str(error)
        if problem and not is_found:
            raise DataError(f"No utterance of {', '.join(self.splits)} in {self.path} can be read; one says: {problem}")


def all_splits(path: str) -> list[str]:
    """Every split of a data set, as "configuration/split" where it has several configurations.

    Raises:
        DataError: there is no such data set, or it has no split.
    """
    folder = Path(path)
    if folder.is_dir():
        if any((folder / name).exists() for name in METADATA_FILES):
            return ["train"]
        found = sorted({file.parent.name for name in METADATA_FILES for file in folder.glob(f"*/{name}")})
        if found:
            return found
    try:
        configurations = get_dataset_config_names(path)
        several = len(configurations) > 1
        return [
            f"{configuration}/{split}" if several else split
            for configuration in configurations
            for split in get_dataset_split_names(path, configuration)
        ]
    except (ValueError, OSError, ConnectionError) as error:
        raise DataError(f"Cannot find the splits of the data set {path}: {error}") from error
