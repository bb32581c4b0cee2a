"""The layers that the recurrence is compared with: the same layer in other common implementations.

Each takes a padded batch, longest utterance first, and returns a padded batch, like `BatchNormRNN`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from modeling_deepspeech2 import DeepSpeech2Config
from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.modeling_deepspeech2 import DeepSpeech2ConvolutionLayer
from modeling_deepspeech2.packed_frames import PackedFrames


class PlainLoop(BatchNormRNN):
    """(a) h_t = f(BN(W·x_t) + U·h_{t-1}) as a loop over time that autograd differentiates; the same results."""

    def forward(self, inputs: Tensor, frames: PackedFrames) -> Tensor:
        projected = frames.unpack(self.norm(F.linear(frames.pack(inputs), self.weight_ih.flatten(0, 1))))
        valid = (torch.arange(frames.num_frames) < frames.lengths[:, None])[..., None].to(inputs.device)
        hidden = self.weight_hh.shape[2]
        output = 0
        for direction in range(self.directions):
            steps, masks = projected.unbind(1), valid.unbind(1)
            state = inputs.new_zeros(len(inputs), hidden)
            states: list = [None] * len(steps)
            for t in range(len(steps)) if direction == 0 else reversed(range(len(steps))):
                product = state @ self.weight_hh[direction].T
                gates = (steps[t][:, : 2 * hidden] + product[:, : 2 * hidden]).sigmoid()
                reset, update = gates.chunk(2, dim=1)
                candidate = self.activation(steps[t][:, 2 * hidden :] + reset * product[:, 2 * hidden :])
                state = torch.lerp(candidate, state, update) * masks[t]
                states[t] = state
            output = output + torch.stack(states, dim=1)
        return output


class UsualPort(nn.Module):
    """(b) the layer of the open-source ports: BatchNorm of the layer's input, padding included, then a packed `nn.GRU`."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(input_size)
        self.gru = nn.GRU(input_size, hidden_size, bidirectional=True, batch_first=True, bias=False)

    def forward(self, inputs: Tensor, frames: PackedFrames) -> Tensor:
        inputs = self.norm(inputs.flatten(0, 1)).view_as(inputs)
        packed = pack_padded_sequence(inputs, frames.lengths, batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=frames.num_frames)
        return output.unflatten(2, (2, -1)).sum(2)


class UsualConvolution(DeepSpeech2ConvolutionLayer):
    """Convolution, BatchNorm over everything, padding included, clipped ReLU, and zeros in the padding after it."""

    def __init__(self, config: DeepSpeech2Config, index: int, in_channels: int):
        super().__init__(config, index, in_channels)
        self.norm = nn.BatchNorm2d(self.conv.out_channels)

    def forward(self, hidden_states: Tensor, lengths: Tensor) -> tuple[Tensor, PackedFrames]:
        outputs = F.hardtanh(self.norm(self.conv(hidden_states.contiguous())), 0.0, float(self.clip))
        frames = PackedFrames(self.output_length(lengths), outputs.shape[2], outputs.device)
        padding = (torch.arange(frames.num_frames) >= frames.lengths[:, None]).to(outputs.device)
        return outputs.masked_fill(padding[:, None, :, None], 0.0), frames


class FoldedPadded(BatchNormRNN):
    """(c) statistics of W·x from those of x, folded into W and b, then torch's GRU on the padded batch; the same results.

    mean(W·x) = W·mean(x) and var(W·x)_i = w_i·Cov(x)·w_i. The second direction mirrors each utterance.
    """

    def forward(self, inputs: Tensor, frames: PackedFrames) -> Tensor:
        rows = frames.pack(inputs)
        mean = rows.mean(0)
        centred = rows - mean
        covariance = centred.T @ centred / len(rows)
        weight = self.weight_ih[0]
        variance = ((weight @ covariance) * weight).sum(1)
        scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        weight, bias = scale[:, None] * weight, self.norm.bias - scale * (weight @ mean)
        no_bias = torch.zeros_like(bias)
        time = torch.arange(frames.num_frames)
        last = frames.lengths[:, None] - 1
        mirror = torch.where(time <= last, last - time, time)[..., None]
        output = 0
        for direction in range(self.directions):
            own = inputs if direction == 0 else inputs.gather(1, mirror.expand_as(inputs))
            parameters = [weight, self.weight_hh[direction], bias, no_bias]
            start = inputs.new_zeros(1, len(inputs), self.weight_hh.shape[2])
            states, _ = torch._VF.gru(own, start, parameters, True, 1, 0.0, True, False, True)
            output = output + (states if direction == 0 else states.gather(1, mirror.expand_as(states)))
        return output
