"""The offline ONNX graph: from a batch of whole waveforms to logits.

It keeps the guarantees of the model: an utterance's logits do not depend on the batch around it, padding is never read, and
padded output frames decode to blank.
"""

import numpy as np
from onnx import ModelProto

from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..modeling_deepspeech2 import IMPOSSIBLE, DeepSpeech2ForCTC
from . import layers
from .graph import Graph, WeightType, value_info


def offline_graph(
    model: DeepSpeech2ForCTC,
    extractor: DeepSpeech2FeatureExtractor,
    weights: WeightType = "float32",
    gain: float = 1.0,
) -> ModelProto:
    """Builds the graph.

    Inputs are `input_values`, float32 (batch, samples), and `attention_mask`, int64 (batch, samples), 1 for samples and 0
    for the padding behind them, which may be left out. The output is `logits`, float32 (batch, frames, vocabulary).

    Args:
        model: any [`DeepSpeech2ForCTC`], folded or not.
        weights: the type in which matrices are stored.
        gain: what the samples are multiplied by, for programs that scale every waveform to unit variance.
    """
    if not model.deepspeech2.layers[0].is_folded:
        model = model.fold_batch_norm()
    graph, config, encoder = Graph(weights), model.config, model.deepspeech2
    mask = graph.Expand("attention_mask", graph.Shape("input_values"))
    lengths = graph.ReduceSum(mask, [1], keepdims=1)  # (batch, 1)
    # Not a product with the mask: 0 · NaN is NaN.
    samples = graph.Where(_valid(graph, "input_values", 1, lengths), "input_values", 0.0)
    if gain != 1.0:
        samples = graph.Mul(samples, gain)

    features, lengths = _features(graph, samples, lengths, extractor)
    image = layers.as_image(graph, features, config.conv_type)
    for layer in encoder.convolutions:
        image = layers.convolution(graph, image, layer, pads_time=True)
        stride = layer.conv.stride[0]
        if stride > 1:
            lengths = graph.Div(graph.Add(lengths, stride - 1), stride)
        valid = _valid(graph, image, 2, lengths)
        image = graph.Where(graph.Unsqueeze(valid, [1, 3]), image, 0.0)

    hidden = layers.as_sequence(graph, image)
    steps = graph.Cast(graph.Max(graph.Squeeze(lengths, [1]), 1), to=6)  # int32; a recurrence of no steps is refused
    for layer in encoder.layers:
        hidden, _ = layers.recurrence(graph, hidden, layer.rnn, config, lengths=steps)
    if encoder.row_convolution is not None:
        hidden = graph.Transpose(hidden, perm=[1, 2, 0])
        hidden = graph.Where(graph.Unsqueeze(valid, [1]), hidden, 0.0)
        hidden = layers.row_convolution(graph, hidden, encoder.row_convolution, config.lookahead)
        hidden = graph.Transpose(hidden, perm=[0, 2, 1])
    else:
        hidden = graph.Transpose(hidden, perm=[1, 0, 2])
    logits = layers.output_layers(graph, hidden, model)
    blank = np.full(config.vocab_size, IMPOSSIBLE, np.float32)
    blank[config.pad_token_id] = 0
    graph.give("logits", graph.Where(graph.Unsqueeze(valid, [2]), logits, blank))
    return graph.model(
        [
            value_info("input_values", np.float32, ["batch", "samples"]),
            value_info("attention_mask", np.int64, ["mask_batch", "mask_samples"]),
        ],
        [value_info("logits", np.float32, ["batch", "frames", config.vocab_size])],
        defaults={"attention_mask": np.ones((1, 1), np.int64)},
    )


def _features(graph: Graph, samples: str, lengths: str, extractor: DeepSpeech2FeatureExtractor) -> tuple[str, str]:
    """Samples -> normalised features (batch, frames, bins), zero in the padding, and how many frames are speech."""
    half = extractor.n_fft // 2
    features = layers.log_power(graph, samples, extractor, half)
    frames = graph.Add(graph.Div(graph.Add(lengths, 2 * half - extractor.n_fft), extractor.hop_length), 1)
    lengths = graph.Where(graph.Greater(lengths, 0), frames, 0)
    valid = graph.Unsqueeze(_valid(graph, features, 1, lengths), [2])
    if extractor.normalization == "utterance":
        count = graph.Unsqueeze(graph.Cast(graph.Max(lengths, 1), to=1), [2])
        features = layers.standardize_utterance(graph, features, valid, count)
    else:
        features = layers.standardize(graph, features, extractor)
    return graph.Where(valid, features, 0.0), lengths


def _valid(graph: Graph, frames: str, axis: int, lengths: str) -> str:
    """Which frames of the axis are speech, bool (batch, frames); `lengths` is int64 (batch, 1)."""
    size = graph.Squeeze(graph.Shape(frames, start=axis, end=axis + 1), [0])
    return graph.Less(graph.Range(0, size, 1), lengths)
