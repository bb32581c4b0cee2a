"""Turns clips with transcripts into a data set ready for training: sorted shards, feature statistics and a vocabulary.

Each split is sorted from the shortest utterance to the longest, so that SortaGrad reads it in order. A card and `processor`
(a tokenizer and a feature extractor for this speech) stand beside the shards. Only a table of the clips is held in memory,
not their audio. Clips that cannot be used are listed in left_out.csv.
"""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas
import soundfile
from tqdm.auto import tqdm

from ..audio import AudioError, name_of, open_audio, read_header, read_part, read_waveform
from ..audio_files import SoundFileDecoder
from ..data.disk_space import FULL, room_for, size_of_files
from ..data.sources import DataError, SpeechData
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
from .clips import read_clips
from .manifests import Clip, ManifestColumns
from .shards import (
    ShardSettings,
    is_training,
    own_parts,
    parts_of,
    place_of,
    split_order,
    write_card,
    write_shards,
)


PROCESSOR = "processor"  # folder within the data set
LEFT_OUT = "left_out.csv"
MEASURED = "durations.jsonl"
STATISTICS_UTTERANCES = 2_000
# With so many speakers (recordings) or more, drawn splits share none of them; with fewer, they share no sentence.
ENOUGH_SPEAKERS = 20
CUT_FORMAT = "FLAC"
SMALLEST_ALPHABET = 2  # the blank and the word delimiter
RATE = 16_000  # hertz, of what only ffmpeg can read


@dataclass(kw_only=True)
class PreparationSettings(ShardSettings):
    """How clips become a data set; splits and shards as of [`ShardSettings`].

    Args:
        language, numerals, label_unit, word_boundaries, minimum_count, extra_characters: of the vocabulary, see
            [`DeepSpeech2CTCTokenizer`].
        tokenizer: instead of one made from the transcripts.
    """

    language: str | None = None
    numerals: str = "keep"
    label_unit: str = "character"
    word_boundaries: str | None = None
    minimum_count: int = 1
    extra_characters: str = ""
    tokenizer: DeepSpeech2CTCTokenizer | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.tokenizer is None:
            self.make_tokenizer(["a"])  # validates its settings before any work

    def make_tokenizer(self, texts: Iterable[str]) -> DeepSpeech2CTCTokenizer:
        return DeepSpeech2CTCTokenizer.from_texts(
            texts,
            language=self.language,
            numerals=self.numerals,
            label_unit=self.label_unit,
            word_boundaries=self.word_boundaries,
            minimum_count=self.minimum_count,
            extra_characters=self.extra_characters,
        )


@dataclass
class Prepared:
    """What [`prepare`] made.

    Args:
        splits: of each its utterances, hours, speakers and shards.
        left_out: name and reason of clips that cannot be used.
        texts: transcripts of all splits.
    """

    splits: dict[str, dict]
    left_out: list[list[str]]
    texts: pandas.Series
    tokenizer: DeepSpeech2CTCTokenizer


def prepare(
    source: Path,
    output: Path,
    settings: PreparationSettings,
    audio_root: Path | None = None,
    show_progress: bool = True,
    columns: ManifestColumns | None = None,
) -> Prepared:
    """Makes a complete data set from a folder or manifest, or none; an interrupted call is continued by the next one.

    Args:
        source, audio_root, columns: as of [`read_clips`].
        output: a folder that is new or empty; until the data set is whole, what is done is kept in OUTPUT.parts.

    Raises:
        DataError: a source that cannot be read, nothing to train on, a folder that holds something already or cannot be
            exchanged, another call that writes it, or no space.
    """
    output = place_of(output)
    work, usable = parts_of(output), pandas.DataFrame()
    new = work / "data_set"
    with room_for(work, lambda: _expected_size(usable) - size_of_files(work)), own_parts(output):
        _take_back(output, work)
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise DataError(f"The folder {output} holds something already: choose another, or empty it.")
        clips = pandas.DataFrame(read_clips(source, audio_root, columns), columns=Clip._fields)
        if clips.empty:
            raise DataError(f"{source} names no clip.")
        _measure_all(clips, work / MEASURED, show_progress)
        usable, separation = _choose_splits(source, clips, settings)
        new.mkdir(exist_ok=True)
        prepared = _write(usable, separation, source, output.name, new, settings, show_progress)
        prepared.left_out[:0] = clips[clips["reason"] != ""][["name", "reason"]].values.tolist()
        with open(new / LEFT_OUT, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "reason"], *prepared.left_out])
        new.replace(output)
        shutil.rmtree(work)
    return prepared


def _take_back(output: Path, work: Path) -> None:
    """Lets a call that was killed when all was done but to remove the parts, be finished like any other."""
    new = work / "data_set"
    if work.exists() and not new.exists() and (output / LEFT_OUT).exists():
        output.replace(new)


