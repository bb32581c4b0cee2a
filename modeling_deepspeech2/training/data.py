"""Speech data sets -> batches for the model, as streams.

In comes the name of a data set (Hub or local), out go padded batches of features and labels. Nothing is held in memory but
a shuffle buffer. An utterance that cannot be used is left out, and every batch says which and why.
"""

import io
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import torch
from datasets import IterableDataset, Value, concatenate_datasets, get_dataset_config_names, load_dataset
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ..audio import AudioError, read_audio
from ..configuration_deepspeech2 import DeepSpeech2Config
from ..processing_deepspeech2 import DeepSpeech2Processor
from .augmentation import Augmentation


METADATA_FILES = ("metadata.jsonl", "metadata.csv")


@dataclass
class Utterance:
    """One row of a data set, its audio still undecoded."""

    name: str
    audio: dict  # {"bytes": …, "path": …}
    text: str | None


class DataError(ValueError):
    """A data set that cannot be used as asked: which, and why."""


def load_speech(path: str, split: str, audio_column: str = "audio", text_column: str = "text") -> IterableDataset:
    """Opens one split of a data set as a stream of rows with undecoded audio.

    Args:
        path: a name on the Hub, or a folder: parquet shards, or an audio folder with a metadata.csv or metadata.jsonl
            whose column `file_name` names the files.
        split: "split", or "configuration/split" where the data set has several configurations.
        audio_column, text_column: what the data set calls them.

    Raises:
        DataError: no such data set, configuration, split or column.
    """
    configuration, _, split_name = split.rpartition("/")
    folder = Path(path)
    for base in (folder / split_name, folder):
        for name in METADATA_FILES:
            if (base / name).exists():
                return _load_audio_folder(base / name, audio_column, text_column)
    if path.startswith((".", "/", "~")) and not folder.exists():
        raise DataError(f"There is no data set folder {path}.")
    try:
        dataset = load_dataset(path, configuration or None, split=split_name, streaming=True)
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        known = _configurations(path)
        hint = f" Its configurations are {', '.join(known)}." if len(known) > 1 else ""
        raise DataError(f"Cannot open split {split!r} of the data set {path}: {error}.{hint}") from error
    columns = dataset.column_names or []
    for column in (audio_column, text_column):
        if column not in columns:
            raise DataError(f"The data set {path} has no column {column!r}; its columns are {', '.join(columns)}.")
    # Undecoded, so that a broken file is a bad row and not the end of the stream; and plain bytes rather than
    # `Audio(decode=False)`, for which datasets wants torchcodec as soon as a stream is shuffled or joined.
    dataset = dataset.cast_column(audio_column, {"bytes": Value("binary"), "path": Value("string")})
    return dataset.rename_columns(_renaming(audio_column, text_column))


def _configurations(path: str) -> list[str]:
    try:
        return get_dataset_config_names(path)
    except Exception:  # only a hint for an error message that is on its way already
        return []


def _renaming(audio_column: str, text_column: str) -> dict[str, str]:
    return {old: new for old, new in ((audio_column, "audio"), (text_column, "text")) if old != new}


def _load_audio_folder(metadata: Path, audio_column: str, text_column: str) -> IterableDataset:
    """The rows of an audio folder by its metadata; datasets' own loader would need torchcodec to list the files."""
    kind = {".csv": "csv", ".jsonl": "json"}[metadata.suffix]
    dataset = load_dataset(kind, data_files=str(metadata), split="train", streaming=True)
    columns = dataset.column_names or list(next(iter(dataset)))
    for column in ("file_name", text_column):
        if column not in columns:
            raise DataError(f"{metadata} has no column {column!r}; its columns are {', '.join(columns)}.")
    dataset = dataset.rename_columns(_renaming(audio_column, text_column)) if text_column != "text" else dataset
    return dataset.map(
        lambda row: {"audio": {"bytes": None, "path": str(metadata.parent / row["file_name"])}, "id": row["file_name"]}
    )


