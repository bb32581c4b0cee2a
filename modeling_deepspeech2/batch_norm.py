"""BatchNorm over the valid frames of speech only.

The input holds one row for each valid frame; padding has been removed before. Mean and variance are computed over the rows
of the whole global batch, including those of all other processes, in at least float32.
"""

import re
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .errors import UserError


BLOCK_SIZE = 2**19  # numbers that are worked on at a time: they stay in the cache
OPERATORS = re.sub(r"\W", "_", __name__)  # their namespace; code of other versions, from the Hub, has names of its own

_group_of: dict[dist.ProcessGroup, dist.ProcessGroup] = {}  # of all processes -> of their messages


def message_group() -> dist.ProcessGroup:
    """All processes, in a group of their own for the messages of BatchNorm; every process must ask for it first together.

    Messages of one group are delivered in the order in which they were sent. In the group of the gradients, a statistic
    would wait behind whole buckets of them, and a process whose backward pass takes another order would mix them up.
    """
    everyone = dist.group.WORLD
    if everyone not in _group_of:
        _group_of.clear()  # groups of an earlier start
        _group_of[everyone] = dist.new_group(timeout=_timeout(everyone))
    return _group_of[everyone]


def _timeout(group: dist.ProcessGroup) -> timedelta | None:
    """How long its processes wait for each other; None, which is torch's own time, where its kind of group does not say."""
    backend = group._get_backend(group._device_types[0])
    return getattr(getattr(backend, "options", None), "_timeout", None)


def is_one_of_many(group: dist.ProcessGroup | None = None) -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def sum_over_ranks(*values: Tensor, group: dist.ProcessGroup | None = None) -> tuple[Tensor, ...]:
    """Adds each tensor over all processes (of a group), in one message; every process must call it."""
    if not is_one_of_many(group):
        return values
    message = torch.cat([value.reshape(-1) for value in values])
    dist.all_reduce(message, group=group or message_group())
    parts = message.split([value.numel() for value in values])
    return tuple(part.view_as(value) for part, value in zip(parts, values))


def is_recomputed() -> bool:
    """Whether this forward pass is activation checkpointing's second one, which updates no statistics."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


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


# What is done to the rows themselves, as four operators, into which `torch.compile` does not look. On a CPU they work block
# by block, so that intermediate values stay in the cache; on a GPU they are torch's own kernels, those of SyncBatchNorm.


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, BLOCK_SIZE // rows.shape[1]))


@torch.library.custom_op(f"{OPERATORS}::row_statistics", mutates_args=())
def row_statistics(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of the rows of this process; of none, those of zeros."""
    count = max(1, rows.shape[0])
    mean = rows.sum(0) / count
    squares = torch.zeros_like(mean)
    for block in _blocks(rows):
        squares += (block - mean).square_().sum(0)
    return mean, torch.rsqrt(squares / count + eps)


@row_statistics.register_kernel("cuda")
def _(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if len(rows) == 0:
        return rows.new_zeros(rows.shape[1]), rows.new_full((rows.shape[1],), eps**-0.5)
    return torch.batch_norm_stats(rows.contiguous(), eps)


@row_statistics.register_fake
def _(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape[1]), rows.new_empty(rows.shape[1])


@torch.library.custom_op(f"{OPERATORS}::normalize_rows", mutates_args=())
def normalize_rows(rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_deviation: Tensor) -> Tensor:
    """weight · (rows − mean) · inverse_deviation + bias"""
    scale = weight * inverse_deviation
    normalized = torch.empty_like(rows)
    for block, result in zip(_blocks(rows), _blocks(normalized)):
        torch.addcmul(bias, block - mean, scale, out=result)
    return normalized


@normalize_rows.register_kernel("cuda")
def _(rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_deviation: Tensor) -> Tensor:
    if len(rows) == 0:
        return torch.empty_like(rows)
    return torch.batch_norm_elemt(rows.contiguous(), weight, bias, mean, inverse_deviation, 0.0)


@normalize_rows.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_deviation: Tensor) -> Tensor:
    return torch.empty_like(rows)


