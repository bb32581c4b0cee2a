"""Recordings with rough transcripts -> a data set for training: aligned, cut, filtered (section 5 of the paper).

In come recordings and a trained model, out go parquet shards with a card, and a table of all that was rejected, with
reasons. The recordings are worked on side by side, each by one process; what a process has done is kept beside the output,
so that a build that was interrupted goes on. Held at a time is the audio of one recording for each process, or of an hour.
"""

import io
import random
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import soundfile
from datasets.fingerprint import Hasher
from tqdm.auto import tqdm

from ..audio import AudioError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from .durations import read_waveform
from .filtering import FEATURES, TranscriptFilter, corrupt, score, train_filter
from .prepare import PROCESSOR, draw_splits
from .processes import map_in_processes
from .segments import CuttingSettings, segment_recording, segment_samples
from .shards import FEATURES as COLUMNS
from .shards import write_card, write_shards
from .sources import DataError
from .transcripts import Recording, read_recordings


FILTER = "filter.json"
REJECTED = "rejected.csv"
# Short recordings are worked on together, as many as have so much text.
CHARACTERS_AT_A_TIME = 2_000
BUCKET_SECONDS = 3_600.0  # of segments of similar length, which are sorted in memory
PART_SCHEMA = pyarrow.schema(
    [
        *COLUMNS.arrow_schema.remove_metadata(),
        ("split", pyarrow.string()),
        ("start", pyarrow.float64()),
        ("end", pyarrow.float64()),
        ("reason", pyarrow.string()),  # why it cannot be used; then it has no audio
        ("right", pyarrow.list_(pyarrow.float64())),  # features with its own transcript
        ("wrong", pyarrow.list_(pyarrow.float64())),  # and with a corrupted one; NaN where there is none
    ]
)
_FACTS = [name for name in PART_SCHEMA.names if name != "audio"]


@dataclass
class BuildSettings:
    """Args:
    model: the trained model that aligns and judges.
    precision: share of right transcripts wanted among those that are kept; 0 keeps all that can be aligned.
    known: a data set whose transcripts are right, to train the filter on; "PATH::SPLIT" or a folder.
    validation_share, test_share: of the speech, drawn where the source has no splits of its own.
    """

    model: str
    precision: float = 0.95
    known: str | None = None
    cutting: CuttingSettings = field(default_factory=CuttingSettings)
    validation_share: float = 0.05
    test_share: float = 0.0
    shard_megabytes: int = 64

    def __post_init__(self):
        if not 0 <= self.precision <= 1:
            raise ValueError(f"precision must lie in [0, 1], but is {self.precision}.")
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"{name} must lie in [0, 0.5), but is {getattr(self, name)}.")


@dataclass
class Built:
    """Args:
    splits: of each its utterances, hours, speakers and shards.
    rejected: one row for each segment that was left out, with the reason.
    segments: one row for each segment, without audio.
    """

    splits: dict[str, dict]
    rejected: pandas.DataFrame
    segments: pandas.DataFrame
    filter: TranscriptFilter | None


