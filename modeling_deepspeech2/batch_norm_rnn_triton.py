"""The recurrence of `recurrent_units.py` as Triton kernels: all time steps in one launch, or one launch for each step.

Each program computes some units of one direction: at every step the product with the states of the step before, by tensor
cores and near to float32 ("tf32x3"), then the equations of the unit. Where all programs run at the same time, they wait for
each other after each step and one launch does them all; U stays in the cache of the GPU. Otherwise every step is a launch of
the same kernel. The tests run it on a CPU, in Triton's interpreter (TRITON_INTERPRET=1), and compile it for a GPU.
"""

import functools
import sys
from contextlib import nullcontext

import torch
from torch import Tensor


try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("The recurrence's own kernels need Triton, which comes with torch for CUDA.") from error

try:
    from triton.backends.nvidia.compiler import CUDAOptions

    LAUNCHES_WHOLE_LOOPS = hasattr(CUDAOptions, "launch_cooperative_grid")
except ImportError:
    LAUNCHES_WHOLE_LOOPS = False

BLOCK_ROWS, BLOCK_SUM = 64, 32  # utterances, and terms of a sum, that are computed at a time
UNITS_OF_A_PROGRAM = (16, 32)
NUM_WARPS = 4  # which share 65,536 registers with those of a second program
SHARED_MEMORY = 57 * 1024  # bytes of the largest program, as compiled for an H100
PRECISION = "ieee" if torch.version.hip else "tf32x3"


