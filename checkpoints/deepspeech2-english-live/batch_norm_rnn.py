"""The heart of Deep Speech 2: h_t = f(BN(W·x_t) + U·h_{t-1}), forwards in time or in both directions.

In comes a padded batch of frames with the utterances' lengths, out go the hidden states, with zeros in the padding.
Inside, only valid frames exist, as packed rows: one product W·x for all frames and both directions, BatchNorm on its rows,
then a loop over time with one product U·h a step for both directions. Back-propagation through time is written by hand:
what does not depend on the step before is computed for all steps at once, and the gradient of U is one product at the end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn.utils.rnn import PackedSequence

from .batch_norm import SpeechBatchNorm, SumOverRanks, is_recomputed
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
# Large tensors are written over as soon as they have been read: at this size every new one costs its page faults.


def _has_fused_steps(inputs: Tensor, activation: Activation) -> bool:
    return inputs.is_cuda and inputs.dtype == torch.float32 and activation.clip is not None and run_steps is not None


def _previous_states(states: Tensor, frames: PackedFrames) -> Tensor:
    previous = states.index_select(1, frames.previous)
    previous[:, : frames.steps[0][1] if frames.steps else 0] = 0
    return previous


def _add_carry(grad: Tensor, carry: Tensor | None) -> Tensor:
    if carry is not None:
        grad[:, : carry.shape[1]] += carry
    return grad


def _times_one_minus(x: Tensor, y: Tensor) -> Tensor:
    """x · (1 − y) in place."""
    return x.addcmul_(x, y, value=-1)


class _RNN:
    """h = f(x + U h')"""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> tuple[Tensor, ...]:
        """The states of all steps, and whatever else `backward` wants; `inputs` is written over."""
        if _has_fused_steps(inputs, activation):
            _, states = run_steps(inputs, weight, frames, activation.clip)
            return (states,)
        transposed = weight.transpose(1, 2).contiguous()
        state = inputs.new_zeros(len(weight), frames.batch_size, weight.shape[2])
        for start, end in frames.steps:
            step = inputs[:, start:end]
            state = activation.apply_(step.baddbmm_(state[:, : end - start], transposed))
        return (inputs,)

    @staticmethod
    def backward(
        grad_states: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation, states: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients of `inputs` and `weight`; `grad_states` is written over."""
        slope = activation.slope(states)
        carry = None
        for start, end in reversed(frames.steps):
            step = _add_carry(grad_states[:, start:end], carry).mul_(slope[:, start:end])
            carry = torch.bmm(step, weight)
        return grad_states, torch.bmm(grad_states.transpose(1, 2), _previous_states(states, frames))


class _GRU:
    """r, z = σ(x_rz + U_rz h');  n = f(x_n + r ∘ U_n h');  h = n + z ∘ (h' − n)

    The paper writes 1 − z where torch's GRU, and so this one, writes z.
    """

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> tuple[Tensor, ...]:
        if _has_fused_steps(inputs, activation):
            recurrent, states = run_steps(inputs, weight, frames, activation.clip)
            return states, inputs, recurrent
        directions, rows, _ = inputs.shape
        hidden = weight.shape[2]
        recurrent = inputs.new_empty(directions, rows, hidden)  # U_n h'
        states = inputs.new_empty(directions, rows, hidden)
        transposed = weight.transpose(1, 2).contiguous()
        state = inputs.new_zeros(directions, frames.batch_size, hidden)
        for start, end in frames.steps:
            state = state[:, : end - start]
            product = torch.bmm(state, transposed)
            reset_update = inputs[:, start:end, : 2 * hidden].add_(product[..., : 2 * hidden]).sigmoid_()
            recurrent[:, start:end] = product[..., 2 * hidden :]
            candidate = inputs[:, start:end, 2 * hidden :]
            candidate.addcmul_(reset_update[..., :hidden], product[..., 2 * hidden :])
            activation.apply_(candidate)
            state = torch.lerp(candidate, state, reset_update[..., hidden:], out=states[:, start:end])
        return states, inputs, recurrent

    @staticmethod
    def backward(
        grad_states: Tensor,
        weight: Tensor,
        frames: PackedFrames,
        activation: Activation,
        states: Tensor,
        gates: Tensor,
        recurrent: Tensor,
    ) -> tuple[Tensor, Tensor]:
        reset, update, candidates = gates.chunk(3, dim=-1)
        previous = _previous_states(states, frames)
        # Per unit of dL/dh_t: the gradients before the non-linearities, in the order r, z, r ∘ n of the rows of U.
        candidate_slope = _times_one_minus(activation.slope(candidates), update)
        grad_inputs = torch.empty_like(gates)
        factors = grad_inputs.unflatten(2, (3, -1))
        of_reset, of_update, of_recurrent = factors.unbind(2)
        torch.mul(candidate_slope, reset, out=of_recurrent)
        _times_one_minus(torch.mul(of_recurrent, recurrent, out=of_reset), reset)
        _times_one_minus(torch.sub(previous, candidates, out=of_update).mul_(update), update)
        carry = None
        for start, end in reversed(frames.steps):
            grad_state = _add_carry(grad_states[:, start:end], carry)
            step = factors[:, start:end].mul_(grad_state[:, :, None])
            carry = torch.baddbmm(grad_state * update[:, start:end], step.flatten(2), weight)
        grad_weight = torch.bmm(grad_inputs.transpose(1, 2), previous)
        torch.mul(grad_states, candidate_slope, out=of_recurrent)  # x_n is not behind the reset gate
        return grad_inputs, grad_weight


class _LSTM:
    """i, f, o = σ(…);  g = f(…);  c = f ∘ c' + i ∘ g;  h = o ∘ f(c), each … = x + U h', in the order i, f, g, o"""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> tuple[Tensor, ...]:
        if _has_fused_steps(inputs, activation):
            cells, states = run_steps(inputs, weight, frames, activation.clip)
            return states, inputs, cells
        directions, rows, _ = inputs.shape
        hidden = weight.shape[2]
        cells = inputs.new_empty(directions, rows, hidden)
        states = inputs.new_empty(directions, rows, hidden)
        transposed = weight.transpose(1, 2).contiguous()
        state = cell = inputs.new_zeros(directions, frames.batch_size, hidden)
        for start, end in frames.steps:
            size = end - start
            step = inputs[:, start:end].baddbmm_(state[:, :size], transposed)
            step[..., : 2 * hidden].sigmoid_()
            activation.apply_(step[..., 2 * hidden : 3 * hidden])
            step[..., 3 * hidden :].sigmoid_()
            into, forget, candidate, out = step.chunk(4, dim=-1)
            cell = torch.mul(forget, cell[:, :size], out=cells[:, start:end]).addcmul_(into, candidate)
            state = torch.mul(out, activation(cell), out=states[:, start:end])
        return states, inputs, cells

    @staticmethod
    def backward(
        grad_states: Tensor,
        weight: Tensor,
        frames: PackedFrames,
        activation: Activation,
        states: Tensor,
        gates: Tensor,
        cells: Tensor,
    ) -> tuple[Tensor, Tensor]:
        into, forget, candidate, out = gates.chunk(4, dim=-1)
        activated = activation(cells)
        cell_per_state = activation.slope(activated).mul_(out)
        # Per unit of dL/dc_t, and of dL/dh_t for o, the gradients before the non-linearities.
        grad_inputs = torch.empty_like(gates)
        factors = grad_inputs.unflatten(2, (4, -1))
        of_into, of_forget, of_candidate, of_out = factors.unbind(2)
        _times_one_minus(torch.mul(candidate, into, out=of_into), into)
        _times_one_minus(torch.mul(_previous_states(cells, frames), forget, out=of_forget), forget)
        torch.mul(activation.slope(candidate), into, out=of_candidate)
        _times_one_minus(torch.mul(activated, out, out=of_out), out)
        carry = cell_carry = None
        for start, end in reversed(frames.steps):
            grad_state = _add_carry(grad_states[:, start:end], carry)
            grad_cell = _add_carry(grad_state * cell_per_state[:, start:end], cell_carry)
            factors[:, start:end, :3].mul_(grad_cell[:, :, None])
            of_out[:, start:end].mul_(grad_state)
            carry = torch.bmm(grad_inputs[:, start:end], weight)
            cell_carry = grad_cell * forget[:, start:end]
        return grad_inputs, torch.bmm(grad_inputs.transpose(1, 2), _previous_states(states, frames))


UNITS = {"rnn": _RNN, "gru": _GRU, "lstm": _LSTM}
BLOCK_ROWS = 1024  # rows that are added at a time: they stay in the cache


def _by_direction(rows: Tensor, directions: tuple[int, ...], frames: PackedFrames) -> Tensor:
    """(rows, one or two sides, width) -> a new tensor (directions, rows, width), the second direction mirrored"""
    both = rows.new_empty(len(directions), len(rows), rows.shape[2])
    for result, direction in zip(both, directions):
        if direction == 0:
            result.copy_(rows[:, 0])
        else:
            torch.index_select(rows[:, -1], 0, frames.mirror, out=result)
    return both


def _sum_of_directions(both: Tensor, directions: tuple[int, ...], frames: PackedFrames) -> Tensor:
    """(directions, rows, width) -> (rows, width), written over the first direction"""
    if directions == (1,):
        return both[0].index_select(0, frames.mirror)
    if directions == (0, 1):
        for rows, mirror in zip(both[0].split(BLOCK_ROWS), frames.mirror.split(BLOCK_ROWS)):
            rows += both[1].index_select(0, mirror)
    return both[0]


class _Recurrence(torch.autograd.Function):
    """BN(W·x), (rows, input directions, gates · hidden), -> the sum of the directions' states, (rows, hidden)

    `weight` is U of the `directions`: (0,), (1,) or both.
    """

    @staticmethod
    def forward(
        ctx,
        projected: Tensor,
        weight: Tensor,
        frames: PackedFrames,
        activation: Activation,
        rnn_type: str,
        directions: tuple[int, ...],
    ) -> Tensor:
        inputs = _by_direction(projected, directions, frames)
        states, *kept = UNITS[rnn_type].forward(inputs, weight, frames, activation)
        ctx.save_for_backward(weight, states, *kept)
        ctx.frames, ctx.activation, ctx.rnn_type, ctx.directions = frames, activation, rnn_type, directions
        ctx.input_directions = projected.shape[1]
        own = states[0] if directions[0] == 0 else states[0].index_select(0, frames.mirror)
        return own + states[1].index_select(0, frames.mirror) if len(directions) == 2 else own.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        weight, *kept = ctx.saved_tensors
        # In full precision, also where `backward()` is called under autocast.
        with torch.autocast(grad.device.type, enabled=False):
            grad_states = _by_direction(grad[:, None], ctx.directions, ctx.frames)
            grad_inputs, grad_weight = UNITS[ctx.rnn_type].backward(grad_states, weight, ctx.frames, ctx.activation, *kept)
            if ctx.input_directions == 1:
                grad_projected = _sum_of_directions(grad_inputs, ctx.directions, ctx.frames)[:, None]
            else:
                grad_projected = grad_inputs.new_zeros(grad_inputs.shape[1], 2, grad_inputs.shape[2])
                for rows, direction in zip(grad_inputs, ctx.directions):
                    side = rows if direction == 0 else rows.index_select(0, ctx.frames.mirror)
                    grad_projected[:, direction] = side
        return grad_projected, grad_weight, None, None, None, None


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
        self.group: ProcessGroup | None = None  # two processes that each train one direction
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
            projected = self._project(rows, weight).unflatten(1, (len(self.weight_ih), -1))
            # In half precision errors would add up from step to step.
            dtype = torch.promote_types(projected.dtype, torch.float32)
            with torch.autocast(inputs.device.type, enabled=False):
                own = self._own_directions()
                states = _Recurrence.apply(
                    projected.to(dtype),
                    self.weight_hh[own[0] : own[-1] + 1].to(dtype),
                    frames,
                    self.activation,
                    self.rnn_type,
                    own,
                )
                if len(own) < self.directions:
                    (states,) = SumOverRanks.apply(self.group, states)
        return frames.unpack(states.to(weight.dtype))

    def _own_directions(self) -> tuple[int, ...]:
        """Both, unless the two processes of a group share them out in training."""
        if self.group is None or not self.training:
            return tuple(range(self.directions))
        return (self.group.rank(),)

    def _has_stock_kernel(self, rows: Tensor) -> bool:
        """cuDNN runs tanh units fastest; on a CPU torch's own kernel is slower than ours."""
        is_whole = len(self._own_directions()) == self.directions
        return rows.is_cuda and self.activation.clip is None and self.batch_norm != "step" and is_whole

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

    def _normalize_each_step(self, projected: Tensor, frames: PackedFrames) -> Tensor:
        """(rows, input directions · width) -> (rows, hidden)"""
        width, hidden = self.weight_hh.shape[1:]
        outputs = []
        for direction in range(self.directions):
            first = self._input_direction(direction) * width
            inputs = projected[:, first : first + width]
            if direction == 1:
                inputs = take_rows(inputs, frames.mirror)
            state = tuple(inputs.new_zeros(frames.batch_size, hidden) for _ in range(2 if self.rnn_type == "lstm" else 1))
            states = [inputs[:0, :hidden]]
            for step in inputs.split([end - start for start, end in frames.steps]):
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
        output = outputs[0] if self.directions == 1 else outputs[0] + take_rows(outputs[1], frames.mirror)
        # A process without a frame still takes part in the backward pass with every parameter.
        return output + 0 * (self.weight_hh.sum() + self.norm.weight.sum() + self.norm.bias.sum())

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
