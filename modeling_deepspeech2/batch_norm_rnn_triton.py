"""The time step of the recurrence as one Triton kernel, for clipped ReLU units on a GPU.

cuDNN has no clipped ReLU, and a step made of separate operations costs eight kernel launches for little work. This kernel
computes the product U·h' and everything up to the new state. Its tensors are those of `recurrent_units.py`, and its products
are in full float32. The tests run it on a CPU in Triton's interpreter (TRITON_INTERPRET=1).
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from .packed_frames import PackedFrames


try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("Fused steps of clipped ReLU units need Triton, which comes with torch for CUDA.") from error

BLOCK_ROWS, BLOCK_UNITS, BLOCK_SUM = 16, 32, 32


@triton.jit
def _product(states, weight, direction, first, rows, row, unit, gate, hidden, total,
             BLOCK_ROWS: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_SUM: tl.constexpr):  # fmt: skip
    """U_gate · h' for a block of rows and units; h' stands in `states` from row `first` on."""
    result = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
    for start in range(0, hidden, BLOCK_SUM):
        other = start + tl.arange(0, BLOCK_SUM)
        left = tl.load(
            states + (direction * total + first + row[:, None]) * hidden + other[None, :],
            mask=(row[:, None] < rows) & (other[None, :] < hidden),
            other=0.0,
        )
        right = tl.load(
            weight + gate * hidden + unit[None, :] * hidden + other[:, None],
            mask=(unit[None, :] < hidden) & (other[:, None] < hidden),
            other=0.0,
        )
        result += tl.dot(left, right, input_precision="ieee")
    return result


@triton.jit
def _clipped(x, clip):
    return tl.minimum(tl.maximum(x, 0.0), clip)


@triton.jit(do_not_specialize=["start", "end", "first", "past_rows", "total"])
def _step(inputs, weight, kept, states, start, end, first, past_rows, total, hidden, clip,
          UNIT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_SUM: tl.constexpr):  # fmt: skip
    """Rows `start` to `end` of `states` from those from `first` on, of which there are `past_rows`: none at the first step.

    UNIT 1, 3, 4 is rnn, gru, lstm; `kept` is U_n·h' of a gru and the cells of an lstm; their gates go where `inputs` were.
    """
    direction = tl.program_id(0).to(tl.int64)  # so that addresses beyond 2³¹ are right
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    unit = tl.program_id(2) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
    rows = end - start
    valid = (row[:, None] < rows) & (unit[None, :] < hidden)
    own = (direction * total + start + row[:, None]) * hidden + unit[None, :]
    before = (direction * total + first + row[:, None]) * hidden + unit[None, :]
    wide = (direction * total + start + row[:, None]) * (UNIT * hidden) + unit[None, :]
    weight += direction * UNIT * hidden * hidden
    has_past = valid & (row[:, None] < past_rows)

    one = tl.load(inputs + wide, mask=valid, other=0.0)
    product_0 = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
    product_1 = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
    product_2 = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
    if past_rows > 0:
        product_0 = _product(states, weight, direction, first, rows, row, unit, 0, hidden, total,
                             BLOCK_ROWS, BLOCK_UNITS, BLOCK_SUM)  # fmt: skip
    if UNIT == 1:
        tl.store(states + own, _clipped(one + product_0, clip), mask=valid)
    else:
        if past_rows > 0:
            product_1 = _product(states, weight, direction, first, rows, row, unit, hidden, hidden, total,
                                 BLOCK_ROWS, BLOCK_UNITS, BLOCK_SUM)  # fmt: skip
            product_2 = _product(states, weight, direction, first, rows, row, unit, 2 * hidden, hidden, total,
                                 BLOCK_ROWS, BLOCK_UNITS, BLOCK_SUM)  # fmt: skip
        two = tl.load(inputs + wide + hidden, mask=valid, other=0.0)
        three = tl.load(inputs + wide + 2 * hidden, mask=valid, other=0.0)
        if UNIT == 3:
            past = tl.load(states + before, mask=has_past, other=0.0)
            reset, update = tl.sigmoid(one + product_0), tl.sigmoid(two + product_1)
            candidate = _clipped(three + reset * product_2, clip)
            tl.store(inputs + wide, reset, mask=valid)
            tl.store(inputs + wide + hidden, update, mask=valid)
            tl.store(inputs + wide + 2 * hidden, candidate, mask=valid)
            tl.store(kept + own, product_2, mask=valid)
            tl.store(states + own, candidate + update * (past - candidate), mask=valid)
        else:
            product_3 = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), dtype=tl.float32)
            if past_rows > 0:
                product_3 = _product(states, weight, direction, first, rows, row, unit, 3 * hidden, hidden, total,
                                     BLOCK_ROWS, BLOCK_UNITS, BLOCK_SUM)  # fmt: skip
            four = tl.load(inputs + wide + 3 * hidden, mask=valid, other=0.0)
            past = tl.load(kept + before, mask=has_past, other=0.0)
            into, forget, out = tl.sigmoid(one + product_0), tl.sigmoid(two + product_1), tl.sigmoid(four + product_3)
            candidate = _clipped(three + product_2, clip)
            cell = forget * past + into * candidate
            tl.store(inputs + wide, into, mask=valid)
            tl.store(inputs + wide + hidden, forget, mask=valid)
            tl.store(inputs + wide + 2 * hidden, candidate, mask=valid)
            tl.store(inputs + wide + 3 * hidden, out, mask=valid)
            tl.store(kept + own, cell, mask=valid)
            tl.store(states + own, out * _clipped(cell, clip), mask=valid)


def run_steps(inputs: Tensor, weight: Tensor, frames: PackedFrames, clip: float, unit: int) -> tuple[Tensor, Tensor]:
    """All time steps of clipped ReLU units, in float32.

    Args:
        inputs: BN(W·x), shape (directions, rows, gates · hidden), contiguous; GRU and LSTM write their gates over it.
        weight: U, (directions, gates · hidden, hidden).
        unit: `kernel_id` of the unit.

    Returns:
        What the backward pass needs beside the gates, as in `recurrent_units.py`: U_n·h' of the GRU or the cells of the
        LSTM; and the states.
    """
    directions, total, _ = inputs.shape
    hidden = weight.shape[2]
    weight = weight.contiguous()
    states = inputs.new_empty(directions, total, hidden)
    kept = inputs.new_empty(directions, total, hidden if unit > 1 else 0)
    first = past_rows = 0
    with torch.cuda.device(inputs.device) if inputs.is_cuda else nullcontext():
        for start, end in frames.steps:
            grid = (directions, triton.cdiv(end - start, BLOCK_ROWS), triton.cdiv(hidden, BLOCK_UNITS))
            _step[grid](inputs, weight, kept, states,
                        start, end, first, past_rows, total, hidden, float(clip),
                        UNIT=unit, BLOCK_ROWS=BLOCK_ROWS, BLOCK_UNITS=BLOCK_UNITS, BLOCK_SUM=BLOCK_SUM)  # fmt: skip
            first, past_rows = start, end - start
    return kept, states
