"""BatchNorm over the valid frames of speech only.

The input holds one row for each valid frame; padding has been removed before. Mean and variance are computed over the rows
of the whole global batch, including those of all other processes, in at least float32.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


BLOCK_SIZE = 2**19  # numbers that are worked on at a time: they stay in the cache


def sum_over_ranks(*values: Tensor, group: dist.ProcessGroup | None = None) -> tuple[Tensor, ...]:
    """Adds each tensor over all processes (of a group), in one message; every process must call it."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1):
        return values
    message = torch.cat([value.reshape(-1) for value in values])
    dist.all_reduce(message, group=group)
    parts = message.split([value.numel() for value in values])
    return tuple(part.view_as(value) for part, value in zip(parts, values))


def is_recomputed() -> bool:
    """Whether this forward pass is activation checkpointing's second one, which updates no statistics."""
    return torch._C._current_graph_task_id() != -1


class SumOverRanks(torch.autograd.Function):
    """`sum_over_ranks` with gradients: the values of one process affect the loss of all."""

    @staticmethod
    def forward(ctx, group: dist.ProcessGroup | None, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(value.clone() for value in sum_over_ranks(*values, group=group))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *sum_over_ranks(*grads, group=ctx.group)


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, BLOCK_SIZE // rows.shape[1]))


class _NormalizeRows(torch.autograd.Function):
    """y = weight · (x − mean) / sqrt(var + eps) + bias, with the statistics of all rows of all processes.

    Works block by block, so that intermediate values stay in the cache.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor, eps: float):
        found, total = sum_over_ranks(rows.new_tensor([rows.shape[0]]), rows.sum(0))
        count = found.clamp(min=1)
        mean = total / count
        own_squares = torch.zeros_like(mean)
        for block in _blocks(rows):
            own_squares += (block - mean).square_().sum(0)
        (squares,) = sum_over_ranks(own_squares)
        variance = squares / count
        inverse_deviation = torch.rsqrt(variance + eps)
        scale = weight * inverse_deviation
        normalized = torch.empty_like(rows)
        for block, result in zip(_blocks(rows), _blocks(normalized)):
            torch.addcmul(bias, block - mean, scale, out=result)
        ctx.save_for_backward(rows, weight, mean, inverse_deviation, count)
        ctx.mark_non_differentiable(mean, variance, found)
        return normalized, mean, variance, found

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_):
        rows, weight, mean, inverse_deviation, count = ctx.saved_tensors
        blocks = list(zip(_blocks(grad), _blocks(rows)))
        grad_bias = grad.sum(0)
        grad_weight = torch.zeros_like(grad_bias)
        for grad_block, block in blocks:
            grad_weight += (block - mean).mul_(grad_block).sum(0)
        grad_weight *= inverse_deviation
        # Each process keeps its own share of the parameters' gradients (data parallelism adds them up), but the
        # gradient of a row depends on the sums over all rows, wherever they are.
        all_bias, all_weight = sum_over_ranks(grad_bias, grad_weight)
        grad_rows = torch.empty_like(rows)
        per_row = all_weight * inverse_deviation / count
        for (grad_block, block), result in zip(blocks, _blocks(grad_rows)):
            torch.sub(grad_block, all_bias / count, out=result).addcmul_(block - mean, per_row, value=-1)
            result *= weight * inverse_deviation
        return grad_rows, grad_weight, grad_bias, None


class SpeechBatchNorm(nn.Module):
    """Sequence-wise BatchNorm (section 3.2 of the paper).

    Args:
        num_features: columns of the rows.
        eps: added to the variance.
        momentum: weight of the newest batch in the running averages that inference uses.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, rows: Tensor) -> Tensor:
        """Normalises `rows`, shape (valid frames, features), in float32 at least."""
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if not self.training:
            scale, shift = self.scale_and_shift()
            return torch.addcmul(shift.to(rows.dtype), rows, scale.to(rows.dtype))
        weight, bias = self.weight.to(rows.dtype), self.bias.to(rows.dtype)
        normalized, mean, variance, count = _NormalizeRows.apply(rows, weight, bias, self.eps)
        self._update(mean, variance, count)
        return normalized

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if is_recomputed():
            return
        unbiased = variance * (count / (count - 1).clamp(min=1))
        # No rows anywhere teach nothing, and neither does a batch that overflowed.
        learns = (count > 0) & mean.isfinite().all() & unbiased.isfinite().all()
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_(torch.where(learns, running.lerp(value.to(running), self.momentum), running))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The affine map y = scale · x + shift that the layer computes at inference."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale

    def scale_and_shift_of_product(self, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The affine map that the layer applies to W·x, from x, shape (valid frames, size), and W, (features, size).

        In training from the mean and the covariance of x over all processes; both have gradients.
        """
        if not self.training:
            return self.scale_and_shift()
        found, total = SumOverRanks.apply(None, rows.new_tensor([rows.shape[0]]), rows.sum(0))
        count = found.clamp(min=1)
        mean = total / count
        centred = rows - mean
        (scatter,) = SumOverRanks.apply(None, centred.T @ centred)
        product_mean = weight @ mean
        variance = ((weight @ (scatter / count)) * weight).sum(1).clamp(min=0)
        self._update(product_mean, variance, found)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - product_mean * scale

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Folds this normalisation into `layer`, for inference."""
        scale, shift = self.scale_and_shift()
        layer.weight.copy_(scale.view(-1, *[1] * (layer.weight.ndim - 1)) * layer.weight)
        layer.bias = nn.Parameter(shift.to(layer.weight.dtype))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)
