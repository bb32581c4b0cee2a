"""A recurrent layer for inference: BatchNorm is folded into W and b, and the state is carried from call to call."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .packed_frames import PackedFrames, take_rows
from .recurrence import Recurrence, choose
from .recurrent_units import UNITS, Activation


if TYPE_CHECKING:
    from .batch_norm_rnn import BatchNormRNN


class FoldedRNN(nn.Module):
    """A layer at inference: the running averages folded into W and b once, the state carried from call to call.

    GRU and LSTM units with tanh become torch's own layers and their fused kernels; their formulas are the same. All others
    step by `nn.Linear`, so that `torch.ao.quantization.quantize_dynamic` can quantise either kind; on a GPU whole utterances
    run in the kernel of the training.
    """

    def __init__(self, layer: "BatchNormRNN"):
        super().__init__()
        self.directions = nn.ModuleList(_fold_direction(layer, direction) for direction in range(layer.directions))

    @torch.compiler.disable
    def forward(self, inputs: Tensor, frames: PackedFrames) -> Tensor:
        """(batch, time, input_size) -> (batch, time, hidden_size); padding is neither read nor anything but zero after."""
        rows = frames.pack(inputs)
        if len(rows) == 0:
            return inputs.new_zeros(*inputs.shape[:2], self.directions[0].hidden_size)
        if self._has_kernel(rows):
            return frames.unpack(self._run_kernel(rows, frames))
        output = self.directions[0](PackedSequence(rows, frames.batch_sizes))[0].data
        if len(self.directions) == 2:
            mirrored = PackedSequence(take_rows(rows, frames.mirror), frames.batch_sizes)
            output = output + take_rows(self.directions[1](mirrored)[0].data, frames.mirror)
        return frames.unpack(output)

    def _has_kernel(self, rows: Tensor) -> bool:
        layer = self.directions[0]
        if not isinstance(layer, SteppedRNN):
            return False
        choice = choose(rows.device, torch.float32, layer.activation.clip, layer.hidden_size, len(self.directions))
        return choice.way != "plain"

    def _run_kernel(self, rows: Tensor, frames: PackedFrames) -> Tensor:
        layers = list(self.directions)
        projected = torch.stack([layer.input(rows) for layer in layers], dim=1).float()
        weight = torch.stack([layer.recurrent.weight for layer in layers]).float()
        own = tuple(range(len(layers)))
        first = layers[0]
        states = Recurrence.apply(projected, weight, frames, first.activation, first.rnn_type, own, torch.float32)
        return states.to(rows.dtype)

    def step(self, inputs: Tensor, state: Tensor | tuple[Tensor, ...] | None = None) -> tuple[Tensor, Tensor | tuple]:
        """Goes on from a state: (batch, time, input_size) -> (batch, time, hidden_size) and the next state."""
        rows = inputs.transpose(0, 1).flatten(0, 1)
        packed = PackedSequence(rows, torch.full((inputs.shape[1],), inputs.shape[0]))
        output, state = self.directions[0](packed, state)
        return output.data.unflatten(0, (inputs.shape[1], inputs.shape[0])).transpose(0, 1), state


class SteppedRNN(nn.Module):
    """Any unit with any activation, one step after the other; called like `nn.GRU` or `nn.LSTM`, on packed sequences."""

    def __init__(self, rnn_type: str, activation: Activation, input_size: int, hidden_size: int):
        super().__init__()
        self.rnn_type, self.unit = rnn_type, UNITS[rnn_type]
        self.activation, self.hidden_size = activation, hidden_size
        self.input = nn.Linear(input_size, self.unit.gates * hidden_size)
        self.recurrent = nn.Linear(hidden_size, self.unit.gates * hidden_size, bias=False)

    def forward(
        self, packed: PackedSequence, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[PackedSequence, Tensor | tuple[Tensor, Tensor]]:
        steps = self.input(packed.data).split(packed.batch_sizes.tolist())
        if state is None:
            state = tuple(steps[0].new_zeros(len(steps[0]), self.hidden_size) for _ in range(self.unit.states))
        else:
            state = tuple(part[0] for part in (state if isinstance(state, tuple) else (state,)))
        outputs, finished = [], []
        for step in steps:
            if len(step) < len(state[0]):  # the shortest utterances are over
                finished.append([part[len(step) :] for part in state])
                state = tuple(part[: len(step)] for part in state)
            state = self.unit.step(self.activation, step, self.recurrent(state[0]), state)
            outputs.append(state[0])
        state = tuple(torch.cat(parts)[None] for parts in zip(state, *reversed(finished)))
        return PackedSequence(torch.cat(outputs), packed.batch_sizes), state if self.unit.states == 2 else state[0]


@torch.no_grad()
def _fold_direction(layer: "BatchNormRNN", direction: int) -> nn.Module:
    place = layer.input_direction(direction)
    weight_ih, weight_hh = layer.weight_ih[place], layer.weight_hh[direction]
    width, hidden_size = weight_hh.shape
    if layer.batch_norm == "off":
        bias = layer.bias.view(-1, width)[place]
    else:
        scale, bias = (values.view(-1, width)[place] for values in layer.norm.scale_and_shift())
        weight_ih = scale[:, None] * weight_ih
        if layer.batch_norm == "step":
            weight_hh = scale[:, None] * weight_hh
    stock_layer = UNITS[layer.rnn_type].stock_layer
    if layer.activation.clip is None and stock_layer is not None:
        folded = stock_layer(weight_ih.shape[1], hidden_size)
        own = {
            "weight_ih_l0": weight_ih,
            "weight_hh_l0": weight_hh,
            "bias_ih_l0": bias,
            "bias_hh_l0": torch.zeros_like(bias),
        }
    else:
        folded = SteppedRNN(layer.rnn_type, layer.activation, weight_ih.shape[1], hidden_size)
        own = {"input.weight": weight_ih, "input.bias": bias, "recurrent.weight": weight_hh}
    folded.to(layer.weight_hh)
    folded.load_state_dict(own)
    return folded
