"""Turns recordings with rough transcripts into a data set for training: aligned, cut and filtered (section 5 of the paper).

The output is a data set of parquet shards with a card, and a table of everything that was rejected, with reasons. Recordings
are processed in parallel, one per process. Finished recordings are kept beside the output, so that an interrupted build can
continue. Each process holds the audio of one recording, or of a few short ones, at a time.
"""

import io
import logging
import random
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.ipc
import soundfile
from datasets.fingerprint import Hasher
from tqdm.auto import tqdm

from ..audio import AudioError, read_waveform
from ..data.disk_space import FULL, room_for, size_of_files
from ..data.processes import map_in_processes
from ..data.sources import DataError
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
from .filtering import FEATURES, TranscriptFilter, corrupt, score, train_filter
from .prepare import PROCESSOR, draw_splits
from .segments import CuttingSettings, segment_recording, segment_samples
from .shards import CARD, ShardSettings, own_parts, parts_of, place_of, split_order, write_card, write_shards
from .shards import FEATURES as COLUMNS
from .transcripts import Recording, read_recordings


FILTER = "filter.json"
REJECTED = "rejected.csv"
OLD = "old"  # an older data set, beside the parts, while a new one takes its place
# Short recordings are worked on together, as many as have so much text.
CHARACTERS_AT_A_TIME = 2_000
PART_SCHEMA = pyarrow.schema(
    [
        *COLUMNS.arrow_schema.remove_metadata(),
        ("split", pyarrow.string()),
        ("start", pyarrow.float64()),
        ("end", pyarrow.float64()),
        ("reason", pyarrow.string()),  # why it cannot be used, if so
        ("right", pyarrow.list_(pyarrow.float64())),  # features with its own transcript
        ("wrong", pyarrow.list_(pyarrow.float64())),  # and with a corrupted one; NaN where there is none
    ]
)
_FACTS = [name for name in PART_SCHEMA.names if name != "audio"]


@dataclass(kw_only=True)
class BuildSettings(ShardSettings):
    """How recordings become a data set; splits and shards as of [`ShardSettings`].

    Args:
        model: the trained model that aligns the recordings and scores the segments.
        precision: share of right transcripts wanted among those that are kept; 0 keeps all that can be aligned.
        known: a data set whose transcripts are right, to train the filter on; "PATH::SPLIT" or a folder.
        cutting: length of the segments, and where they are cut.

    Raises:
        DataError: a value out of range.
    """

    model: str
    precision: float = 0.95
    known: str | None = None
    cutting: CuttingSettings = field(default_factory=CuttingSettings)
    test_share: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.precision <= 1:
            raise UserError(f"precision must lie in [0, 1], but is {self.precision}.")


@dataclass
class Built:
    """What [`build`] made.

    Args:
        splits: of each its utterances, hours, speakers and shards.
        rejected: one row for each segment that was left out, with the reason.
        segments: one row for each segment, without audio.
        filter: the filter that was applied, if any.
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
        DataError: a source that cannot be read, nothing that can be kept, a folder that holds something else already, or no
            space.
        UserError: no filter reaches the precision.
    """
    output = place_of(output)
    work = parts_of(output)
    with room_for(work, lambda: 2 * _size_of(source) - size_of_files(work)), own_parts(output):
        _check_place(output, work)
        return _build(source, splits, output, work, settings, num_processes, show_progress)


def _size_of(source: str) -> int:
    """Bytes of a source on this machine; what is cut of it is about as large, once in parts and once in the data set."""
    place = Path(source)
    return place.stat().st_size if place.is_file() else size_of_files(place)


