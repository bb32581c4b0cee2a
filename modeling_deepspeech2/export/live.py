"""The live ONNX graph of a unidirectional model: from samples and states to the complete logits and the next states.

Concatenated, the logits are those of one pass over the whole utterance, whatever the sizes of the pieces. As in
`StreamingModel`, layers with a window over time keep the end of their input, and the recurrence keeps its states.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto
from torch import nn

from ..errors import UserError
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from . import layers
from .graph import Graph, WeightType, value_info


TO_THE_END = np.array([np.iinfo(np.int64).max])


class Window(NamedTuple):
    """Windows of `size` along an axis, one every `hop`."""

    size: int
    hop: int
    axis: int


def check_live(model: DeepSpeech2ForCTC, extractor: DeepSpeech2FeatureExtractor) -> None:
    """Raises UserError where a model cannot transcribe a stream."""
    if model.config.bidirectional:
        raise UserError("A bidirectional model reads every utterance from its end, too: live use needs bidirectional=False.")
    if extractor.normalization == "utterance":
        raise UserError(
            "Features that are normalised by the whole utterance are not known while it goes on: live use needs "
            "normalization='training_set' or 'none'."
        )
    if extractor.hop_length >= extractor.n_fft:
        raise UserError(
            f"hop_length: found {extractor.hop_length}, expected less than the n_fft of {extractor.n_fft} for live use."
        )


def live_graph(
    model: DeepSpeech2ForCTC, extractor: DeepSpeech2FeatureExtractor, weights: WeightType = "float32"
) -> tuple[ModelProto, dict[str, list[int]]]:
    """Builds the graph.

    Inputs are `samples`, float32 (batch, samples), any number of them, also none; `last`, bool (1,), whether the stream ends
    behind them; and the states. Outputs are `logits`, float32 (batch, frames, vocabulary), any number of frames, also none,
    and for each state `next_` and its name.

    Returns:
        The model, and the shape of each state at the beginning of one stream, where all are zero.

    Raises:
        UserError: the model cannot transcribe a stream.
    """
    check_live(model, extractor)
    if not model.deepspeech2.layers[0].is_folded:
        model = model.fold_batch_norm()
    builder = _LiveGraph(model, extractor, weights)
    return builder.build(), builder.start


class _LiveGraph:
    def __init__(self, model: DeepSpeech2ForCTC, extractor: DeepSpeech2FeatureExtractor, weights: WeightType):
        self.model, self.config, self.extractor = model, model.config, extractor
        self.graph = Graph(weights)
        self.inputs = [value_info("samples", np.float32, ["batch", "samples"]), value_info("last", np.bool_, [1])]
        self.outputs = [value_info("logits", np.float32, ["batch", "frames", self.config.vocab_size])]
        self.start: dict[str, list[int]] = {}
        self.batch = self.graph.Shape("samples", start=0, end=1)
        self.is_last = self.graph.Cast("last", to=TensorProto.INT64)

    def build(self) -> ModelProto:
        config, encoder = self.config, self.model.deepspeech2
        image = layers.as_image(self.graph, self._features(), config.conv_type)
        channels, bins = (1, config.num_frequency_bins) if config.conv_type == "2d" else (config.num_frequency_bins, 1)
        for index, layer in enumerate(encoder.convolutions):
            image = self._convolution(f"convolution_{index}", image, layer, channels, bins)
            channels, bins = layer.conv.out_channels, -(-bins // layer.conv.stride[1])
        frames = self._size(image, 2)
        hidden = self._recurrence(image, frames)

        def logits(branch: Graph, hidden: str) -> str:
            return layers.output_layers(branch, branch.Transpose(hidden, perm=[0, 2, 1]), self.model)

        row_convolution, nothing = encoder.row_convolution, [0, config.vocab_size]
        if row_convolution is None:
            (result,) = self._when(frames, lambda branch: [logits(branch, hidden)], nothing)
        else:
            self._state("lookahead", ["batch", config.hidden_size, "kept"], [1, config.hidden_size, 0])
            result = self._slide(
                "lookahead",
                hidden,
                Window(config.lookahead + 1, 1, 2),
                lambda branch, signal: logits(branch, layers.row_convolution(branch, signal, row_convolution, 0)),
                nothing,
                after=self.graph.Mul(self.is_last, [config.lookahead]),
            )
        self.graph.give("logits", result)
        return self.graph.model(self.inputs, self.outputs)

    def _features(self) -> str:
        """(batch, frames, bins)"""
        graph, extractor = self.graph, self.extractor
        half = extractor.n_fft // 2
        self._state("waveform", ["batch", "kept"], [1, 0])
        kept, new = self._size("waveform", 1), self._size("samples", 1)
        # Nothing is kept only before the first sample. A stream without samples has no frames, not one of silence.
        begins = graph.And(graph.Equal(kept, [0]), graph.Greater(new, [0]))
        has_begun = graph.Cast(graph.Greater(graph.Add(kept, new), [0]), to=TensorProto.INT64)
        return self._slide(
            "waveform",
            "samples",
            Window(extractor.n_fft, extractor.hop_length, 1),
            lambda branch, signal: layers.standardize(branch, layers.log_power(branch, signal, extractor, 0), extractor),
            [0, extractor.feature_size],
            before=graph.Mul(graph.Cast(begins, to=TensorProto.INT64), [half]),
            after=graph.Mul(graph.Mul(self.is_last, has_begun), [half]),
        )

    def _convolution(self, name: str, image: str, layer: nn.Module, channels: int, bins: int) -> str:
        """(batch, channels, frames, bins) -> the same kind of image"""
        conv = layer.conv
        (size, _), (hop, frequency_stride), (padding, _) = conv.kernel_size, conv.stride, conv.padding
        self._state(name, ["batch", channels, "kept", bins], [1, channels, padding, bins])
        return self._slide(
            name,
            image,
            Window(size, hop, 2),
            lambda branch, signal: layers.convolution(branch, signal, layer, pads_time=False),
            [conv.out_channels, 0, -(-bins // frequency_stride)],
            after=self.graph.Mul(self.is_last, [padding]),
        )

    def _recurrence(self, image: str, frames: str) -> str:
        """(batch, channels, frames, bins) -> (batch, hidden, frames); its states advance only if there are frames."""
        size = self.config.hidden_size
        names: list[list[str]] = []
        for index in range(self.config.num_hidden_layers):
            parts = ["", "_cell"] if self.config.rnn_type == "lstm" else [""]
            names.append([self._state(f"recurrent_{index}{part}", [1, "batch", size], [1, 1, size]) for part in parts])

        def steps(branch: Graph) -> list[str]:
            hidden, following = layers.as_sequence(branch, image), []
            for layer, states in zip(self.model.deepspeech2.layers, names):
                hidden, next_states = layers.recurrence(branch, hidden, layer.rnn, self.config, states=states)
                following += next_states
            return [branch.Transpose(hidden, perm=[1, 2, 0]), *following]

        states = [name for parts in names for name in parts]
        hidden, *following = self._when(frames, steps, [size, 0], *states)
        for name, value in zip(states, following):
            self.graph.give(f"next_{name}", value)
        return hidden

    def _state(self, name: str, shape: list[str | int], start: list[int]) -> str:
        """Declares a state: an input, its next value as an output, and its shape at the beginning."""
        for place, prefix in ((self.inputs, ""), (self.outputs, "next_")):
            own = [f"{prefix}{name}_{size}" if size == "kept" else size for size in shape]
            place.append(value_info(prefix + name, np.float32, own))
        self.start[name] = start
        return name

    def _slide(
        self,
        state: str,
        new: str,
        window: Window,
        body: Callable[[Graph, str], str],
        nothing: list[int],
        after: str,
        before: str | None = None,
    ) -> str:
        """Runs `body` over the windows that are complete with what is `new`, and keeps what the next ones need.

        Args:
            body: signal of whole windows -> one frame for each.
            nothing: shape of what `body` gives where no window is complete, behind the batch.
            after, before: zeros to put at the ends of the signal, int64 (1,).
        """
        graph, (size, hop, axis) = self.graph, window
        rank = len(self.start[state])
        signal = graph.Concat(state, new, axis=axis)
        zeros = [np.zeros(axes, np.int64) for axes in (axis, rank - 1, rank - 1 - axis)]
        signal = graph.Pad(signal, graph.Concat(zeros[0], before or [0], zeros[1], after, zeros[2], axis=0))
        # What lies between two windows must have come before it can be skipped.
        needed = graph.Where("last", [size], [max(size, hop)]) if hop > size else [size]
        # Integer division rounds towards zero, hence the sum before and the maximum behind it.
        count = graph.Max(graph.Div(graph.Add(graph.Sub(self._size(signal, axis), needed), [hop]), [hop]), [0])
        first_kept = graph.Mul(count, [hop])
        graph.give(f"next_{state}", graph.Slice(signal, first_kept, TO_THE_END, [axis]))
        end = graph.Add(first_kept, [size - hop])
        return self._when(count, lambda branch: [body(branch, branch.Slice(signal, [0], end, [axis]))], nothing)[0]

    def _when(self, count: str, body: Callable[[Graph], list[str]], nothing: list[int], *unchanged: str) -> list[str]:
        """What `body` gives where `count` is positive, else an empty tensor and what stays unchanged.

        Runtimes refuse a convolution of less than its kernel, and end the process at a recurrence without steps.
        """

        def otherwise(branch: Graph) -> list[str]:
            return [branch.ConstantOfShape(branch.Concat(self.batch, nothing, axis=0)), *unchanged]

        return self.graph.when(self.graph.Greater(count, [0]), body, otherwise)

    def _size(self, value: str, axis: int) -> str:
        """int64 (1,)"""
        return self.graph.Shape(value, start=axis, end=axis + 1)
