"""Live streams: text from samples in pieces of any size, as soon as their frames are complete (section 3.7).

The acoustic model of a stream computes with torch (`streaming.py`) or, where there is no torch, with onnxruntime
(`exported.py`); from the logits on both are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..conditioning import Conditioner, with_silence
from ..errors import UserError
from ..hypotheses import Decoder, Hypothesis
from ..recognition import Recognition
from ..utterances import END_OF_UTTERANCE, LONGEST_UTTERANCE, LiveText
from ..waveform import mono
from .exported import ExportedModel


if TYPE_CHECKING:
    from torch import Tensor

    from ..modeling_deepspeech2 import DeepSpeech2ForCTC
    from .streaming import StreamingModel


class Acoustics(Protocol):
    """The acoustic model of one stream, and its state."""

    sampling_rate: int

    def feed(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """Samples, any number of them -> the logits that are complete now, shape (frames, vocab_size)."""

    @staticmethod
    def feed_all(streams: list[Any], samples: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """`feed` for many streams of one kind; yields the place of a stream and further logits of it."""


class DeepSpeech2Stream:
    """A live stream: takes samples and gives text.

    >>> stream = DeepSpeech2Stream(model, processor)  # or DeepSpeech2Stream(ExportedModel("live-onnx"))
    >>> for samples in microphone:
    ...     for utterance in stream.feed(samples):
    ...         print(utterance.text)
    ...     print(stream.text.stable, stream.text.tentative)
    >>> last = stream.finish()  # the utterances that had not ended yet

    Args:
        model: a trained unidirectional model, what `fold_batch_norm` or quantisation made of it, a [`StreamingModel`], which
            many streams can share, or an [`ExportedModel`], which was exported with `--live` and needs no torch.
        processor: the [`DeepSpeech2Processor`] beside it; not for an [`ExportedModel`], which has its own.
        decoder: a [`CTCBeamSearchDecoder`]; None: the best path.
        end_of_utterance: seconds without a symbol that end an utterance.
        longest_utterance: seconds; in its second half ever shorter pauses between two words end an utterance.
        hotwords: word or phrase -> weight, see [`CTCBeamSearchDecoder.decode`].

    Raises:
        ValueError: the model is bidirectional, its features are normalised by the utterance, it was exported without
            `--live`, or the decoder is of another alphabet.
    """

    def __init__(
        self,
        model: DeepSpeech2ForCTC | StreamingModel | ExportedModel,
        processor: Any = None,
        decoder: Decoder | None = None,
        end_of_utterance: float = END_OF_UTTERANCE,
        longest_utterance: float = LONGEST_UTTERANCE,
        hotwords: dict[str, float] | None = None,
    ):
        self.acoustics: Any  # None when the stream is finished
        if isinstance(model, ExportedModel):
            self.acoustics, tokenizer, config = model.start(), model.tokenizer, model.config
        else:
            from .streaming import TorchAcoustics  # which needs torch

            self.acoustics = TorchAcoustics(model, processor.feature_extractor)
            tokenizer, config = processor.tokenizer, self.acoustics.model.model.config
        self.sampling_rate: int = self.acoustics.sampling_rate
        recognition = Recognition(tokenizer, config, decoder, end_of_utterance, longest_utterance, hotwords)
        self.utterances = recognition.stream()
        self._conditioner = Conditioner(self.sampling_rate)
        self._frames = (config.inputs_to_logits_ratio, config.vocab_size, tokenizer.pad_token_id)
        self.ended: list[str] = []  # texts of the utterances that are over

    @property
    def text(self) -> LiveText:
        """The text since the beginning: a stable part, which only grows, and a tentative part behind it."""
        return self.utterances.text_after(self.ended)

    def feed(self, samples: np.ndarray | Tensor) -> list[Hypothesis]:
        """Feeds some samples.

        Args:
            samples: floating point in [-1, 1], at the model's sampling rate, shape (samples,) or (channels, samples).

        Returns:
            The utterances that ended, with times from the stream's beginning.

        Raises:
            ValueError: samples that are not such numbers, or a stream that is finished.
        """
        return feed_streams([self], [samples])[0]

    def finish(self) -> list[Hypothesis]:
        """Ends the stream; returns the utterances that had not ended yet."""
        self._check()
        ended = self._decode(self.acoustics.feed(self._conditioner(last=True), last=True))
        self.acoustics = None
        return ended + self._remember(self.utterances.finish())

    def _check(self) -> None:
        if self.acoustics is None:
            raise UserError("This stream is finished: make another DeepSpeech2Stream for what comes.")

    def _decode(self, logits: np.ndarray) -> list[Hypothesis]:
        ended: list[Hypothesis] = []
        for piece in with_silence([logits], self._conditioner, *self._frames):
            ended += self.utterances.feed(piece)
        return self._remember(ended)

    def _remember(self, ended: list[Hypothesis]) -> list[Hypothesis]:
        self.ended += [utterance.text for utterance in ended]
        return ended


def feed_streams(streams: list[DeepSpeech2Stream], pieces: list[np.ndarray | Tensor]) -> list[list[Hypothesis]]:
    """`feed` for many streams at once: those that share a [`StreamingModel`] go through it in one batch.

    Args:
        streams: begun at any time.
        pieces: the new samples of each; pieces of equal length make the largest batches.

    Returns:
        For each stream the utterances that ended.

    Raises:
        ValueError: a stream that is finished or comes twice, a piece that is no audio, another number of pieces than of
            streams; no stream has moved on then.
    """
    streams, pieces = list(streams), list(pieces)
    if not all(isinstance(stream, DeepSpeech2Stream) for stream in streams):
        raise UserError("streams: found something else among them, expected streams of DeepSpeech2Stream alone.")
    if len(streams) != len(pieces):
        raise UserError(f"pieces: found {len(pieces)}, expected one for each of the {len(streams)} streams.")
    if len({id(stream) for stream in streams}) < len(streams):
        raise UserError("streams: found the same stream twice; join its pieces, or feed them one after the other.")
    for stream in streams:
        stream._check()
    samples = [mono(piece, "The waveform") for piece in pieces]
    samples = [stream._conditioner(piece) for stream, piece in zip(streams, samples)]
    ended: list[list[Hypothesis]] = [[] for _ in streams]
    kinds: dict[type, list[int]] = {}
    for index, stream in enumerate(streams):
        kinds.setdefault(type(stream.acoustics), []).append(index)
    for kind, group in kinds.items():
        acoustics: type[Acoustics] = kind
        for place, logits in acoustics.feed_all([streams[i].acoustics for i in group], [samples[i] for i in group]):
            ended[group[place]] += streams[group[place]]._decode(logits)
    return ended
