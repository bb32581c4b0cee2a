"""BatchNorm's statistics and gradients: what is exchanged, and the kernels of a GPU."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from modeling_deepspeech2 import batch_norm
from modeling_deepspeech2.batch_norm import SpeechBatchNorm, message_group, normalize_rows, row_statistics


def test_statistics_of_a_product_are_those_of_its_rows():
    """Folded layers: scale and shift from W and x have the values and gradients of those from W·x."""
    torch.manual_seed(0)
    rows = torch.randn(50, 6, dtype=torch.float64).add_(3).requires_grad_()
    weight = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for folded in (False, True):
        norm = SpeechBatchNorm(8).double()
        if folded:
            scale, shift = norm.scale_and_shift_of_product(rows, weight)
            normalized = scale * (rows @ weight.T) + shift
        else:
            normalized = norm(rows @ weight.T)
        gradients = torch.autograd.grad(normalized.pow(3).sum(), (rows, weight, norm.weight, norm.bias))
        results.append([normalized, norm.running_mean, norm.running_var, *gradients])
    for expected, found in zip(*results):
        assert (expected - found).abs().max() <= 1e-10 * expected.abs().max()


def test_vectors_of_a_fold_have_the_gradients_of_matrices(monkeypatch):
    """Summing w·S·w over processes in place of S: each of two processes, in float32, to 1e-6."""
    torch.manual_seed(0)
    shares, weight = [torch.randn(30, 6), torch.randn(20, 6).add_(0.5)], torch.randn(8, 6)

    def run(of_vectors: bool) -> list[torch.Tensor]:
        own = [rows.clone().requires_grad_() for rows in shares]
        matrix = weight.clone().requires_grad_()
        mean = sum(rows.sum(0) for rows in own) / 50
        centred = [rows - mean for rows in own]
        if of_vectors:  # the sums of two processes, one after the other, as `SumOverRanks` makes them
            others = iter([torch.tensor([20.0]), own[1].sum(0), ((matrix @ (centred[1].T @ centred[1])) * matrix).sum(1)])
            monkeypatch.setattr(
                batch_norm.SumOverRanks, "apply", lambda group, *values: tuple(value + next(others) for value in values)
            )
            scale, shift = SpeechBatchNorm(8).scale_and_shift_of_product(own[0], matrix)
        else:
            scatter = sum(rows.T @ rows for rows in centred) / 50
            scale = torch.rsqrt(((matrix @ scatter) * matrix).sum(1) + 1e-5)
            shift = -(matrix @ mean) * scale
        loss = sum((scale * (rows @ matrix.T) + shift).sin().sum() for rows in own)
        return [scale, shift, *torch.autograd.grad(loss, [*own, matrix])]

    for expected, found in zip(run(False), run(True)):
        assert (expected - found).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1)


def test_messages_have_a_group_of_their_own(tmp_path):
    """Gradients and statistics would wait for each other in one group; a group outlives no start of its processes.

    Its processes wait for each other as long as those of the default group, in which somebody may have said how long: for
    one that reads from a slow disk, the rest wait in a message of BatchNorm.
    """
    groups = []
    for start in range(2):
        wait = timedelta(minutes=100 + start)
        place = f"file://{tmp_path / str(start)}"
        dist.init_process_group("gloo", init_method=place, rank=0, world_size=1, timeout=wait)
        try:
            groups.append(message_group())
            assert message_group() is groups[-1] is not dist.group.WORLD
            assert groups[-1]._get_backend(torch.device("cpu")).options._timeout == wait
        finally:
            dist.destroy_process_group()
    assert groups[0] is not groups[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("count", [0, 1, 3000])
def test_kernels_of_a_gpu_equal_the_blocks(count):
    torch.manual_seed(0)
    rows, grad = torch.randn(count, 40).add_(2), torch.randn(count, 40)
    weight, bias = torch.randn(40), torch.randn(40)
    results = []
    for device in ("cpu", "cuda"):
        x, norm = rows.to(device).requires_grad_(), SpeechBatchNorm(40).to(device)
        with torch.no_grad():
            norm.weight.copy_(weight)
            norm.bias.copy_(bias)
        normalized = norm(x)
        normalized.backward(grad.to(device))
        results.append([normalized, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    for expected, found in zip(*results):
        assert torch.allclose(expected, found.cpu(), rtol=1e-4, atol=1e-5)


def test_torch_has_the_kernels_that_a_gpu_gets():
    """Their arguments are right: torch takes them, and only has no kernel for a CPU."""
    rows, vector, count = torch.randn(3, 4), torch.ones(4), torch.ones(1)
    for operator, arguments in (
        (row_statistics, (rows, 1e-5)),
        (normalize_rows, (rows, vector, vector, vector, vector)),
        (batch_norm.gradient_sums, (rows, rows, vector, vector)),
        (batch_norm.gradient_of_rows, (rows, rows, *[vector] * 5, count)),
    ):
        with pytest.raises(NotImplementedError, match="CPU"):
            operator._backend_fns["cuda"](*arguments)
