"""Converts a padded batch of frames into rows of one matrix, valid frames only, and back.

Everything between the convolutions and the loss works on rows, so that padding is neither computed nor counted.
"""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    """Like `index_select`, but each row is taken at most once, so that the backward pass only copies."""

    @staticmethod
    def forward(ctx, source: Tensor, rows: Tensor) -> Tensor:
        ctx.rows, ctx.size = rows, len(source)
        return source.index_select(0, rows)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return put_rows(grad, ctx.rows, ctx.size), None


class _PutRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, rows: Tensor, size: int) -> Tensor:
        ctx.rows = rows
        return values.new_zeros(size, *values.shape[1:]).index_copy_(0, rows, values)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return take_rows(grad, ctx.rows), None, None


def take_rows(source: Tensor, rows: Tensor) -> Tensor:
    """Rows of `source`, none of them twice: (size, …) -> (len(rows), …)."""
    return _TakeRows.apply(source, rows)


def put_rows(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """The inverse: zeros but for the given rows, (len(rows), …) -> (size, …)."""
    return _PutRows.apply(values, rows, size)


# `torch.compile` does not look into what follows, which depends on the lengths; the graphs between take any number of rows.


@torch.compiler.disable
def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on another device that nobody waits for: it is there before what is computed there next."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class PackedFrames:
    """Where the valid frames of a padded batch stand when they are packed: time by time, longest utterance first.

    All of it is found on the CPU, so that nothing waits for a GPU; only the indices go there.

    Args:
        lengths: valid frames of each utterance, shape (batch,); zero is allowed, any order too. Lengths on a GPU are
            copied to the CPU, which waits until they are there.
        num_frames: frames of the padded batch.
        device: where the frames are; by default where `lengths` are.
    """

    def __init__(self, lengths: Tensor, num_frames: int, device: torch.device | None = None):
        self.device = device or lengths.device
        self.lengths = lengths.cpu()
        self.batch_size, self.num_frames = len(lengths), num_frames
        self.sorted_lengths, order = self.lengths.long().sort(descending=True, stable=True)
        self.time = torch.arange(num_frames)[:, None]
        self.valid = self.time < self.sorted_lengths  # (time, batch), utterances from long to short
        # Of each packed row, the row in the padded batch.
        self.rows = on_device((order * num_frames + self.time)[self.valid], self.device)

    @cached_property
    def batch_sizes(self) -> Tensor:
        """Packed rows of each time step, on the CPU, as `PackedSequence` has them."""
        sizes = self.valid.sum(1)
        return sizes[sizes > 0]

    @cached_property
    def _starts(self) -> Tensor:
        return F.pad(self.batch_sizes.cumsum(0), (1, 0))

    @cached_property
    def offsets(self) -> Tensor:
        """First packed row of each time step, and the number of all rows, on the device."""
        return on_device(self._starts, self.device)

    def _rows_at(self, time: Tensor) -> Tensor:
        """Packed rows that hold each utterance's frame of the given time, shape (time, batch), for the valid frames."""
        rows = self._starts[time.clamp(min=0, max=len(self.batch_sizes))] + torch.arange(self.batch_size)
        return on_device(rows[self.valid], self.device)

    @cached_property
    def mirror(self) -> Tensor:
        """For each packed row the row that stands in its place when every utterance is read from its end."""
        return self._rows_at(self.sorted_lengths - 1 - self.time)

    @cached_property
    def previous(self) -> Tensor:
        """For each packed row the row one time step before; meaningless at the first step."""
        return self._rows_at((self.time - 1).expand_as(self.valid))

    @torch.compiler.disable
    def pack(self, padded: Tensor) -> Tensor:
        """(batch, time, …) -> (valid frames, …)"""
        return take_rows(padded.flatten(0, 1), self.rows)

    @torch.compiler.disable
    def unpack(self, packed: Tensor) -> Tensor:
        """(valid frames, …) -> (batch, time, …), with zeros in the padding"""
        size = self.batch_size * self.num_frames
        return put_rows(packed, self.rows, size).unflatten(0, (self.batch_size, self.num_frames))


@torch.compiler.disable
def find_frames(lengths: Tensor, num_frames: int, device: torch.device) -> PackedFrames:
    """[`PackedFrames`], for code that is compiled."""
    return PackedFrames(lengths, num_frames, device)
