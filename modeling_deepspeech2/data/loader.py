"""Loads the batches of an epoch's plan: padded features and labels for the model.

The batches are the same for every run with the same seed. An utterance that cannot be used is left out; each batch records
which ones, and why.
"""

import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..audio import AudioError, read_waveform
from ..conditioning import condition
from ..configuration_deepspeech2 import DeepSpeech2Config
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..processing_deepspeech2 import DeepSpeech2Processor
from .augmentation import Augmentation
from .batching import EpochPlan
from .sources import DataError, SpeechData, Utterance, lasts_otherwise
from .utterance_file import UtteranceFile


JOINED_SECONDS = 20.0  # at most, of two clips end to end


class Spoken(NamedTuple):
    """The decoded audio of one utterance, or of several end to end, and its transcript."""

    names: tuple[str, ...]
    text: str
    waveform: np.ndarray


class Batch(dict):
    """`input_features`, `attention_mask` and `labels` of some utterances, and a report of what was left out."""

    def pin_memory(self) -> "Batch":
        """With the features in memory from which a GPU fetches them by itself; lengths and labels are read on the CPU."""
        return Batch(self, input_features=self["input_features"].pin_memory())


@dataclass
class Collator:
    """Utterances -> one batch: `input_features`, `attention_mask`, `labels`, and a report of what was left out.

    Left out are utterances whose audio cannot be read, whose transcript is empty and, in training, those with a transcript
    longer than CTC can fit into the output frames (its cost would be infinite), and those longer than `max_seconds`, where
    it is given. Characters outside the alphabet are dropped, and counted.
    """

    processor: DeepSpeech2Processor
    config: DeepSpeech2Config
    training: bool = True
    max_seconds: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __call__(self, batch: list[Utterance]) -> Batch:
        extractor, tokenizer = self.processor.feature_extractor, self.processor.tokenizer
        kept: dict[str, list] = {"features": [], "labels": [], "texts": [], "names": []}
        spoken: list[Spoken] = []
        skipped: list[tuple[str, str]] = []
        unknown: Counter[str] = Counter()
        seconds = 0.0
        for utterance in batch:
            try:
                spoken.append(Spoken((utterance.name,), utterance.text or "", self._waveform(utterance)))
            except (AudioError, DataError, OSError) as error:
                skipped.append((utterance.name, str(error)))
        for names, text, waveform in self._joined(spoken):
            name = " + ".join(names)
            generator = self.augmentation.generator(name)
            waveform = self.augmentation.change(waveform, extractor.sampling_rate, generator)
            try:
                labels = self._labels(text, extractor.num_frames(len(waveform)))
            except DataError as error:
                skipped += [(name, str(error)) for name in names]
                continue
            unknown.update(tokenizer.unknown_characters(text))
            seconds += len(waveform) / extractor.sampling_rate
            if not self.training:
                waveform = self._conditioned(waveform, extractor)
            features = extractor.normalize(extractor.log_power(waveform))
            kept["features"].append(self.augmentation.mask(features, generator))
            kept["labels"].append(labels)
            kept["texts"].append(tokenizer.normalize(text))
            kept["names"].append(name)
        return Batch(
            self._tensors(kept["features"], kept["labels"]),
            texts=kept["texts"],
            names=kept["names"],
            seconds=seconds,
            skipped=skipped,
            unknown_characters=unknown,
        )

    def _waveform(self, utterance: Utterance) -> np.ndarray:
        if utterance.problem:
            raise DataError(utterance.problem)
        rate = self.processor.feature_extractor.sampling_rate
        waveform = read_waveform(utterance.audio, rate, utterance.name)
        length = len(waveform) / rate
        if self.training and utterance.seconds and lasts_otherwise(utterance.seconds, length):
            raise DataError(f"It lasts {length:.2f} s, but its data set says {utterance.seconds:.2f} s.")
        if self.max_seconds and length > self.max_seconds:
            raise DataError(f"It lasts {length:.1f} s, longer than max_seconds, {self.max_seconds:g}.")
        return waveform

    def _joined(self, spoken: list[Spoken]) -> list[Spoken]:
        """In a share of the batches, two utterances each, end to end, as one; a batch holds clips of similar lengths."""
        samples = max((len(utterance.waveform) for utterance in spoken), default=0)
        longest = min(JOINED_SECONDS, self.max_seconds or JOINED_SECONDS) * self.processor.feature_extractor.sampling_rate
        if 2 * samples > longest or not self.augmentation.joins([name for utterance in spoken for name in utterance.names]):
            return spoken
        pairs = [
            Spoken(
                first.names + second.names, f"{first.text} {second.text}", np.concatenate([first.waveform, second.waveform])
            )
            for first, second in zip(spoken[::2], spoken[1::2])
        ]
        return pairs + spoken[2 * len(pairs) :]

    def _conditioned(self, waveform: np.ndarray, extractor: DeepSpeech2FeatureExtractor) -> np.ndarray:
        """What every transcription does first; silence alone stays as it is."""
        is_whole = self.config.bidirectional or extractor.normalization == "utterance"
        conditioned = condition(waveform, extractor.sampling_rate, is_whole)[0]
        return conditioned if len(conditioned) else waveform

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
        # The empty batch keeps the axes that the model looks at, and a frame for its convolutions.
        features = features or [torch.zeros(1, self.config.num_frequency_bins)]
        padded = pad_sequence(features, batch_first=True, padding_value=self.processor.feature_extractor.padding_value)
        lengths = torch.tensor([len(utterance) for utterance in features])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        targets = pad_sequence([torch.tensor(ids) for ids in labels or [[-100]]], batch_first=True, padding_value=-100)
        size = len(labels)
        return {"input_features": padded[:size], "attention_mask": mask[:size], "labels": targets[:size]}