def units_of_a_program(hidden_size: int, directions: int, multiprocessors: int, programs_on_each: int) -> int | None:
    """The fewest for which all programs run at the same time, each alone on its multiprocessor if that is possible.

    None if there are too many units for that.
    """
    for room in (multiprocessors, multiprocessors * programs_on_each):
        for units in UNITS_OF_A_PROGRAM:
            if directions * -(-hidden_size // units) <= room:
                return units
    return None


@triton.jit
def _activation(x, clip, TANH: tl.constexpr):
    if TANH:
        return 2 * tl.sigmoid(2 * x) - 1
    else:
        return tl.minimum(tl.maximum(x, 0.0), clip)


@triton.jit
def _slope(y, clip, TANH: tl.constexpr):
    """f'(x) as a function of y = f(x)"""
    if TANH:
        return 1 - y * y
    else:
        return tl.where((y > 0) & (y < clip), 1.0, 0.0)


@triton.jit
def _products(left, right, is_row, is_unit, size, gate,
              GATES: tl.constexpr, PRECISION: tl.constexpr,
              BLOCK_ROWS: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_SUM: tl.constexpr):  # fmt: skip
    """Rows `left` times rows `right` of up to four matrices, `gate` numbers apart: one pass over the sum for all."""
    one = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
    two = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
    three = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
    four = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
    for first in range(0, size, BLOCK_SUM):
        place = first + tl.arange(0, BLOCK_SUM)
        x = tl.load(left + place[None, :], mask=is_row & (place[None, :] < size), other=0.0)
        y, is_weight = right + place[:, None], is_unit & (place[:, None] < size)
        one = tl.dot(x, tl.load(y, mask=is_weight, other=0.0), one, input_precision=PRECISION)
        if GATES >= 3:
            two = tl.dot(x, tl.load(y + gate, mask=is_weight, other=0.0), two, input_precision=PRECISION)
            three = tl.dot(x, tl.load(y + 2 * gate, mask=is_weight, other=0.0), three, input_precision=PRECISION)
        if GATES == 4:
            four = tl.dot(x, tl.load(y + 3 * gate, mask=is_weight, other=0.0), four, input_precision=PRECISION)
    return one, two, three, four


@triton.jit
def _wait_for_all(arrivals):
    """No program goes on before all have come here, and each then sees what the others have written.

    `arrivals` counts for ever, from a multiple of the number of programs on.
    """
    tl.debug_barrier()  # all threads of this program have written
    programs = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2)
    earlier = tl.atomic_add(arrivals, 1, sem="acq_rel", scope="gpu")
    when_all_are_here = (earlier // programs + 1) * programs
    while tl.atomic_add(arrivals, 0, sem="acq_rel", scope="gpu") < when_all_are_here:
        pass
    tl.debug_barrier()


# One step of a unit, for a block of rows and units: `gates`, `kept` and others are where the block's numbers stand, a gate
# `hidden` numbers behind the one before. The equations are those of `recurrent_units.py`.


@triton.jit
def _gru_forward(gates, kept, past_state, u_r, u_z, u_n, valid, hidden, clip, TANH: tl.constexpr):
    reset = tl.sigmoid(tl.load(gates, mask=valid, other=0.0) + u_r)
    update = tl.sigmoid(tl.load(gates + hidden, mask=valid, other=0.0) + u_z)
    candidate = _activation(tl.load(gates + 2 * hidden, mask=valid, other=0.0) + reset * u_n, clip, TANH)
    tl.store(gates, reset, mask=valid)
    tl.store(gates + hidden, update, mask=valid)
    tl.store(gates + 2 * hidden, candidate, mask=valid)
    tl.store(kept, u_n, mask=valid)
    return candidate + update * (past_state - candidate)


@triton.jit
def _lstm_forward(gates, kept, past_cell, u_i, u_f, u_g, u_o, valid, hidden, clip, TANH: tl.constexpr):
    into = tl.sigmoid(tl.load(gates, mask=valid, other=0.0) + u_i)
    forget = tl.sigmoid(tl.load(gates + hidden, mask=valid, other=0.0) + u_f)
    candidate = _activation(tl.load(gates + 2 * hidden, mask=valid, other=0.0) + u_g, clip, TANH)
    out = tl.sigmoid(tl.load(gates + 3 * hidden, mask=valid, other=0.0) + u_o)
    cell = forget * past_cell + into * candidate
    tl.store(gates, into, mask=valid)
    tl.store(gates + hidden, forget, mask=valid)
    tl.store(gates + 2 * hidden, candidate, mask=valid)
    tl.store(gates + 3 * hidden, out, mask=valid)
    tl.store(kept, cell, mask=valid)
    return out * _activation(cell, clip, TANH)


@triton.jit
def _gru_backward(grad_state, gates, kept, past_state, grad_gates, candidate_slopes, valid, hidden, clip,
                  TANH: tl.constexpr):  # fmt: skip
    reset = tl.load(gates, mask=valid, other=0.0)
    update = tl.load(gates + hidden, mask=valid, other=0.0)
    candidate = tl.load(gates + 2 * hidden, mask=valid, other=0.0)
    candidate_slope = (1 - update) * _slope(candidate, clip, TANH)
    grad_candidate = grad_state * candidate_slope
    grad_reset = grad_candidate * tl.load(kept, mask=valid, other=0.0)
    tl.store(candidate_slopes, candidate_slope, mask=valid)
    tl.store(grad_gates, grad_reset * reset * (1 - reset), mask=valid)
    tl.store(grad_gates + hidden, grad_state * (past_state - candidate) * update * (1 - update), mask=valid)
    tl.store(grad_gates + 2 * hidden, grad_candidate * reset, mask=valid)


@triton.jit
def _lstm_backward(grad_state, grad_cell, gates, kept, past_kept, grad_gates, valid, is_past, hidden, clip,
                   TANH: tl.constexpr):  # fmt: skip
    """`grad_cell` is what comes from the next step; returns dL/dc. Gate by gate, so that few numbers are held at a time."""
    out = tl.load(gates + 3 * hidden, mask=valid, other=0.0)
    activated = _activation(tl.load(kept, mask=valid, other=0.0), clip, TANH)
    tl.store(grad_gates + 3 * hidden, grad_state * activated * out * (1 - out), mask=valid)
    grad_cell += grad_state * out * _slope(activated, clip, TANH)
    forget = tl.load(gates + hidden, mask=valid, other=0.0)
    past_cell = tl.load(past_kept, mask=is_past, other=0.0)
    tl.store(grad_gates + hidden, grad_cell * past_cell * forget * (1 - forget), mask=valid)
    into = tl.load(gates, mask=valid, other=0.0)
    candidate = tl.load(gates + 2 * hidden, mask=valid, other=0.0)
    tl.store(grad_gates, grad_cell * candidate * into * (1 - into), mask=valid)
    tl.store(grad_gates + 2 * hidden, grad_cell * into * _slope(candidate, clip, TANH), mask=valid)
    return grad_cell


@triton.jit(do_not_specialize=["first_step", "last_step", "total"])
def forward_kernel(inputs, weight, kept, states, offsets, arrivals, first_step, last_step, total, hidden, clip,
                   GATES: tl.constexpr, TANH: tl.constexpr, PRECISION: tl.constexpr,
                   BLOCK_ROWS: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_SUM: tl.constexpr):  # fmt: skip
    """Time steps from `first_step` to before `last_step`; rows offsets[t] to offsets[t + 1] are those of step t.

    `inputs` are BN(W·x), `weight` is U; gated units write their gates over `inputs`, and U_n·h' or the cells to `kept`.
    """
    unit = (tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS))[None, :]
    direction = tl.program_id(1).to(tl.int64)  # so that addresses beyond 2³¹ are right
    is_unit = unit < hidden
    inputs += direction * total * GATES * hidden
    states += direction * total * hidden
    kept += direction * total * hidden
    weight += direction * GATES * hidden * hidden
    for step in range(first_step, last_step):
        start = tl.load(offsets + step)
        before = tl.load(offsets + step - 1, mask=step > 0, other=0)
        rows = tl.load(offsets + step + 1) - start
        past_rows = tl.where(step > 0, rows, 0)
        for first_row in range(tl.program_id(2) * BLOCK_ROWS, rows, tl.num_programs(2) * BLOCK_ROWS):
            row = (first_row + tl.arange(0, BLOCK_ROWS))[:, None]
            block, gates_block = row * hidden + unit, row * GATES * hidden + unit
            valid, is_past = (row < rows) & is_unit, (row < past_rows) & is_unit
            u_0, u_1, u_2, u_3 = _products(
                states + before * hidden + row * hidden, weight + unit * hidden,
                row < past_rows, is_unit, hidden, hidden * hidden,
                GATES, PRECISION, BLOCK_ROWS, BLOCK_UNITS, BLOCK_SUM)  # fmt: skip
            gates, own_kept = inputs + start * GATES * hidden + gates_block, kept + start * hidden + block
            if GATES == 1:
                state = _activation(tl.load(gates, mask=valid, other=0.0) + u_0, clip, TANH)
            elif GATES == 3:
                past_state = tl.load(states + before * hidden + block, mask=is_past, other=0.0)
                state = _gru_forward(gates, own_kept, past_state, u_0, u_1, u_2, valid, hidden, clip, TANH)
            else:
                past_cell = tl.load(kept + before * hidden + block, mask=is_past, other=0.0)
                state = _lstm_forward(gates, own_kept, past_cell, u_0, u_1, u_2, u_3, valid, hidden, clip, TANH)
            tl.store(states + start * hidden + block, state, mask=valid)
        if step + 1 < last_step:
            _wait_for_all(arrivals)


