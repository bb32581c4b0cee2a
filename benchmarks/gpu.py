"""Training steps on a GPU: the recurrent layer and the whole model against cuDNN's GRU and the usual port.

`python -m benchmarks gpu` prints the rows. Times are medians of CUDA events after warm-up. The share of peak is of the rate
that this GPU reaches in large products of the same precision; "busy" is the share of the time in which a kernel ran. Without
a GPU the rows are those of a tiny network on the CPU, which only try the command.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.rivals import UsualConvolution, UsualPort
from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC, recurrence
from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.packed_frames import PackedFrames


WARM_UP = 3
LAYERS = [(256, 16), (256, 64), (800, 16), (800, 64), (1760, 64), (2560, 64)]  # hidden size, utterances
FRAMES = 600
Row = tuple[str, str, str]


class StockGRU(nn.Module):
    """`nn.GRU` alone on the padded batch, without BatchNorm: cuDNN at its best."""

    def __init__(self, size: int):
        super().__init__()
        self.gru = nn.GRU(size, size, batch_first=True, bidirectional=True)

    def forward(self, inputs: Tensor, frames: PackedFrames) -> Tensor:
        return self.gru(inputs)[0].unflatten(2, (2, -1)).sum(2)


class Measured(NamedTuple):
    """Milliseconds of a run, and what the profiler saw on the GPU in one; zeros on a CPU."""

    milliseconds: float
    kernels: int
    busy: float

    def __str__(self) -> str:
        seen = f", {self.kernels:,} kernels, busy {self.busy:.0%}" if self.kernels else ""
        return f"{self.milliseconds:.2f} ms{seen}"


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def milliseconds(run: Callable[[], object]) -> float:
    """One run, from an idle GPU until it is idle again."""
    if device().type == "cpu":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure(run: Callable[[], object], rounds: int) -> Measured:
    for _ in range(WARM_UP if device().type == "cuda" else 1):
        run()
    median = statistics.median(milliseconds(run) for _ in range(rounds))
    if device().type == "cpu":
        return Measured(median, 0, 0.0)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    events = [event for event in seen.key_averages() if event.self_device_time_total]
    busy = sum(event.self_device_time_total for event in events) / 1e3
    return Measured(median, sum(event.count for event in events), min(1.0, busy / median))


def product_rate(dtype: torch.dtype, rounds: int) -> float:
    """Multiplications and additions a second of large products."""
    size = 8192 if device().type == "cuda" else 256
    one, other = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))
    return 2e3 * size**3 / measure(lambda: one @ other, rounds).milliseconds


def layer_step(layer: nn.Module, inputs: Tensor, frames: PackedFrames) -> Callable[[], None]:
    inputs = inputs.detach().requires_grad_()
    weights = torch.randn_like(layer(inputs, frames))

    def run() -> None:
        layer.zero_grad(set_to_none=True)
        inputs.grad = None
        (layer(inputs, frames) * weights).sum().backward()

    return run


def stepwise(run: Callable[[], None]) -> Callable[[], None]:
    """The same with a launch for every time step."""

    def step_by_step() -> None:
        with mock.patch.object(recurrence, "choose", lambda *_, **__: recurrence.Choice("steps", "compared")):
            run()

    return step_by_step


def layers(rounds: int) -> Iterator[Row]:
    sizes, num_frames = (LAYERS, FRAMES) if device().type == "cuda" else ([(16, 2)], 20)
    rate = product_rate(torch.float32, rounds)
    for hidden, utterances in sizes:
        lengths = torch.linspace(num_frames, 0.75 * num_frames, utterances).long()
        frames = PackedFrames(lengths, num_frames, device())
        inputs = torch.randn(utterances, num_frames, hidden, device=device())
        ours = layer_step(BatchNormRNN(hidden, hidden).to(device()), inputs, frames)
        contenders: dict[str, Callable[[], None]] = {
            "ours, clipped": ours,
            "ours, clipped, a launch a step": stepwise(ours),
            "ours, tanh": layer_step(BatchNormRNN(hidden, hidden, activation_clip=None).to(device()), inputs, frames),
            "nn.GRU, padded, without BatchNorm": layer_step(StockGRU(hidden).to(device()), inputs, frames),
            "usual port": layer_step(UsualPort(hidden, hidden).to(device()), inputs, frames),
        }
        if device().type == "cpu":
            del contenders["ours, clipped, a launch a step"]  # there is no kernel to launch
        # Shared W: one product W·x for both directions, one U·h each; twice that on the way back.
        operations = 3 * (2 * 3 * hidden * hidden + 2 * 2 * 3 * hidden * hidden) * int(lengths.sum())
        for name, run in contenders.items():
            found = measure(run, rounds)
            share = 1e3 * operations / found.milliseconds / rate
            what = f"BiGRU-{hidden}, {utterances} utterances, T={num_frames}, training step, float32: {name}"
            yield what, f"{found}, {share:.0%} of the product rate", ""


def models(rounds: int) -> Iterator[Row]:
    size: dict = {"conv_channels": [32, 32]}
    utterances, num_frames, what = 64, 1231, "5 × BiGRU-800, 64 × 12.3 s, bf16"
    if device().type == "cpu":
        size = {"conv_channels": [4, 4], "num_hidden_layers": 2, "hidden_size": 16}
        utterances, num_frames, what = 2, 100, "2 × BiGRU-16, 2 × 1 s, bf16"
    rate = product_rate(torch.bfloat16, rounds)
    for name in ("clipped", "tanh", "usual port"):
        torch.manual_seed(0)
        config = DeepSpeech2Config(**size, hidden_act="clipped_relu" if name == "clipped" else "tanh")
        model = DeepSpeech2ForCTC(config)
        if name == "usual port":
            model.deepspeech2.convolutions = nn.ModuleList(
                UsualConvolution(config, index, layer.conv.in_channels)
                for index, layer in enumerate(model.deepspeech2.convolutions)
            )
            for layer in model.deepspeech2.layers:
                layer.rnn = UsualPort(layer.rnn.weight_ih.shape[2], config.hidden_size)
        found = measure(model_step(model.to(device()).train(), utterances, num_frames), rounds)
        products = sum(p.numel() for p in model.parameters() if p.ndim >= 2 and p.ndim < 4)
        frames = utterances * -(-num_frames // config.time_stride)
        share = 1e3 * 3 * 2 * products * frames / found.milliseconds / rate
        audio = utterances * num_frames / 100 / found.milliseconds * 1e3
        figure = f"{found}, {audio:,.0f} s of audio a second, {share:.0%} of the product rate without convolutions"
        yield f"{what}, training step: {name}", figure, ""


def model_step(model: DeepSpeech2ForCTC, utterances: int, num_frames: int) -> Callable[[], None]:
    """Forward, loss, backward, clipping and the optimiser, as in `run_ctc.py`; the lengths stay on the CPU."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.99, nesterov=True)
    features = torch.randn(utterances, num_frames, model.config.num_frequency_bins, device=device())
    mask = torch.ones(utterances, num_frames, dtype=torch.long)
    labels = torch.randint(1, model.config.vocab_size, (utterances, min(180, num_frames // 8))).to(device())

    def run() -> None:
        with torch.autocast(device().type, torch.bfloat16):
            loss = model(features, mask, labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 400.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def gpu(rounds: int) -> Iterator[Row]:
    name = torch.cuda.get_device_name() if device().type == "cuda" else "no GPU: a tiny network on the CPU"
    choice = recurrence.choose(device(), torch.float32, 20.0, 800, 2)
    yield "device", name, ""
    yield "recurrence of 5 × BiGRU-800, clipped", f"{choice.way}: {choice.reason}", ""
    yield from layers(rounds)
    yield from models(rounds)
