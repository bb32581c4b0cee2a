"""Live streams in torch: logits from samples in pieces of any size, as soon as their frames are complete (section 3.7).

Every layer with a window over time keeps the end of its input, and the recurrence keeps its state, so that the logits are
those of one pass over the whole utterance.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor, mono
from ..modeling_deepspeech2 import DeepSpeech2ForCTC


@dataclass(frozen=True)
class SlidingWindow:
    """Cuts a signal that comes in pieces where windows of `size`, one every `hop`, are complete.

    `before` and `after`: zeros at the signal's two ends.
    """

    size: int
    hop: int
    before: int
    after: int

    def __call__(self, kept: Tensor, new: Tensor, last: bool) -> tuple[Tensor, Tensor, int]:
        """What was kept and what is new, (batch, time, …) -> the signal of whole windows, what to keep, their number"""
        pieces = [kept, new]
        if last:
            pieces.append(new.new_zeros(len(new), self.after, *new.shape[2:]))
        signal = torch.cat(pieces, dim=1)
        step = self.size if last else max(self.size, self.hop)  # samples between windows are skipped once they arrive
        windows = max(0, (signal.shape[1] - step) // self.hop + 1)
        end = (windows - 1) * self.hop + self.size if windows else 0
        return signal[:, :end], signal[:, windows * self.hop :], windows


class StreamingFeatures:
    """The feature extractor for one stream: samples in pieces -> frames, the same as of the whole waveform.

    Raises:
        ValueError: normalisation by the whole utterance, which a stream cannot know.
    """

    def __init__(self, feature_extractor: DeepSpeech2FeatureExtractor):
        if feature_extractor.normalization == "utterance":
            raise ValueError(
                "A live stream cannot be normalised by the statistics of its whole utterance: train the model with "
                "normalization='training_set' (or 'none')."
            )
        self.feature_extractor = feature_extractor
        half = feature_extractor.n_fft // 2
        self.window = SlidingWindow(feature_extractor.n_fft, feature_extractor.hop_length, half, half)
        self.kept = torch.zeros(1, half)
        self.has_begun = False

    def __call__(self, samples: np.ndarray | Tensor, last: bool = False) -> Tensor:
        """Samples -> the frames that they complete, shape (frames, bins).

        Args:
            samples: floating point in [-1, 1], shape (samples,) or (channels, samples), which is averaged.
            last: nothing comes after.

        Raises:
            ValueError: samples that are not such numbers, or not finite.
        """
        samples = mono(samples)
        self.has_begun = self.has_begun or len(samples) > 0
        signal, self.kept, frames = self.window(self.kept, samples[None], last)
        if frames == 0 or not self.has_begun:
            return samples.new_zeros(0, self.feature_extractor.feature_size)
        return self.feature_extractor.normalize(self.feature_extractor.log_power(signal[0], centred=False))


@dataclass
class AcousticState:
    """The state of the model for a stream, or for a batch of streams in the same phase."""

    windows: list[Tensor]  # what each convolution will need again, (batch, time, channels, bins)
    recurrent: list[Tensor | tuple[Tensor, Tensor] | None]
    lookahead: Tensor | None  # hidden states whose future is not complete

    @property
    def phase(self) -> tuple:
        """Streams of equal phase can share a batch."""
        lookahead = -1 if self.lookahead is None else self.lookahead.shape[1]
        return tuple(window.shape[1] for window in self.windows), self.recurrent[0] is None, lookahead

    @classmethod
    def join(cls, states: list["AcousticState"]) -> "AcousticState":
        """Streams of equal phase -> one batch."""
        if len(states) == 1:
            return states[0]
        windows = [torch.cat(windows) for windows in zip(*(state.windows for state in states))]
        recurrent = [_join_recurrent(parts) for parts in zip(*(state.recurrent for state in states))]
        has_lookahead = states[0].lookahead is not None
        return cls(windows, recurrent, torch.cat([state.lookahead for state in states]) if has_lookahead else None)

    def split(self) -> list["AcousticState"]:
        """Splits a batch into streams with separate memory, so that a stalled one does not keep the whole batch."""
        size = len(self.windows[0])
        if size == 1:
            return [self]
        windows = zip(*(_rows(window) for window in self.windows))
        recurrent = zip(*(_split_recurrent(part, size) for part in self.recurrent))
        lookahead = [None] * size if self.lookahead is None else _rows(self.lookahead)
        return [AcousticState(list(w), list(r), kept) for w, r, kept in zip(windows, recurrent, lookahead)]


def _join_recurrent(parts: tuple) -> Tensor | tuple[Tensor, ...] | None:
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(values, dim=1) for values in zip(*parts))
    return None if parts[0] is None else torch.cat(parts, dim=1)


def _split_recurrent(part: Tensor | tuple[Tensor, ...] | None, size: int) -> list:
    if isinstance(part, tuple):
        return list(zip(*(_rows(values, 1) for values in part)))
    return [None] * size if part is None else _rows(part, 1)


def _rows(part: Tensor, dim: int = 0) -> list[Tensor]:
    return [row.clone() for row in part.split(1, dim=dim)]


class StreamingModel:
    """A unidirectional model, step by step; it holds no stream itself, so that one model serves many.

    Args:
        model: a trained model, or what `fold_batch_norm` or quantisation made of it.

    Raises:
        ValueError: the model is bidirectional.
    """

    def __init__(self, model: DeepSpeech2ForCTC):
        if model.config.bidirectional:
            raise ValueError(
                "A bidirectional model reads an utterance from its end, too: live use needs bidirectional=False."
            )
        if not model.deepspeech2.layers[0].is_folded:
            model = model.fold_batch_norm()
        self.model = model
        self.windows = []
        for layer in model.deepspeech2.convolutions:
            (size, _), (hop, _), (padding, _) = layer.conv.kernel_size, layer.conv.stride, layer.conv.padding
            self.windows.append(SlidingWindow(size, hop, padding, padding))
        self.lookahead = SlidingWindow(model.config.lookahead + 1, 1, 0, model.config.lookahead)

    def start(self, batch_size: int = 1) -> AcousticState:
        config, encoder = self.model.config, self.model.deepspeech2
        weight = encoder.convolutions[0].conv.weight
        bins = config.num_frequency_bins if config.conv_type == "2d" else 1
        kept = []
        for layer, window in zip(encoder.convolutions, self.windows):
            kept.append(weight.new_zeros(batch_size, window.before, layer.conv.in_channels, bins))
            bins = -(-bins // layer.conv.stride[1])
        lookahead = None if encoder.row_convolution is None else weight.new_zeros(batch_size, 0, config.hidden_size)
        return AcousticState(kept, [None] * config.num_hidden_layers, lookahead)

    @torch.inference_mode()
    def step(self, features: Tensor, state: AcousticState, last: bool = False) -> tuple[Tensor, AcousticState]:
        """Advances by some frames.

        Args:
            features: shape (batch, frames, bins); any number of frames, also none.
            last: nothing comes after.

        Returns:
            The logits that are complete now, shape (batch, output frames, vocab_size), and the next state.
        """
        encoder = self.model.deepspeech2
        hidden_states = features.to(state.windows[0])
        hidden_states = hidden_states[:, :, None] if self.model.config.conv_type == "2d" else hidden_states[..., None]
        kept = []
        for layer, window, seen in zip(encoder.convolutions, self.windows, state.windows):
            signal, seen, frames = window(seen, hidden_states, last)
            kept.append(seen)
            hidden_states = _convolve(layer, signal, frames)
        hidden_states = hidden_states.transpose(2, 3).flatten(2)  # channels innermost, as in one pass

        recurrent = list(state.recurrent)
        if hidden_states.shape[1]:
            for index, layer in enumerate(encoder.layers):
                hidden_states, recurrent[index] = layer.rnn.step(hidden_states, recurrent[index])
        else:
            hidden_states = hidden_states.new_zeros(len(features), 0, self.model.config.hidden_size)

        lookahead = state.lookahead
        if lookahead is not None:
            signal, lookahead, frames = self.lookahead(lookahead, hidden_states, last)
            hidden_states = encoder.row_convolution(signal)[:, :frames] if frames else signal
        if hidden_states.shape[1]:
            logits = self.model.ctc_head(encoder.fully_connected(hidden_states))
        else:
            logits = hidden_states.new_zeros(len(features), 0, self.model.config.vocab_size)
        return logits, AcousticState(kept, recurrent, lookahead)


def _convolve(layer: torch.nn.Module, signal: Tensor, frames: int) -> Tensor:
    """(batch, time, channels, bins) -> (batch, frames, channels, bins), without padding in time"""
    conv = layer.conv
    if frames == 0:
        bins = -(-signal.shape[3] // conv.stride[1])
        return signal.new_zeros(len(signal), 0, conv.out_channels, bins)
    outputs = F.conv2d(signal.transpose(1, 2), conv.weight, conv.bias, conv.stride, (0, conv.padding[1]))
    return F.hardtanh(outputs.transpose(1, 2), 0.0, float(layer.clip))


class TorchAcoustics:
    """One stream through a model in torch: samples in pieces -> logits.

    Raises:
        ValueError: the model is bidirectional, or its features are normalised by the utterance.
    """

    def __init__(self, model: DeepSpeech2ForCTC | StreamingModel, feature_extractor: DeepSpeech2FeatureExtractor):
        self.model = model if isinstance(model, StreamingModel) else StreamingModel(model)
        self.features = StreamingFeatures(feature_extractor)
        self.sampling_rate: int = feature_extractor.sampling_rate
        self.state = self.model.start()

    def feed(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """The logits that are complete now, shape (frames, vocab_size)."""
        logits, self.state = self.model.step(self.features(samples, last)[None], self.state, last)
        return logits[0].float().cpu().numpy()

    @staticmethod
    def feed_all(streams: "list[TorchAcoustics]", samples: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """`feed` for many streams, of which those in the same phase go through their model in one batch.

        Yields the place of a stream and further logits of it.
        """
        features = [stream.features(piece) for stream, piece in zip(streams, samples)]
        while True:
            groups: dict[tuple, list[int]] = {}
            for index, stream in enumerate(streams):
                if len(features[index]):
                    groups.setdefault((id(stream.model), *stream.state.phase), []).append(index)
            if not groups:
                return
            for group in groups.values():
                frames = min(len(features[index]) for index in group)
                state = AcousticState.join([streams[index].state for index in group])
                batch = torch.stack([features[index][:frames] for index in group])
                logits, state = streams[group[0]].model.step(batch, state)
                for index, own, next_state in zip(group, logits, state.split()):
                    streams[index].state, features[index] = next_state, features[index][frames:]
                    yield index, own.float().cpu().numpy()