def utterances(dataset: IterableDataset) -> Iterator[Utterance]:
    """The rows of a stream with a name for each: its id, else its file, else its number."""
    for number, row in enumerate(dataset):
        audio = row["audio"] or {}
        yield Utterance(str(row.get("id") or audio.get("path") or f"row {number}"), audio, row["text"])


@dataclass
class SpeechData:
    """Splits of a data set, read one after the other as one stream of utterances.

    Args:
        path: the data set, see [`load_speech`].
        splits: what to read, each as "split" or "configuration/split".
        held_out: share of the utterances, drawn by a hash of their names, that `part` tells apart.
        part: "all" utterances, those "kept" for training, or those "held_out".
    """

    path: str
    splits: list[str]
    audio_column: str = "audio"
    text_column: str = "text"
    held_out: float = 0.0
    part: str = "all"

    def __post_init__(self):
        self.datasets = [load_speech(self.path, s, self.audio_column, self.text_column) for s in self.splits]

    def stream(self, seed: int | None = None, epoch: int = 0, buffer_size: int = 1_000) -> Iterator[Utterance]:
        """All utterances once, shuffled where there is a seed: the same order for the same seed and epoch."""
        columns = ["audio", "text", "id"]
        datasets = [d.select_columns([c for c in columns if c in (d.column_names or columns)]) for d in self.datasets]
        dataset = concatenate_datasets(datasets)
        if seed is not None:
            dataset = dataset.shuffle(seed=seed + epoch, buffer_size=buffer_size)
        for utterance in utterances(dataset):
            is_held_out = zlib.crc32(utterance.name.encode()) % 10_000 < self.held_out * 10_000
            if self.part == "all" or is_held_out == (self.part == "held_out"):
                yield utterance


@dataclass
class Survey:
    """What a pass over a data set finds before the first step."""

    utterances: int = 0
    seconds: float = 0.0

    @property
    def hours(self) -> float:
        return self.seconds / 3600


def survey(data: SpeechData, description: str, disable: bool = False) -> Survey:
    """Counts utterances and seconds, reading the headers of the audio files alone."""
    found = Survey()
    for utterance in tqdm(data.stream(), desc=description, unit=" utterances", disable=disable, leave=False):
        found.utterances += 1
        try:
            found.seconds += soundfile.info(_file_object(utterance.audio)).duration
        except (soundfile.LibsndfileError, OSError, TypeError):
            continue  # the collator will name it
    return found


def _file_object(audio: dict):
    return io.BytesIO(audio["bytes"]) if audio.get("bytes") is not None else audio["path"]


def waveforms(data: SpeechData, sampling_rate: int, limit: int) -> Iterator[torch.Tensor]:
    """The first `limit` readable waveforms of a data set, for the statistics of the features."""
    count = 0
    for utterance in data.stream():
        if count == limit:
            return
        try:
            yield read(utterance, sampling_rate)
            count += 1
        except (AudioError, OSError):
            continue


def read(utterance: Utterance, sampling_rate: int):
    source = utterance.audio.get("bytes")
    if source is None:
        source = utterance.audio.get("path")
    if source is None:
        raise AudioError(f"{utterance.name} has neither bytes nor a path.")
    return read_audio(source, sampling_rate, name=utterance.name)


