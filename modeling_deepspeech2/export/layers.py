"""The layers of a folded model as ONNX operators, shared by the offline and the live graph.

Frames have the shape (batch, frames, bins) before the convolutions, (batch, channels, frames, bins) between them, and
(frames, batch, hidden) in the recurrence. The weights are those that `fold_batch_norm` returns.
"""

from typing import Any

import numpy as np
from torch import Tensor, nn

from ..feature_extraction_deepspeech2 import FLOOR, DeepSpeech2FeatureExtractor
from .graph import Graph


UNITS = {"gru": "GRU", "lstm": "LSTM", "rnn": "RNN"}
# ONNX's order of the gates, as places in torch's: z r h from r z n, and i o f c from i f g o.
GATE_ORDER = {"gru": [1, 0, 2], "lstm": [0, 3, 1, 2], "rnn": [0]}
GATE_NAMES = {"gru": "zrh", "lstm": "iofc", "rnn": "h"}


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def log_power(graph: Graph, samples: str, extractor: DeepSpeech2FeatureExtractor, padding: int) -> str:
    """Waveform, (batch, samples), -> log power spectrogram, (batch, frames, bins), zeros put at both ends.

    A product with the windowed Fourier basis; ONNX's own STFT is slower, and differs in the second digit. Samples at equal
    distances from the middle of a frame are added for the cosines and subtracted for the sines: half the work, and a third
    of the rounding, which matters where a bin is nearly silent beside loud ones.
    """
    size, hop = extractor.n_fft, extractor.hop_length
    if padding:
        samples = graph.Pad(samples, [0, padding, 0, padding])
    count = graph.Add(graph.Div(graph.Sub(graph.Squeeze(graph.Shape(samples, start=1, end=2), [0]), size), hop), 1)
    starts = graph.Unsqueeze(graph.Mul(graph.Range(0, count, 1), hop), [1])
    places = np.arange(1, (size + 1) // 2)  # the window is zero at the first sample
    before, after = (graph.Gather(samples, graph.Add(starts, offsets), axis=1) for offsets in (places, size - places))
    even, odd = graph.Add(before, after), graph.Sub(before, after)
    real, imaginary = places, places
    if size % 2 == 0:
        real = np.append(places, size // 2)
        even = graph.Concat(even, graph.Gather(samples, graph.Add(starts, [size // 2]), axis=1), axis=2)
    parts = [
        graph.MatMul(frames, _fourier_basis(graph, wave, offsets, extractor))
        for frames, wave, offsets in ((even, np.cos, real), (odd, np.sin, imaginary))
    ]
    power = graph.Add(*(graph.Mul(part, part) for part in parts))
    return graph.Log(graph.Add(power, FLOOR))


def _fourier_basis(graph: Graph, wave: np.ufunc, places: np.ndarray, extractor: DeepSpeech2FeatureExtractor) -> str:
    """(places, bins): a cosine or sine for each bin, times the Hann window, at some places of a frame.

    It is written as a table of one turn and the places in it, which takes a thousand numbers instead of a hundred thousand,
    and is made when the model is loaded.
    """
    size = extractor.n_fft
    angle = 2 * np.pi * np.arange(size) / size
    window = 0.5 - 0.5 * np.cos(angle)
    turns = graph.Mod(graph.Mul(places[:, None], np.arange(extractor.feature_size)), size)
    return graph.Mul(graph.Gather(wave(angle), turns, axis=0), window[places][:, None])


def standardize(graph: Graph, features: str, extractor: DeepSpeech2FeatureExtractor) -> str:
    """Normalisation with the statistics of the training set, if the extractor has that."""
    if extractor.normalization == "none":
        return features
    mean, deviation = (np.array(values, np.float32) for values in (extractor.mean, extractor.deviation))
    return graph.Div(graph.Sub(features, mean), deviation)


def standardize_utterance(graph: Graph, features: str, valid: str, frames: str) -> str:
    """Normalisation with the mean and deviation of each utterance's own frames.

    Args:
        valid: which frames are speech, bool (batch, frames, 1).
        frames: how many, float32 (batch, 1, 1), at least 1.
    """

    def mean(values: str) -> str:
        return graph.Div(graph.ReduceSum(graph.Where(valid, values, 0.0), [1], keepdims=1), frames)

    centred = graph.Sub(features, mean(features))
    deviation = graph.Sqrt(mean(graph.Mul(centred, centred)))
    return graph.Div(centred, graph.Max(deviation, 1e-4))


def as_image(graph: Graph, features: str, conv_type: str) -> str:
    """(batch, frames, bins) -> (batch, channels, frames, bins) as the first convolution takes it"""
    if conv_type == "2d":
        return graph.Unsqueeze(features, [1])
    return graph.Unsqueeze(graph.Transpose(features, perm=[0, 2, 1]), [3])


def convolution(graph: Graph, image: str, layer: nn.Module, pads_time: bool) -> str:
    """Convolution and clipped ReLU; `pads_time`: with zeros before the first and behind the last frame."""
    conv = layer.conv
    time, frequency = conv.padding[0] if pads_time else 0, conv.padding[1]
    outputs = graph.Conv(
        image,
        graph.weight(numbers(conv.weight)),
        numbers(conv.bias),
        kernel_shape=list(conv.kernel_size),
        strides=list(conv.stride),
        pads=[time, frequency, time, frequency],
    )
    return graph.Clip(outputs, 0.0, float(layer.clip))


def as_sequence(graph: Graph, image: str) -> str:
    """(batch, channels, frames, bins) -> (frames, batch, bins · channels), channels innermost"""
    return graph.Reshape(graph.Transpose(image, perm=[2, 0, 3, 1]), [0, 0, -1])


def recurrence(
    graph: Graph,
    sequence: str,
    layer: nn.Module,
    config: Any,
    lengths: str | None = None,
    states: list[str] | None = None,
) -> tuple[str, list[str]]:
    """One recurrent layer, (frames, batch, features) -> (frames, batch, hidden) and the states after the last frame.

    Args:
        layer: a `FoldedRNN`.
        lengths: frames of each utterance, int32 (batch,), at least 1; what lies behind them becomes zero.
        states: h, and of an LSTM c, of a unidirectional layer before the first frame, each (1, batch, hidden).

    With the clipped ReLU min(max(x, 0), clip) the states are computed in units of `clip`. There it is HardSigmoid with slope
    1, whatever the clip and the unit; ONNX's own clipping would reach the gates, and would not reach the output of an LSTM.
    """
    clip = float(config.activation_clip) if config.hidden_act == "clipped_relu" else None
    results, following = [], []
    for direction, name in zip(layer.directions, ("forward", "reverse")):
        output, *after = _direction(graph, sequence, direction, config, clip, lengths, states, name)
        results.append(graph.Squeeze(output, [1]))
        following += after
    result = results[0] if len(results) == 1 else graph.Add(*results)
    return (result if clip is None else graph.Mul(result, clip)), following


def _direction(
    graph: Graph,
    sequence: str,
    layer: nn.Module,
    config: Any,
    clip: float | None,
    lengths: str | None,
    states: list[str] | None,
    name: str,
) -> list[str]:
    """One direction of a recurrent layer: its outputs, and the states after the last frame.

    Each direction is an operator of its own, so that directions that share their weights share the initialiser, and runtimes
    take every initialiser as it is: a matrix that is put together when the model is loaded is held in memory several times.
    """
    kind = config.rnn_type
    weight, recurrent, bias = _parameters(layer, kind, clip)
    f = "Tanh" if clip is None else "HardSigmoid"
    activations = {"gru": ["Sigmoid", f], "lstm": ["Sigmoid", f, f], "rnn": [f]}[kind]
    attributes: dict[str, Any] = {"hidden_size": config.hidden_size, "activations": activations, "direction": name}
    if clip is not None:
        # One entry for each activation that takes them, in their order.
        hard = activations.count("HardSigmoid")
        attributes |= {"activation_alpha": [1.0] * hard, "activation_beta": [0.0] * hard}
    if kind == "gru":
        attributes["linear_before_reset"] = 1
    return graph._add(
        UNITS[kind],
        sequence,
        graph.weight(weight[None], row_axes=(0, 1)),
        graph.weight(recurrent[None], row_axes=(0, 1)),
        np.concatenate([bias, np.zeros_like(bias)])[None],
        lengths,
        *(states or []),
        outputs=3 if kind == "lstm" else 2,
        **attributes,
    )


def _parameters(direction: nn.Module, kind: str, clip: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, U and b of one direction of a `FoldedRNN`, its gates in ONNX's order, its states in units of the clip."""
    if hasattr(direction, "weight_ih_l0"):  # torch's own layer
        weight, recurrent, bias = direction.weight_ih_l0, direction.weight_hh_l0, direction.bias_ih_l0 + direction.bias_hh_l0
    else:
        weight, recurrent, bias = direction.input.weight, direction.recurrent.weight, direction.input.bias
    gates = []
    order, names = GATE_ORDER[kind], GATE_NAMES[kind]
    for name, place in zip(names, order):
        parts = [np.split(numbers(values), len(order))[place] for values in (weight, recurrent, bias)]
        if clip is not None and name in "hc":  # f(x) = clip · HardSigmoid(x / clip)
            parts = [parts[0] / clip, parts[1], parts[2] / clip]
        elif clip is not None:
            parts = [parts[0], parts[1] * clip, parts[2]]
        gates.append(parts)
    weight, recurrent, bias = (np.concatenate(values) for values in zip(*gates))
    return weight, recurrent, bias


def row_convolution(graph: Graph, sequence: str, layer: nn.Module, padding: int) -> str:
    """(batch, hidden, frames) -> (batch, hidden, frames + padding − lookahead), `padding` zeros behind the last frame"""
    weight = numbers(layer.weight)
    hidden, _, size = weight.shape
    outputs = graph.Conv(
        graph.Unsqueeze(sequence, [3]),
        weight[..., None],
        group=hidden,
        kernel_shape=[size, 1],
        pads=[0, 0, padding, 0],
    )
    return graph.Squeeze(outputs, [3])


def linear(graph: Graph, inputs: str, layer: nn.Linear) -> str:
    """(…, features) -> (…, outputs)"""
    weight = graph.weight(np.ascontiguousarray(numbers(layer.weight).T), row_axes=(1,))
    return graph.Add(graph.MatMul(inputs, weight), numbers(layer.bias))


def output_layers(graph: Graph, hidden: str, model: Any) -> str:
    """(batch, frames, hidden) -> logits, (batch, frames, vocabulary): the fully connected layer and the CTC head"""
    fully_connected = model.deepspeech2.fully_connected
    hidden = graph.Clip(linear(graph, hidden, fully_connected.linear), 0.0, float(fully_connected.clip))
    return linear(graph, hidden, model.ctc_head)
