"""The facts of a Deep Speech 2 model; everything else is derived from them."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# What may stand in a config.json beside the declared fields. Any other unknown name is a mistake, and said to be one.
_LIBRARY_FIELDS = {
    "attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type", "name_or_path",
    "num_labels", "output_attentions", "per_layer_config", "quantization_config", "tie_word_embeddings", "torch_dtype",
    "trust_remote_code", "use_cache",
}  # fmt: skip


@strict
class DeepSpeech2Config(PreTrainedConfig):
    r"""Configuration of [`DeepSpeech2Model`] and [`DeepSpeech2ForCTC`].

    Args:
        vocab_size: symbols of the output layer, the blank included: `len(tokenizer)`.
        num_frequency_bins: bins of the log power spectrogram.
        conv_type: "2d" convolves over frequency and time, "1d" over time alone, the bins being its channels.
        conv_channels, conv_kernel_sizes, conv_strides: one entry for each of the 1–3 convolutions; kernels and strides
            are pairs (frequency, time), of which "1d" uses the time. Kernels are odd, padding is "same".
        rnn_type: unit of the recurrent layers: "gru", "rnn" or "lstm".
        num_hidden_layers: recurrent layers, 1–7 in the paper.
        hidden_size: units of each recurrent layer (and direction, since the directions are summed).
        bidirectional: read every utterance in both directions. Live use needs `False`.
        share_input_weights: both directions share W and BatchNorm, as in the paper; only U differs.
        batch_norm: "sequence" normalises W·x over all frames of the batch (section 3.2), "step" normalises
            W·x + U·h at each time step, "off" has none.
        batch_norm_momentum: weight of the newest batch in the running averages that inference uses.
        lookahead: future frames that the row convolution sees (section 3.7); 0 for no row convolution.
        hidden_act: f of the recurrent units: "clipped_relu" or "tanh". Convolutions and the fully connected layer
            always have the clipped ReLU.
        activation_clip: the clipped ReLU is min(max(x, 0), activation_clip).
        hidden_dropout: dropout after each recurrent layer.
        pad_token_id: the CTC blank.
        ctc_loss_reduction: "mean" averages the cost per character over the utterances, "sum" adds up the costs.
        ctc_zero_infinity: a transcript that does not fit into its output frames costs nothing instead of infinity.
        sampling_rate, hop_length: samples a second of the waveform, and from one frame to the next.
    """

    model_type = "deepspeech2"

    vocab_size: int = 29
    num_frequency_bins: int = 161
    conv_type: Literal["2d", "1d"] = "2d"
    conv_channels: list[int] | tuple[int, ...] = (32, 32)
    conv_kernel_sizes: list[list[int]] | tuple[tuple[int, ...], ...] = ((41, 11), (21, 11))
    conv_strides: list[list[int]] | tuple[tuple[int, ...], ...] = ((2, 2), (2, 1))
    rnn_type: Literal["gru", "rnn", "lstm"] = "gru"
    num_hidden_layers: int = 5
    hidden_size: int = 800
    bidirectional: bool = True
    share_input_weights: bool = True
    batch_norm: Literal["sequence", "step", "off"] = "sequence"
    batch_norm_momentum: float | int = 0.1
    lookahead: int = 0
    hidden_act: Literal["clipped_relu", "tanh"] = "clipped_relu"
    activation_clip: float | int = 20.0
    hidden_dropout: float | int = 0.0
    pad_token_id: int | None = 0
    ctc_loss_reduction: Literal["mean", "sum"] = "mean"
    ctc_zero_infinity: bool = True
    sampling_rate: int = 16_000
    hop_length: int = 160

    def __post_init__(self, **kwargs):
        unknown = [name for name in kwargs if name not in _LIBRARY_FIELDS and not name.startswith("_")]
        if unknown:
            raise ValueError(
                f"DeepSpeech2Config has no field {unknown[0]!r}; its fields are {', '.join(self.own_fields())}."
            )
        super().__post_init__(**kwargs)

    @classmethod
    def own_fields(cls) -> list[str]:
        return [name for name in cls.__annotations__ if not name.startswith("_")]

    def validate_architecture(self):
        """Part of `@strict` validation."""
        layers = {len(self.conv_channels), len(self.conv_kernel_sizes), len(self.conv_strides)}
        if len(layers) != 1 or not 1 <= len(self.conv_channels) <= 3:
            raise ValueError(
                "conv_channels, conv_kernel_sizes and conv_strides need one entry for each of 1 to 3 convolutions, "
                f"but have {len(self.conv_channels)}, {len(self.conv_kernel_sizes)} and {len(self.conv_strides)}."
            )
        for name in ("conv_kernel_sizes", "conv_strides"):
            for pair in getattr(self, name):
                if len(pair) != 2 or min(pair) < 1:
                    raise ValueError(f"{name} holds pairs (frequency, time) of numbers from 1 on, but found {pair}.")
        if any(size % 2 == 0 for pair in self.conv_kernel_sizes for size in pair):
            raise ValueError(f"conv_kernel_sizes must be odd for 'same' padding, but are {self.conv_kernel_sizes}.")
        for name in ("vocab_size", "num_frequency_bins", "num_hidden_layers", "hidden_size", "hop_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.lookahead < 0:
            raise ValueError(f"lookahead counts future frames and must be at least 0, but is {self.lookahead}.")
        if self.lookahead and self.bidirectional:
            raise ValueError("lookahead needs bidirectional=False: a bidirectional layer sees the whole future already.")
        if not 0 <= self.hidden_dropout < 1:
            raise ValueError(f"hidden_dropout must lie in [0, 1), but is {self.hidden_dropout}.")
        if not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(f"batch_norm_momentum must lie in (0, 1], but is {self.batch_norm_momentum}.")
        if self.activation_clip <= 0:
            raise ValueError(f"activation_clip must be positive, but is {self.activation_clip}.")

    @property
    def time_stride(self) -> int:
        """Input frames for each output frame."""
        stride = 1
        for _, time in self.conv_strides:
            stride *= time
        return stride

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Waveform samples for each output frame (the pipeline divides by it)."""
        return self.hop_length * self.time_stride
