"""The units of the recurrence h_t = f(BN(W·x_t) + U·h_{t-1}): plain, GRU and LSTM, each with its own backward pass.

A unit is one class: its equations as a single `step`, the loop over all steps (`forward`), and `backward`. Whatever does not
depend on the previous step is computed for all steps at once, and the gradient of U is one product at the end. To add a
unit, write such a class and name it in `UNITS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
# `steps` are the first and last + 1 row of each time step.
#
# `forward` writes the gates (of a plain unit the states) over `inputs` and returns what `backward` needs besides, the states
# last. `backward` takes `grad_states`, dL/dh without what comes through U, the states of one step `before`, and then the
# inputs and what `forward` returned. It returns the gradients of the gates before their non-linearities, which a plain unit
# writes over `grad_states`. Large tensors are written over as soon as they have been read: at this size every new one costs
# its page faults.

Steps = list[tuple[int, int]]


class StatesBefore(NamedTuple):
    """The states one step before those of each row, zeros at the first step."""

    states: Tensor
    rows: Tensor  # where they stand
    first_rows: int  # rows of the first step, before which there is nothing


def rows_before(values: Tensor, rows: Tensor, first_rows: int) -> Tensor:
    """(directions, rows, …) -> the same, of one time step before"""
    before = values.index_select(1, rows)
    before[:, :first_rows] = 0
    return before


def _add_carry(grad: Tensor, carry: Tensor | None) -> Tensor:
    if carry is not None:
        grad[:, : carry.shape[1]].add_(carry)
    return grad


def _first_state(inputs: Tensor, weight: Tensor, steps: Steps) -> Tensor:
    return inputs.new_zeros(len(weight), steps[0][1] if steps else 0, weight.shape[2])


def _times_one_minus(x: Tensor, y: Tensor) -> Tensor:
    """x · (1 − y) in place."""
    return x.addcmul_(x, y, value=-1)


class RNN:
    """h = f(x + U h')"""

    gates = 1
    states = 1
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
    def forward(inputs: Tensor, weight: Tensor, steps: Steps, activation: Activation) -> list[Tensor]:
        transposed = weight.transpose(1, 2).contiguous()
        state = _first_state(inputs, weight, steps)
        for start, end in steps:
            step = inputs[:, start:end]
            state = activation.apply_(step.baddbmm_(state[:, : end - start], transposed))
        return []

    @staticmethod
    def backward(
        grad_states: Tensor, weight: Tensor, before: StatesBefore, steps: Steps, activation: Activation, states: Tensor
    ) -> list[Tensor]:
        slope = activation.slope(states)
        carry = None
        for start, end in reversed(steps):
            step = _add_carry(grad_states[:, start:end], carry).mul_(slope[:, start:end])
            carry = torch.bmm(step, weight)
        return []


class GRU:
    """r, z = σ(x_rz + U_rz h');  n = f(x_n + r ∘ U_n h');  h = n + z ∘ (h' − n)

    The paper writes 1 − z where torch's GRU, and so this one, writes z.
    """

    gates = 3
    states = 1
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
    def forward(inputs: Tensor, weight: Tensor, steps: Steps, activation: Activation) -> list[Tensor]:
        directions, rows, _ = inputs.shape
        hidden = weight.shape[2]
        recurrent = inputs.new_empty(directions, rows, hidden)  # U_n h'
        states = inputs.new_empty(directions, rows, hidden)
        transposed = weight.transpose(1, 2).contiguous()
        state = _first_state(inputs, weight, steps)
        for start, end in steps:
            state = state[:, : end - start]
            product = torch.bmm(state, transposed)
            reset_update = inputs[:, start:end, : 2 * hidden].add_(product[..., : 2 * hidden]).sigmoid_()
            recurrent[:, start:end] = product[..., 2 * hidden :]
            candidate = inputs[:, start:end, 2 * hidden :]
            candidate.addcmul_(reset_update[..., :hidden], product[..., 2 * hidden :])
            activation.apply_(candidate)
            state = torch.lerp(candidate, state, reset_update[..., hidden:], out=states[:, start:end])
        return [recurrent, states]

    @staticmethod
    def backward(
        grad_states: Tensor,
        weight: Tensor,
        before: StatesBefore,
        steps: Steps,
        activation: Activation,
        gates: Tensor,
        recurrent: Tensor,
        states: Tensor,
    ) -> list[Tensor]:
        reset, update, candidates = gates.chunk(3, dim=-1)
        # Per unit of dL/dh_t: the gradients before the non-linearities, in the order r, z, r ∘ n of the rows of U.
        candidate_slope = _times_one_minus(activation.slope(candidates), update)
        grad_gates = torch.empty_like(gates)
        factors = grad_gates.unflatten(2, (3, -1))
        of_reset, of_update, of_recurrent = factors.unbind(2)
        torch.mul(candidate_slope, reset, out=of_recurrent)
        _times_one_minus(torch.mul(of_recurrent, recurrent, out=of_reset), reset)
        _times_one_minus(torch.sub(before.states, candidates, out=of_update).mul_(update), update)
        carry = None
        for start, end in reversed(steps):
            grad_state = _add_carry(grad_states[:, start:end], carry)
            step = factors[:, start:end].mul_(grad_state[:, :, None])
            carry = torch.baddbmm(grad_state * update[:, start:end], step.flatten(2), weight)
        return [grad_gates, candidate_slope]  # x_n is not behind the reset gate: its gradient is dL/dh times this


class LSTM:
    """i, f, o = σ(…);  g = f(…);  c = f ∘ c' + i ∘ g;  h = o ∘ f(c), each … = x + U h', in the order i, f, g, o"""

    gates = 4
    states = 2
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
    def forward(inputs: Tensor, weight: Tensor, steps: Steps, activation: Activation) -> list[Tensor]:
        directions, rows, _ = inputs.shape
        hidden = weight.shape[2]
        cells = inputs.new_empty(directions, rows, hidden)
        states = inputs.new_empty(directions, rows, hidden)
        transposed = weight.transpose(1, 2).contiguous()
        state = cell = _first_state(inputs, weight, steps)
        for start, end in steps:
            size = end - start
            step = inputs[:, start:end].baddbmm_(state[:, :size], transposed)
            step[..., : 2 * hidden].sigmoid_()
            activation.apply_(step[..., 2 * hidden : 3 * hidden])
            step[..., 3 * hidden :].sigmoid_()
            into, forget, candidate, out = step.chunk(4, dim=-1)
            cell = torch.mul(forget, cell[:, :size], out=cells[:, start:end]).addcmul_(into, candidate)
            state = torch.mul(out, activation(cell), out=states[:, start:end])
        return [cells, states]

    @staticmethod
    def backward(
        grad_states: Tensor,
        weight: Tensor,
        before: StatesBefore,
        steps: Steps,
        activation: Activation,
        gates: Tensor,
        cells: Tensor,
        states: Tensor,
    ) -> list[Tensor]:
        into, forget, candidate, out = gates.chunk(4, dim=-1)
        activated = activation(cells)
        cell_per_state = activation.slope(activated).mul_(out)
        # Per unit of dL/dc_t, and of dL/dh_t for o, the gradients before the non-linearities.
        grad_gates = torch.empty_like(gates)
        factors = grad_gates.unflatten(2, (4, -1))
        of_into, of_forget, of_candidate, of_out = factors.unbind(2)
        _times_one_minus(torch.mul(candidate, into, out=of_into), into)
        _times_one_minus(torch.mul(rows_before(cells, before.rows, before.first_rows), forget, out=of_forget), forget)
        torch.mul(activation.slope(candidate), into, out=of_candidate)
        _times_one_minus(torch.mul(activated, out, out=of_out), out)
        carry = cell_carry = None
        for start, end in reversed(steps):
            grad_state = _add_carry(grad_states[:, start:end], carry)
            grad_cell = _add_carry(grad_state * cell_per_state[:, start:end], cell_carry)
            factors[:, start:end, :3].mul_(grad_cell[:, :, None])
            of_out[:, start:end].mul_(grad_state)
            carry = torch.bmm(grad_gates[:, start:end], weight)
            cell_carry = grad_cell * forget[:, start:end]
        return [grad_gates]


Unit = type[RNN] | type[GRU] | type[LSTM]
UNITS: dict[str, Unit] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
