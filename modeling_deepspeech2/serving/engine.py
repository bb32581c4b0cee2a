"""A unidirectional model as the dispatcher uses it: samples of many streams in one array, states in one list of tensors.

All pieces of a batch have one size, a multiple of `unit`, so that every stream is in the same phase of the model's windows.
The first logits need `first_piece` samples; a new stream waits for them, and is in phase from then on.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..transcription.streaming import AcousticState, StreamingFeatures, StreamingModel


class Engine(Protocol):
    """What the dispatcher asks of a model; states are tensors with one row for each stream."""

    sampling_rate: int  # hertz
    unit: int  # samples of one frame of logits
    first_piece: int  # samples, a multiple of `unit`
    seconds_per_frame: float  # of the logits

    def step(self, samples: np.ndarray, states: list[Tensor] | None) -> tuple[np.ndarray, list[Tensor]]:
        """Samples, shape (streams, samples), and their states -> logits, shape (streams, frames, vocab_size), and states.

        The number of samples is a multiple of `unit`, and at least `first_piece` for new streams, whose states are None.
        """
        ...

    def finish(self, samples: np.ndarray, states: list[Tensor] | None) -> np.ndarray:
        """The last samples of one stream, shape (samples,), any number of them -> logits, shape (frames, vocab_size)."""
        ...


def samples_to_phase(step: Callable[[np.ndarray, list[Tensor] | None], tuple[np.ndarray, list[Tensor]]], unit: int) -> int:
    """Samples after which every further unit leaves the windows as long as they were, whatever `step` is."""
    shapes: list[torch.Size] = []
    states = None
    for units in range(1, 10_000):
        _, states = step(np.zeros((1, unit), np.float32), states)
        if shapes == [state.shape for state in states]:
            return (units - 1) * unit
        shapes = [state.shape for state in states]
    raise ValueError("The model's windows never come into phase: its lookahead is longer than 10,000 frames.")


class TorchEngine:
    """The model in PyTorch, on the device where it is.

    Args:
        model: a trained unidirectional model, or what `fold_batch_norm` or quantisation made of it.
        feature_extractor: its own.

    Raises:
        ValueError: the model is bidirectional, or its features are normalised by the utterance.
    """

    def __init__(self, model: DeepSpeech2ForCTC, feature_extractor: DeepSpeech2FeatureExtractor):
        StreamingFeatures(feature_extractor)  # refuses the normalisation that a stream cannot have
        self.model, self.extractor = StreamingModel(model), feature_extractor
        config = model.config
        self.sampling_rate = feature_extractor.sampling_rate
        self.unit = config.inputs_to_logits_ratio
        self.seconds_per_frame = self.unit / self.sampling_rate
        self.is_lstm = config.rnn_type == "lstm"
        self.first_piece = samples_to_phase(self.step, self.unit)

    def step(self, samples: np.ndarray, states: list[Tensor] | None) -> tuple[np.ndarray, list[Tensor]]:
        return self._step(samples, states)

    def finish(self, samples: np.ndarray, states: list[Tensor] | None) -> np.ndarray:
        logits, _ = self._step(samples[None], states, last=True)
        return logits[0]

    @torch.inference_mode()
    def _step(self, samples: np.ndarray, states: list[Tensor] | None, last: bool = False) -> tuple[np.ndarray, list[Tensor]]:
        half = self.extractor.n_fft // 2
        kept = torch.zeros(len(samples), half) if states is None else states[0].cpu()
        features, kept = self._features(kept, torch.from_numpy(samples), last)
        state = self.model.start(len(samples)) if states is None else self._join(states[1:])
        logits, state = self.model.step(features, state, last)
        return logits.float().cpu().numpy(), [kept, *self._split(state)]

    def _features(self, kept: Tensor, samples: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """As [`StreamingFeatures`] makes them, for all streams by one transform."""
        extractor, half = self.extractor, self.extractor.n_fft // 2
        signal = torch.cat([kept, samples, samples.new_zeros(len(samples), half if last else 0)], 1)
        frames = max(0, (signal.shape[1] - extractor.n_fft) // extractor.hop_length + 1)
        if frames == 0:
            return signal.new_zeros(len(signal), 0, extractor.feature_size), signal
        used = (frames - 1) * extractor.hop_length + extractor.n_fft
        features = extractor.normalize(extractor.log_power(signal[:, :used], centred=False))
        return features, signal[:, frames * extractor.hop_length :]

    def _split(self, state: AcousticState) -> list[Tensor]:
        recurrent: list[Tensor] = []
        for part in state.recurrent:
            if part is not None:
                recurrent += [value[0] for value in (part if isinstance(part, tuple) else (part,))]
        return [*state.windows, *recurrent, *([] if state.lookahead is None else [state.lookahead])]

    def _join(self, states: list[Tensor]) -> AcousticState:
        config = self.model.model.config
        windows, rest = states[: len(self.model.windows)], states[len(self.model.windows) :]
        lookahead = rest.pop() if config.lookahead else None
        values: list[Any] = [value[None] for value in rest] or [None] * config.num_hidden_layers
        if self.is_lstm and rest:
            values = list(zip(values[::2], values[1::2]))
        return AcousticState(windows, values, lookahead)


class StateTable:
    """The states of up to `capacity` streams: one tensor for each part of the state, a row of each for every stream.

    A stalled stream costs only its rows.
    """

    def __init__(self, capacity: int):
        self.capacity, self.parts = capacity, None
        self.free = list(range(capacity - 1, -1, -1))

    @torch.inference_mode()
    def read(self, rows: list[int]) -> list[Tensor]:
        index = torch.tensor(rows)
        return [part.index_select(0, index.to(part.device)) for part in self.parts]

    @torch.inference_mode()
    def write(self, rows: list[int], states: list[Tensor]) -> None:
        if self.parts is None:
            self.parts = [state.new_zeros(self.capacity, *state.shape[1:]) for state in states]
        index = torch.tensor(rows)
        for part, state in zip(self.parts, states):
            part.index_copy_(0, index.to(part.device), state)
