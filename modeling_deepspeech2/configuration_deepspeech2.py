"""The configuration of a Deep Speech 2 model; all other sizes follow from it."""

import difflib
import functools
import logging
import math
from dataclasses import field
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .errors import UserError
from .settings_files import check_settings_files


logger = logging.getLogger(__name__)

# What the libraries write into a config.json beside the declared fields; other unknown names are reported.
_LIBRARY_FIELDS = {
    "attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type", "name_or_path",
    "num_labels", "output_attentions", "per_layer_config", "quantization_config", "tie_word_embeddings", "torch_dtype",
    "trust_remote_code", "use_cache",
}  # fmt: skip
_NEAR_MISS = 0.9  # similarity of names above which an unknown one is a typing mistake: hidden_sise


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@strict
class DeepSpeech2Config(PreTrainedConfig):
    r"""Configuration of [`DeepSpeech2Model`] and [`DeepSpeech2ForCTC`]; each field carries its own description.

    Unknown fields are kept and reported, as scripts made for other models write some; a name that is almost one of the
    declared ones is an error.

    Raises:
        UserError: a value out of range, or a misspelled field. A value of the wrong type raises
            `huggingface_hub.errors.StrictDataclassError`.
    """

    model_type = "deepspeech2"

    vocab_size: int = _setting(29, "Symbols of the output layer, the blank included: len(tokenizer).")
    num_frequency_bins: int = _setting(161, "Bins of the log power spectrogram.")
    conv_type: Literal["2d", "1d"] = _setting(
        "2d", "2d convolves over frequency and time, 1d over time alone, with the bins as its channels."
    )
    conv_channels: list[int] | tuple[int, ...] = _setting((32, 32), "Channels of each of the 1 to 3 convolutions.")
    conv_kernel_sizes: list[list[int]] | tuple[tuple[int, ...], ...] = _setting(
        ((41, 11), (21, 11)),
        "Kernel of each convolution, a pair of odd numbers (frequency, time), of which 1d uses the time. Padding is 'same'.",
    )
    conv_strides: list[list[int]] | tuple[tuple[int, ...], ...] = _setting(
        ((2, 2), (2, 1)), "Stride of each convolution, a pair (frequency, time), of which 1d uses the time."
    )
    rnn_type: Literal["gru", "rnn", "lstm"] = _setting("gru", "Unit of the recurrent layers.")
    num_hidden_layers: int = _setting(5, "Recurrent layers, 1 to 7 in the paper.")
    hidden_size: int = _setting(800, "Units of each recurrent layer and direction; the two directions are summed.")
    bidirectional: bool = _setting(True, "Read every utterance in both directions. Live use needs false.")
    share_input_weights: bool = _setting(True, "Both directions share W and BatchNorm, as in the paper; only U is separate.")
    batch_norm: Literal["sequence", "step", "off"] = _setting(
        "sequence",
        "sequence normalises W·x over all frames of the batch (section 3.2), step normalises W·x + U·h at each time step, "
        "off disables BatchNorm.",
    )
    batch_norm_momentum: float | int = _setting(
        0.1, "Weight of the newest batch in the running averages that inference uses."
    )
    lookahead: int = _setting(0, "Future frames seen by the row convolution (section 3.7); 0 for no row convolution.")
    hidden_act: Literal["clipped_relu", "tanh"] = _setting(
        "clipped_relu",
        "f of the recurrent units. Convolutions and the fully connected layer always use the clipped ReLU.",
    )
    activation_clip: float | int = _setting(20.0, "The clipped ReLU is min(max(x, 0), activation_clip).")
    hidden_dropout: float | int = _setting(0.0, "Dropout after each recurrent layer.")
    pad_token_id: int | None = _setting(0, "The CTC blank.")
    ctc_loss_reduction: Literal["mean", "sum"] = _setting(
        "mean", "mean averages the cost per character over the utterances, sum adds up the costs."
    )
    ctc_zero_infinity: bool = _setting(
        True, "A transcript that does not fit into its output frames costs nothing instead of infinity."
    )
    word_confidence: list[float | int] | tuple[float | int, ...] = _setting(
        (1.0, 0.0), "Scale and offset of the confidences of the best path's words, fitted by `deepspeech2 tune`."
    )
    sampling_rate: int = _setting(16_000, "Samples of the waveform per second.")
    hop_length: int = _setting(160, "Samples from one frame to the next.")

    def __post_init__(self, **kwargs):
        unknown = [name for name in kwargs if name not in _LIBRARY_FIELDS and not name.startswith("_")]
        for name in unknown:
            meant = difflib.get_close_matches(name, self.own_fields(), 1, _NEAR_MISS)
            if meant:
                raise UserError(f"DeepSpeech2Config has no field {name!r}; did you mean {meant[0]!r}?")
        if unknown:
            _warn_once(
                f"DeepSpeech2Config has no field {', '.join(unknown)}: kept in config.json, without effect on the model."
            )
        super().__post_init__(**kwargs)
        self.validate_architecture()  # here already, where its errors are plain sentences

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, with a check of the file; raises UserError where it is damaged."""
        check_settings_files(pretrained_model_name_or_path, ("config.json",), **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "DeepSpeech2Config":
        """As [`PreTrainedConfig.from_dict`]; a value of the wrong type is a `UserError`, too."""
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:
            reason = str(error).splitlines()[-1].strip().partition(": ")[2]
            raise UserError(f"The configuration of the model is damaged: {reason}.") from error

    @classmethod
    def own_fields(cls) -> list[str]:
        return [name for name in cls.__annotations__ if not name.startswith("_")]

    def validate_architecture(self):
        """Checks what the types cannot express; runs when a configuration is created or saved."""
        layers = {len(self.conv_channels), len(self.conv_kernel_sizes), len(self.conv_strides)}
        if len(layers) != 1 or not 1 <= len(self.conv_channels) <= 3:
            raise UserError(
                "conv_channels, conv_kernel_sizes and conv_strides need one entry for each of 1 to 3 convolutions, "
                f"but have {len(self.conv_channels)}, {len(self.conv_kernel_sizes)} and {len(self.conv_strides)}."
            )
        for name in ("conv_kernel_sizes", "conv_strides"):
            for pair in getattr(self, name):
                if len(pair) != 2 or min(pair) < 1:
                    raise UserError(f"{name} holds pairs (frequency, time) of numbers from 1 on, but found {pair}.")
        if min(self.conv_channels) < 1:
            raise UserError(f"conv_channels must be at least 1, but are {self.conv_channels}.")
        if any(size % 2 == 0 for pair in self.conv_kernel_sizes for size in pair):
            raise UserError(f"conv_kernel_sizes must be odd for 'same' padding, but are {self.conv_kernel_sizes}.")
        for name in ("vocab_size", "num_frequency_bins", "num_hidden_layers", "hidden_size", "sampling_rate", "hop_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.lookahead < 0:
            raise UserError(f"lookahead counts future frames and must be at least 0, but is {self.lookahead}.")
        if self.lookahead and self.bidirectional:
            raise UserError("lookahead needs bidirectional=False: a bidirectional layer sees the whole future already.")
        if not 0 <= self.hidden_dropout < 1:
            raise UserError(f"hidden_dropout must lie in [0, 1), but is {self.hidden_dropout}.")
        if not 0 < self.batch_norm_momentum <= 1:
            raise UserError(f"batch_norm_momentum must lie in (0, 1], but is {self.batch_norm_momentum}.")
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.vocab_size:
            raise UserError(
                f"pad_token_id, the CTC blank, must be one of the {self.vocab_size} output symbols (0 to "
                f"{self.vocab_size - 1}), but is {self.pad_token_id}."
            )
        numbers = self.word_confidence
        if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or numbers[0] <= 0:
            raise UserError(f"word_confidence is a scale above 0 and an offset, but is {numbers}.")
        if not self.activation_clip > 0:
            raise UserError(f"activation_clip must be positive, but is {self.activation_clip}.")

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


@functools.cache
def _warn_once(message: str) -> None:
    """A configuration is made several times on the way from a folder to a model."""
    logger.warning(message)