@torch.library.custom_op(f"{OPERATORS}::gradient_sums", mutates_args=())
def gradient_sums(grad: Tensor, rows: Tensor, mean: Tensor, inverse_deviation: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of `grad` and of grad · (rows − mean) over the rows of this process."""
    total, weighted = grad.sum(0), torch.zeros_like(mean)
    for grad_block, block in zip(_blocks(grad), _blocks(rows)):
        weighted += (block - mean).mul_(grad_block).sum(0)
    return total, weighted


@gradient_sums.register_kernel("cuda")
def _(grad: Tensor, rows: Tensor, mean: Tensor, inverse_deviation: Tensor) -> tuple[Tensor, Tensor]:
    if len(rows) == 0:
        return torch.zeros_like(mean), torch.zeros_like(mean)
    operands = grad.contiguous(), rows.contiguous(), mean, inverse_deviation
    return torch.batch_norm_backward_reduce(*operands, None, True, False, False)[:2]


@gradient_sums.register_fake
def _(grad: Tensor, rows: Tensor, mean: Tensor, inverse_deviation: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(mean)


@torch.library.custom_op(f"{OPERATORS}::gradient_of_rows", mutates_args=())
def gradient_of_rows(
    grad: Tensor,
    rows: Tensor,
    weight: Tensor,
    mean: Tensor,
    inverse_deviation: Tensor,
    total: Tensor,
    weighted: Tensor,
    count: Tensor,
) -> Tensor:
    """The gradient before the normalisation, from the sums of all processes and their number of rows, shape (1,)."""
    mean_grad, per_row, scale = total / count, weighted * inverse_deviation**2 / count, weight * inverse_deviation
    grad_rows = torch.empty_like(rows)
    for grad_block, block, result in zip(_blocks(grad), _blocks(rows), _blocks(grad_rows)):
        torch.sub(grad_block, mean_grad, out=result).addcmul_(block - mean, per_row, value=-1)
        result *= scale
    return grad_rows


@gradient_of_rows.register_kernel("cuda")
def _(
    grad: Tensor,
    rows: Tensor,
    weight: Tensor,
    mean: Tensor,
    inverse_deviation: Tensor,
    total: Tensor,
    weighted: Tensor,
    count: Tensor,
) -> Tensor:
    if len(rows) == 0:
        return torch.empty_like(rows)
    operands = grad.contiguous(), rows.contiguous(), mean, inverse_deviation, weight, total, weighted
    return torch.batch_norm_backward_elemt(*operands, count.to(torch.int32))


@gradient_of_rows.register_fake
def _(
    grad: Tensor,
    rows: Tensor,
    weight: Tensor,
    mean: Tensor,
    inverse_deviation: Tensor,
    total: Tensor,
    weighted: Tensor,
    count: Tensor,
) -> Tensor:
    return torch.empty_like(rows)


@torch.no_grad()
def global_statistics(rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Number of the rows of all processes, shape (1,), their mean and 1 / sqrt(variance + eps)."""
    mean, inverse_deviation = row_statistics(rows, eps)
    count = rows.new_full((1,), rows.shape[0])
    if not is_one_of_many():
        return count, mean, inverse_deviation
    # Sums about zero, for which float32 is too short: one message instead of one for the mean and one for the variance.
    own, own_mean = count.double(), mean.double()
    own_squares = own * (variance_of(inverse_deviation.double(), eps) + own_mean.square())
    found, total, squares = sum_over_ranks(own, own * own_mean, own_squares)
    total, squares = total / found.clamp(min=1), squares / found.clamp(min=1)
    inverse_deviation = torch.rsqrt((squares - total.square()).clamp(min=0) + eps)
    return found.to(count), total.to(mean), inverse_deviation.to(mean)


def variance_of(inverse_deviation: Tensor, eps: float) -> Tensor:
    return (inverse_deviation.pow(-2) - eps).clamp(min=0)


class _NormalizeRows(torch.autograd.Function):
    """y = weight · (x − mean) / sqrt(var + eps) + bias, with the `global_statistics` of x, through which gradients flow."""

    @staticmethod
    def forward(
        ctx, rows: Tensor, weight: Tensor, bias: Tensor, count: Tensor, mean: Tensor, inverse_deviation: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, mean, inverse_deviation, count)
        return normalize_rows(rows, weight, bias, mean, inverse_deviation)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        rows, weight, mean, inverse_deviation, count = ctx.saved_tensors
        own = gradient_sums(grad, rows, mean, inverse_deviation)
        # Each process keeps its own share of the parameters' gradients (data parallelism adds them up), but the
        # gradient of a row depends on the sums over all rows, wherever they are.
        total, weighted = sum_over_ranks(*own)
        grad_rows = gradient_of_rows(grad, rows, weight, mean, inverse_deviation, total, weighted, count.clamp(min=1))
        return grad_rows, own[1] * inverse_deviation, own[0], None, None, None


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
        self.is_frozen = False
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def train(self, mode: bool = True) -> "SpeechBatchNorm":
        return super().train(mode and not self.is_frozen)

    def freeze(self) -> None:
        """From now on training, too, normalises by the running averages, which stay as they are."""
        self.is_frozen = True
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Normalises `rows`, shape (valid frames, features), in float32 at least."""
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if not self.training:
            scale, shift = self.scale_and_shift()
            return torch.addcmul(shift.to(rows.dtype), rows, scale.to(rows.dtype))
        weight, bias = self.weight.to(rows.dtype), self.bias.to(rows.dtype)
        count, mean, inverse_deviation = global_statistics(rows, self.eps)
        self._update(mean, variance_of(inverse_deviation, self.eps), count)
        return _NormalizeRows.apply(rows, weight, bias, count, mean, inverse_deviation)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if is_recomputed():
            return
        unbiased = variance * (count / (count - 1).clamp(min=1))
        # No rows anywhere teach nothing, and neither does a batch that overflowed.
        learns = (count > 0) & (mean + unbiased).isfinite().all()
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
        found, total = SumOverRanks.apply(None, rows.new_full((1,), rows.shape[0]), rows.sum(0))
        count = found.clamp(min=1)
        centred = rows - total / count
        product_mean = weight @ (total / count)
        # w_i·S·w_i of this process's share of the scatter S: of all processes, a vector is added up and not a matrix.
        (squares,) = SumOverRanks.apply(None, ((weight @ (centred.T @ centred)) * weight).sum(1))
        variance = (squares / count).clamp(min=0)
        self._update(product_mean, variance, found)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - product_mean * scale

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Folds this normalisation into `layer`, for inference.

        Raises:
            UserError: the layer is wrapped, by an adapter for example.
        """
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            raise UserError(
                f"fold_batch_norm: found a {type(layer).__module__}.{type(layer).__name__}, expected a plain layer; merge "
                "adapters first: model.merge_and_unload()."
            )
        scale, shift = self.scale_and_shift()
        layer.weight.copy_(scale.view(-1, *[1] * (layer.weight.ndim - 1)) * layer.weight)
        layer.bias = nn.Parameter(shift.to(layer.weight.dtype))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)
