"""A recurrent layer for inference: BatchNorm is folded into W and b, and the state is carried from call to call."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .batch_norm_rnn import BatchNormRNN
from .packed_frames import PackedFrames, take_rows
from .recurrent_units import UNITS, Activation


class FoldedRNN(nn.Module):
    """A layer at inference: the running averages folded into W and b once, the state carried from call to call.

    GRU and LSTM units with tanh become torch's own layers and their fused kernels; their formulas are the same. All others
    step by `nn.Linear`, so that `torch.ao.quantization.quantize_dynamic` can quantise either kind.
    """

    def __init__(self, layer: BatchNormRNN):
        super().__init__()
        self.directions = nn.ModuleList(_fold_direction(layer, direction) for direction in range(layer.directions))

    def forward(self, inputs: Tensor, frames: PackedFrames) -> Tensor:
        """(batch, time, input_size) -> (batch, time, hidden_size); padding is neither read nor anything but zero after."""
        rows = frames.pack(inputs)
        if len(rows) == 0:
            return inputs.new_zeros(*inputs.shape[:2], self.directions[0].hidden_size)
        batch_sizes = torch.tensor([end - start for start, end in frames.steps])
        output = self.directions[0](PackedSequence(rows, batch_sizes))[0].data
        if len(self.directions) == 2:
            mirrored = PackedSequence(take_rows(rows, frames.mirror), batch_sizes)
            output = output + take_rows(self.directions[1](mirrored)[0].data, frames.mirror)
        return frames.unpack(output)

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
        self.unit, self.activation, self.hidden_size = UNITS[rnn_type], activation, hidden_size
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
def _fold_direction(layer: BatchNormRNN, direction: int) -> nn.Module:
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
