"""Computes log power spectrograms of waveforms (section 3 of the paper), normalised and padded, with a mask.

Each utterance is transformed on its own, so that its features do not depend on the batch. The pipeline takes care of
resampling and file formats.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType

from .errors import UserError
from .remote_code import travels_with_code
from .settings_files import check_settings_files
from .waveform import mono as mono_array


FLOOR = 1e-14  # added to the power before the logarithm, as in Baidu's code

NORMALIZATIONS = ("training_set", "utterance", "none")


@travels_with_code
class DeepSpeech2FeatureExtractor(SequenceFeatureExtractor):
    r"""Log power spectrograms: 20 ms Hann window, 10 ms hop, 161 bins at 16 kHz.

    Frames are centred on multiples of the hop, the waveform being zero outside, so that n samples give
    ⌊n / hop_length⌋ + 1 frames.

    Args:
        feature_size: frequency bins, n_fft / 2 + 1.
        sampling_rate: samples a second of the waveforms that come in, in hertz.
        hop_length: samples from one frame to the next.
        n_fft: samples of the window and of the Fourier transform.
        normalization: "training_set" subtracts `mean` and divides by `deviation`, found by [`fit`]; it needs no look
            ahead and so serves live use. "utterance" uses the statistics of each utterance by itself (over time, each
            bin), which is only known when the utterance is over. "none" leaves the logarithm of the power as it is.
        mean, deviation: of each bin over the frames of the training set, lists of `feature_size` numbers.
        padding_value: stands in padded frames, after normalisation.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 161,
        sampling_rate: int = 16_000,
        hop_length: int = 160,
        n_fft: int = 320,
        normalization: str = "training_set",
        mean: list[float] | None = None,
        deviation: list[float] | None = None,
        padding_value: float = 0.0,
        **kwargs,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        if normalization not in NORMALIZATIONS:
            raise UserError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, but is {normalization!r}.")
        if self.padding_side != "right":  # the mask's ones are counted as the first frames
            raise UserError(f"padding_side must be 'right', but is {self.padding_side!r}.")
        if feature_size != n_fft // 2 + 1:
            raise UserError(f"feature_size must be n_fft / 2 + 1 = {n_fft // 2 + 1}, but is {feature_size}.")
        for name, number in (("sampling_rate", sampling_rate), ("hop_length", hop_length)):
            if number < 1:
                raise UserError(f"{name} must be at least 1, but is {number}.")
        for name, values in (("mean", mean), ("deviation", deviation)):
            if values is not None and len(values) != feature_size:
                raise UserError(f"{name} needs {feature_size} numbers, one for each bin, but has {len(values)}.")
            if values is not None and not np.isfinite(values).all():
                raise UserError(f"{name} of the features must be finite numbers: the feature extractor is damaged.")
        if deviation is not None and min(deviation) <= 0:
            raise UserError(f"deviation of the features must be positive, but the smallest is {min(deviation)}.")
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.normalization = normalization
        self.mean = mean
        self.deviation = deviation

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, with a check of the files; raises UserError where one is damaged."""
        check_settings_files(pretrained_model_name_or_path, ("preprocessor_config.json", "processor_config.json"), **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples` samples; none from none."""
        return num_samples // self.hop_length + 1 if num_samples else 0

    def log_power(self, waveform: np.ndarray | torch.Tensor, centred: bool = True) -> torch.Tensor:
        """Spectrogram before normalisation: waveform of shape (samples,) -> (frames, bins), float32.

        Waveforms of one length can come together: (batch, samples) -> (batch, frames, bins).
        `centred=False` takes the waveform as part of a longer one: only windows that lie inside it become frames.
        """
        waveform = torch.as_tensor(waveform, dtype=torch.float32)
        if waveform.shape[-1] == 0:
            return waveform.new_zeros(*waveform.shape[:-1], 0, self.feature_size)
        spectrum = torch.stft(
            waveform,
            self.n_fft,
            self.hop_length,
            window=torch.hann_window(self.n_fft),
            center=centred,
            pad_mode="constant",
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square_().sum(-1)
        return power.add_(FLOOR).log_().transpose(-1, -2).contiguous()

    def fit(self, waveforms: Iterable[np.ndarray]) -> "DeepSpeech2FeatureExtractor":
        """Finds `mean` and `deviation` of each bin over all frames of a stream of waveforms, in constant memory.

        Raises:
            ValueError: the stream holds no frame.
        """
        frames = 0
        total = torch.zeros(self.feature_size, dtype=torch.float64)
        squares = torch.zeros(self.feature_size, dtype=torch.float64)
        for waveform in waveforms:
            features = self.log_power(mono(waveform)).double()
            frames += len(features)
            total += features.sum(0)
            squares += features.square().sum(0)
        if frames == 0:
            raise ValueError("The statistics of the features need at least one utterance, but the stream held none.")
        mean = total / frames
        deviation = (squares / frames - mean.square()).clamp(min=1e-8).sqrt()
        self.normalization = "training_set"
        self.mean = [round(value, 5) for value in mean.tolist()]
        self.deviation = [round(value, 5) for value in deviation.tolist()]
        return self

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """(frames, bins) -> the same shape"""
        if self.normalization == "none":
            return features
        if self.normalization == "utterance":
            mean = features.mean(0)
            return (features - mean) / features.std(0, correction=0).clamp(min=1e-4)
        if self.mean is None or self.deviation is None:
            raise UserError(
                "The feature extractor has no statistics of a training set yet: call fit(waveforms) first, or choose "
                "normalization='utterance' or 'none'."
            )
        return (features - torch.tensor(self.mean)) / torch.tensor(self.deviation)

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Turns one waveform or a list of waveforms into padded features.

        Args:
            raw_speech: floating point samples in [-1, 1], or integers of 16 or 32 bits: an array of shape (samples,), or
                (channels, samples), which is averaged, or a list of such arrays.
            sampling_rate: of the waveforms, in hertz; give it, so that a wrong one is noticed.
            padding, max_length, truncation, pad_to_multiple_of, return_attention_mask, return_tensors: as in
                [`SequenceFeatureExtractor.pad`], in frames.

        Returns:
            `input_features` of shape (batch, frames, bins) and `attention_mask` of shape (batch, frames).

        Raises:
            ValueError: another sampling rate than the model's, samples of another kind, or that no recording holds (NaN,
                infinity, far beyond full scale), more than two axes, or no waveform at all.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"The audio is sampled at {sampling_rate} Hz, but the model expects {self.sampling_rate} Hz: resample it "
                "first, or let the pipeline do so."
            )
        features = [self.normalize(self.log_power(mono(waveform))).numpy() for waveform in _as_list(raw_speech)]
        if not features:
            raise ValueError("There is no waveform to make features of: the list is empty.")
        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )


def _as_list(raw_speech: np.ndarray | torch.Tensor | list) -> list:
    """One waveform or several -> several."""
    if isinstance(raw_speech, (list, tuple)):
        if len(raw_speech) and not isinstance(raw_speech[0], (list, tuple)) and np.ndim(raw_speech[0]) == 0:
            return [raw_speech]
        return list(raw_speech)
    return [raw_speech]


def mono(waveform: np.ndarray | torch.Tensor | list[float]) -> torch.Tensor:
    """Averages the channels of a waveform, the shorter of two axes, and checks its samples; see `waveform.mono`."""
    # Copied, because torch takes no reversed or read-only arrays.
    return torch.from_numpy(np.array(mono_array(waveform, "The waveform")))