def _build(
    source: str,
    splits: list[str],
    output: Path,
    work: Path,
    settings: BuildSettings,
    num_processes: int,
    show_progress: bool,
) -> Built:
    processor = DeepSpeech2Processor.from_pretrained(settings.model)
    if settings.known and next(_known_recordings(settings.known), None) is None:
        raise DataError(f"{settings.known} holds no recording with a transcript.")
    parts = make_parts(read_recordings(source, splits), work, settings, num_processes, show_progress)
    segments = _facts(parts)
    if segments.empty:
        raise DataError(f"{source} holds no recording with a transcript.")
    transcript_filter = None
    if settings.precision:
        known = segments
        if settings.known:
            recordings = _known_recordings(settings.known)
            known = _facts(make_parts(recordings, work, settings, num_processes, show_progress))
        transcript_filter = _filter_of(known, settings)
    judge(segments, transcript_filter)
    kept = segments[segments["reason"] == ""].copy()
    if kept.empty:
        raise DataError(f"Nothing of {source} can be kept; most often because: {segments['reason'].mode()[0]}")
    separation = _choose_splits(kept, settings)
    new = work / "data_set"  # whole before it takes the place of an older one
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    found = {}
    for split in split_order(kept["split"]):
        some = kept[kept["split"] == split]
        with tqdm(desc=split, total=len(some), unit=" utterances", disable=not show_progress) as bar:
            found[split] = write_shards(_rows(some, parts, bar), new, split, settings.shard_megabytes * 2**20)
    rejected = _write_rejected(segments, new / REJECTED)
    share = len(kept) / len(segments)
    description = (
        f"Made from recordings: aligned and judged by the model `{Path(settings.model).name}`, cut at pauses; "
        f"{len(kept):,} of {len(segments):,} segments ({share:.0%}) were kept, the others are in `{REJECTED}`.{separation}"
    )
    if transcript_filter is not None:
        transcript_filter.save(new / FILTER)
    write_card(new, found, processor.tokenizer.language, description, name=output.name)
    processor.save_pretrained(new / PROCESSOR)
    _replace(output, new, work / OLD)
    return Built(found, rejected, segments, transcript_filter)


def _check_place(output: Path, work: Path) -> None:
    """What an earlier build left is put in order.

    Raises:
        DataError: the folder holds something else.
    """
    _finish_exchange(output, work / OLD)
    if output.exists() and (not output.is_dir() or any(output.iterdir()) and not (output / REJECTED).exists()):
        raise DataError(f"The folder {output} holds something already: choose another, or empty it.")


def _known_recordings(known: str) -> Iterator[Recording]:
    """Those of "PATH::SPLIT" or of a folder."""
    path, _, split = known.partition("::")
    return read_recordings(path, [split] if split else [])


def _filter_of(known: pandas.DataFrame, settings: BuildSettings) -> TranscriptFilter:
    """Trained on those of the segments that could be scored."""
    usable = known[known["reason"] == ""]
    right, wrong = (
        np.array(usable[name].tolist(), dtype=np.float64).reshape(-1, len(FEATURES)) for name in ("right", "wrong")
    )
    return train_filter(right, wrong, settings.precision, all_are_right=bool(settings.known))


def _choose_splits(kept: pandas.DataFrame, settings: BuildSettings) -> str:
    """Fills in the split of each segment; gives a sentence on how they were drawn, if they were."""
    separation = ""
    if kept["split"].isna().all():
        clips = kept.rename(columns={"speaker_id": "speaker", "duration": "seconds"})
        kept["split"], unit = draw_splits(clips, settings.validation_share, settings.test_share)
        separation = f" The splits were drawn: they share no {unit}."
    kept["split"] = kept["split"].fillna("train")
    return separation


def _write_rejected(segments: pandas.DataFrame, file: Path) -> pandas.DataFrame:
    """The segments that were left out, with the reason and, in the file, what the filter saw of them."""
    rejected = segments[segments["reason"] != ""]
    table = rejected[["id", "source", "start", "end", "reason", "probability", "text"]]
    costs = [[np.nan] * len(FEATURES) if row is None else row for row in rejected["right"]]
    columns = pandas.DataFrame(costs, columns=FEATURES, index=rejected.index)
    table.join(columns).to_csv(file, index=False, float_format="%.4g")
    return table


def _replace(output: Path, new: Path, old: Path) -> None:
    """Puts a new data set into the place of an older one by two renamings; `_finish_exchange` repeats what comes after."""
    if output.exists():
        output.rename(old)
    new.rename(output)
    _finish_exchange(output, old)


