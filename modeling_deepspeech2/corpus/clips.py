"""Recordings as people keep them -> a table of clips with transcripts, still undecoded.

In comes a folder or a manifest, out goes one row for each clip: where its audio stands, and what is said. Read are folders
of audio with a metadata.csv or metadata.jsonl, manifests (JSON, JSON lines, CSV, TSV), and folders as Kaldi has them.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..data.sources import METADATA_FILES, DataError, as_text


# What the columns of manifests are called in the field.
AUDIO_COLUMNS = ("file_name", "audio", "audio_filepath", "path", "audio_path", "wav")
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
NAME_COLUMNS = ("id", "utterance_id", "name")
MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")
_LONGEST_FIELD = 1 << 24  # characters
_SPLIT = re.compile(r"\w+(\.\w+)*")  # what `datasets` takes for the name of a split


class Clip(NamedTuple):
    """An utterance, or a stretch of a longer recording."""

    name: str
    path: str
    text: str
    speaker: str | None
    split: str | None  # where the source says so
    start: float | None = None  # seconds; None for a whole file
    end: float | None = None


def read_clips(source: Path, audio_root: Path | None = None) -> Iterator[Clip]:
    """Every clip that a folder or manifest names.

    Args:
        audio_root: the folder that paths start from, where it is not the manifest's own.

    Raises:
        DataError: no such source, none of a known kind, a line that cannot be read, or a bad name of a split.
    """
    for clip in _read_source(source, audio_root):
        if clip.split is not None and not _SPLIT.fullmatch(clip.split):
            raise DataError(
                f"{source}: expected a split's name of letters, digits and underscores, but found {clip.split!r}: rename it."
            )
        yield clip


def _read_source(source: Path, audio_root: Path | None) -> Iterator[Clip]:
    if source.is_file():
        if source.suffix not in MANIFESTS:
            raise DataError(f"A manifest is a file {', '.join(MANIFESTS)}, but {source} is none.")
        yield from _read_manifest(source, audio_root, None)
        return
    if not source.is_dir():
        raise DataError(f"There is no folder or manifest {source}.")
    if any(source.rglob("*.parquet")):
        raise DataError(f"{source} holds parquet shards already, which are read as they are.")
    for find, read in ((_kaldi_folders, _read_kaldi), (_metadata_files, _read_manifest), (_manifests, _read_manifest)):
        found = find(source)
        if found:
            for place, split in found:
                yield from read(place, audio_root, split)
            return
    raise DataError(
        f"{source} holds none of metadata.csv, metadata.jsonl (in it or in a folder for each split), manifests "
        f"({', '.join('*' + kind for kind in MANIFESTS)}), or wav.scp with text as Kaldi has them."
    )


def _kaldi_folders(source: Path) -> list[tuple[Path, str | None]]:
    if (source / "wav.scp").exists():
        return [(source, None)]
    return [(file.parent, file.parent.name) for file in sorted(source.glob("*/wav.scp"))]


def _metadata_files(source: Path) -> list[tuple[Path, str | None]]:
    for name in METADATA_FILES:
        if (source / name).exists():
            return [(source / name, None)]
    return [(file, file.parent.name) for name in METADATA_FILES for file in sorted(source.glob(f"*/{name}"))]


def _manifests(source: Path) -> list[tuple[Path, str | None]]:
    files = [file for kind in MANIFESTS for file in sorted(source.glob(f"*{kind}"))]
    return [(file, file.stem if len(files) > 1 else None) for file in files]


def _read_manifest(file: Path, audio_root: Path | None, split: str | None) -> Iterator[Clip]:
    root = audio_root or file.parent
    for line, row in _rows(file):
        audio = _first(row, AUDIO_COLUMNS, file, line)
        text = as_text(_first(row, TEXT_COLUMNS, file, line))
        # 0 is a name, too.
        speaker, name = (
            next((as_text(row[column]) for column in columns if as_text(row.get(column))), None)
            for columns in (SPEAKER_COLUMNS, NAME_COLUMNS)
        )
        start = row.get("offset")  # NeMo's word for the start of a clip in a longer file
        try:
            start = float(start) if start not in (None, "") else None
            end = start + float(row["duration"]) if start is not None and row.get("duration") else None
        except ValueError as error:
            raise DataError(f"{file}, line {line}: offset and duration must be seconds ({error}).") from error
        name = name or (str(audio) if start is None else f"{audio}-{start:.2f}")
        yield Clip(name, str(root / audio), text, speaker, split or as_text(row.get("split")) or None, start, end)


def _rows(file: Path) -> Iterator[tuple[int, dict]]:
    """Number and fields of each line."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if file.suffix in (".csv", ".tsv"):
                csv.field_size_limit(_LONGEST_FIELD)
                reader = csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
                yield from ((reader.line_num, row) for row in reader)
                return
            first = lines.readline()
            lines.seek(0)
            if first.lstrip().startswith("["):
                yield from enumerate(json.load(lines), 1)
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except json.JSONDecodeError as error:
                        raise DataError(f"{file}, line {number}: expected a JSON object, but {error}.") from error
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DataError(f"{file}: expected UTF-8 {file.suffix[1:].upper()}, but {error}.") from error


def _first(row: dict, names: tuple[str, ...], file: Path, line: int):
    if not isinstance(row, dict):
        raise DataError(f"{file}, line {line}: expected an object with fields, but found {row!r:.80}.")
    found = next((name for name in names if name in row), None)
    if found is None or (row[found] is None and names is AUDIO_COLUMNS):
        columns = ", ".join(str(name) for name in row)
        raise DataError(f"{file}, line {line}: expected one of the columns {', '.join(names)}, but found {columns}.")
    return row[found]


def _read_kaldi(folder: Path, audio_root: Path | None, split: str | None) -> Iterator[Clip]:
    recordings, texts = _table(folder / "wav.scp"), _table(folder / "text")
    speakers = _table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
    root = audio_root or folder
    for name, path in recordings.items():
        if path.endswith("|"):
            raise DataError(
                f"{folder / 'wav.scp'}: {name} is the command {path!r}, and commands are not run: write its output to a "
                f"file, and the file's path here."
            )
    if not (folder / "segments").exists():
        for name, text in texts.items():
            if name not in recordings:
                raise DataError(f"{folder / 'text'}: {name} is not in wav.scp.")
            yield Clip(name, str(root / recordings[name]), text, speakers.get(name), split)
        return
    for name, segment in _table(folder / "segments").items():
        try:
            recording, start, end = segment.split()
            clip = Clip(name, str(root / recordings[recording]), texts.get(name, ""), speakers.get(name), split)
            yield clip._replace(start=float(start), end=float(end))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{folder / 'segments'}: expected UTTERANCE RECORDING START END with a recording of wav.scp, but found "
                f"{name} {segment}."
            ) from error


def _table(file: Path) -> dict[str, str]:
    """The first word of each line -> the rest."""
    if not file.exists():
        raise DataError(f"A Kaldi folder needs {file.name}, but there is no {file}.")
    try:
        pairs = (line.strip().partition(" ") for line in file.read_text(encoding="utf-8").replace("\t", " ").splitlines())
        return {name: rest.strip() for name, _, rest in pairs if name}
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected UTF-8, but {error}.") from error