@dataclass
class Batches:
    """Lists of utterances, in the order of a plan, for one of `world_size` processes.

    Of each step it gives this process's parts, in turn; a part may be empty. Only what this process will use is held.
    """

    data: SpeechData | UtteranceFile
    plan: EpochPlan
    first_step: int = 0
    rank: int = 0
    world_size: int = 1

    @property
    def parts(self) -> range:
        """The parts of every step that are this process's."""
        return range(self.rank, self.plan.parts, self.world_size)

    def __iter__(self) -> Iterator[list[Utterance]]:
        windows = list(self.plan.windows(self.first_step)) if self.parts else []
        readers = [_WindowReader(self.data, self.plan, windows, parts) for parts in self._parts_read_together()]

        def read() -> dict[int, Utterance]:
            return {number: utterance for reader in readers for number, utterance in reader.next_window().items()}

        # While one window is worked on, the next is read.
        with ThreadPoolExecutor(1) as thread:
            ahead = [thread.submit(read) for _ in windows[:1]]
            for place, window in enumerate(windows):
                found = ahead.pop().result()
                if place + 1 < len(windows):
                    ahead.append(thread.submit(read))
                for step in window:
                    for part in self.parts:
                        yield [found[number] for number in self.plan.batch(step, part).tolist()]
                del found

    def _parts_read_together(self) -> list[list[int]]:
        return [[part] for part in self.parts] if self.plan.lanes > 1 else [list(self.parts)]


class _WindowReader:
    """Reads some parts of each step, window by window, in the order in which their utterances are stored."""

    def __init__(self, data: SpeechData | UtteranceFile, plan: EpochPlan, windows: list[range], parts: list[int]):
        index = data.index
        self.windows = []
        for window in windows:
            own = np.concatenate([plan.batch(step, part) for step in window for part in parts])
            self.windows.append(own[np.lexsort((index.rows[own], plan.shard_places[index.shards[own]]))])
        # Where the next window begins in the shard in which this one ends, the stream reads on.
        self.stream = data.stream(np.concatenate([*self.windows, np.array([], dtype=np.int64)]))
        self.place = 0

    def next_window(self) -> dict[int, Utterance]:
        numbers = self.windows[self.place]
        self.place += 1
        return {number: next(self.stream) for number in numbers.tolist()}


class _Encoded(torch.utils.data.Dataset):
    """Hands what the sampler has read to the collator, so that one process reads and the others decode."""

    def __getitem__(self, utterances: list[Utterance]) -> list[Utterance]:
        return utterances


def make_loader(
    batches: Batches, collate: Collator, num_workers: int = 0, device: torch.device | None = None
) -> torch.utils.data.DataLoader:
    """Decodes and pads the batches, in `num_workers` processes beside this one, or in it; only this one reads them.

    Args:
        device: where the features will be used.
    """
    return torch.utils.data.DataLoader(
        _Encoded(),
        sampler=batches,
        batch_size=None,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=device is not None and device.type == "cuda",
        # Its own generator: from the global one it would draw a number, and change the dropout of a resumed run.
        generator=torch.Generator(),
    )
