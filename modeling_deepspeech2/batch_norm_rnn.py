"""The heart of Deep Speech 2: h_t = f(BN(W·x_t) + U·h_{t-1}), forwards in time or in both directions.

In comes a padded batch of frames with the utterances' lengths, out go the hidden states, with zeros in the padding.
Inside, only valid frames exist, as packed rows: one product W·x for all frames and both directions, BatchNorm on its rows,
then a loop over time with one product U·h a step for both directions. Back-propagation through time is written by hand:
what does not depend on the step before is computed for all steps at once, and the gradient of U is one product at the end.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from .batch_norm import SpeechBatchNorm, is_recomputed
from .packed_frames import PackedFrames, take_rows


try:
    from .batch_norm_rnn_triton import run_steps
except ImportError:  # no GPU, no need
    run_steps = None

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Activation:
    """f of the recurrence: tanh, or min(max(x, 0), clip) where `clip` is given."""

    clip: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x) if self.clip is None else F.hardtanh(x, 0.0, self.clip)

    def apply_(self, x: Tensor) -> Tensor:
        return x.tanh_() if self.clip is None else x.clamp_(0.0, self.clip)

    def slope(self, y: Tensor) -> Tensor:
        """f'(x) as a function of y = f(x)."""
        if self.clip is None:
            return torch.addcmul(y.new_ones(()), y, y, value=-1)
        return ((y > 0) & (y < self.clip)).to(y.dtype)


# Below, `inputs` are BN(W·x), shape (directions, rows, gates · hidden), `weight` is U, shape (directions, gates · hidden,
# hidden), and the second direction's rows are mirrored, so that every direction runs from the first row to the last.


def _has_fused_steps(inputs: Tensor, activation: Activation) -> bool:
    return inputs.is_cuda and inputs.dtype == torch.float32 and activation.clip is not None and run_steps is not None


def _previous_states(states: Tensor, frames: PackedFrames) -> Tensor:
    previous = states.index_select(1, frames.previous)
    previous[:, : frames.steps[0][1] if frames.steps else 0] = 0
    return previous


def _without_autocast(backward: Callable) -> Callable:
    """Back-propagation in full precision, also where `backward()` is called under autocast."""

    @functools.wraps(backward)
    def run(ctx, grad: Tensor):
        with torch.autocast(grad.device.type, enabled=False):
            return backward(ctx, grad)

    return run


def _add_carry(grad: Tensor, carry: Tensor | None) -> Tensor:
    if carry is not None:
        grad[:, : carry.shape[1]] += carry
    return grad


def _times_one_minus(x: Tensor, y: Tensor) -> Tensor:
    """x · (1 − y) in place: these tensors are large, and every temporary one costs time."""
    return x.addcmul_(x, y, value=-1)


class _BothDirections(torch.autograd.Function):
    """Rows as they are and rows mirrored, (rows, width) each, into one tensor (2, rows, width) without a copy between."""

    @staticmethod
    def forward(ctx, ahead: Tensor, back: Tensor, mirror: Tensor) -> Tensor:
        ctx.mirror = mirror
        both = ahead.new_empty(2, *ahead.shape)
        both[0] = ahead
        torch.index_select(back, 0, mirror, out=both[1])
        return both

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad[0], grad[1].index_select(0, ctx.mirror), None


