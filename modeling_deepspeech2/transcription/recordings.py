"""Transcribes recordings of any length piece by piece, in bounded memory.

A unidirectional model carries its state from piece to piece and gives exactly the logits of one pass. A model that is
bidirectional, or whose features are normalised by utterance, cannot work that way: it reads overlapping chunks, of which
only the middle counts, where what lies outside the chunk no longer matters. Chunks go through the model in batches.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..audio import read_audio_blocks, to_mono
from ..audio_files import is_source
from ..conditioning import Conditioner, conditioned, with_silence
from ..hypotheses import Decoder, Hypothesis
from ..recognition import Recognition
from ..utterances import END_OF_UTTERANCE, LONGEST_UTTERANCE
from ..waveform import mono
from .chunks import BLOCK_SECONDS, CHUNK_SECONDS, CHUNKS, CONTEXT_SECONDS, overlapping, trimmed
from .streaming import StreamingFeatures, StreamingModel


def recording_logits(
    model: Any,
    feature_extractor: Any,
    audio: str | os.PathLike | bytes | np.ndarray | Iterable[np.ndarray],
    batch_size: int = CHUNKS,
) -> Iterator[Tensor]:
    """Logits of a recording, in pieces of shape (frames, vocab_size), on the CPU.

    Silence at its beginning, and at its end if the model reads it whole, does not go through the model: its frames are
    blank, see `conditioning`.

    Args:
        model: a [`DeepSpeech2ForCTC`], or what `fold_batch_norm` or quantisation made of it.
        audio: path or bytes of a file, samples at the model's rate, or an iterable of pieces of them.
        batch_size: chunks that go through a bidirectional model at once.

    Raises:
        AudioError: audio that cannot be read.
    """
    rate = feature_extractor.sampling_rate
    if is_source(audio):
        audio = read_audio_blocks(audio, rate, BLOCK_SECONDS)
    elif isinstance(audio, (np.ndarray, Tensor)) or not isinstance(audio, Iterable):
        audio = [to_mono(audio, rate, rate)]
    config = model.config
    conditioner = Conditioner(rate, _is_read_whole(model, feature_extractor))
    logits = _logits(model, feature_extractor, map(mono, audio), conditioner, batch_size)
    for piece in with_silence(logits, conditioner, config.inputs_to_logits_ratio, config.vocab_size, config.pad_token_id):
        yield torch.as_tensor(piece)


def _logits(
    model: Any, feature_extractor: Any, audio: Iterable[np.ndarray], conditioner: Conditioner, batch_size: int
) -> Iterator[Tensor]:
    audio = conditioned(audio, conditioner)
    if not model.deepspeech2.layers[0].is_folded:
        model = model.fold_batch_norm()
    if _is_read_whole(model, feature_extractor):
        yield from _chunked_logits(model, feature_extractor, audio, conditioner, batch_size)
    else:
        yield from _carried_logits(model, feature_extractor, audio)


def _is_read_whole(model: Any, feature_extractor: Any) -> bool:
    return model.config.bidirectional or feature_extractor.normalization == "utterance"


def _carried_logits(model: Any, feature_extractor: Any, pieces: Iterable[np.ndarray]) -> Iterator[Tensor]:
    features, stream = StreamingFeatures(feature_extractor), StreamingModel(model)
    state = stream.start()
    block = round(BLOCK_SECONDS * feature_extractor.sampling_rate)
    for piece in pieces:
        for start in range(0, len(piece), block):
            logits, state = stream.step(features(piece[start : start + block])[None], state)
            yield logits[0].float().cpu()
    logits, state = stream.step(features(np.zeros(0, np.float32), last=True)[None], state, last=True)
    yield logits[0].float().cpu()


def _chunked_logits(
    model: Any, feature_extractor: Any, pieces: Iterable[np.ndarray], conditioner: Conditioner, batch_size: int
) -> Iterator[Tensor]:
    ratio, rate = model.config.inputs_to_logits_ratio, feature_extractor.sampling_rate
    size, context = (round(seconds * rate / ratio) for seconds in (CHUNK_SECONDS, CONTEXT_SECONDS))  # output frames
    batch: list[tuple[np.ndarray, slice]] = []
    for chunk in trimmed(overlapping(pieces, size * ratio, context * ratio), conditioner):
        batch.append(chunk)
        if len(batch) == batch_size:
            yield from _batch_logits(model, feature_extractor, batch)
            batch = []
    if batch:
        yield from _batch_logits(model, feature_extractor, batch)


@torch.inference_mode()
def _batch_logits(model: Any, feature_extractor: Any, batch: list[tuple[np.ndarray, slice]]) -> Iterator[Tensor]:
    inputs = feature_extractor([chunk for chunk, _ in batch], return_tensors="pt").to(model.device)
    ratio = model.config.inputs_to_logits_ratio
    lengths = model.output_lengths(inputs.attention_mask.sum(1)).tolist()
    logits = model(inputs.input_features, inputs.attention_mask).logits.float().cpu()
    for (_, counts), length, own in zip(batch, lengths, logits):
        yield own[counts.start // ratio : length if counts.stop is None else counts.stop // ratio]


def transcribe(
    model: Any,
    processor: Any,
    audio: str | os.PathLike | bytes | np.ndarray | Iterable[np.ndarray],
    decoder: Decoder | None = None,
    end_of_utterance: float = END_OF_UTTERANCE,
    longest_utterance: float = LONGEST_UTTERANCE,
    hotwords: dict[str, float] | None = None,
    batch_size: int = CHUNKS,
) -> Iterator[Hypothesis]:
    """Transcribes a recording of any length, utterance by utterance, in bounded memory.

    A [`DeepSpeech2Stream`] of the same samples ends its utterances at the same pauses, with the same text.

    Args:
        model: a [`DeepSpeech2ForCTC`], or what `fold_batch_norm` or quantisation made of it.
        processor: the [`DeepSpeech2Processor`] beside it.
        audio: path or bytes of a file, samples at the model's rate, or an iterable of pieces of them.
        decoder: a [`CTCBeamSearchDecoder`]; None: the best path.
        end_of_utterance, longest_utterance, hotwords: as of [`DeepSpeech2Stream`].
        batch_size: chunks that go through a bidirectional model at once.

    Returns:
        Utterances with their words, times in seconds from the beginning of the recording.

    Raises:
        ValueError: a decoder of another alphabet, or times and hot words that [`DeepSpeech2Stream`] would not take.
        AudioError: on reading, audio that cannot be read.
    """
    # Settings are checked here, not when the first utterance is asked for.
    recognition = Recognition(processor.tokenizer, model.config, decoder, end_of_utterance, longest_utterance, hotwords)
    return recognition.utterances(recording_logits(model, processor.feature_extractor, audio, batch_size))