@triton.jit(do_not_specialize=["first_step", "last_step", "num_steps", "total"])
def backward_kernel(grad_states, weight, previous, gates, kept, grad_gates, candidate_slopes, offsets, arrivals,
                    first_step, last_step, num_steps, total, hidden, clip,
                    GATES: tl.constexpr, TANH: tl.constexpr, PRECISION: tl.constexpr,
                    BLOCK_ROWS: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_SUM: tl.constexpr):  # fmt: skip
    """Time steps from before `last_step` back to `first_step`; of all `num_steps`.

    `weight` is Uᵀ, `previous` are the states one step before, and `gates` of a plain unit are its states. `grad_gates` are
    the gradients before the non-linearities, of a GRU's third gate that of U_n·h'; that of x_n is `grad_states` times
    `candidate_slopes`. `grad_states` becomes dL/dh of a GRU and dL/dc of an LSTM.
    """
    unit = (tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS))[None, :]
    direction = tl.program_id(1).to(tl.int64)
    is_unit = unit < hidden
    width = GATES * hidden
    grad_states += direction * total * hidden
    previous += direction * total * hidden
    kept += direction * total * hidden
    candidate_slopes += direction * total * hidden
    gates += direction * total * width
    grad_gates += direction * total * width
    weight += direction * width * hidden
    for steps_done in range(last_step - first_step):
        step = last_step - 1 - steps_done
        before = tl.load(offsets + step - 1, mask=step > 0, other=0)
        start = tl.load(offsets + step)
        after = tl.load(offsets + step + 1)  # where the next step in time begins
        rows = after - start
        past_rows = tl.where(step > 0, rows, 0)
        rows_after = tl.load(offsets + step + 2, mask=step + 1 < num_steps, other=0) - after
        for first_row in range(tl.program_id(2) * BLOCK_ROWS, rows, tl.num_programs(2) * BLOCK_ROWS):
            row = (first_row + tl.arange(0, BLOCK_ROWS))[:, None]
            block, gates_block = row * hidden + unit, row * width + unit
            valid, goes_on = (row < rows) & is_unit, (row < rows_after) & is_unit
            grad_state, _, _, _ = _products(
                grad_gates + after * width + row * width, weight + unit * width, row < rows_after, is_unit, width, 0,
                1, PRECISION, BLOCK_ROWS, BLOCK_UNITS, BLOCK_SUM)  # fmt: skip
            own, own_kept = grad_states + start * hidden + block, kept + start * hidden + block
            own_gates, own_grad = gates + start * width + gates_block, grad_gates + start * width + gates_block
            grad_state += tl.load(own, mask=valid, other=0.0)
            if GATES == 1:
                slope = _slope(tl.load(own_gates, mask=valid, other=0.0), clip, TANH)
                tl.store(own_grad, grad_state * slope, mask=valid)
            else:  # the part that comes from the next step through the update gate, or through the forget gate
                carried = tl.load(grad_states + after * hidden + block, mask=goes_on, other=0.0)
                carried *= tl.load(gates + after * width + hidden + gates_block, mask=goes_on, other=0.0)
                if GATES == 3:
                    grad_state += carried
                    past_state = tl.load(previous + start * hidden + block, mask=valid, other=0.0)
                    candidates = candidate_slopes + start * hidden + block
                    _gru_backward(grad_state, own_gates, own_kept, past_state, own_grad, candidates,
                                  valid, hidden, clip, TANH)  # fmt: skip
                    tl.store(own, grad_state, mask=valid)
                else:
                    is_past, past_kept = (row < past_rows) & is_unit, kept + before * hidden + block
                    grad_cell = _lstm_backward(grad_state, carried, own_gates, own_kept, past_kept, own_grad,
                                               valid, is_past, hidden, clip, TANH)  # fmt: skip
                    tl.store(own, grad_cell, mask=valid)
        if step > first_step:
            _wait_for_all(arrivals)