@dataclass
class Collator:
    """Utterances -> one batch: `input_features`, `attention_mask`, `labels`, and a report of what was left out.

    Left out are utterances whose audio cannot be read, whose transcript is empty and, in training, those with a transcript
    longer than CTC can fit into the output frames (its cost would be infinite). Characters outside the alphabet are
    dropped, and counted.
    """

    processor: DeepSpeech2Processor
    config: DeepSpeech2Config
    training: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __call__(self, batch: list[Utterance]) -> dict:
        extractor, tokenizer = self.processor.feature_extractor, self.processor.tokenizer
        kept: dict[str, list] = {"features": [], "labels": [], "texts": [], "names": []}
        skipped: list[tuple[str, str]] = []
        unknown: Counter[str] = Counter()
        seconds = 0.0
        for utterance in batch:
            try:
                generator = self.augmentation.generator(utterance.name)
                waveform = read(utterance, extractor.sampling_rate)
                waveform = self.augmentation.change_speed(waveform, generator)
                labels = self._labels(utterance.text, extractor.num_frames(len(waveform)))
            except (AudioError, DataError, OSError) as error:
                skipped.append((utterance.name, str(error)))
                continue
            unknown.update(tokenizer.unknown_characters(utterance.text))
            features = extractor.normalize(extractor.log_power(waveform))
            kept["features"].append(self.augmentation.mask(features, generator))
            seconds += len(waveform) / extractor.sampling_rate
            kept["labels"].append(labels)
            kept["texts"].append(tokenizer.normalize(utterance.text))
            kept["names"].append(utterance.name)
        return {
            **self._tensors(kept["features"], kept["labels"]),
            "texts": kept["texts"],
            "names": kept["names"],
            "seconds": seconds,
            "skipped": skipped,
            "unknown_characters": unknown,
        }

    def _labels(self, text: str | None, num_frames: int) -> list[int]:
        labels = self.processor.tokenizer(text or "")["input_ids"]
        if not labels:
            raise DataError(f"The transcript {text!r} holds no character of the alphabet.")
        # CTC needs a frame for each character, and a blank between two equal ones.
        needed = len(labels) + sum(a == b for a, b in zip(labels, labels[1:]))
        available = math.ceil(num_frames / self.config.time_stride)
        if self.training and needed > available:
            raise DataError(f"The transcript needs {needed} output frames, but the audio has {available}: {text!r}.")
        return labels

    def _tensors(self, features: list[torch.Tensor], labels: list[list[int]]) -> dict[str, torch.Tensor]:
        # The empty batch keeps the axes that the model looks at.
        features = features or [torch.zeros(0, self.config.num_frequency_bins)]
        padded = pad_sequence(features, batch_first=True, padding_value=self.processor.feature_extractor.padding_value)
        lengths = torch.tensor([len(utterance) for utterance in features])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        targets = pad_sequence([torch.tensor(ids) for ids in labels or [[-100]]], batch_first=True, padding_value=-100)
        size = len(labels)
        return {"input_features": padded[:size], "attention_mask": mask[:size], "labels": targets[:size]}


@dataclass
class Batches(torch.utils.data.IterableDataset):
    """Lists of `batch_size` utterances of one epoch, shared out among the processes and their workers.

    Which utterances make a batch is settled before any audio is decoded, so that a resumed run skips the batches that it
    has seen at the cost of reading their bytes.
    """

    data: SpeechData
    batch_size: int
    seed: int | None = None
    epoch: int = 0
    first_batch: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle_buffer: int = 1_000

    def __iter__(self) -> Iterator[list[Utterance]]:
        worker = torch.utils.data.get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for index, batch in enumerate(self._batches()):
            if index >= self.first_batch and (index - self.first_batch) % workers == worker_id:
                yield batch

    def _batches(self) -> Iterator[list[Utterance]]:
        batch: list[Utterance] = []
        stream = self.data.stream(self.seed, self.epoch, self.shuffle_buffer)
        for number, utterance in enumerate(stream):
            if number % self.world_size == self.rank:
                batch.append(utterance)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


def make_loader(batches: Batches, collate: Collator, num_workers: int = 0) -> torch.utils.data.DataLoader:
    """Decodes and pads the batches, in `num_workers` processes beside this one, or in it."""
    return torch.utils.data.DataLoader(
        batches,
        batch_size=None,
        collate_fn=collate,
        num_workers=num_workers,
        # Its own generator: from the global one it would draw a number, and change the dropout of a resumed run.
        generator=torch.Generator(),
    )
