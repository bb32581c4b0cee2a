"""Recordings of any length with what is said in them, still undecoded.

In comes a folder whose audio files have transcripts of the same name beside them (txt, srt, vtt, json), a manifest that
`clips` reads, or a data set; out go recordings with the lines of their transcripts.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from .clips import MANIFESTS, read_clips
from .segments import Line
from .sources import METADATA_FILES, DataError, open_source
from .verify import all_splits


TRANSCRIPTS = (".txt", ".srt", ".vtt", ".json")
NO_AUDIO = (*TRANSCRIPTS, *MANIFESTS, ".md", ".parquet")


@dataclass
class Recording:
    """Args:
    name: unique.
    audio: {"bytes": …, "path": …}, one of them None.
    lines: what is said.
    split: where the source says so.
    """

    name: str
    audio: dict
    lines: list[Line]
    split: str | None = None


def read_recordings(source: str, splits: list[str]) -> Iterator[Recording]:
    """Every recording of a folder, manifest or data set.

    Args:
        splits: of a data set; all of them where there are none.

    Raises:
        DataError: no such source, or a transcript that cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        pairs = find_pairs(path)
        if pairs:
            for audio, transcript in pairs:
                name = audio.relative_to(path).as_posix()
                yield Recording(name, {"bytes": None, "path": str(audio)}, read_transcript(transcript))
            return
    if path.is_file() or (path.is_dir() and _names_clips(path)):
        for clip in read_clips(path):
            if clip.start is not None:
                raise DataError(f"{source} names parts of recordings, such as {clip.name}: `prepare` cuts those.")
            yield Recording(clip.name, {"bytes": None, "path": clip.path}, _lines(clip.text, clip.speaker), clip.split)
        return
    for split in splits or all_splits(source):
        opened = open_source(source, split)
        number = 0
        for shard in range(opened.num_shards):
            for table in opened.tables(shard, ["id", opened.audio_column, opened.text_column, "speaker_id"]):
                for row in table.to_pylist():
                    audio = {"bytes": None, "path": None} | opened.audio(row)
                    name = str(row.get("id") or audio["path"] or f"{split}-{number}")
                    lines = _lines(row[opened.text_column] or "", row.get("speaker_id"))
                    yield Recording(name, audio, lines, split.replace("/", "_"))
                    number += 1


def _names_clips(folder: Path) -> bool:
    return not any(folder.rglob("*.parquet")) and any(
        next(folder.glob(pattern), None)
        for name in ("wav.scp", *METADATA_FILES, *(f"*{kind}" for kind in MANIFESTS))
        for pattern in (name, f"*/{name}")
    )


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Audio files with the transcripts beside them, whatever depth they are at."""
    pairs = []
    for audio in sorted(folder.rglob("*")):
        if audio.is_file() and audio.suffix.lower() not in NO_AUDIO and not audio.name.startswith("."):
            transcript = next((file for kind in TRANSCRIPTS if (file := audio.with_suffix(kind)).exists()), None)
            if transcript is not None:
                pairs.append((audio, transcript))
    return pairs


def _lines(text: str, speaker: str | None) -> list[Line]:
    return [Line(line.strip(), speaker) for line in text.splitlines() if line.strip()]


def read_transcript(file: Path) -> list[Line]:
    """What is said, line by line; times in a transcript do not count, for the alignment finds better ones.

    Raises:
        DataError: not UTF-8, or JSON of another form than {"text": …} or a list of such, by itself or as "segments".
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected UTF-8, but {error}.") from error
    if file.suffix == ".txt":
        return _lines(content, None)
    if file.suffix == ".json":
        return _read_json(file, content)
    return list(_read_cues(content))


def _read_json(file: Path, content: str) -> list[Line]:
    try:
        found = json.loads(content)
        if isinstance(found, dict):
            found = found.get("segments") or [found]
        return [line for part in found for line in _lines(part["text"], part.get("speaker") or part.get("speaker_id"))]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{file}: expected {{"text": …}} or a list of {{"text": …, "speaker": …}}, by itself or as "segments", but '
            f"{error!r}."
        ) from error


_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]*)>")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def _read_cues(content: str) -> Iterator[Line]:
    """SubRip and WebVTT: blocks between empty lines, each with a line of times and lines of text after it."""
    for block in re.split(r"\n\s*\n", content.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip().split("\n")
        times = next((number for number, line in enumerate(lines) if "-->" in line), None)
        if times is None:
            continue  # a heading, a note or a style
        text = " ".join(lines[times + 1 :])
        voice = _VOICE.search(text)
        text = " ".join(unescape(_TAG.sub("", text)).split())
        if text:
            yield Line(text, voice[1].strip() if voice else None)