def _expected_size(usable: pandas.DataFrame) -> float:
    """Bytes of a data set, about: whole files as they are, cut ones as 16-bit samples."""
    total = 0.0
    for clip in usable.itertuples(index=False):
        with contextlib.suppress(OSError, ValueError):
            is_whole = clip.start is None or np.isnan(clip.start)
            total += Path(clip.path).stat().st_size if is_whole else 2 * RATE * clip.seconds
    return total


def _measure_all(clips: pandas.DataFrame, file: Path, show_progress: bool) -> None:
    """Fills in seconds and reasons; the seconds that an earlier call has found are taken from a file of JSON lines."""
    known: dict[str, tuple[float, str]] = {}
    if file.exists():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError):  # the last one may be cut short
                key, seconds, reason = json.loads(line)
                if not reason:  # else it is tried again: the disk may have been away
                    known[str(key)] = (float(seconds), "")
    keys = [_identity(clip) for clip in clips.itertuples(index=False)]
    new = [number for number, key in enumerate(keys) if key not in known]
    with (
        ThreadPoolExecutor() as threads,
        open(file, "a", encoding="utf-8") as log,
        tqdm(
            desc="durations", total=len(clips), initial=len(clips) - len(new), unit=" clips", disable=not show_progress
        ) as bar,
    ):
        log.write("\n")
        for number, result in zip(new, threads.map(measure_clip, clips.iloc[new].itertuples(index=False))):
            known[keys[number]] = result
            log.write(json.dumps([keys[number], *result]) + "\n")
            bar.update()
    clips["seconds"], clips["reason"] = zip(*(known[key] for key in keys))


def _identity(clip) -> str:
    """Of a clip and of its file as it is now."""
    stamp = None
    with contextlib.suppress(OSError, ValueError):
        status = Path(clip.path).stat()
        stamp = (status.st_size, status.st_mtime_ns)
    return blake2b(repr((*clip[: len(Clip._fields)], stamp)).encode(), digest_size=16).hexdigest()


def _choose_splits(source: Path, clips: pandas.DataFrame, settings: PreparationSettings) -> tuple[pandas.DataFrame, str]:
    """The clips that can be used, each with its split, and a sentence on how they were drawn."""
    usable = clips[clips["reason"] == ""].copy()
    if usable.empty:
        raise DataError(f"No clip of {source} can be used; the first says: {clips['reason'].iloc[0]}")
    separation = ""
    if usable["split"].isna().all():
        usable["split"], unit = draw_splits(usable, settings.validation_share, settings.test_share)
        separation = f" The splits were drawn: they share no {unit}."
    usable["split"] = usable["split"].fillna("train")
    if not any(map(is_training, usable["split"].unique())):
        names = ", ".join(sorted(usable["split"].unique()))
        raise DataError(f"The splits of {source} are {names}, but one must be called train.")
    return usable, separation


def _write(
    usable: pandas.DataFrame,
    separation: str,
    source: Path,
    name: str,
    folder: Path,
    settings: PreparationSettings,
    show_progress: bool,
) -> Prepared:
    """Writes shards, card and processor."""
    splits, left_out = {}, []
    tokenizer = settings.tokenizer or settings.make_tokenizer(usable["text"][usable["split"].map(is_training)])
    if settings.minimum_count > 1 and len(tokenizer) <= SMALLEST_ALPHABET:
        raise DataError(f"No character of {source} occurs {settings.minimum_count} times in training: lower minimum_count.")
    for old in folder.glob("*"):  # splits of an earlier call with other settings
        if old.is_file() and old.name.rpartition("-of-")[0].rpartition("-")[0] not in set(usable["split"]):
            old.unlink()
    for split in split_order(usable["split"]):
        some = usable[usable["split"] == split].sort_values("seconds", kind="stable")
        facts, omitted = _write_split(some, split, folder, settings, show_progress)
        left_out += omitted
        if facts["utterances"]:  # a split without a file could not be opened, nor could those beside it
            splits[split] = facts
    training = [split for split in splits if is_training(split)]
    if not training:
        raise DataError(f"No clip of {source} for training can be used; {left_out[0][0]} says: {left_out[0][1]}")
    description = (
        f"Made from `{source.name}`.{separation} In `{PROCESSOR}`: the tokenizer ({len(tokenizer)} symbols) and feature "
        f"extractor."
    )
    write_card(folder, splits, tokenizer.language, description, name=name)
    speech = SpeechData(str(folder), training, show_progress=False)
    extractor = DeepSpeech2FeatureExtractor()
    stream = speech.waveforms(extractor.sampling_rate, STATISTICS_UTTERANCES)
    total = min(STATISTICS_UTTERANCES, len(speech.index))
    extractor.fit(tqdm(stream, "feature statistics", total, unit=" utterances", disable=not show_progress))
    DeepSpeech2Processor(extractor, tokenizer).save_pretrained(folder / PROCESSOR)
    return Prepared(splits, left_out, usable["text"], tokenizer)


