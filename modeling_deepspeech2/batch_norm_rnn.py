"""The batch-normalised recurrent layer, h_t = f(BN(W·x_t) + U·h_{t-1}), in one or both directions (section 3.2).

The layer takes a padded batch of frames with the utterances' lengths and returns hidden states that are zero in the padding.
Internally it works on packed rows of valid frames: one product W·x for all frames and both directions, BatchNorm over the
rows, then a loop over time with one product U·h per step for both directions (`recurrent_units.py`, `recurrence.py`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from .batch_norm import SpeechBatchNorm, SumOverRanks, is_recomputed
from .folded_rnn import FoldedRNN
from .packed_frames import PackedFrames, take_rows
from .recurrence import choose, full_precision, run_recurrence
from .recurrent_units import UNITS, Activation


class BatchNormRNN(nn.Module):
    """One recurrent layer; the two directions of a bidirectional layer are summed (section 3 of the paper).

    Args:
        input_size, hidden_size: features of a frame before and after.
        rnn_type: "gru", "rnn" or "lstm".
        bidirectional: also read every utterance from its end.
        share_input_weights: both directions use the same W and BatchNorm, as in the paper; only U differs.
        batch_norm: "sequence" normalises W·x over all valid frames; "step" normalises W·x + U·h over the batch at each
            step (the paper's first attempt, a plain loop, statistics of this process alone); "off" adds a bias instead.
        momentum: weight of the newest batch in the running averages.
        activation_clip: clip of the clipped ReLU; None for tanh.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        rnn_type: str = "gru",
        bidirectional: bool = True,
        share_input_weights: bool = True,
        batch_norm: str = "sequence",
        momentum: float = 0.1,
        activation_clip: float | None = 20.0,
    ):
        super().__init__()
        self.rnn_type = rnn_type
        self.directions = 2 if bidirectional else 1
        self.batch_norm = batch_norm
        self.activation = Activation(activation_clip)
        self.group: ProcessGroup | None = None  # of which two processes train one direction each
        width = UNITS[rnn_type].gates * hidden_size
        input_directions = 1 if share_input_weights else self.directions
        self.weight_ih = nn.Parameter(torch.empty(input_directions, width, input_size))
        self.weight_hh = nn.Parameter(torch.empty(self.directions, width, hidden_size))
        if batch_norm == "off":
            self.bias = nn.Parameter(torch.empty(input_directions * width))
        else:
            self.norm = SpeechBatchNorm(input_directions * width, momentum=momentum)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight_hh.shape[2])
        nn.init.uniform_(self.weight_ih, -bound, bound)
        if not getattr(self.weight_hh, "_is_hf_initialized", False):  # from_pretrained marks what it loaded; views lose it
            for direction in self.weight_hh:
                for gate in direction.split(direction.shape[1]):
                    # Its QR decomposition knows no half precision.
                    gate.copy_(nn.init.orthogonal_(gate.to(torch.promote_types(gate.dtype, torch.float32), copy=True)))
        if self.batch_norm == "off":
            nn.init.zeros_(self.bias)

    def forward(self, inputs: Tensor, frames: PackedFrames) -> Tensor:
        """(batch, time, input_size) -> (batch, time, hidden_size); padding is not read, and is zero in the output."""
        weight = self.weight_ih.flatten(0, 1)
        rows = frames.pack(inputs).to(weight.dtype)
        if self._has_stock_kernel(rows):
            return frames.unpack(self._run_stock_kernel(rows, frames).to(weight.dtype))
        if self.batch_norm == "step":
            states = self._normalize_each_step(F.linear(rows, weight), frames)
        else:
            projected = self._project(rows, weight).unflatten(1, (len(self.weight_ih), -1))
            # In half precision errors would add up from step to step.
            dtype = torch.promote_types(projected.dtype, torch.float32)
            product_dtype = self._product_dtype(inputs.device, dtype)
            with full_precision(inputs.device):
                own = self._own_directions()
                if own:
                    states = run_recurrence(
                        projected.to(dtype),
                        self.weight_hh[own[0] : own[-1] + 1].to(dtype),
                        frames,
                        self.activation,
                        self.rnn_type,
                        own,
                        product_dtype,
                    )
                else:  # takes part in the exchange and, with every parameter, in the backward pass
                    states = projected.new_zeros(len(rows), self.weight_hh.shape[2], dtype=dtype)
                    states = states + 0 * (projected.to(dtype).sum() + self.weight_hh.sum())
                if len(own) < self.directions:
                    (states,) = SumOverRanks.apply(self.group, states)
        return frames.unpack(states.to(weight.dtype))

    def _product_dtype(self, device: torch.device, dtype: torch.dtype) -> torch.dtype:
        """For the gradient of U, one product after all steps: on a GPU rounded as autocast rounds the other products."""
        if device.type == "cuda" and torch.is_autocast_enabled("cuda"):
            return torch.bfloat16 if torch.get_autocast_dtype("cuda") == torch.bfloat16 else dtype
        return dtype

    def _own_directions(self) -> tuple[int, ...]:
        """All directions, unless the processes of a group divide them in training; then one, or none."""
        if self.group is None or not self.training:
            return tuple(range(self.directions))
        return tuple(range(self.directions))[self.group.rank() : self.group.rank() + 1]

    def _has_stock_kernel(self, rows: Tensor) -> bool:
        """Whether this layer runs on cuDNN."""
        own = max(1, len(self._own_directions()))
        may_fold = own == self.directions and self.batch_norm != "step"
        way, *_ = choose(rows.device, torch.float32, self.activation.clip, self.weight_hh.shape[2], own, may_fold)
        return way == "stock"

    def fold(self) -> FoldedRNN:
        """The same layer for inference, with the running averages folded into W and b."""
        return FoldedRNN(self)

    @torch.compiler.disable
    def _run_stock_kernel(self, rows: Tensor, frames: PackedFrames) -> Tensor:
        """Rows -> states, (rows, hidden): the statistics of W·x, found from those of x, are folded into W and b.

        mean(W·x) = W·mean(x) and var(W·x)_i = w_i·Cov(x)·w_i, so that gradients reach W and x through the fold.
        """
        dtype = torch.promote_types(rows.dtype, torch.float32)
        with full_precision(rows.device):
            rows, weight = rows.to(dtype), self.weight_ih.flatten(0, 1).to(dtype)
            if self.batch_norm == "off":
                bias = self.bias.to(dtype)
            else:
                scale, bias = self.norm.scale_and_shift_of_product(rows, weight)
                weight = scale[:, None] * weight
            if len(rows) == 0:
                return rows.new_zeros(0, self.weight_hh.shape[2]) + 0 * (weight.sum() + bias.sum() + self.weight_hh.sum())
            width = self.weight_hh.shape[1]
            parameters = []
            for direction in range(self.directions):
                place = self.input_direction(direction)
                own = slice(place * width, (place + 1) * width)
                no_bias = torch.zeros_like(bias[own])
                parameters += [weight[own], self.weight_hh[direction].to(dtype), bias[own], no_bias]
            start = rows.new_zeros(self.directions, int(frames.batch_sizes[0]), self.weight_hh.shape[2])
            unit = UNITS[self.rnn_type]
            state = (start, start) if unit.states == 2 else start
            options = True, 1, 0.0, True, self.directions == 2  # biases, layers, dropout, training, bidirectional
            output = unit.stock_kernel(rows, frames.batch_sizes, state, parameters, *options)[0]
            return output.unflatten(1, (self.directions, -1)).sum(1)

    def _project(self, rows: Tensor, weight: Tensor) -> Tensor:
        if self.batch_norm == "off":
            return F.linear(rows, weight, self.bias)
        if self.training or self.norm.weight.is_meta:  # offloaded: accelerate fetches the weights of modules that are called
            return self.norm(F.linear(rows, weight))
        scale, shift = self.norm.scale_and_shift()
        return F.linear(rows, (scale[:, None] * weight).to(weight.dtype), shift.to(weight.dtype))

    @torch.compiler.disable
    def _normalize_each_step(self, projected: Tensor, frames: PackedFrames) -> Tensor:
        """(rows, input directions · width) -> (rows, hidden)"""
        unit = UNITS[self.rnn_type]
        width, hidden = self.weight_hh.shape[1:]
        outputs = []
        for direction in range(self.directions):
            first = self.input_direction(direction) * width
            inputs = projected[:, first : first + width]
            if direction == 1:
                inputs = take_rows(inputs, frames.mirror)
            state = tuple(inputs.new_zeros(frames.batch_size, hidden) for _ in range(unit.states))
            states = [inputs[:0, :hidden]]
            for step in inputs.split(frames.batch_sizes.tolist()):
                state = tuple(part[: len(step)] for part in state)
                state = unit.step(
                    self.activation,
                    step,
                    state[0] @ self.weight_hh[direction].T,
                    state,
                    norm=lambda rows, offset, first=first: self._step_norm(rows, first + offset),
                )
                states.append(state[0])
            outputs.append(torch.cat(states))
        output = outputs[0] if self.directions == 1 else outputs[0] + take_rows(outputs[1], frames.mirror)
        # A process without a frame still takes part in the backward pass with every parameter.
        return output + 0 * (self.weight_hh.sum() + self.norm.weight.sum() + self.norm.bias.sum())

    def input_direction(self, direction: int) -> int:
        return min(direction, len(self.weight_ih) - 1)

    def _step_norm(self, rows: Tensor, first: int) -> Tensor:
        """BatchNorm of one step's rows by the features from `first` on; a lone row has no variance: running averages."""
        norm, features = self.norm, slice(first, first + rows.shape[1])
        # Copies, because autograd keeps what normalised a lone row, and the averages move on.
        mean, variance = norm.running_mean[features].clone(), norm.running_var[features].clone()
        learns = norm.training and len(rows) > 1
        normalized = F.batch_norm(
            rows, mean, variance, norm.weight[features], norm.bias[features], learns, norm.momentum, norm.eps
        )
        if learns and not is_recomputed():
            norm.running_mean[features], norm.running_var[features] = mean, variance
        return normalized