class _RNN(torch.autograd.Function):
    """h = f(x + U h')"""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> Tensor:
        if _has_fused_steps(inputs, activation):
            *_, states = run_steps(inputs, weight, frames, activation.clip)
        else:
            states = _RNN.steps(inputs, weight, frames, activation)
        ctx.save_for_backward(states, weight)
        ctx.frames, ctx.activation = frames, activation
        return states

    @staticmethod
    def steps(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> Tensor:
        states = torch.empty_like(inputs)
        transposed = weight.transpose(1, 2).contiguous()
        state = inputs.new_zeros(len(weight), frames.batch_size, weight.shape[2])
        for start, end in frames.steps:
            state = torch.baddbmm(inputs[:, start:end], state[:, : end - start], transposed, out=states[:, start:end])
            activation.apply_(state)
        return states

    @staticmethod
    @once_differentiable
    @_without_autocast
    def backward(ctx, grad: Tensor):
        states, weight = ctx.saved_tensors
        grad_inputs = grad.clone(memory_format=torch.contiguous_format)
        slope = ctx.activation.slope(states)
        carry = None
        for start, end in reversed(ctx.frames.steps):
            step = _add_carry(grad_inputs[:, start:end], carry).mul_(slope[:, start:end])
            carry = torch.bmm(step, weight)
        grad_weight = torch.bmm(grad_inputs.transpose(1, 2), _previous_states(states, ctx.frames))
        return grad_inputs, grad_weight, None, None


class _GRU(torch.autograd.Function):
    """r, z = σ(x_rz + U_rz h');  n = f(x_n + r ∘ U_n h');  h = n + z ∘ (h' − n)

    The paper writes 1 − z where torch's GRU, and so this one, writes z.
    """

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> Tensor:
        if _has_fused_steps(inputs, activation):
            gates, recurrent, candidates, states = run_steps(inputs, weight, frames, activation.clip)
        else:
            gates, recurrent, candidates, states = _GRU.steps(inputs, weight, frames, activation)
        ctx.save_for_backward(gates, recurrent, candidates, states, weight)
        ctx.frames, ctx.activation = frames, activation
        return states

    @staticmethod
    def steps(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> tuple[Tensor, ...]:
        directions, rows, _ = inputs.shape
        hidden = weight.shape[2]
        gates = inputs.new_empty(directions, rows, 2 * hidden)
        recurrent = inputs.new_empty(directions, rows, hidden)  # U_n h'
        candidates = inputs.new_empty(directions, rows, hidden)
        states = inputs.new_empty(directions, rows, hidden)
        transposed = weight.transpose(1, 2).contiguous()
        state = inputs.new_zeros(directions, frames.batch_size, hidden)
        for start, end in frames.steps:
            state = state[:, : end - start]
            product = torch.bmm(state, transposed)
            reset_update = gates[:, start:end]
            torch.add(inputs[:, start:end, : 2 * hidden], product[..., : 2 * hidden], out=reset_update).sigmoid_()
            recurrent[:, start:end] = product[..., 2 * hidden :]
            candidate = candidates[:, start:end]
            torch.addcmul(
                inputs[:, start:end, 2 * hidden :],
                reset_update[..., :hidden],
                product[..., 2 * hidden :],
                out=candidate,
            )
            activation.apply_(candidate)
            state = torch.lerp(candidate, state, reset_update[..., hidden:], out=states[:, start:end])
        return gates, recurrent, candidates, states

    @staticmethod
    @once_differentiable
    @_without_autocast
    def backward(ctx, grad: Tensor):
        gates, recurrent, candidates, states, weight = ctx.saved_tensors
        reset, update = gates.chunk(2, dim=-1)
        previous = _previous_states(states, ctx.frames)
        # Per unit of dL/dh_t: the gradients before the non-linearities, in the order r, z, r ∘ n of the rows of U.
        candidate_slope = _times_one_minus(ctx.activation.slope(candidates), update)
        factors = grad.new_empty(*grad.shape[:2], 3, grad.shape[2])
        of_reset, of_update, of_recurrent = factors.unbind(2)
        torch.mul(candidate_slope, reset, out=of_recurrent)
        _times_one_minus(torch.mul(of_recurrent, recurrent, out=of_reset), reset)
        _times_one_minus(torch.sub(previous, candidates, out=of_update).mul_(update), update)
        grad_states = grad.clone(memory_format=torch.contiguous_format)
        carry = None
        for start, end in reversed(ctx.frames.steps):
            grad_state = _add_carry(grad_states[:, start:end], carry)
            step = factors[:, start:end].mul_(grad_state[:, :, None])
            carry = torch.baddbmm(grad_state * update[:, start:end], step.flatten(2), weight)
        grad_recurrent = factors.flatten(2)
        grad_weight = torch.bmm(grad_recurrent.transpose(1, 2), previous)
        hidden = weight.shape[2]
        grad_inputs = torch.empty_like(grad_recurrent)
        grad_inputs[..., : 2 * hidden] = grad_recurrent[..., : 2 * hidden]
        torch.mul(grad_states, candidate_slope, out=grad_inputs[..., 2 * hidden :])
        return grad_inputs, grad_weight, None, None


class _LSTM(torch.autograd.Function):
    """i, f, o = σ(…);  g = f(…);  c = f ∘ c' + i ∘ g;  h = o ∘ f(c), each … = x + U h', in the order i, f, g, o"""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> Tensor:
        if _has_fused_steps(inputs, activation):
            gates, cells, _, states = run_steps(inputs, weight, frames, activation.clip)
        else:
            gates, cells, states = _LSTM.steps(inputs, weight, frames, activation)
        ctx.save_for_backward(gates, cells, states, weight)
        ctx.frames, ctx.activation = frames, activation
        return states

    @staticmethod
    def steps(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> tuple[Tensor, ...]:
        directions, rows, _ = inputs.shape
        hidden = weight.shape[2]
        gates = torch.empty_like(inputs)
        cells = inputs.new_empty(directions, rows, hidden)
        states = inputs.new_empty(directions, rows, hidden)
        transposed = weight.transpose(1, 2).contiguous()
        state = cell = inputs.new_zeros(directions, frames.batch_size, hidden)
        for start, end in frames.steps:
            size = end - start
            step = torch.baddbmm(inputs[:, start:end], state[:, :size], transposed, out=gates[:, start:end])
            step[..., : 2 * hidden].sigmoid_()
            activation.apply_(step[..., 2 * hidden : 3 * hidden])
            step[..., 3 * hidden :].sigmoid_()
            into, forget, candidate, out = step.chunk(4, dim=-1)
            cell = torch.mul(forget, cell[:, :size], out=cells[:, start:end]).addcmul_(into, candidate)
            state = torch.mul(out, activation(cell), out=states[:, start:end])
        return gates, cells, states

    @staticmethod
    @once_differentiable
    @_without_autocast
    def backward(ctx, grad: Tensor):
        gates, cells, states, weight = ctx.saved_tensors
        frames, activation = ctx.frames, ctx.activation
        into, forget, candidate, out = gates.chunk(4, dim=-1)
        activated = activation(cells)
        cell_per_state = out * activation.slope(activated)
        out_per_state = activated * out * (1 - out)
        per_cell = torch.stack(
            [
                candidate * into * (1 - into),
                _previous_states(cells, frames) * forget * (1 - forget),
                into * activation.slope(candidate),
            ],
            dim=2,
        )
        grad_states = grad.clone(memory_format=torch.contiguous_format)
        grad_inputs = torch.empty_like(gates)
        split = grad_inputs.unflatten(2, (4, -1))
        carry = cell_carry = None
        for start, end in reversed(frames.steps):
            grad_state = _add_carry(grad_states[:, start:end], carry)
            grad_cell = _add_carry(grad_state * cell_per_state[:, start:end], cell_carry)
            torch.mul(per_cell[:, start:end], grad_cell[:, :, None], out=split[:, start:end, :3])
            torch.mul(grad_state, out_per_state[:, start:end], out=split[:, start:end, 3])
            carry = torch.bmm(grad_inputs[:, start:end], weight)
            cell_carry = grad_cell * forget[:, start:end]
        grad_weight = torch.bmm(grad_inputs.transpose(1, 2), _previous_states(states, frames))
        return grad_inputs, grad_weight, None, None


RECURRENCES = {"rnn": _RNN, "gru": _GRU, "lstm": _LSTM}


def plain_step(
    rnn_type: str,
    activation: Activation,
    inputs: Tensor,
    product: Tensor,
    state: tuple[Tensor, ...],
    norm: Callable[[Tensor, int], Tensor] = lambda rows, first: rows,
) -> tuple[Tensor, ...]:
    """One time step, as the equations above say it, from W·x and U·h' to the next state, (h,) or (h, c).

    Args:
        inputs, product: W·x (with BatchNorm or a bias) and U·h', shape (batch, gates · hidden).
        norm: what is done to the sums of both; it is told the first of the features that it is given.
    """
    hidden = state[0].shape[1]
    if rnn_type == "rnn":
        return (activation(norm(inputs + product, 0)),)
    if rnn_type == "gru":
        reset, update = norm(inputs[:, : 2 * hidden] + product[:, : 2 * hidden], 0).sigmoid().chunk(2, dim=-1)
        candidate = activation(norm(inputs[:, 2 * hidden :] + reset * product[:, 2 * hidden :], 2 * hidden))
        return (torch.lerp(candidate, state[0], update),)
    into, forget, candidate, out = norm(inputs + product, 0).chunk(4, dim=-1)
    cell = forget.sigmoid() * state[1] + into.sigmoid() * activation(candidate)
    return out.sigmoid() * activation(cell), cell


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
        width = GATES[rnn_type] * hidden_size
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
                    nn.init.orthogonal_(gate)
        if self.batch_norm == "off":
            nn.init.zeros_(self.bias)

    def forward(self, inputs: Tensor, frames: PackedFrames) -> Tensor:
        """(batch, time, input_size) -> (batch, time, hidden_size); padding is neither read nor anything but zero after."""
        weight = self.weight_ih.flatten(0, 1)
        rows = frames.pack(inputs).to(weight.dtype)
        if self._has_stock_kernel(rows):
            return frames.unpack(self._run_stock_kernel(rows, frames).to(weight.dtype))
        if self.batch_norm == "step":
            states = self._normalize_each_step(F.linear(rows, weight), frames)
        else:
            projected = self._both_directions(self._project(rows, weight), frames)
            # In half precision errors would add up from step to step.
            dtype = torch.promote_types(projected.dtype, torch.float32)
            with torch.autocast(inputs.device.type, enabled=False):
                states = RECURRENCES[self.rnn_type].apply(
                    projected.to(dtype), self.weight_hh.to(dtype), frames, self.activation
                )
        output = states[0] if self.directions == 1 else states[0] + take_rows(states[1], frames.mirror)
        return frames.unpack(output.to(weight.dtype))

    def _has_stock_kernel(self, rows: Tensor) -> bool:
        """cuDNN runs tanh units fastest; on a CPU torch's own kernel is slower than ours."""
        return rows.is_cuda and self.activation.clip is None and self.batch_norm != "step"

    def _run_stock_kernel(self, rows: Tensor, frames: PackedFrames) -> Tensor:
        """Rows -> states, (rows, hidden): the statistics of W·x, found from those of x, are folded into W and b.

        mean(W·x) = W·mean(x) and var(W·x)_i = w_i·Cov(x)·w_i, so that gradients reach W and x through the fold.
        """
        dtype = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
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
                place = self._input_direction(direction)
                own = slice(place * width, (place + 1) * width)
                no_bias = torch.zeros_like(bias[own])
                parameters += [weight[own], self.weight_hh[direction].to(dtype), bias[own], no_bias]
            start = rows.new_zeros(self.directions, frames.steps[0][1], self.weight_hh.shape[2])
            batch_sizes = torch.tensor([end - start for start, end in frames.steps])
            kernel = {"rnn": torch._VF.rnn_tanh, "gru": torch._VF.gru, "lstm": torch._VF.lstm}[self.rnn_type]
            state = (start, start) if self.rnn_type == "lstm" else start
            output = kernel(rows, batch_sizes, state, parameters, True, 1, 0.0, True, self.directions == 2)[0]
            return output.unflatten(1, (self.directions, -1)).sum(1)

    def _project(self, rows: Tensor, weight: Tensor) -> Tensor:
        if self.batch_norm == "off":
            return F.linear(rows, weight, self.bias)
        if self.training:
            return self.norm(F.linear(rows, weight))
        scale, shift = self.norm.scale_and_shift()
        return F.linear(rows, (scale[:, None] * weight).to(weight.dtype), shift.to(weight.dtype))

    def _both_directions(self, projected: Tensor, frames: PackedFrames) -> Tensor:
        """(rows, input directions · width) -> (directions, rows, width), the second direction's rows mirrored"""
        by_direction = projected.unflatten(1, (len(self.weight_ih), -1)).unbind(1)
        if self.directions == 1:
            return by_direction[0][None]
        return _BothDirections.apply(by_direction[0], by_direction[-1], frames.mirror)

    def _normalize_each_step(self, projected: Tensor, frames: PackedFrames) -> Tensor:
        inputs = self._both_directions(projected, frames)
        width, hidden = self.weight_hh.shape[1:]
        outputs = []
        for direction in range(self.directions):
            first = self._input_direction(direction) * width
            state = tuple(inputs.new_zeros(frames.batch_size, hidden) for _ in range(2 if self.rnn_type == "lstm" else 1))
            states = [inputs[direction, :0, :hidden]]
            for step in inputs[direction].split([end - start for start, end in frames.steps]):
                state = tuple(part[: len(step)] for part in state)
                state = plain_step(
                    self.rnn_type,
                    self.activation,
                    step,
                    state[0] @ self.weight_hh[direction].T,
                    state,
                    norm=lambda rows, offset, first=first: self._step_norm(rows, first + offset),
                )
                states.append(state[0])
            outputs.append(torch.cat(states))
        # A process without a frame still takes part in the backward pass with every parameter.
        return torch.stack(outputs) + 0 * (self.weight_hh.sum() + self.norm.weight.sum() + self.norm.bias.sum())

    def _input_direction(self, direction: int) -> int:
        return min(direction, len(self.weight_ih) - 1)

    def _step_norm(self, rows: Tensor, first: int) -> Tensor:
        """BatchNorm of one step's rows by the features from `first` on; a lone row has no variance: running averages."""
        norm, features = self.norm, slice(first, first + rows.shape[1])
        # Copies, because autograd keeps what normalised a lone row, and the averages move on.
        mean, variance = norm.running_mean[features].clone(), norm.running_var[features].clone()
        learns = self.training and len(rows) > 1
        normalized = F.batch_norm(
            rows, mean, variance, norm.weight[features], norm.bias[features], learns, norm.momentum, norm.eps
        )
        if learns and not is_recomputed():
            norm.running_mean[features], norm.running_var[features] = mean, variance
        return normalized


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
        self.rnn_type, self.activation, self.hidden_size = rnn_type, activation, hidden_size
        self.input = nn.Linear(input_size, GATES[rnn_type] * hidden_size)
        self.recurrent = nn.Linear(hidden_size, GATES[rnn_type] * hidden_size, bias=False)

    def forward(
        self, packed: PackedSequence, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[PackedSequence, Tensor | tuple[Tensor, Tensor]]:
        steps = self.input(packed.data).split(packed.batch_sizes.tolist())
        if state is None:
            parts = 2 if self.rnn_type == "lstm" else 1
            state = tuple(steps[0].new_zeros(len(steps[0]), self.hidden_size) for _ in range(parts))
        else:
            state = tuple(part[0] for part in (state if isinstance(state, tuple) else (state,)))
        outputs, finished = [], []
        for step in steps:
            if len(step) < len(state[0]):  # the shortest utterances are over
                finished.append([part[len(step) :] for part in state])
                state = tuple(part[: len(step)] for part in state)
            state = plain_step(self.rnn_type, self.activation, step, self.recurrent(state[0]), state)
            outputs.append(state[0])
        state = tuple(torch.cat(parts)[None] for parts in zip(state, *reversed(finished)))
        return PackedSequence(torch.cat(outputs), packed.batch_sizes), state if self.rnn_type == "lstm" else state[0]


STOCK = {"gru": nn.GRU, "lstm": nn.LSTM}


@torch.no_grad()
def _fold_direction(layer: BatchNormRNN, direction: int) -> nn.Module:
    place = layer._input_direction(direction)
    weight_ih, weight_hh = layer.weight_ih[place], layer.weight_hh[direction]
    width, hidden_size = weight_hh.shape
    if layer.batch_norm == "off":
        bias = layer.bias.view(-1, width)[place]
    else:
        scale, bias = (values.view(-1, width)[place] for values in layer.norm.scale_and_shift())
        weight_ih = scale[:, None] * weight_ih
        if layer.batch_norm == "step":
            weight_hh = scale[:, None] * weight_hh
    if layer.activation.clip is None and layer.rnn_type in STOCK:
        folded = STOCK[layer.rnn_type](weight_ih.shape[1], hidden_size)
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