def _finish_exchange(output: Path, old: Path) -> None:
    """Removes the older data set, or brings it back where the new one did not come; foreign files stay in the folder."""
    if not old.exists():
        return
    if not output.exists():
        old.rename(output)
        return
    for file in old.iterdir():
        is_own = file.suffix == ".parquet" or file.name in (REJECTED, FILTER, PROCESSOR, CARD)
        if not is_own and not (output / file.name).exists():
            file.rename(output / file.name)
    shutil.rmtree(old)


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
    """Aligns, cuts and scores recordings; finished ones are skipped."""
    work.mkdir(parents=True, exist_ok=True)
    facts = [settings.model, asdict(settings.cutting)]
    for file in sorted(Path(settings.model).glob("*")):
        if file.suffix in (".safetensors", ".json"):
            facts.append(_stamp(file))
    done: list[Path] = []

    def items() -> Iterator[tuple[list[Recording], Path]]:
        for group in _groups(recordings):
            done.append(work / f"{Hasher.hash([facts, [_identity(recording) for recording in group]])}.arrow")
            yield group, done[-1]

    with tqdm(desc="align and cut", unit=" recordings", disable=not show_progress) as bar:
        seconds = 0.0
        for number, some in map_in_processes(partial(_make_part, settings=settings), items(), num_processes):
            seconds += some
            bar.update(number)
            bar.set_postfix(hours=f"{seconds / 3600:.2f}")
    return done


def _stamp(file: Path) -> tuple[str, int, int]:
    return file.name, file.stat().st_size, file.stat().st_mtime_ns


def _identity(recording: Recording) -> list:
    """All that its segments depend on beside the model and the settings."""
    audio, path = recording.audio, recording.audio["path"]
    content = None
    if audio["bytes"] is not None:
        content = blake2b(audio["bytes"], digest_size=16).hexdigest()
    elif path and Path(path).exists():
        content = _stamp(Path(path))
    lines = [vars(line) for line in recording.lines]
    return [recording.name, recording.split, recording.problem, path, content, lines]


def _groups(recordings: Iterator[Recording]) -> Iterator[list[Recording]]:
    group, size = [], 0
    for recording in recordings:
        group.append(recording)
        size += 1 + sum(len(line.text) for line in recording.lines)
        if size >= CHARACTERS_AT_A_TIME:
            yield group
            group, size = [], 0
    if group:
        yield group


@lru_cache(1)
def _load(model: str) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor]:
    # Here, for other processes do not inherit it: the report names what the tokenizer would log for every segment.
    logging.getLogger(DeepSpeech2CTCTokenizer.__module__).setLevel(logging.ERROR)
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
        with pyarrow.ipc.new_file(new, PART_SCHEMA) as writer:
            writer.write_table(table)
        new.rename(file)
    return len(recordings), float(np.sum(_open_part(file)["duration"].to_numpy()))


def _open_part(file: Path) -> pyarrow.Table:
    """Its table as it stands on disk: only what is looked at is read."""
    return pyarrow.ipc.open_file(pyarrow.memory_map(str(file))).read_all()


def _segments(recording: Recording, model, processor, settings: BuildSettings) -> list[dict]:
    rate = processor.feature_extractor.sampling_rate
    common = {"source": recording.name, "split": recording.split, "reason": ""}
    try:
        if recording.problem:
            raise DataError(recording.problem)
        if not recording.lines:
            raise DataError("The transcript is empty.")
        waveform = read_waveform(recording.audio, rate, recording.name)
        segments = segment_recording(waveform, recording.lines, model, processor, settings.cutting)
    except (AudioError, DataError, OSError, ValueError) as error:
        if getattr(error, "errno", None) in FULL:  # where ffmpeg's copies go: no fault of the recording
            raise
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
                f"It lasts {row['duration']:.1f} s, with no pause of {cutting.pause:g} s between two words at a better "
                f"place; max_seconds is {cutting.max_seconds:g}."
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
        table = _open_part(part).select(_FACTS).to_pandas()
        tables.append(table.assign(part=number, row=range(len(table))))
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(columns=_FACTS)


def _rows(kept: pandas.DataFrame, parts: list[Path], bar: tqdm) -> Iterator[dict]:
    """Rows from the shortest to the longest, each read from its part when its turn comes."""
    for segment in kept.sort_values("duration", kind="stable").itertuples(index=False):
        [row] = _open_part(parts[segment.part]).select(COLUMNS.arrow_schema.names).slice(segment.row, 1).to_pylist()
        yield row
        bar.update()
