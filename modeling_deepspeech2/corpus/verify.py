"""A look at a data set before training: what is in it, and what would spoil a result.

The audio is read once, as a stream, in several processes; what stays in memory is about 300 bytes an utterance. What one
utterance tells is in `measurements`, what is concluded in `checks`, and how it is shown in `report`.
"""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas
from tqdm.auto import tqdm

from ..audio import name_of
from ..data.processes import map_in_processes
from ..data.sources import DataError, Source, Utterance, as_text, declared_seconds, open_source
from ..data.text_tables import PROBLEM
from ..errors import UserError
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer
from .checks import CHECK_FUNCTIONS, CHECKS, Finding, Verification
from .measurements import AudioMeasurements, measure_audio, measure_text
from .shards import is_training


ROWS_AT_A_TIME = 32  # that a process measures in one go
ROWS_OF_A_PART = 4_096

Row = tuple[dict, Utterance]  # what is known before the audio is read


def verify(
    path: str,
    splits: list[str],
    tokenizer: DeepSpeech2CTCTokenizer | None = None,
    time_stride: int = 2,
    language: str | None = None,
    columns: tuple[str, str, str, str] = ("audio", "text", "speaker_id", "duration"),
    num_processes: int = 1,
    show_progress: bool = True,
) -> Verification:
    """Reads splits of a data set, measures them and lists findings.

    Args:
        path, splits: the data set and its splits, see [`open_source`]; those called train… are for training.
        tokenizer: its alphabet; without it, that of the training splits (of all, where there are none).
        time_stride: the model's input frames for each output frame.
        language: whose text rules hold where there is no tokenizer.
        columns: what audio, transcripts, speakers and seconds are called.

    Raises:
        DataError: a split cannot be opened.
        UserError: a stride below 1.
    """
    if time_stride < 1:
        raise UserError(f"time_stride must be at least 1, but is {time_stride}.")
    audio_column, text_column, *_ = columns
    sources = {split: open_source(path, split, audio_column, text_column) for split in splits}
    if tokenizer is None:
        training = [split for split in splits if is_training(split)] or splits
        texts = (as_text(text) for split in training for text in _texts(sources[split]))
        tokenizer = DeepSpeech2CTCTokenizer.from_texts(texts, language=language)
    characters: dict[str, Counter] = {split: Counter() for split in splits}
    spectra: dict[str, np.ndarray] = {split: np.zeros(DeepSpeech2FeatureExtractor().feature_size) for split in splits}
    parts: list[pandas.DataFrame] = []
    speakers: dict[str, str] = {}  # one string for all utterances of a speaker
    for split, source in sources.items():
        batches = _batches(split, source, columns, tokenizer, characters[split], speakers)
        with tqdm(desc=split, unit=" utterances", disable=not show_progress) as bar:
            parts += _measure_split(batches, spectra[split], time_stride, num_processes, bar)
    if not parts:
        raise DataError(f"The splits {', '.join(splits)} of {path} hold no utterance.")
    utterances = pandas.concat(parts, ignore_index=True)
    found = Verification(utterances, characters, spectra, [], tokenizer, time_stride)
    for check in CHECK_FUNCTIONS:
        found.findings += check(found)
    for split in set(splits) - set(utterances["split"]):
        found.findings.append(Finding("unreadable", True, split, "The split holds no utterance."))
    found.findings.sort(key=lambda finding: (not finding.spoils, list(CHECKS).index(finding.check)))
    return found


def _texts(source: Source) -> Iterator[str]:
    for shard in range(source.num_shards):
        for table in source.tables(shard, [source.text_column]):
            yield from table[source.text_column].to_pylist()


def _batches(
    split: str,
    source: Source,
    columns: tuple[str, str, str, str],
    tokenizer: DeepSpeech2CTCTokenizer,
    characters: Counter,
    speakers: dict[str, str],
) -> Iterator[list[Row]]:
    """The rows of a split, some at a time."""
    audio_column, text_column, speaker_column, duration_column = columns
    place = 0
    for shard in range(source.num_shards):
        for table in source.tables(shard, ["id", audio_column, text_column, speaker_column, duration_column]):
            for start in range(0, len(table), ROWS_AT_A_TIME):
                batch: list[Row] = []
                for row in table.slice(start, ROWS_AT_A_TIME).to_pylist():
                    audio = {"bytes": None, "path": None} | source.audio(row)
                    name = as_text(row.get("id")) or (audio["path"] and name_of(audio["path"])) or f"{split}, row {place}"
                    text, speaker = as_text(row[text_column]), as_text(row.get(speaker_column))
                    known = {
                        "split": split,
                        "name": name,
                        "speaker": speakers.setdefault(speaker, speaker),
                        "declared": _declared(row.get(duration_column)),
                        **measure_text(text, tokenizer, characters),
                    }
                    batch.append((known, Utterance(name, audio, text, problem=row.get(PROBLEM) or "")))
                    place += 1
                yield batch


def _declared(value: object) -> float:
    """Seconds by the column of durations; NaN where there is none, 0 where it cannot be one."""
    return math.nan if value is None else declared_seconds(value) or 0.0


def _measure_rows(batch: list[Row]) -> list[tuple[dict, AudioMeasurements]]:
    return [(known, measure_audio(utterance)) for known, utterance in batch]


def _measure_split(
    batches: Iterator[list[Row]], spectrum: np.ndarray, time_stride: int, num_processes: int, bar: tqdm
) -> list[pandas.DataFrame]:
    """Tables of what is known and measured; the spectra are added up in `spectrum`."""
    extractor = DeepSpeech2FeatureExtractor()
    parts: list[pandas.DataFrame] = []
    rows: list[dict] = []
    for measured in map_in_processes(_measure_rows, batches, num_processes):
        for known, audio in measured:
            if audio.spectrum is not None:
                spectrum += audio.spectrum
            found = {name: value for name, value in vars(audio).items() if name != "spectrum"}
            frames = extractor.num_frames(round(audio.seconds * extractor.sampling_rate))
            rows.append(known | found | {"available": math.ceil(frames / time_stride)})
        bar.update(len(measured))
        if len(rows) >= ROWS_OF_A_PART:  # a table takes a tenth of the memory of its rows
            parts.append(pandas.DataFrame(rows))
            rows = []
    if rows:
        parts.append(pandas.DataFrame(rows))
    return parts
