"""The units of the recurrence h_t = f(BN(W·x_t) + U·h_{t-1}): plain, GRU and LSTM, each with its own backward pass.

A unit is one class: its equations as a single `step`, the loop over all steps (`forward`), and `backward`. Whatever does not
depend on the previous step is computed for all steps at once, and the gradient of U is one product at the end. To add a
unit, write such a class and name it in `UNITS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed_frames import PackedFrames


try:
    from .batch_norm_rnn_triton import run_steps
except ImportError:  # no GPU, no need
    run_steps = None


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


StepNorm = Callable[[Tensor, int], Tensor]


def no_norm(rows: Tensor, first_feature: int) -> Tensor:
    return rows


# Below, `inputs` are BN(W·x), shape (directions, rows, gates · hidden), `weight` is U, shape (directions, gates · hidden,
# hidden), and the second direction's rows are mirrored, so that every direction runs from the first row to the last.
# Large tensors are written over as soon as they have been read: at this size every new one costs its page faults.


def has_fused_steps(inputs: Tensor, activation: Activation) -> bool:
    """Whether a whole time step is one kernel: clipped units in float32 on a GPU with Triton."""
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


class RNN:
    """h = f(x + U h')"""

    gates = 1
    states = 1
    kernel_id = 1  # of `batch_norm_rnn_triton.py`
    stock_kernel = staticmethod(torch._VF.rnn_tanh)
    stock_layer = None  # nn.RNN has no kernel that is worth a case of its own

    @staticmethod
    def step(
        activation: Activation, inputs: Tensor, product: Tensor, state: tuple[Tensor, ...], norm: StepNorm = no_norm
    ) -> tuple[Tensor, ...]:
        """One time step as the equation says it, from W·x and U·h' to the next state.

        Args:
            inputs, product: W·x (with BatchNorm or a bias) and U·h', shape (batch, gates · hidden).
            state: h', and c' of an LSTM, shape (batch, hidden).
            norm: what is done to sums of both, given the first of their features.
        """
        return (activation(norm(inputs + product, 0)),)

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> tuple[Tensor, ...]:
        """The states of all steps, and whatever else `backward` wants; `inputs` is written over."""
        if has_fused_steps(inputs, activation):
            _, states = run_steps(inputs, weight, frames, activation.clip, RNN.kernel_id)
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


class GRU:
    """r, z = σ(x_rz + U_rz h');  n = f(x_n + r ∘ U_n h');  h = n + z ∘ (h' − n)

    The paper writes 1 − z where torch's GRU, and so this one, writes z.
    """

    gates = 3
    states = 1
    kernel_id = 3
    stock_kernel = staticmethod(torch._VF.gru)
    stock_layer = nn.GRU

    @staticmethod
    def step(
        activation: Activation, inputs: Tensor, product: Tensor, state: tuple[Tensor, ...], norm: StepNorm = no_norm
    ) -> tuple[Tensor, ...]:
        hidden = state[0].shape[1]
        reset, update = norm(inputs[:, : 2 * hidden] + product[:, : 2 * hidden], 0).sigmoid().chunk(2, dim=-1)
        candidate = activation(norm(inputs[:, 2 * hidden :] + reset * product[:, 2 * hidden :], 2 * hidden))
        return (torch.lerp(candidate, state[0], update),)

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> tuple[Tensor, ...]:
        if has_fused_steps(inputs, activation):
            recurrent, states = run_steps(inputs, weight, frames, activation.clip, GRU.kernel_id)
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


class LSTM:
    """i, f, o = σ(…);  g = f(…);  c = f ∘ c' + i ∘ g;  h = o ∘ f(c), each … = x + U h', in the order i, f, g, o"""

    gates = 4
    states = 2
    kernel_id = 4
    stock_kernel = staticmethod(torch._VF.lstm)
    stock_layer = nn.LSTM

    @staticmethod
    def step(
        activation: Activation, inputs: Tensor, product: Tensor, state: tuple[Tensor, ...], norm: StepNorm = no_norm
    ) -> tuple[Tensor, ...]:
        into, forget, candidate, out = norm(inputs + product, 0).chunk(4, dim=-1)
        cell = forget.sigmoid() * state[1] + into.sigmoid() * activation(candidate)
        return out.sigmoid() * activation(cell), cell

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, frames: PackedFrames, activation: Activation) -> tuple[Tensor, ...]:
        if has_fused_steps(inputs, activation):
            cells, states = run_steps(inputs, weight, frames, activation.clip, LSTM.kernel_id)
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


Unit = type[RNN] | type[GRU] | type[LSTM]
UNITS: dict[str, Unit] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
