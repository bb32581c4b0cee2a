"""Reads recordings of any length with their transcripts, line by line; the audio stays encoded.

The source is a folder whose audio files have transcripts of the same name beside them (txt, srt, vtt, json), anything that
`clips` reads, or a data set.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from ..audio import name_of
from ..data.sources import METADATA_FILES, DataError, all_splits, as_text, open_source
from ..data.text_tables import PROBLEM, writable
from .clips import read_clips
from .layouts import AUDIO_ENDINGS, find_layout
from .manifests import MANIFESTS, read_text


TRANSCRIPTS = (".txt", ".srt", ".vtt", ".json")
NO_AUDIO = (*TRANSCRIPTS, *MANIFESTS, ".md", ".parquet")


@dataclass
class Line:
    """A turn of one speaker, or any other piece of a transcript."""

    text: str
    speaker: str | None = None


@dataclass
class Recording:
    """A recording with its transcript.

    Args:
        name: unique.
        audio: {"bytes": …, "path": …}, one of them None.
        lines: the transcript.
        split: where the source says so.
        problem: why it cannot be used, if so.
    """

    name: str
    audio: dict
    lines: list[Line]
    split: str | None = None
    problem: str = ""


def read_recordings(source: str, splits: list[str]) -> Iterator[Recording]:
    """Every recording of a folder, manifest or data set; those of a folder that cannot be used say why.

    Args:
        splits: of a data set; all of them where there are none.

    Raises:
        DataError: no such source.
    """
    for recording in _read_source(source, splits):
        recording.name, recording.problem = writable(recording.name), writable(recording.problem)
        recording.lines = [
            Line(writable(line.text, "replace"), line.speaker and writable(line.speaker)) for line in recording.lines
        ]
        yield recording


def _read_source(source: str, splits: list[str]) -> Iterator[Recording]:
    path = Path(source)
    if path.is_dir():
        pairs = find_pairs(path)
        if any(audio and transcript for audio, transcript in pairs):
            yield from (_read_pair(path, audio, transcript) for audio, transcript in pairs)
            return
    if path.is_file() or (path.is_dir() and _names_clips(path)):
        for clip in read_clips(path):
            if clip.start is not None:
                raise DataError(f"{source} names parts of recordings, such as {clip.name}: `prepare` cuts those.")
            audio = {"bytes": None, "path": clip.path}
            yield Recording(clip.name, audio, _lines(clip.text, clip.speaker), clip.split, clip.problem)
        return
    for split in splits or all_splits(source):
        opened = open_source(source, split)
        number = 0
        for shard in range(opened.num_shards):
            for table in opened.tables(shard, ["id", opened.audio_column, opened.text_column, "speaker_id"]):
                for row in table.to_pylist():
                    audio = {"bytes": None, "path": None} | opened.audio(row)
                    name = as_text(row.get("id")) or (audio["path"] and name_of(audio["path"])) or f"{split}-{number}"
                    lines = _lines(as_text(row[opened.text_column]), as_text(row.get("speaker_id")) or None)
                    yield Recording(name, audio, lines, split.replace("/", "_"), row.get(PROBLEM) or "")
                    number += 1


def _names_clips(folder: Path) -> bool:
    if any(folder.rglob("*.parquet")):
        return False
    return find_layout(folder) is not None or any(
        next(folder.glob(pattern), None)
        for name in ("wav.scp", *METADATA_FILES, *(f"*{kind}" for kind in MANIFESTS))
        for pattern in (name, f"*/{name}")
    )


def find_pairs(folder: Path) -> list[tuple[Path | None, Path | None]]:
    """Audio files with the transcripts beside them, whatever depth they are at; None for a partner that is not there."""
    audio, transcripts = [], {}
    for file in sorted(folder.rglob("*")):
        kind = file.suffix.lower()
        if not file.is_file() or file.name.startswith("."):
            continue
        if kind in TRANSCRIPTS:
            transcripts.setdefault(file.with_suffix(""), []).append(file)
        elif kind not in NO_AUDIO:
            audio.append(file)
    pairs = []
    for file in audio:
        own = transcripts.get(file.with_suffix(""), [])
        if own or file.suffix.lower() in AUDIO_ENDINGS:
            pairs.append((file, min(own, key=lambda file: TRANSCRIPTS.index(file.suffix.lower()), default=None)))
    with_audio = {file.with_suffix("") for file in audio}
    alone = [(None, file) for name, files in transcripts.items() for file in files if name not in with_audio]
    return pairs + [pair for pair in alone if pair[1].suffix.lower() != ".json"]  # which may be anything


def _read_pair(folder: Path, audio: Path | None, transcript: Path | None) -> Recording:
    name = (audio or transcript).relative_to(folder).as_posix()
    recording = Recording(name, {"bytes": None, "path": audio and str(audio)}, [])
    if audio is None:
        recording.problem = "There is no audio beside this transcript."
    elif transcript is None:
        recording.problem = f"There is no transcript beside it ({', '.join(TRANSCRIPTS)})."
    else:
        try:
            recording.lines = read_transcript(transcript)
        except (DataError, OSError) as error:
            recording.problem = str(error)
    return recording


def _lines(text: str, speaker: str | None) -> list[Line]:
    return [Line(line.strip(), speaker) for line in text.splitlines() if line.strip()]


def read_transcript(file: Path) -> list[Line]:
    """Reads a transcript line by line; its times are ignored, because the alignment finds better ones.

    Raises:
        DataError: not UTF-8, or JSON of another form than {"text": …} or a list of such, by itself or as "segments".
    """
    content = read_text(file)
    kind = file.suffix.lower()
    if kind == ".txt":
        return _lines(content, None)
    if kind == ".json":
        return _read_json(file, content)
    return _read_subtitles(content, kind == ".vtt")


def _read_json(file: Path, content: str) -> list[Line]:
    try:
        found = json.loads(content, parse_int=str, parse_float=str)  # 5.0 stays as it was written
        if isinstance(found, dict):
            found = found.get("segments") or [found]
        lines = []
        for part in found:
            speaker = part.get("speaker") if part.get("speaker") is not None else part.get("speaker_id")
            if not isinstance(part["text"], str | None):
                raise TypeError(f"a text is {str(part['text'])[:40]}")
            lines += _lines(part["text"] or "", as_text(speaker) or None)
        return lines
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f'{file}: expected {{"text": …}} or a list of {{"text": …, "speaker": …}}, by itself or as "segments", but '
            f"{error!r}."
        ) from error


_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]*)>")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")


@dataclass
class _Cue:
    start: float  # seconds
    lines: list[str]
    speaker: str | None = None


_TIMES = re.compile(r"(?:(\d+):)?(\d+):(\d+)(?:[.,:](\d+))?\s*-->")


def _read_subtitles(content: str, is_webvtt: bool) -> list[Line]:
    """The cues of SubRip or WebVTT in the order of their times.

    A cue goes from its line of times to the next one, whose number or name above it is no text. In SubRip an empty line
    ends nothing, for files with empty lines within a cue, or none between cues, are common; in WebVTT it does, for notes
    and styles follow. Rolling captions, each of which shows its predecessor's last line again, are de-duplicated.
    """
    cues: list[_Cue] = []
    lines = content.splitlines()
    is_open = False
    for number, line in enumerate(lines):
        times = _TIMES.match(line.strip())
        if times:
            hours, minutes, seconds, fraction = times.groups()
            cues.append(_Cue(3600 * int(hours or 0) + 60 * int(minutes) + float(f"{seconds}.{fraction or 0}"), []))
            is_open = True
        elif is_webvtt and not line:
            is_open = False
        elif is_open and not _names_cue(lines, number, is_webvtt):
            voice = _VOICE.search(line)
            cues[-1].speaker = voice[1].strip() if voice else cues[-1].speaker
            cues[-1].lines += filter(None, [" ".join(unescape(_TAG.sub("", line)).split())])
    cues = sorted((cue for cue in cues if cue.lines), key=lambda cue: cue.start)
    follows = [after.lines[0] == before.lines[-1] for before, after in zip(cues, cues[1:])]
    rolls = sum(follows) > len(cues) / 2
    said = [cue.lines[rolls and again :] for cue, again in zip(cues, [False, *follows])]
    return [line for cue, own in zip(cues, said) for line in _spoken(own, cue.speaker)]


# What subtitles tell of sounds and songs, which nobody says.
# A # beside a space is a note, before a word or number it belongs to that: #1.
_SOUND = re.compile(r"\[[^\]]*\]|\([^)]*\)|（[^）]*）|【[^】]*】|[♪♫][^♪♫]*[♪♫]|(?<!\S)#\s[^#]*#(?!\S)|[♪♫]")
_DASH = re.compile(r"^(?:[-–—]|>>+)\s*")
_NAME = re.compile(r"^([\w .'&#-]{1,30}):\s+(?=\S)")


def _spoken(lines: list[str], speaker: str | None) -> list[Line]:
    """The lines of a cue without sounds, songs and names of speakers, which become the speakers of the lines."""
    found: list[Line] = []
    for line in _SOUND.sub(" ", "\n".join(lines)).split("\n"):
        line = _DASH.sub("", " ".join(line.split()))
        name = _NAME.match(line)
        if name and (name[1].isupper() or name[1].lower().startswith("speaker ")):
            speaker, line = name[1].strip(), line[name.end() :]
        if found and found[-1].speaker == speaker:
            found[-1].text = f"{found[-1].text} {line}".strip()
        elif line:
            found.append(Line(line, speaker))
    return found


def _names_cue(lines: list[str], number: int, is_webvtt: bool) -> bool:
    """Whether a line is the number or name of the cue whose times come next."""
    follows = next((line.strip() for line in lines[number + 1 :] if is_webvtt or line.strip()), "")
    if not _TIMES.match(follows):
        return False
    return lines[number].strip().isdecimal() or (is_webvtt and not lines[number - 1])
