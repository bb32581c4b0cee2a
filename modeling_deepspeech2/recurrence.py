"""Runs the recurrence over all time steps, forwards and backwards, by the fastest way that the device has.

`choose` says which way, and why. `recurrence` and `recurrence_backward` are operators: `torch.compile` does not look into
them, so that no length compiles anything anew, and whoever counts kernels meets one operation for all time steps.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .packed_frames import PackedFrames
from .recurrent_units import UNITS, Activation, StatesBefore, Steps, rows_before


try:
    from .batch_norm_rnn_triton import LAUNCHES_WHOLE_LOOPS, SHARED_MEMORY, run_backward, run_forward, units_of_a_program
except ImportError:  # no GPU, no need
    run_forward = None

OPERATORS = re.sub(r"\W", "_", __name__)  # their namespace; code of other versions, from the Hub, has names of its own
BLOCK_ROWS = 1024  # rows that are added at a time: they stay in the cache
MULTIPROCESSORS, SHARED_BYTES = 132, 228 * 1024  # of a GPU that is not there, for tensors without data: an H100's


class Choice(NamedTuple):
    """How the recurrence runs, and why so.

    "stock": cuDNN's kernel, on W and b with the statistics folded in; "whole": all time steps in one launch of our kernel;
    "steps": a launch for each; "plain": torch's operations, several a step.
    """

    way: Literal["stock", "whole", "steps", "plain"]
    reason: str
    units: int | None = None  # of a program, where all programs run at the same time

    def launches(self, num_steps: int) -> int:
        """Launches of our kernel, or of cuDNN's, for one pass over all time steps."""
        return {"stock": 1, "whole": 1, "steps": num_steps}[self.way]


def choose(
    device: torch.device,
    dtype: torch.dtype,
    clip: float | None,
    hidden_size: int,
    directions: int,
    may_fold: bool = False,
) -> Choice:
    """The fastest way that is right here.

    Args:
        device: without data ("meta"), the way of a GPU.
        dtype: of the states.
        clip: of the clipped ReLU; None for tanh.
        directions: that run side by side in this process.
        may_fold: whether the caller can fold the statistics into W and b.
    """
    if device.type not in ("cuda", "meta"):
        return Choice("plain", f"no kernel of ours runs on {device.type}")
    if clip is None and may_fold:
        return Choice("stock", "cuDNN has kernels of tanh units")
    if run_forward is None:
        return Choice("plain", "Triton is not installed")
    if dtype != torch.float32:
        return Choice("plain", f"our kernels compute in float32, not in {dtype}")
    if not LAUNCHES_WHOLE_LOOPS or torch.version.hip:
        return Choice("steps", "this Triton, or this GPU's maker, does not promise that programs run at the same time")
    multiprocessors, shared_bytes = MULTIPROCESSORS, SHARED_BYTES
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        if properties.major < 8:
            return Choice("plain", f"{properties.name} has no tensor cores for float32")
        multiprocessors, shared_bytes = properties.multi_processor_count, properties.shared_memory_per_multiprocessor
    programs_on_each = 2 if shared_bytes >= 2 * SHARED_MEMORY else 1
    if units := units_of_a_program(hidden_size, directions, multiprocessors, programs_on_each):
        return Choice("whole", "all programs run at the same time and wait for each other after each step", units)
    return Choice("steps", f"{directions} × {hidden_size} units do not fit on {multiprocessors} multiprocessors at once")


