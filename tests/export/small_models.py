"""What the tests of the export share: small random models, features in double precision, and sessions of onnxruntime."""

import numpy as np
import pytest
import torch

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2FeatureExtractor, DeepSpeech2ForCTC


NEEDED = 'needs the packages of the export: pip install -e ".[onnx,onnxruntime]"'
pytest.importorskip("onnx", reason=NEEDED)
onnxruntime = pytest.importorskip("onnxruntime", reason=NEEDED)

BINS, SIZE, HOP = 21, 40, 20


def random_model(**settings) -> DeepSpeech2ForCTC:
    """A small model with random weights and statistics."""
    torch.manual_seed(0)
    defaults = {
        "vocab_size": 7,
        "num_frequency_bins": BINS,
        "hop_length": HOP,
        "conv_channels": (3, 4),
        "conv_kernel_sizes": ((5, 5), (3, 3)),
        "conv_strides": ((2, 3), (2, 1)),
        "num_hidden_layers": 2,
        "hidden_size": 8,
    }
    model = DeepSpeech2ForCTC(DeepSpeech2Config(**(defaults | settings))).eval()
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    return model


def random_extractor(normalization: str = "training_set") -> DeepSpeech2FeatureExtractor:
    random = np.random.default_rng(0)
    return DeepSpeech2FeatureExtractor(
        feature_size=BINS,
        n_fft=SIZE,
        hop_length=HOP,
        normalization=normalization,
        mean=random.normal(size=BINS).tolist(),
        deviation=random.uniform(3, 5, BINS).tolist(),
    )


def exact_features(extractor: DeepSpeech2FeatureExtractor, waveform: np.ndarray) -> torch.Tensor:
    """What the extractor makes, computed in double precision by NumPy: (frames, bins), float32.

    torch.stft in float32 is itself off by 5e-4 where a bin is nearly silent.
    """
    size, hop = extractor.n_fft, extractor.hop_length
    if len(waveform) == 0:
        return torch.zeros(0, extractor.feature_size)
    padded = np.pad(waveform.astype(np.float64), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    features = np.log(np.abs(np.fft.rfft(frames * hann)) ** 2 + 1e-14)
    if extractor.normalization == "training_set":
        features = (features - extractor.mean) / extractor.deviation
    elif extractor.normalization == "utterance":
        features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-4)
    return torch.tensor(features, dtype=torch.float32)


def open_session(model) -> onnxruntime.InferenceSession:
    """Loads a model, or the file of one, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # an input that has a default value is worth a warning to it
    content = model.SerializeToString() if hasattr(model, "SerializeToString") else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
