"""Reads manifests (JSON, JSON lines, CSV, TSV) and Kaldi folders: one row per clip, with its audio and its text.

Every row becomes a clip; a clip that cannot be used carries the reason.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..audio import name_of
from ..data.sources import METADATA_FILES, DataError
from ..data.text_tables import TEXT_TABLES, Row, read_rows


# Column names in common use.
AUDIO_COLUMNS = ("file_name", "audio", "audio_filepath", "path", "audio_path", "wav", "wav_filename", "file", "filename")
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
NAME_COLUMNS = ("id", "utterance_id", "name")
MANIFESTS = TEXT_TABLES


class Clip(NamedTuple):
    """An utterance, or a stretch of a longer recording."""

    name: str
    path: str
    text: str
    speaker: str | None = None
    split: str | None = None  # where the source says so
    start: float | None = None  # seconds; None for a whole file
    end: float | None = None
    problem: str = ""  # why it cannot be used, if so


@dataclass
class ManifestColumns:
    """What the columns of a manifest are called: the first of each list that there is.

    Args:
        audio: the path of a clip.
        text: the transcript.
        speaker: its speaker.
    """

    audio: tuple[str, ...] = field(default=AUDIO_COLUMNS)
    text: tuple[str, ...] = field(default=TEXT_COLUMNS)
    speaker: tuple[str, ...] = field(default=SPEAKER_COLUMNS)


def kaldi_folders(source: Path) -> list[tuple[Path, str | None]]:
    """Kaldi folders and their splits."""
    if (source / "wav.scp").exists():
        return [(source, None)]
    return [(file.parent, file.parent.name) for file in sorted(source.glob("*/wav.scp"))]


def metadata_files(source: Path) -> list[tuple[Path, str | None]]:
    """Metadata files and their splits."""
    for name in METADATA_FILES:
        if (source / name).exists():
            return [(source / name, None)]
    return [(file, file.parent.name) for name in METADATA_FILES for file in sorted(source.glob(f"*/{name}"))]


def manifests(source: Path) -> list[tuple[Path, str | None]]:
    """Manifests and their splits."""
    files = [file for kind in MANIFESTS for file in sorted(source.glob(f"*{kind}"))]
    return [(file, file.stem if len(files) > 1 else None) for file in files]


def read_manifest(file: Path, audio_root: Path | None, split: str | None, columns: ManifestColumns) -> Iterator[Clip]:
    """The clips of a manifest.

    Raises:
        DataError: no row has the columns of audio and text.
    """
    root = audio_root or file.parent
    known = (*columns.audio, *columns.text, *columns.speaker)
    error, has_columns = "", False
    for row in read_rows(file, known):
        lacks = next((names for names in (columns.audio, columns.text) if not set(names) & set(row.fields)), None)
        if not row.problem and lacks is None:
            has_columns = True
            yield _clip(row, file, root, split, columns)
            continue
        place, problem = f"{file.name}, line {row.line}", row.problem
        if not problem:
            wanted, found = ", ".join(lacks), ", ".join(row.fields) or "none"
            problem = f"Its row must have one of the columns {wanted}, but has {found}."
            error = error or f"{file}, line {row.line}: expected one of the columns {wanted}, but found {found}."
        yield Clip(place, "", "", split=split, problem=problem)
    if error and not has_columns:
        raise DataError(error)


def _clip(row: Row, file: Path, root: Path, split: str | None, columns: ManifestColumns) -> Clip:
    audio = next(row.fields[name] for name in columns.audio if name in row.fields)
    text = next(row.fields[name] for name in columns.text if name in row.fields)
    if isinstance(audio, dict):
        audio = audio.get("path")
    name, speaker = (
        next((str(row.fields[name]) for name in names if row.fields.get(name) not in (None, "")), None)
        for names in (NAME_COLUMNS, columns.speaker)
    )
    place = f"{file.name}, line {row.line}"
    split = split or row.fields.get("split") or None
    start = row.fields.get("offset")  # NeMo's word for the start of a clip in a longer file
    problem = ""
    for what, value in (("audio", audio), ("text", text), ("split", split)):
        if not isinstance(value, str) and not (value is None and what != "audio"):
            problem = f"Its {what} must be text, but is {value!r:.80}."
            split = None if what == "split" else split
    end = None
    try:
        start = float(start) if start not in (None, "") else None
        if start is not None and row.fields.get("duration"):
            end = start + float(row.fields["duration"])
        if not all(math.isfinite(time) for time in (start, end) if time is not None):
            raise ValueError(f"found {row.fields['offset']} and {row.fields.get('duration')}")
    except (TypeError, ValueError) as error:
        start, problem = None, f"Its offset and duration must be seconds ({error})."
    if problem:
        return Clip(name or place, "", "", speaker, split, problem=problem)
    shown = name_of(audio) if "://" in audio else audio  # an address may hold a secret
    name = name or (shown if start is None else f"{shown}-{start:.2f}")
    return Clip(name, place_of(audio, root), text or "", speaker, split, start, end)


def place_of(audio: str, root: Path) -> str:
    """The path or URL of a clip; paths of Windows are read, too."""
    if "://" in audio:
        return audio
    path = root / audio
    if "\\" in audio and not path.exists():
        path = root / audio.replace("\\", "/")
    return str(path)


def read_kaldi(folder: Path, audio_root: Path | None, split: str | None) -> Iterator[Clip]:
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
        for name in dict.fromkeys([*texts, *recordings]):
            clip = Clip(name, str(root / recordings.get(name, "")), texts.get(name, ""), speakers.get(name), split)
            yield clip if name in recordings else clip._replace(problem="It is in `text`, but not in `wav.scp`.")
        return
    segments = _table(folder / "segments")
    for name in dict.fromkeys([*segments, *texts]):
        clip = Clip(name, "", texts.get(name, ""), speakers.get(name), split)
        try:
            recording, *times = segments[name].split()
            start, end = map(float, times)
            if not (math.isfinite(start) and math.isfinite(end)):  # NaN would stand for the whole recording
                raise ValueError
            yield clip._replace(path=str(root / recordings[recording]), start=start, end=end)
        except (KeyError, ValueError):
            found = f"found {name} {segments[name]}" if name in segments else "it is in `text` alone"
            problem = f"`segments` must have UTTERANCE RECORDING START END with a recording of `wav.scp`, but {found}."
            yield clip._replace(problem=problem)


def _table(file: Path) -> dict[str, str]:
    """The first word of each line -> the rest."""
    if not file.exists():
        raise DataError(f"A Kaldi folder needs {file.name}, but there is no {file}.")
    return read_pairs(file)


def read_pairs(file: Path) -> dict[str, str]:
    """The first word of each line -> the rest.

    Raises:
        DataError: not UTF-8, or two lines with the same first word.
    """
    found: dict[str, str] = {}
    lines = read_text(file).replace("\t", " ").split("\n")
    for number, line in enumerate(lines, 1):
        name, _, rest = line.strip().partition(" ")
        if name in found:
            raise DataError(f"{file}, line {number}: {name} has a line already.")
        if name:
            found[name] = rest.strip()
    return found


def read_text(file: Path) -> str:
    """A text file, with or without a byte order mark.

    Raises:
        DataError: not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected UTF-8, but {error}.") from error