def full_precision(device: torch.device) -> AbstractContextManager:
    """Switches autocast off, which tensors without data do not have."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _steps(batch_sizes: Tensor) -> Steps:
    ends = batch_sizes.cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends))


@torch.library.custom_op(
    f"{OPERATORS}::recurrence",
    mutates_args={"inputs"},
    schema="(Tensor(a!) inputs, Tensor weight, Tensor offsets, Tensor batch_sizes, str unit, float? clip) -> Tensor[]",
)
def recurrence(
    inputs: Tensor, weight: Tensor, offsets: Tensor, batch_sizes: Tensor, unit: str, clip: float | None
) -> list[Tensor]:
    """All time steps of a unit, see `forward` of `recurrent_units.py`; `offsets` and `batch_sizes` are of `PackedFrames`."""
    choice = choose(inputs.device, inputs.dtype, clip, weight.shape[2], len(weight))
    if choice.way == "plain":
        return UNITS[unit].forward(inputs, weight, _steps(batch_sizes), Activation(clip))
    return run_forward(inputs, weight, offsets, batch_sizes, UNITS[unit].gates, clip, choice.units)


@recurrence.register_fake
def _(inputs: Tensor, weight: Tensor, offsets: Tensor, batch_sizes: Tensor, unit: str, clip: float | None) -> list[Tensor]:
    shape = *inputs.shape[:2], weight.shape[2]
    return [] if UNITS[unit].gates == 1 else [inputs.new_empty(shape), inputs.new_empty(shape)]


@torch.library.custom_op(
    f"{OPERATORS}::recurrence_backward",
    mutates_args={"grad_states"},
    schema="(Tensor(a!) grad_states, Tensor weight, Tensor before, Tensor previous, Tensor offsets, Tensor batch_sizes, "
    "Tensor[] kept, str unit, float? clip) -> Tensor[]",
)
def recurrence_backward(
    grad_states: Tensor,
    weight: Tensor,
    before: Tensor,
    previous: Tensor,
    offsets: Tensor,
    batch_sizes: Tensor,
    kept: list[Tensor],
    unit: str,
    clip: float | None,
) -> list[Tensor]:
    """The way back, see `backward` of `recurrent_units.py`; `before` are the states of one step before, at `previous`."""
    choice = choose(grad_states.device, grad_states.dtype, clip, weight.shape[2], len(weight))
    if choice.way == "plain":
        steps = _steps(batch_sizes)
        states_before = StatesBefore(before, previous, steps[0][1] if steps else 0)
        return UNITS[unit].backward(grad_states, weight, states_before, steps, Activation(clip), *kept)
    gates = UNITS[unit].gates
    return run_backward(grad_states, weight, before, offsets, batch_sizes, kept, gates, clip, choice.units)


@recurrence_backward.register_fake
def _(
    grad_states: Tensor,
    weight: Tensor,
    before: Tensor,
    previous: Tensor,
    offsets: Tensor,
    batch_sizes: Tensor,
    kept: list[Tensor],
    unit: str,
    clip: float | None,
) -> list[Tensor]:
    grad_gates = [] if UNITS[unit].gates == 1 else [torch.empty_like(kept[0])]
    return [*grad_gates, torch.empty_like(grad_states)] if unit == "gru" else grad_gates


def gradients(
    grad_states: Tensor,
    weight: Tensor,
    kept: list[Tensor],
    frames: PackedFrames,
    unit: str,
    clip: float | None,
    product_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The gradients of the recurrence's inputs and of U; `grad_states` is written over.

    Args:
        kept: the inputs as `recurrence` left them, and what it returned.
        product_dtype: of the operands of the one product that gives the gradient of U.
    """
    first_rows = int(frames.batch_sizes[0]) if len(frames.batch_sizes) else 0
    before = rows_before(kept[-1], frames.previous, first_rows)
    found = recurrence_backward(
        grad_states, weight, before, frames.previous, frames.offsets, frames.batch_sizes, kept, unit, clip
    )
    grad_gates = found[0] if found else grad_states
    grad_weight = torch.bmm(grad_gates.transpose(1, 2).to(product_dtype), before.to(product_dtype)).to(weight.dtype)
    if unit == "gru":  # x_n is not behind the reset gate
        torch.mul(grad_states, found[1], out=grad_gates[..., 2 * weight.shape[2] :])
    return grad_gates, grad_weight


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
        block = BLOCK_ROWS if both.device.type == "cpu" else max(1, both.shape[1])
        for rows, mirror in zip(both[0].split(block), frames.mirror.split(block)):
            rows += both[1].index_select(0, mirror)
    return both[0]


class Recurrence(torch.autograd.Function):
    """BN(W·x), (rows, input directions, gates · hidden), -> the sum of the directions' states, (rows, hidden)

    `weight` is U of the `directions`: (0,), (1,) or both; `product_dtype` is that of the product that gives its gradient.
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
        product_dtype: torch.dtype,
    ) -> Tensor:
        inputs = _by_direction(projected, directions, frames)
        kept = [inputs, *recurrence(inputs, weight, frames.offsets, frames.batch_sizes, rnn_type, activation.clip)]
        states = kept[-1]
        ctx.save_for_backward(weight, *kept)
        ctx.frames, ctx.activation, ctx.rnn_type, ctx.directions = frames, activation, rnn_type, directions
        ctx.input_directions, ctx.product_dtype = projected.shape[1], product_dtype
        own = states[0] if directions[0] == 0 else states[0].index_select(0, frames.mirror)
        return own + states[1].index_select(0, frames.mirror) if len(directions) == 2 else own.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        weight, *kept = ctx.saved_tensors
        # In full precision, also where `backward()` is called under autocast.
        with full_precision(grad.device):
            grad_states = _by_direction(grad[:, None], ctx.directions, ctx.frames)
            grad_inputs, grad_weight = gradients(
                grad_states, weight, kept, ctx.frames, ctx.rnn_type, ctx.activation.clip, ctx.product_dtype
            )
            if ctx.input_directions == 1:
                grad_projected = _sum_of_directions(grad_inputs, ctx.directions, ctx.frames)[:, None]
            else:
                grad_projected = grad_inputs.new_zeros(grad_inputs.shape[1], 2, grad_inputs.shape[2])
                for rows, direction in zip(grad_inputs, ctx.directions):
                    side = rows if direction == 0 else rows.index_select(0, ctx.frames.mirror)
                    grad_projected[:, direction] = side
        return grad_projected, grad_weight, None, None, None, None, None


run_recurrence = torch.compiler.disable(Recurrence.apply)
