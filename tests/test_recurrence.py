"""The recurrence's kernels against the plain formula, and the choice between them.

Without a GPU the kernels run in Triton's interpreter, one program after another; where programs wait for each other, each is
a process of its own, on shared memory.
"""

import multiprocessing
import sys

import pytest
import torch
from test_batch_norm_rnn import make_inputs, reference

from modeling_deepspeech2 import folded_rnn, recurrence
from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.packed_frames import PackedFrames
from modeling_deepspeech2.recurrence import Choice, choose
from modeling_deepspeech2.recurrent_units import UNITS


kernels = pytest.importorskip("modeling_deepspeech2.batch_norm_rnn_triton", reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = [3, 5, 1, 0, 2]  # the last programs wait for the longest utterance


def force(monkeypatch, choice: Choice) -> None:
    monkeypatch.setattr(recurrence, "choose", lambda *_, **__: choice)


@pytest.mark.parametrize("clip", [0.7, None], ids=["clipped", "tanh"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("rnn_type", list(UNITS))
def test_kernels_equal_the_float64_loop(monkeypatch, rnn_type, bidirectional, clip):
    """Outputs and gradients of a layer through the kernels, lengths uneven, NaN in the padding; a launch for each step."""
    torch.manual_seed(0)
    exact = BatchNormRNN(5, 20, rnn_type=rnn_type, bidirectional=bidirectional, activation_clip=clip).double()
    layer = BatchNormRNN(5, 20, rnn_type=rnn_type, bidirectional=bidirectional, activation_clip=clip).to(DEVICE)
    layer.load_state_dict(exact.state_dict())
    inputs = make_inputs(LENGTHS)
    weights = torch.randn(len(LENGTHS), max(LENGTHS), 20, dtype=torch.float64)
    results = []
    for one, run in ((exact, lambda x: reference(exact, x, LENGTHS)), (layer, None)):
        own = inputs.to(one.weight_hh).detach().requires_grad_()
        if run is None:
            force(monkeypatch, Choice("steps", "tested"))
            monkeypatch.setattr(layer, "_has_stock_kernel", lambda rows: False)
            outputs = layer(own, PackedFrames(torch.tensor(LENGTHS), max(LENGTHS), own.device))
        else:
            outputs = run(own)
        (outputs * weights.to(outputs)).sum().backward()
        results.append([outputs, own.grad, *(parameter.grad for parameter in one.parameters())])
    for expected, found in zip(*results):
        assert (found.cpu() - expected).abs().max() <= 2e-6 * max(1.0, expected.abs().max())


def kernel_arguments(rnn_type: str, hidden: int) -> dict:
    """A recurrence in both directions of 70 utterances, more than a program computes at a time."""
    torch.manual_seed(0)
    frames = PackedFrames(torch.tensor([3, 2] + 68 * [1]), 3, torch.device(DEVICE))
    gates, rows = UNITS[rnn_type].gates, len(frames.rows)
    inputs = torch.randn(2, rows, gates * hidden, device=DEVICE)
    weight = torch.randn(2, gates * hidden, hidden, device=DEVICE) / hidden**0.5
    return {"frames": frames, "inputs": inputs, "weight": weight, "grad_states": torch.randn(2, rows, hidden).to(DEVICE)}


def run_both_ways(rnn_type: str, frames: PackedFrames, inputs, weight, grad_states) -> list[torch.Tensor]:
    """What both operators return and write."""
    inputs, grad_states = inputs.clone(), grad_states.clone()
    where = frames.offsets, frames.batch_sizes
    kept = [inputs, *recurrence.recurrence(inputs, weight, *where, rnn_type, 0.7)]
    before = recurrence.rows_before(kept[-1], frames.previous, int(frames.batch_sizes[0]))
    found = recurrence.recurrence_backward(grad_states, weight, before, frames.previous, *where, kept, rnn_type, 0.7)
    return [*kept, *(found or [grad_states])]


def test_more_utterances_and_units_than_a_program_takes(monkeypatch):
    arguments = kernel_arguments("gru", 40)
    expected = run_both_ways("gru", **{k: v if k == "frames" else v.cpu().double() for k, v in arguments.items()})
    force(monkeypatch, Choice("steps", "tested"))
    for one, other in zip(expected, run_both_ways("gru", **arguments)):
        assert (one - other.cpu()).abs().max() <= 2e-6 * max(1.0, one.abs().max())


def run_one_program(
    program: tuple[int, int, int], kernel, grid: tuple[int, int, int], arguments: tuple, options: dict
) -> None:
    """One program of a grid, in a process of its own, by Triton's interpreter."""
    from triton.runtime import interpreter

    indices = iter(program)
    # The interpreter asks for the range of each of the three axes of the grid.
    interpreter.range = lambda *bounds: [index] if (index := next(indices, None)) is not None else range(*bounds)
    kernel[grid](*arguments, **options)


class Forking:
    """Stands for a kernel: every program of its grid becomes a process, and all run at the same time on shared memory."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.programs: list[int] = []  # of each launch

    def __getitem__(self, grid):
        return lambda *given, **options: self.run(grid, given, options)

    def run(self, grid, given, options):
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        shared = {id(value): value if value.is_shared() else value.clone().share_memory_() for value in tensors}
        arguments = tuple(shared.get(id(value), value) for value in given)
        programs = [(x, y, z) for x in range(grid[0]) for y in range(grid[1]) for z in range(grid[2])]
        fork = multiprocessing.get_context("fork")
        processes = [
            fork.Process(target=run_one_program, args=(program, self.kernel, grid, arguments, options))
            for program in programs
        ]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(300)
                assert process.exitcode == 0
        finally:  # the others wait for ever for one that has failed
            for process in processes:
                process.kill()
        for value in tensors:
            value.copy_(shared[id(value)])
        self.programs.append(len(programs))


@pytest.mark.skipif(DEVICE == "cpu" and sys.platform != "linux", reason="runs the programs of a grid as forked processes")
@pytest.mark.parametrize("rnn_type", list(UNITS))
def test_programs_that_wait_for_each_other_equal_steps(monkeypatch, rnn_type):
    """The launch of all time steps: its programs run at the same time, and none reads what another has not yet written."""
    arguments = kernel_arguments(rnn_type, 24)
    expected = run_both_ways(rnn_type, **{k: v if k == "frames" else v.double() for k, v in arguments.items()})
    force(monkeypatch, Choice("whole", "tested", 16))
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "_arrivals", lambda *_: torch.zeros(1, dtype=torch.int64).share_memory_())
        for name in ("forward_kernel", "backward_kernel"):
            monkeypatch.setattr(kernels, name, Forking(getattr(kernels, name)))
    for one, other in zip(expected, run_both_ways(rnn_type, **arguments)):
        assert (one - other).abs().max() <= 2e-6 * max(1.0, one.abs().max())
    if DEVICE == "cpu":  # one launch forwards, one back: two columns of units for each of two directions
        assert kernels.forward_kernel.programs == kernels.backward_kernel.programs == [4]


def test_the_choice_says_why():
    gpu, cpu = torch.device("meta"), torch.device("cpu")
    assert choose(cpu, torch.float32, 20.0, 800, 2).way == "plain"
    assert choose(gpu, torch.float32, 20.0, 800, 2)[:2] == ("whole", choose(gpu, torch.float32, 20.0, 800, 2).reason)
    assert choose(gpu, torch.float32, 20.0, 800, 2).units == 16
    assert choose(gpu, torch.float32, 20.0, 2112, 2).units == 32
    assert choose(gpu, torch.float32, None, 800, 2, may_fold=True).way == "stock"
    assert choose(gpu, torch.float32, None, 800, 1).way == "whole"  # the other direction runs in another process
    assert choose(gpu, torch.float64, 20.0, 800, 2) == Choice(
        "plain", "our kernels compute in float32, not in torch.float64"
    )
    assert choose(gpu, torch.float32, 20.0, 2560, 2).units == 32  # two programs on a multiprocessor
    too_wide = choose(gpu, torch.float32, 20.0, 5000, 2)
    assert too_wide == Choice("steps", "2 × 5000 units do not fit on 132 multiprocessors at once")
    assert too_wide.launches(616) == 616


def test_an_old_triton_launches_step_by_step(monkeypatch):
    """Programs that wait for each other, but are not promised to run at the same time, would wait for ever."""
    monkeypatch.setattr(recurrence, "LAUNCHES_WHOLE_LOOPS", False)
    assert choose(torch.device("meta"), torch.float32, 20.0, 800, 2).way == "steps"


def test_without_triton_the_plain_loop_runs(monkeypatch):
    monkeypatch.setattr(recurrence, "run_forward", None)
    assert choose(torch.device("meta"), torch.float32, 20.0, 800, 2) == Choice("plain", "Triton is not installed")


@pytest.mark.parametrize("rnn_type", list(UNITS))
def test_folded_layers_run_in_the_kernel(monkeypatch, rnn_type):
    """On a GPU folding clipped units does not take the loop of small operations; here the kernel runs in the interpreter."""
    torch.manual_seed(0)
    layer = BatchNormRNN(5, 20, rnn_type=rnn_type).to(DEVICE).eval()
    frames = PackedFrames(torch.tensor(LENGTHS), max(LENGTHS), torch.device(DEVICE))
    inputs = make_inputs(LENGTHS, torch.float32).to(DEVICE)
    expected = layer(inputs, frames)
    force(monkeypatch, Choice("steps", "tested"))
    monkeypatch.setattr(folded_rnn, "choose", recurrence.choose)
    monkeypatch.setattr(folded_rnn.SteppedRNN, "forward", None)
    assert torch.allclose(layer.fold()(inputs, frames), expected, rtol=0, atol=2e-6)


def test_the_gradient_of_u_is_one_product_that_may_be_rounded():
    """Under bf16 autocast on a GPU, and there alone; every other gradient is that of float32."""
    given = kernel_arguments("gru", 24)
    frames, weight = given["frames"], given["weight"]
    inputs = given["inputs"].clone()
    kept = [inputs, *recurrence.recurrence(inputs, weight, frames.offsets, frames.batch_sizes, "gru", 0.7)]
    found = {
        dtype: recurrence.gradients(given["grad_states"].clone(), weight, kept, frames, "gru", 0.7, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    (gates, exact), (same_gates, rounded) = found.values()
    assert torch.equal(gates, same_gates) and rounded.dtype == torch.float32
    assert 1e-5 < (exact - rounded).abs().max() / exact.abs().max() < 1e-2

    layer, was = BatchNormRNN(3, 3), torch.get_autocast_dtype("cuda")
    assert layer._product_dtype(torch.device("cuda"), torch.float32) == torch.float32
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        assert layer._product_dtype(torch.device("cuda"), torch.float32) == torch.bfloat16
        assert layer._product_dtype(torch.device("cpu"), torch.float32) == torch.float32
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", was)
