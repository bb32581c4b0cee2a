"""Clips with transcripts -> a data set ready for training: sorted parquet shards, statistics of the features, vocabulary.

In comes a folder or manifest that `clips` reads, out goes a folder of parquet shards from the shortest utterance to the
longest (SortaGrad then reads them in order), a card, and `processor`, a tokenizer and feature extractor for them. What is
held is a table of the clips, without their audio. What cannot be used is left out and named in left_out.csv.
"""

import csv
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas
import soundfile
from tqdm.auto import tqdm

from ..audio import AudioError, read_header, read_part, read_waveform
from ..data.sources import DataError, SpeechData
from ..errors import UserError
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
from .clips import read_clips
from .manifests import Clip, ManifestColumns
from .shards import write_card, write_shards


PROCESSOR = "processor"  # folder within the data set
LEFT_OUT = "left_out.csv"
STATISTICS_UTTERANCES = 2_000
# With so many speakers (recordings) or more, drawn splits share none of them; with fewer, they share no sentence.
ENOUGH_SPEAKERS = 20
CUT_FORMAT = "FLAC"
RATE = 16_000  # hertz, of what only ffmpeg can read


@dataclass
class PreparationSettings:
    """Args:
    validation_share, test_share: of the speech, drawn where the source has no splits of its own.
    shard_megabytes: size of a shard; training mixes as many as its memory holds.
    language, numerals, label_unit, word_boundaries, minimum_count, extra_characters: of the vocabulary, see
        [`DeepSpeech2CTCTokenizer`].
    tokenizer: instead of one made from the transcripts.
    """

    validation_share: float = 0.05
    test_share: float = 0.05
    shard_megabytes: int = 64
    language: str | None = None
    numerals: str = "keep"
    label_unit: str = "character"
    word_boundaries: str | None = None
    minimum_count: int = 1
    extra_characters: str = ""
    tokenizer: DeepSpeech2CTCTokenizer | None = None

    def __post_init__(self):
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 0.5:
                raise UserError(f"{name} must lie in [0, 0.5), but is {getattr(self, name)}.")
        if self.shard_megabytes < 1:
            raise UserError(f"shard_megabytes must be at least 1, but is {self.shard_megabytes}.")
        if self.tokenizer is None:
            self.make_tokenizer(["a"])  # finds fault with its settings before any work

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
    """Args:
    splits: of each its utterances, hours, speakers and shards.
    left_out: name and reason of clips that cannot be used.
    texts: transcripts of all splits.
    """

    splits: dict[str, dict]
    left_out: list[tuple[str, str]]
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
    """Makes a data set of a folder or manifest.

    Args:
        source, audio_root, columns: as of [`read_clips`].
        output: a folder that is new or empty.

    Raises:
        DataError: a source that cannot be read, nothing to train on, or a folder that holds something already.
    """
    if output.exists() and any(output.iterdir()):
        raise DataError(f"The folder {output} holds something already: choose another, or empty it.")
    clips = pandas.DataFrame(read_clips(source, audio_root, columns), columns=Clip._fields)
    if clips.empty:
        raise DataError(f"{source} names no clip.")
    with (
        ThreadPoolExecutor() as threads,
        tqdm(desc="durations", total=len(clips), unit=" clips", disable=not show_progress) as bar,
    ):
        measured = []
        for result in threads.map(measure_clip, clips.itertuples(index=False)):
            measured.append(result)
            bar.update()
    clips["seconds"], clips["reason"] = zip(*measured)
    usable = clips[clips["reason"] == ""].copy()
    if usable.empty:
        raise DataError(f"No clip of {source} can be used; the first says: {clips['reason'].iloc[0]}")
    separation = ""
    if usable["split"].isna().all():
        usable["split"], unit = draw_splits(usable, settings.validation_share, settings.test_share)
        separation = f" The splits were drawn: they share no {unit}."
    usable["split"] = usable["split"].fillna("train")
    left_out = clips[clips["reason"] != ""][["name", "reason"]].values.tolist()
    output.mkdir(parents=True, exist_ok=True)
    splits = {}
    order = sorted(usable["split"].unique(), key=lambda split: (not split.startswith("train"), split))
    training = [split for split in order if split.startswith("train")]
    if not training:
        raise DataError(f"The splits of {source} are {', '.join(order)}, but one must be called train.")
    for split in order:
        some = usable[usable["split"] == split].sort_values("seconds", kind="stable")
        with tqdm(desc=split, total=len(some), unit=" clips", disable=not show_progress) as bar:
            rows = _rows(some, left_out, bar)
            splits[split] = write_shards(rows, output, split, settings.shard_megabytes * 2**20)
    with open(output / LEFT_OUT, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "reason"], *left_out])
    texts = usable["text"][usable["split"].isin(training)]
    tokenizer = settings.tokenizer or settings.make_tokenizer(texts)
    description = (
        f"Made from `{source.name}`.{separation} In `{PROCESSOR}`: the tokenizer ({len(tokenizer)} symbols) and feature "
        f"extractor."
    )
    write_card(output, splits, tokenizer.language, description)
    speech = SpeechData(str(output), training, show_progress=False)
    extractor = DeepSpeech2FeatureExtractor()
    stream = speech.waveforms(extractor.sampling_rate, STATISTICS_UTTERANCES)
    total = min(STATISTICS_UTTERANCES, len(speech.index))
    extractor.fit(tqdm(stream, "feature statistics", total, unit=" utterances", disable=not show_progress))
    DeepSpeech2Processor(extractor, tokenizer).save_pretrained(output / PROCESSOR)
    return Prepared(splits, left_out, usable["text"], tokenizer)


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
        return 0.0, f"It goes from {clip.start:g} to {end:g} s, but {clip.path} lasts {whole:.2f} s."
    return min(end, whole) - clip.start, ""


def encode_clip(clip) -> tuple[bytes, str]:
    """Content and suffix of a file with the clip alone: as it stands where soundfile reads it, else as FLAC."""
    audio = {"path": clip.path}
    if clip.start is not None and not np.isnan(clip.start):
        samples, rate = read_part(audio, clip.start, clip.seconds, clip.path)
    elif read_header(audio, clip.path).decoder == "soundfile":
        return Path(clip.path).read_bytes(), Path(clip.path).suffix
    else:
        samples, rate = read_waveform(audio, RATE, clip.path), RATE
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=CUT_FORMAT)
    return content.getvalue(), f".{CUT_FORMAT.lower()}"


def _rows(clips: pandas.DataFrame, left_out: list, bar: tqdm):
    for clip in clips.itertuples(index=False):
        try:
            content, suffix = encode_clip(clip)
        except (AudioError, OSError) as error:
            left_out.append([clip.name, str(error)])
            continue
        yield {
            "id": clip.name,
            "audio": {"bytes": content, "path": Path(clip.name).name + suffix * (Path(clip.name).suffix != suffix)},
            "text": clip.text,
            "speaker_id": None if pandas.isna(clip.speaker) else clip.speaker,
            "source": Path(clip.path).name,
            "duration": clip.seconds,
        }
        bar.update()


def draw_splits(clips: pandas.DataFrame, validation_share: float, test_share: float) -> tuple[np.ndarray, str]:
    """ "train", "validation" or "test" for each clip, the same in every run, and what they do not share.

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