def _write_split(
    clips: pandas.DataFrame, split: str, folder: Path, settings: PreparationSettings, show_progress: bool
) -> tuple[dict, list]:
    """Facts of a split and what was left out of it; one that an earlier call has finished is not written again."""
    note = folder.parent / f"{split}.json"
    key = [settings.shard_megabytes, [_identity(clip) for clip in clips.itertuples(index=False)]]
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # there is none, or it was cut short
        done = json.loads(note.read_text(encoding="utf-8"))
        if done["key"] == key and all((folder / name).exists() for name in done["files"]):
            return done["facts"], done["left_out"]
    for old in folder.glob(f"{split}-*"):
        old.unlink()
    left_out: list[list[str]] = []
    with tqdm(desc=split, total=len(clips), unit=" clips", disable=not show_progress) as bar:
        facts = write_shards(_rows(clips, left_out, bar), folder, split, settings.shard_megabytes * 2**20)
    files = sorted(file.name for file in folder.glob(f"{split}-*.parquet"))
    unfinished = note.with_suffix(".new")
    content = {"key": key, "facts": facts, "left_out": left_out, "files": files}
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(note)
    return facts, left_out


def measure_clip(clip) -> tuple[float, str]:
    """Seconds of a clip by the header of its file, and why it cannot be used, if so."""
    if clip.problem:
        return 0.0, clip.problem
    if not clip.text.strip():
        return 0.0, "The transcript is empty."
    try:
        whole = read_header({"path": clip.path}, clip.path).seconds
    except (AudioError, OSError) as error:
        return 0.0, str(error)
    if clip.start is None or np.isnan(clip.start):
        return whole, "" if whole else "The file holds no samples."
    end = whole if clip.end is None or np.isnan(clip.end) else clip.end
    if not 0 <= clip.start < end <= whole + 0.1:
        return 0.0, f"It goes from {clip.start:g} to {end:g} s, but {name_of(clip.path)} lasts {whole:.2f} s."
    return min(end, whole) - clip.start, ""


def encode_clip(clip) -> tuple[bytes, str]:
    """Content and suffix of a file with the clip alone: as it stands where soundfile reads it, else as FLAC."""
    audio = {"path": clip.path}
    if clip.start is not None and not np.isnan(clip.start):
        samples, rate = read_part(audio, clip.start, clip.seconds, clip.path)
    else:
        with open_audio(clip.path, clip.path, streams=False) as file:
            if isinstance(file, SoundFileDecoder):
                return file.content(), Path(name_of(clip.path)).suffix
        samples, rate = read_waveform(audio, RATE, clip.path), RATE
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=CUT_FORMAT)
    return content.getvalue(), f".{CUT_FORMAT.lower()}"


def _rows(clips: pandas.DataFrame, left_out: list, bar: tqdm):
    for clip in clips.itertuples(index=False):
        try:
            content, suffix = encode_clip(clip)
        except (AudioError, OSError) as error:
            if getattr(error, "errno", None) in FULL:  # where ffmpeg's copies go: no fault of the clip
                raise
            left_out.append([clip.name, str(error)])
            continue
        yield {
            "id": clip.name,
            "audio": {"bytes": content, "path": Path(clip.name).name + suffix * (Path(clip.name).suffix != suffix)},
            "text": clip.text,
            "speaker_id": None if pandas.isna(clip.speaker) else clip.speaker,
            "source": Path(name_of(clip.path)).name,
            "duration": clip.seconds,
        }
        bar.update()


def draw_splits(clips: pandas.DataFrame, validation_share: float, test_share: float) -> tuple[np.ndarray, str]:
    """The split (train, validation, test) of each clip, the same in every run, and what the splits do not share.

    That is speakers, where all are known and there are enough of them; else recordings, where there are enough and clips
    are mostly parts of one; else sentences. Whole speakers (recordings, sentences) are drawn by a hash of their names until
    a split has its share of the speech. Those with more than that, and at least half of the speech, are for training.
    """
    keys, unit = clips["text"].str.lower().str.split().str.join(" "), "sentence"
    if "source" in clips and ENOUGH_SPEAKERS <= clips["source"].nunique() <= len(clips) / 2:
        keys, unit = clips["source"], "recording"
    if clips["speaker"].notna().all() and clips["speaker"].nunique() >= ENOUGH_SPEAKERS:
        keys, unit = clips["speaker"], "speaker"
    seconds = clips["seconds"].groupby(keys).sum()
    total = training = float(seconds.sum())
    split_of = {}
    order = sorted(seconds.index, key=lambda key: blake2b(key.encode(), digest_size=8).digest())
    for split, share in (("test", test_share), ("validation", validation_share)):
        taken = 0.0
        for key in order:
            if taken >= share * total:
                break
            fits = taken + seconds[key] <= max(1.5 * share * total, seconds.min())
            if key not in split_of and fits and training - seconds[key] >= total / 2:
                split_of[key] = split
                taken += float(seconds[key])
                training -= float(seconds[key])
    return keys.map(lambda key: split_of.get(key, "train")).to_numpy(), unit
