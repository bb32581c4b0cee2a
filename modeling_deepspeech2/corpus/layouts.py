"""Reads well-known speech corpora as they are downloaded, recognised by their files.

Each layout has one function that recognises it and one that reads it. Splits keep their names, reduced to the characters
allowed in split names; development splits are called validation.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import soundfile

from .manifests import Clip, ManifestColumns, read_manifest, read_pairs, read_text


AUDIO_ENDINGS = {f".{kind.lower()}" for kind in soundfile.available_formats()} | {
    ".opus", ".m4a", ".aac", ".mp4", ".webm", ".sph", ".wma", ".amr", ".mka", ".mkv", ".mov", ".aif", ".3gp",
}  # fmt: skip
_DOCUMENT = re.compile(r"readme|licen[cs]e|copying|notice|changelog|about", re.IGNORECASE)  # texts that are no transcripts
COMMON_VOICE_SPLITS = ("train", "dev", "test")
_TIMIT_LINE = re.compile(r"\d+\s+\d+\s+(?=\S)")  # first and last sample, before the sentence

Layout = Callable[[Path], Iterator[Clip]]


def find_layout(source: Path) -> Layout | None:
    """What reads a folder, None where it looks like no corpus."""
    for is_it, read in _LAYOUTS:
        if is_it(source):
            return read
    return None


def split_name(folder: str) -> str | None:
    """The split that a folder or table stands for; None where its name is none of those in use."""
    name = re.sub(r"\W", "_", folder.lower())
    kind = re.match(r"(train|dev|val|valid|validation|eval|test)(?=_|\d|$)", name)
    if kind is None:
        return None
    return re.sub(r"^(dev|validation|valid|val)(?=_|\d|$)", "validation", name)


def _split_of(file: Path, source: Path) -> str | None:
    """By the outermost folder that is called like a split."""
    parts = file.relative_to(source).parts[:-1]
    return next((split for split in map(split_name, parts) if split), None)


def _audio_by_name(source: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(source.rglob("*")) if file.suffix.lower() in AUDIO_ENDINGS}


def _clips(
    texts: dict[str, str], audio: dict[str, Path], folder: Path, split: str | None, speaker: Callable[[str], str]
) -> Iterator[Clip]:
    """A clip for each line of a transcript file, and for each audio file that has none."""
    for name in [*texts, *sorted(set(audio) - set(texts))]:
        problem = "" if name in audio else f"There is no audio file {name} in {folder.name}."
        problem = problem if name in texts else "There is no line for it in the transcripts."
        yield Clip(name, str(audio.get(name, folder / name)), texts.get(name, ""), speaker(name), split, problem=problem)


# Common Voice: clips/*.mp3, and tables of which only three are splits.


def _is_common_voice(source: Path) -> bool:
    tables = (source / f"{name}.tsv" for name in (*COMMON_VOICE_SPLITS, "validated"))
    return (source / "clips").is_dir() and any(table.exists() for table in tables)


def _read_common_voice(source: Path) -> Iterator[Clip]:
    splits = [name for name in COMMON_VOICE_SPLITS if (source / f"{name}.tsv").exists()]
    for name in splits or ["validated"]:
        split = split_name(name) if splits else None
        yield from read_manifest(source / f"{name}.tsv", source / "clips", split, ManifestColumns(audio=("path",)))


# LibriSpeech: SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside its audio.


def _is_librispeech(source: Path) -> bool:
    return next(source.rglob("*.trans.txt"), None) is not None


def _read_librispeech(source: Path) -> Iterator[Clip]:
    for file in sorted(source.rglob("*.trans.txt")):
        audio = {one.stem: one for one in file.parent.iterdir() if one.suffix.lower() in AUDIO_ENDINGS}
        split = _split_of(file, source) or split_name(source.name)
        yield from _clips(read_pairs(file), audio, file.parent, split, lambda name: name.partition("-")[0])


# Multilingual LibriSpeech: SPLIT/transcripts.txt, SPLIT/audio/SPEAKER/BOOK/SPEAKER_BOOK_NUMBER.flac.


def _mls_files(source: Path) -> list[Path]:
    return [file for file in sorted(source.glob("**/transcripts.txt")) if (file.parent / "audio").is_dir()]


def _read_mls(source: Path) -> Iterator[Clip]:
    for file in _mls_files(source):
        split = split_name(file.parent.name)
        audio = _audio_by_name(file.parent / "audio")
        yield from _clips(read_pairs(file), audio, file.parent / "audio", split, lambda name: name.partition("_")[0])


# AISHELL: transcript/*.txt, wav/SPLIT/SPEAKER/*.wav.


def _is_aishell(source: Path) -> bool:
    return (source / "wav").is_dir() and next(source.glob("transcript/*.txt"), None) is not None


def _read_aishell(source: Path) -> Iterator[Clip]:
    audio = _audio_by_name(source / "wav")
    texts: dict[str, str] = {}
    for file in sorted(source.glob("transcript/*.txt")):
        texts |= read_pairs(file)
    for name in [*texts, *sorted(set(audio) - set(texts))]:
        file = audio.get(name)
        if file is None:
            yield Clip(name, str(source / "wav" / name), texts[name], problem=f"There is no audio file {name} in wav.")
        else:
            problem = "" if name in texts else "There is no line for it in the transcripts."
            yield Clip(name, str(file), texts.get(name, ""), file.parent.name, _split_of(file, source), problem=problem)


# VCTK: txt/SPEAKER/SPEAKER_NUMBER.txt, wav48*/SPEAKER/SPEAKER_NUMBER[_mic1].flac.


def _is_vctk(source: Path) -> bool:
    return next(source.glob("txt/*/*.txt"), None) is not None and next(source.glob("wav*/*/*"), None) is not None


def _read_vctk(source: Path) -> Iterator[Clip]:
    texts = {file.stem: file for file in sorted(source.glob("txt/*/*.txt"))}
    spoken = set()
    for file in sorted(source.glob("wav*/*/*")):
        if file.suffix.lower() in AUDIO_ENDINGS:
            name = re.sub(r"_mic\d+$", "", file.stem)
            spoken.add(name)
            yield _pair(file.stem, file, texts.get(name))._replace(speaker=file.parent.name)
    for name in sorted(set(texts) - spoken):
        yield Clip(name, "", "", problem="There is no audio of it.")


# LJSpeech and M-AILABS: metadata.csv without a header, NAME|TEXT|NORMALISED TEXT, with wavs/NAME.wav beside it.


def _headless_files(source: Path) -> list[Path]:
    found = []
    for file in sorted(source.rglob("metadata.csv")):
        with open(file, encoding="utf-8-sig", errors="replace") as lines:
            first = next(lines, "").split("|")
        if len(first) in (2, 3) and any((file.parent / folder).is_dir() for folder in ("wavs", "wav")):
            found.append(file)
    return found


def _read_headless(source: Path) -> Iterator[Clip]:
    for file in _headless_files(source):
        folder = next(file.parent / name for name in ("wavs", "wav") if (file.parent / name).is_dir())
        speaker = file.parent.parent.name if file.parent != source else None  # by_book/female/SPEAKER/BOOK
        audio = _audio_by_name(folder)
        content = read_text(file).split("\n")
        for number, line in enumerate(content, 1):
            fields = line.rstrip("\r").split("|")
            if not line.strip():
                continue
            name = fields[0].removesuffix(".wav")
            text = next((text for text in reversed(fields[1:]) if text.strip()), "")
            clip = Clip(name, str(audio.get(name, folder / name)), text, speaker)
            if len(fields) not in (2, 3):
                clip = clip._replace(problem=f"Line {number} of {file.name} has {len(fields)} fields, but must have 2 or 3.")
            elif name not in audio:
                clip = clip._replace(problem=f"There is no audio file {name} in {folder.name}.")
            yield clip


# Audio with a .txt of the same name beside each, TIMIT among them, whose texts begin with the numbers of two samples.


def _text_beside(source: Path) -> dict[Path, Path]:
    texts = {}
    for file in source.rglob("*"):
        if file.suffix.lower() == ".txt" and file.is_file():
            texts[file.with_suffix("")] = file
    return texts


def _has_pairs(source: Path) -> bool:
    texts = _text_beside(source)
    return any(file.suffix.lower() in AUDIO_ENDINGS and file.with_suffix("") in texts for file in source.rglob("*"))


def _read_pairs(source: Path) -> Iterator[Clip]:
    texts = _text_beside(source)
    audio = [file for file in sorted(source.rglob("*")) if file.suffix.lower() in AUDIO_ENDINGS and file.is_file()]
    clips = []
    for file in audio:
        relative = file.relative_to(source)
        speaker = relative.parts[-2] if len(relative.parts) > 2 else None
        clip = _pair(relative.as_posix(), file, texts.get(file.with_suffix("")))
        clips.append(clip._replace(speaker=speaker, split=_split_of(file, source)))
    with_audio = {file.with_suffix("") for file in audio}
    for name, file in sorted(texts.items()):
        if name not in with_audio and not _DOCUMENT.match(name.name):
            problem = "There is no audio beside this transcript."
            clips.append(Clip(file.relative_to(source).as_posix(), "", "", problem=problem))
    is_timit = all(_TIMIT_LINE.match(clip.text) for clip in clips if not clip.problem)
    if any(clip.split is None for clip in clips if not clip.problem):
        clips = [clip._replace(split=None) for clip in clips]
    for clip in clips:
        yield clip._replace(text=_TIMIT_LINE.sub("", clip.text, count=1)) if is_timit else clip


def _pair(name: str, audio: Path, text: Path | None) -> Clip:
    if text is None:
        return Clip(name, str(audio), "", problem="There is no transcript beside it.")
    try:
        return Clip(name, str(audio), " ".join(text.read_text(encoding="utf-8-sig").split()))
    except UnicodeDecodeError as error:
        return Clip(name, str(audio), "", problem=f"Its transcript {text.name} is not in UTF-8 ({error}).")
    except OSError as error:
        return Clip(name, str(audio), "", problem=f"Its transcript {text.name} cannot be read ({error.strerror}).")


def _is_plain(source: Path) -> bool:
    return _has_pairs(source) and not any(source.glob("metadata.*")) and not any(source.glob("*/metadata.*"))


_LAYOUTS: tuple[tuple[Callable[[Path], object], Layout], ...] = (
    (_is_common_voice, _read_common_voice),
    (_is_librispeech, _read_librispeech),
    (_mls_files, _read_mls),
    (_is_aishell, _read_aishell),
    (_is_vctk, _read_vctk),
    (_headless_files, _read_headless),
    (_is_plain, _read_pairs),
)