def build(
    source: str,
    splits: list[str],
    output: Path,
    settings: BuildSettings,
    num_processes: int = 1,
    show_progress: bool = True,
) -> Built:
    """Makes a data set of recordings.

    Args:
        source, splits: see [`read_recordings`].

    Raises:
        DataError: a source that cannot be read, nothing that can be kept, or a folder that holds something else already.
        ValueError: no filter reaches the precision.
    """
    if output.exists() and any(output.iterdir()) and not (output / REJECTED).exists():
        raise DataError(f"The folder {output} holds something already: choose another, or empty it.")
    work = output.with_name(f"{output.name}.parts")
    processor = DeepSpeech2Processor.from_pretrained(settings.model)
    parts = make_parts(read_recordings(source, splits), work, settings, num_processes, show_progress)
    segments = _facts(parts)
    if segments.empty:
        raise DataError(f"{source} holds no recording with a transcript.")
    transcript_filter = None
    if settings.precision:
        known = segments
        if settings.known:
            path, _, split = settings.known.partition("::")
            recordings = read_recordings(path, [split] if split else [])
            known = _facts(make_parts(recordings, work, settings, num_processes, show_progress))
        known = known[known["reason"] == ""]
        right, wrong = (
            np.array(known[name].tolist(), dtype=np.float64).reshape(-1, len(FEATURES)) for name in ("right", "wrong")
        )
        transcript_filter = train_filter(right, wrong, settings.precision, settings.known is not None)
    judge(segments, transcript_filter)
    kept = segments[segments["reason"] == ""].copy()
    if kept.empty:
        raise DataError(f"Nothing of {source} can be kept; most often because: {segments['reason'].mode()[0]}")
    if kept["split"].isna().all():
        speakers = kept["speaker_id"]
        kept["split"] = draw_splits(
            kept.assign(speaker=speakers, seconds=kept["duration"]), settings.validation_share, settings.test_share
        )
    kept["split"] = kept["split"].fillna("train")

    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("*.parquet"):
        old.unlink()
    order = sorted(kept["split"].unique(), key=lambda split: (not split.startswith("train"), split))
    found = {}
    for split in order:
        some = kept[kept["split"] == split]
        with tqdm(desc=split, total=len(some), unit=" utterances", disable=not show_progress) as bar:
            found[split] = write_shards(_rows(some, parts, work, bar), output, split, settings.shard_megabytes * 2**20)
    rejected = segments[segments["reason"] != ""]
    table = rejected[["id", "source", "start", "end", "reason", "probability", "text"]]
    costs = [[np.nan] * len(FEATURES) if row is None else row for row in rejected["right"]]
    costs = pandas.DataFrame(costs, columns=FEATURES, index=rejected.index)
    table.join(costs).to_csv(output / REJECTED, index=False, float_format="%.4g")
    share = len(kept) / len(segments)
    description = (
        f"Made from recordings: aligned and judged by the model `{Path(settings.model).name}`, cut at pauses; "
        f"{len(kept):,} of {len(segments):,} segments ({share:.0%}) were kept, the others are in `{REJECTED}`."
    )
    if transcript_filter is not None:
        transcript_filter.save(output / FILTER)
    write_card(output, found, processor.tokenizer.language, description)
    processor.save_pretrained(output / PROCESSOR)
    return Built(found, table, segments, transcript_filter)


def judge(segments: pandas.DataFrame, transcript_filter: TranscriptFilter | None) -> None:
    """Fills in the probability that each transcript is right, and the reason where it is too low."""
    segments["probability"] = np.nan
    usable = segments["reason"] == ""
    if transcript_filter is None or not usable.any():
        return
    features = np.array(segments.loc[usable, "right"].tolist(), dtype=np.float64)
    probabilities = transcript_filter.probabilities(features)
    segments.loc[usable, "probability"] = probabilities
    reasons = [
        f"Its transcript is probably wrong: {probability:.1%} for right, kept are those from "
        f"{transcript_filter.threshold:.1%} on; CTC cost a character {row[FEATURES.index('cost_per_character')]:.2f}."
        if probability < transcript_filter.threshold
        else ""
        for probability, row in zip(probabilities, features)
    ]
    segments.loc[usable, "reason"] = reasons


def make_parts(
    recordings: Iterator[Recording], work: Path, settings: BuildSettings, num_processes: int, show_progress: bool
) -> list[Path]:
    """Aligns, cuts and scores recordings; what is there already is not done again."""
    work.mkdir(parents=True, exist_ok=True)
    facts = [settings.model, asdict(settings.cutting)]
    for file in sorted(Path(settings.model).glob("*.safetensors")):
        facts.append((file.stat().st_size, file.stat().st_mtime_ns))
    done: list[Path] = []

    def items() -> Iterator[tuple[list[Recording], Path]]:
        for group in _groups(recordings):
            names = [(recording.name, [vars(line) for line in recording.lines]) for recording in group]
            done.append(work / f"{Hasher.hash([facts, names])}.parquet")
            yield group, done[-1]

    with tqdm(desc="align and cut", unit=" recordings", disable=not show_progress) as bar:
        seconds = 0.0
        for number, some in map_in_processes(partial(_make_part, settings=settings), items(), num_processes):
            seconds += some
            bar.update(number)
            bar.set_postfix(hours=f"{seconds / 3600:.2f}")
    return done


def _groups(recordings: Iterator[Recording]) -> Iterator[list[Recording]]:
    group, size = [], 0
    for recording in recordings:
        group.append(recording)
        size += sum(len(line.text) for line in recording.lines)
        if size >= CHARACTERS_AT_A_TIME:
            yield group
            group, size = [], 0
    if group:
        yield group


@lru_cache(1)
def _load(model: str) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor]:
    return DeepSpeech2ForCTC.from_pretrained(model).fold_batch_norm(), DeepSpeech2Processor.from_pretrained(model)