@functools.cache
def _arrivals(device: torch.device, stream: int, programs: int) -> Tensor:
    """The counter of `_wait_for_all`, one for kernels that follow each other."""
    return torch.zeros(1, dtype=torch.int64, device=device)


def _launch(kernel, tensors: list[Tensor], offsets: Tensor, batch_sizes: Tensor, hidden: int,
            gates: int, clip: float | None, units: int | None) -> None:  # fmt: skip
    """Launches `kernel` for all time steps at once, in programs of so many units; or, without a number, step by step."""
    directions, total, num_steps = len(tensors[0]), tensors[0].shape[1], len(batch_sizes)
    forwards, device = kernel is forward_kernel, offsets.device
    block_units = units or UNITS_OF_A_PROGRAM[-1]
    columns = triton.cdiv(hidden, block_units)
    # First and last + 1 step of each launch, and utterances that may be computed at the same time.
    launches = [(step, step + 1, rows) for step, rows in enumerate(batch_sizes.tolist())]
    room = sys.maxsize
    if units and launches:
        launches = [(0, num_steps, launches[0][2])]
        room = torch.cuda.get_device_properties(device).multi_processor_count if offsets.is_cuda else 1
    options = {"num_warps": NUM_WARPS}
    if units and offsets.is_cuda:
        options["launch_cooperative_grid"] = True
    stream = torch.cuda.current_stream(device).cuda_stream if offsets.is_cuda else 0
    with torch.cuda.device(device) if offsets.is_cuda else nullcontext():
        for first_step, last_step, rows in launches if forwards else reversed(launches):
            row_programs = max(1, min(triton.cdiv(rows, BLOCK_ROWS), room // (columns * directions)))
            arrivals = _arrivals(device, stream, columns * directions * row_programs)
            steps = (first_step, last_step) if forwards else (first_step, last_step, num_steps)
            kernel[columns, directions, row_programs](
                *tensors, offsets, arrivals, *steps, total, hidden, float(clip or 0),
                GATES=gates, TANH=clip is None, PRECISION=PRECISION,
                BLOCK_ROWS=BLOCK_ROWS, BLOCK_UNITS=block_units, BLOCK_SUM=BLOCK_SUM, **options)  # fmt: skip


def run_forward(
    inputs: Tensor,
    weight: Tensor,
    offsets: Tensor,
    batch_sizes: Tensor,
    gates: int,
    clip: float | None,
    units: int | None,
) -> list[Tensor]:
    """All time steps, in float32.

    Args:
        inputs: BN(W·x), shape (directions, rows, gates · hidden), contiguous; written over, see `recurrent_units.py`.
        weight: U, (directions, gates · hidden, hidden).
        offsets: first row of each step, and the number of all rows, int64, on the device.
        batch_sizes: rows of each step, on the CPU.
        gates: of the unit, which tells it from the others.
        units: of `units_of_a_program`, for all steps in one launch; None for a launch a step.

    Returns:
        What the unit's `forward` returns.
    """
    directions, total, _ = inputs.shape
    kept = inputs.new_empty(directions, total, weight.shape[2]) if gates > 1 else inputs
    states = torch.empty_like(kept) if gates > 1 else inputs
    tensors = [inputs, weight.contiguous(), kept, states]
    _launch(forward_kernel, tensors, offsets, batch_sizes, weight.shape[2], gates, clip, units)
    return [kept, states] if gates > 1 else []


def run_backward(
    grad_states: Tensor,
    weight: Tensor,
    previous: Tensor,
    offsets: Tensor,
    batch_sizes: Tensor,
    kept: list[Tensor],
    gates: int,
    clip: float | None,
    units: int | None,
) -> list[Tensor]:
    """The way back through all time steps; arguments and results are those of the unit's `backward`, or of `run_forward`."""
    transposed = weight.transpose(1, 2).contiguous()
    grad_gates = torch.empty_like(kept[0]) if gates > 1 else grad_states
    candidate_slopes = torch.empty_like(grad_states) if gates == 3 else grad_states
    tensors = [grad_states, transposed, previous, kept[0], kept[min(1, len(kept) - 1)], grad_gates, candidate_slopes]
    _launch(backward_kernel, tensors, offsets, batch_sizes, weight.shape[2], gates, clip, units)
    return [grad_gates, candidate_slopes] if gates == 3 else [grad_gates] if gates == 4 else []
