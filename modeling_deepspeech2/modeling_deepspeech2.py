"""The Deep Speech 2 model: convolutions, batch-normalised recurrent layers, (row convolution), fully connected layer, CTC.

The input is log power spectrograms with a mask, the output logits over characters for every `config.time_stride` frames.
Values in the padding are never read; padded output frames decode to blank.
"""

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .batch_norm import SpeechBatchNorm, SumOverRanks
from .batch_norm_rnn import BatchNormRNN
from .configuration_deepspeech2 import DeepSpeech2Config
from .ctc_loss import ctc_loss
from .errors import UserError
from .folded_rnn import FoldedRNN
from .hub_access import ARGUMENTS, HubAccess
from .loading_checks import check_weights
from .packed_frames import PackedFrames, find_frames, on_device
from .remote_code import travels_with_code


# Logit of every symbol but the blank in a padded frame: finite in half precision, and a probability of zero.
IMPOSSIBLE = -1e4


def make_norm(config: DeepSpeech2Config, num_features: int) -> SpeechBatchNorm | None:
    return None if config.batch_norm == "off" else SpeechBatchNorm(num_features, momentum=config.batch_norm_momentum)


def convolve_phases(inputs: Tensor, conv: nn.Conv2d) -> Tensor:
    """`conv`, its strides turned into channels: the same sums, with a faster backward pass on a CPU.

    With stride s, the s phases of the inputs and of the kernel (filled up with zeros to a multiple of s) become channels of
    a convolution with stride 1; oneDNN's gradient of strided kernels is slow.
    """
    phases = []
    for tensor, is_kernel in ((inputs, False), (conv.weight, True)):
        padding = []
        for axis in (3, 2):
            size, stride = conv.kernel_size[axis - 2], conv.stride[axis - 2]
            before = 0 if is_kernel else conv.padding[axis - 2]
            outputs = 1 if is_kernel else (inputs.shape[axis] + 2 * before - size) // stride + 1
            needed = (outputs - 1 + -(-size // stride)) * stride
            padding += [before, needed - before - tensor.shape[axis]]
        tensor = F.pad(tensor, padding).unflatten(3, (-1, conv.stride[1])).unflatten(2, (-1, conv.stride[0]))
        tensor = tensor.permute(0, 2, 4, 3, 5, 1).flatten(3)  # the phases of a place together, then its channels
        phases.append(tensor.permute(0, 3, 1, 2))
    return F.conv2d(*phases, conv.bias)


class DeepSpeech2ConvolutionLayer(nn.Module):
    """Convolution over (time, frequency), BatchNorm over the valid frames, clipped ReLU (sections 3.2 and 3.5)."""

    def __init__(self, config: DeepSpeech2Config, index: int, in_channels: int):
        super().__init__()
        kernel, stride = config.conv_kernel_sizes[index], config.conv_strides[index]
        frequency, time = (0, 1) if config.conv_type == "2d" else (None, 1)
        kernel_size = (kernel[time], 1 if frequency is None else kernel[frequency])
        self.clip = config.activation_clip
        self.conv = nn.Conv2d(
            in_channels,
            config.conv_channels[index],
            kernel_size=kernel_size,
            stride=(stride[time], 1 if frequency is None else stride[frequency]),
            padding=(kernel_size[0] // 2, kernel_size[1] // 2),
            bias=config.batch_norm == "off",
        )
        self.stride = self.conv.stride  # adapters wrap the convolution
        self.norm = make_norm(config, config.conv_channels[index])

    def output_length(self, length: Tensor | int) -> Tensor | int:
        """Frames after the layer: ⌈length / stride⌉, and none from none."""
        return (length + self.stride[0] - 1) // self.stride[0]

    def forward(self, hidden_states: Tensor, lengths: Tensor) -> tuple[Tensor, PackedFrames]:
        """(batch, channels, time, frequency), zero in the padding -> the same kind of tensor, and its frames"""
        is_plain = type(self.conv) is nn.Conv2d
        in_phases = self.training and hidden_states.device.type == "cpu" and max(self.stride) > 1 and is_plain
        outputs = convolve_phases(hidden_states, self.conv) if in_phases else self.conv(hidden_states)
        outputs = outputs.permute(0, 2, 3, 1)  # a frame's values together: frames become rows
        frames = find_frames(self.output_length(lengths), outputs.shape[1], outputs.device)
        rows = frames.pack(outputs)
        if self.norm is not None:
            rows = self.norm(rows.flatten(0, 1)).view(rows.shape).to(rows.dtype)
        rows = F.hardtanh(rows, 0.0, float(self.clip))
        return frames.unpack(rows).permute(0, 3, 1, 2), frames


class DeepSpeech2RecurrentLayer(GradientCheckpointingLayer):
    """h_t = f(BN(W·x_t) + U·h_{t-1}) in one or both directions, then dropout."""

    def __init__(self, config: DeepSpeech2Config, input_size: int):
        super().__init__()
        self.rnn = BatchNormRNN(
            input_size,
            config.hidden_size,
            rnn_type=config.rnn_type,
            bidirectional=config.bidirectional,
            share_input_weights=config.share_input_weights,
            batch_norm=config.batch_norm,
            momentum=config.batch_norm_momentum,
            activation_clip=float(config.activation_clip) if config.hidden_act == "clipped_relu" else None,
        )
        self.dropout = nn.Dropout(config.hidden_dropout)

    @property
    def is_folded(self) -> bool:
        return isinstance(self.rnn, FoldedRNN)

    def forward(self, hidden_states: Tensor, frames: PackedFrames) -> Tensor:
        return self.dropout(self.rnn(hidden_states, frames))


class DeepSpeech2RowConvolution(nn.Module):
    """r_{t,i} = Σ_j W_{i,j} · h_{t+j,i} for j = 0 … lookahead (section 3.7)."""

    def __init__(self, config: DeepSpeech2Config):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden_size, 1, config.lookahead + 1))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, time, hidden), zero in the padding -> the same shape"""
        ahead = F.pad(hidden_states.transpose(1, 2), (0, self.weight.shape[2] - 1))
        return F.conv1d(ahead, self.weight.to(ahead.dtype), groups=len(self.weight)).transpose(1, 2)


class DeepSpeech2FullyConnectedLayer(nn.Module):
    """Linear layer, BatchNorm over the valid frames, clipped ReLU; acts on packed rows."""

    def __init__(self, config: DeepSpeech2Config):
        super().__init__()
        self.clip = config.activation_clip
        self.linear = nn.Linear(config.hidden_size, config.hidden_size, bias=config.batch_norm == "off")
        self.norm = make_norm(config, config.hidden_size)

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.linear(rows)
        if self.norm is not None:
            rows = self.norm(rows).to(rows.dtype)
        return F.hardtanh(rows, 0.0, float(self.clip))


@travels_with_code
class DeepSpeech2PreTrainedModel(PreTrainedModel):
    config_class = DeepSpeech2Config
    base_model_prefix = "deepspeech2"
    main_input_name = "input_features"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeepSpeech2RecurrentLayer"]
    _can_record_outputs = {"hidden_states": DeepSpeech2RecurrentLayer}

    def __init__(self, config: DeepSpeech2Config):
        super().__init__(config)
        # A model loaded in half precision keeps its statistics in float32.
        self._keep_in_fp32_modules_strict = [] if config.batch_norm == "off" else ["norm"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init.kaiming_uniform_(module.weight, nonlinearity="relu")
        elif isinstance(module, DeepSpeech2RowConvolution):
            # It starts as the identity: the present frame only.
            init.zeros_(module.weight)
            init.ones_(module.weight[..., 0])
        elif isinstance(module, (SpeechBatchNorm, BatchNormRNN)):
            module.reset_parameters()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As [`PreTrainedModel.from_pretrained`], and checks that every weight is present and finite.

        Callers that ask for `output_loading_info` or give a `state_dict` check the missing weights themselves.

        Raises:
            UserError: weights are missing, not finite, of another shape, or in a damaged file.
            OSError: there is no such model.
        """
        name = pretrained_model_name_or_path
        access = HubAccess({argument: kwargs[argument] for argument in ARGUMENTS if argument in kwargs})
        try:
            model, info = super().from_pretrained(
                name, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        except SafetensorError as error:
            raise UserError(f"The weights of {name} are damaged or cut short ({error}): copy them again.") from error
        if not output_loading_info and kwargs.get("state_dict") is None:
            check_weights(model, name, info, ignore_mismatched_sizes)
        model.hub_access = access
        return (model, info) if output_loading_info else model

    def _check_and_adjust_attn_implementation(self, *args: Any, **kwargs: Any) -> str:
        return "eager"  # there is no attention; scripts for other models choose one all the same

    def get_input_embeddings(self) -> None:
        """There are none. Accelerate asks before it shards a model, and the parent would raise an error."""
        return None

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Raises UserError: there are no embeddings."""
        raise UserError(
            "resize_token_embeddings: found a model without embeddings, expected one with; for another alphabet, "
            "from_pretrained(…, vocab_size=len(tokenizer), ignore_mismatched_sizes=True) starts the output layer afresh."
        )

    def freeze_batch_norm(self) -> None:
        """Training, too, normalises by the running averages from now on, and leaves them as they are."""
        for module in self.modules():
            if isinstance(module, SpeechBatchNorm):
                module.freeze()

    def fold_batch_norm(self) -> "DeepSpeech2PreTrainedModel":
        """Returns a copy for inference only: every BatchNorm's running averages are folded into the weights before it.

        Same outputs but for rounding, less work, and layers that can be quantised. Do not save it; save the model.

        >>> fast = model.fold_batch_norm()
        >>> half = fast.to(torch.bfloat16)
        """
        model = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(model.modules()):
            if isinstance(module, DeepSpeech2ConvolutionLayer) and module.norm is not None:
                module.norm.fold_into(module.conv)
                module.norm = None
            elif isinstance(module, DeepSpeech2FullyConnectedLayer) and module.norm is not None:
                module.norm.fold_into(module.linear)
                module.norm = None
            elif isinstance(module, DeepSpeech2RecurrentLayer) and not module.is_folded:
                module.rnn = module.rnn.fold()
        return model

    def output_lengths(self, lengths: Tensor | int) -> Tensor | int:
        """Output frames for a number of input frames, given the convolutions' strides."""
        for layer in self.base_model.convolutions:
            lengths = layer.output_length(lengths)
        return lengths


class DeepSpeech2Model(DeepSpeech2PreTrainedModel):
    """Everything below the output layer."""

    def __init__(self, config: DeepSpeech2Config):
        super().__init__(config)
        channels, bins = (1, config.num_frequency_bins) if config.conv_type == "2d" else (config.num_frequency_bins, 1)
        self.convolutions = nn.ModuleList()
        for index, out_channels in enumerate(config.conv_channels):
            layer = DeepSpeech2ConvolutionLayer(config, index, channels)
            channels, bins = out_channels, -(-bins // layer.stride[1])
            self.convolutions.append(layer)
        self.layers = nn.ModuleList(
            DeepSpeech2RecurrentLayer(config, channels * bins if index == 0 else config.hidden_size)
            for index in range(config.num_hidden_layers)
        )
        self.row_convolution = DeepSpeech2RowConvolution(config) if config.lookahead else None
        self.fully_connected = DeepSpeech2FullyConnectedLayer(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutput:
        r"""
        Args:
            input_features: log power spectrograms, shape (batch, frames, bins).
            attention_mask: 1 for frames and 0 for the padding behind them, shape (batch, frames).

        Returns:
            `last_hidden_state` of shape (batch, output frames, hidden_size), zero in the padding.
        """
        lengths = frame_lengths(input_features, attention_mask)
        valid = on_device(torch.arange(input_features.shape[1]) < lengths[:, None], input_features.device)
        # Not a product with the mask: 0 · NaN is NaN.
        hidden_states = input_features.masked_fill(~valid[..., None], 0.0).to(self.dtype)
        if self.config.conv_type == "2d":
            hidden_states = hidden_states[:, None]
        else:
            hidden_states = hidden_states.transpose(1, 2)[..., None]
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)  # as the layers hand it on
        for layer in self.convolutions:
            hidden_states, frames = layer(hidden_states, lengths)
            lengths = frames.lengths
        hidden_states = hidden_states.permute(0, 2, 3, 1).flatten(2)

        for layer in self.layers:
            hidden_states = layer(hidden_states, frames)
        if self.row_convolution is not None:
            hidden_states = self.row_convolution(hidden_states)
        return BaseModelOutput(last_hidden_state=frames.unpack(self.fully_connected(frames.pack(hidden_states))))


@dataclass
class DeepSpeech2CTCGenerateOutput(ModelOutput):
    """What `generate(…, return_dict_in_generate=True)` returns."""

    sequences: torch.LongTensor | None = None  # (batch, output frames)
    logits: torch.FloatTensor | None = None  # (batch, output frames, vocab_size)
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class DeepSpeech2ForCTC(DeepSpeech2PreTrainedModel):
    """Deep Speech 2 with its output layer and the CTC loss."""

    # The loss is a mean over utterances, so that `Trainer` must divide it by the batches that it accumulates.
    accepts_loss_kwargs = False

    def __init__(self, config: DeepSpeech2Config):
        super().__init__(config)
        self.deepspeech2 = DeepSpeech2Model(config)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.group: ProcessGroup | None = None  # processes that each train some symbols of the output layer
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutput:
        r"""
        Args:
            input_features: log power spectrograms, shape (batch, frames, bins).
            attention_mask: 1 for frames and 0 for the padding behind them, shape (batch, frames).
            labels: character ids, shape (batch, characters), -100 or the blank in the padding.

        Returns:
            `logits` of shape (batch, output frames, vocab_size); `loss`, a scalar, where there are labels.
        """
        outputs = self.deepspeech2(input_features, attention_mask, **kwargs)
        logits = self._logits(outputs.last_hidden_state)
        lengths = self.output_lengths(frame_lengths(input_features, attention_mask))
        padding = on_device(torch.arange(logits.shape[1]) >= lengths[:, None], logits.device)[..., None]
        is_blank = torch.arange(logits.shape[2], device=logits.device) == self.config.pad_token_id
        logits = logits.masked_fill(padding & ~is_blank, IMPOSSIBLE).masked_fill(padding & is_blank, 0.0)

        loss = None
        if labels is not None:
            loss = ctc_loss(
                logits, lengths, labels, self.config.pad_token_id,
                self.config.ctc_loss_reduction, self.config.ctc_zero_infinity,
            )  # fmt: skip
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    @torch.no_grad()
    def generate(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        return_dict_in_generate: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DeepSpeech2CTCGenerateOutput | Tensor:
        """The best symbol of every output frame, as other CTC models offer it: no language model, no search.

        Args:
            input_features, attention_mask: see `forward`.
            return_dict_in_generate: return the logits, too.

        Returns:
            Ids of shape (batch, output frames), the blank in the padding, for `processor.batch_decode`.
        """
        outputs = self(input_features, attention_mask, **kwargs | {"return_dict": True})
        sequences = outputs.logits.argmax(-1)
        if return_dict_in_generate:
            return DeepSpeech2CTCGenerateOutput(sequences, outputs.logits, outputs.hidden_states)
        return sequences

    def freeze_feature_encoder(self) -> None:
        """Stops the gradients of the convolutions; their running averages still follow the data."""
        self.base_model.convolutions.requires_grad_(False)

    def freeze_base_model(self) -> None:
        """Stops the gradients of everything except the output layer."""
        self.base_model.requires_grad_(False)

    def _logits(self, hidden_states: Tensor) -> Tensor:
        if self.group is None or not self.training:
            return self.ctc_head(hidden_states)
        symbols, rank, size = self.config.vocab_size, self.group.rank(), self.group.size()
        first, end = symbols * rank // size, symbols * (rank + 1) // size
        own = F.linear(hidden_states, self.ctc_head.weight[first:end], self.ctc_head.bias[first:end])
        (logits,) = SumOverRanks.apply(self.group, F.pad(own, (first, symbols - end)))
        return logits


def frame_lengths(input_features: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Valid frames of each utterance, shape (batch,), on the CPU; where the mask is there too, nothing waits for a GPU."""
    batch_size, num_frames = input_features.shape[:2]
    if attention_mask is None:
        return torch.full((batch_size,), num_frames)
    return attention_mask.long().sum(1).cpu()