def _make_part(item: tuple[list[Recording], Path], settings: BuildSettings) -> tuple[int, float]:
    """Writes the segments of some recordings, whole or not at all; gives their number, and the seconds of speech cut."""
    recordings, file = item
    if not file.exists():
        model, processor = _load(settings.model)
        rows = [row for recording in recordings for row in _segments(recording, model, processor, settings)]
        _score(rows, model, processor)
        new = file.with_suffix(".new")
        table = pyarrow.Table.from_pylist([{name: row.get(name) for name in PART_SCHEMA.names} for row in rows], PART_SCHEMA)
        pyarrow.parquet.write_table(table, new, row_group_size=64)
        new.rename(file)
    table = pyarrow.parquet.read_table(file, columns=["duration"])
    return len(recordings), float(np.sum(table["duration"].to_numpy()))


def _segments(recording: Recording, model, processor, settings: BuildSettings) -> list[dict]:
    rate = processor.feature_extractor.sampling_rate
    common = {"source": recording.name, "split": recording.split, "reason": ""}
    try:
        if not recording.lines:
            raise DataError("The transcript is empty.")
        waveform = read_waveform(recording.audio, rate, recording.name)
        segments = segment_recording(waveform, recording.lines, model, processor, settings.cutting)
    except (AudioError, DataError, OSError, ValueError) as error:
        text = " ".join(line.text for line in recording.lines)
        return [common | {"id": recording.name, "text": text, "duration": 0.0, "reason": str(error)}]
    rows = []
    for number, segment in enumerate(segments):
        row = common | {
            "id": f"{recording.name}-{number:04d}" if len(segments) > 1 else recording.name,
            "text": segment.text,
            "speaker_id": segment.speaker,
            "start": segment.start,
            "end": segment.end,
            "duration": segment.end - segment.start,
        }
        cutting = settings.cutting
        if row["duration"] > cutting.max_seconds + 2 * cutting.edge:
            row["reason"] = (
                f"It lasts {row['duration']:.1f} s without a pause of {cutting.pause:g} s to cut at; max_seconds is "
                f"{cutting.max_seconds:g}."
            )
        else:
            row["samples"] = segment_samples(segment, waveform, rate)
            row["duration"] = len(row["samples"]) / rate
            content = io.BytesIO()
            soundfile.write(content, row["samples"], rate, format="FLAC")
            row["audio"] = {"bytes": content.getvalue(), "path": f"{row['id']}.flac"}
        rows.append(row)
    return rows


def _score(rows: list[dict], model, processor) -> None:
    usable = [row for row in rows if "samples" in row]
    texts = [row["text"] for row in usable]
    draws = [random.Random(zlib.crc32(row["id"].encode())) for row in usable]
    wrong = [corrupt(texts, number, draw) for number, draw in enumerate(draws)]
    pairs = [[own] if other is None else [own, other] for own, other in zip(texts, wrong)]
    for row, scores in zip(usable, score([row["samples"] for row in usable], pairs, model, processor)):
        features = [some.features() for some in scores]
        row["right"] = features[0]
        row["wrong"] = features[1] if len(features) > 1 else [float("nan")] * len(FEATURES)
        if not np.isfinite(row["right"]).all():
            row["reason"] = f"The transcript does not fit into {scores[0].frames} output frames."


def _facts(parts: list[Path]) -> pandas.DataFrame:
    """All columns but the audio, and where each row stands."""
    tables = []
    for number, part in enumerate(parts):
        table = pyarrow.parquet.read_table(part, columns=_FACTS).to_pandas()
        tables.append(table.assign(part=number, row=range(len(table))))
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(columns=_FACTS)


def _rows(kept: pandas.DataFrame, parts: list[Path], work: Path, bar: tqdm) -> Iterator[dict]:
    """Rows from the shortest to the longest: dealt out to buckets of similar lengths, which are sorted one by one."""
    kept = kept.sort_values("duration", kind="stable")
    kept = kept.assign(bucket=(kept["duration"].cumsum() // BUCKET_SECONDS).astype(int), place=range(len(kept)))
    schema = COLUMNS.arrow_schema.remove_metadata().append(pyarrow.field("place", pyarrow.int64()))
    with tempfile.TemporaryDirectory(dir=work) as folder:
        files = [Path(folder) / f"{bucket}.parquet" for bucket in range(kept["bucket"].max() + 1)]
        writers = [pyarrow.parquet.ParquetWriter(file, schema) for file in files]
        for part, rows in kept.groupby("part"):
            table = pyarrow.parquet.read_table(parts[part], columns=COLUMNS.arrow_schema.names)
            for bucket, some in rows.groupby("bucket"):
                own = table.take(some["row"].to_numpy()).append_column("place", pyarrow.array(some["place"]))
                writers[bucket].write_table(own.cast(schema))
        for writer in writers:
            writer.close()
        for file in files:
            for row in pyarrow.parquet.read_table(file).sort_by("place").to_pylist():
                yield row
                bar.update()
