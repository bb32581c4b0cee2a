"""Measures the recurrence, the whole model, the features, a live stream and the beam search, and prints one table.

    python -m benchmarks                      # all of it: about 10 minutes on two cores
    python -m benchmarks layer stream         # some of it
    python -m benchmarks gpu                  # training steps on a GPU; without one, a tiny network tries the command
    python -m benchmarks --chart docs/images/recurrence.svg

Every ratio is between contenders that took turns in this run; it says how many times as long the other one takes. The
median is over the rounds, with quartiles. As in `run_ctc.py`, the process keeps the memory that it frees. Batches hold 16
utterances of 75–100 % of the longest one's length.
"""

import argparse
import copy
import functools
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.decoding import decoding
from benchmarks.gpu import gpu
from benchmarks.measure import in_turns, ratio, saved_bytes
from benchmarks.rivals import FoldedPadded, PlainLoop, UsualConvolution, UsualPort
from benchmarks.scaling import operations_of_a_step
from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2FeatureExtractor, DeepSpeech2ForCTC
from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.ctc_loss import ctc_loss
from modeling_deepspeech2.folded_rnn import FoldedRNN
from modeling_deepspeech2.packed_frames import PackedFrames
from modeling_deepspeech2.training.hardware import keep_freed_memory
from modeling_deepspeech2.transcription.streaming import StreamingFeatures, StreamingModel


BATCH_SIZE = 16
Row = tuple[str, str, str]  # what, figure, target or remark


def batch(num_frames: int, size: int) -> tuple[Tensor, PackedFrames]:
    lengths = torch.linspace(num_frames, 0.75 * num_frames, BATCH_SIZE).long()
    return torch.randn(BATCH_SIZE, num_frames, size), PackedFrames(lengths, num_frames)


def training_step(layer: nn.Module, inputs: Tensor, frames: PackedFrames) -> Callable[[], None]:
    inputs = inputs.clone().requires_grad_()
    weights = torch.randn(*inputs.shape[:2], layer(inputs, frames).shape[2])

    def run() -> None:
        layer.zero_grad(set_to_none=True)
        inputs.grad = None
        (layer(inputs, frames) * weights).sum().backward()

    return run


def product_rate(dtype: torch.dtype) -> Callable[[], Tensor]:
    one, other = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    return lambda: one @ other


def recurrence_operations(frames: PackedFrames, size: int, hidden: int) -> float:
    """Multiplications and additions of a BiGRU's training step with shared W: three products forward, twice that back."""
    per_frame = 2 * 3 * hidden * size + 2 * 2 * 3 * hidden * hidden
    return 3.0 * per_frame * int(frames.lengths.sum())


def layer(rounds: int) -> Iterator[Row]:
    yield from one_layer(256, 800, "≥ 7", rounds)
    yield from one_layer(800, 200, "≥ 2.5", rounds)


def one_layer(hidden: int, num_frames: int, target: str, rounds: int) -> Iterator[Row]:
    inputs, frames = batch(num_frames, hidden)
    layers: dict[str, nn.Module] = {
        "ours": BatchNormRNN(hidden, hidden, activation_clip=None),
        "plain loop": PlainLoop(hidden, hidden, activation_clip=None),
        "usual port": UsualPort(hidden, hidden),
        "fold + padded nn.GRU": FoldedPadded(hidden, hidden, activation_clip=None),
    }
    what = f"BiGRU, H={hidden}, T={num_frames}, training"
    steps: dict = {name: training_step(module, inputs, frames) for name, module in layers.items()}
    timings = in_turns(steps | {"product": product_rate(torch.float32)}, rounds, what)
    ours = timings["ours"]
    yield f"{what}: ours", f"{1e3 * ours.median:.0f} ms (CPU {1e3 * ours.cpu_median:.0f} ms)", ""
    yield f"{what}: plain loop", str(ratio(ours, timings["plain loop"])), ""
    yield f"{what}: usual port", str(ratio(ours, timings["usual port"])), target
    yield f"{what}: fold + padded nn.GRU", str(ratio(ours, timings["fold + padded nn.GRU"])), "≥ 1.5"
    share = recurrence_operations(frames, hidden, hidden) / ours.median / (2 * 2048**3 / timings["product"].median)
    yield f"{what}: share of the sgemm rate", f"{100 * share:.0f} %", "≥ 55 % at H=800"

    what = f"BiGRU, H={hidden}, T={num_frames}, inference"
    layers = {name: module.eval() for name, module in layers.items() if name != "fold + padded nn.GRU"}
    passes: dict = {"folded": FoldedRNN(layers["ours"])} | layers
    with torch.inference_mode():
        timings = in_turns(
            {name: functools.partial(module, inputs, frames) for name, module in passes.items()}, rounds, what
        )
    ours = timings["folded"]
    yield f"{what}: folded", f"{1e3 * ours.median:.0f} ms (CPU {1e3 * ours.cpu_median:.0f} ms)", ""
    yield f"{what}: not folded", str(ratio(ours, timings["ours"])), ""
    yield f"{what}: plain loop", str(ratio(ours, timings["plain loop"])), ""
    yield f"{what}: usual port", str(ratio(ours, timings["usual port"])), ""


def whole_model(rounds: int) -> Iterator[Row]:
    config = DeepSpeech2Config(hidden_size=256, hidden_act="tanh")
    ours, port = DeepSpeech2ForCTC(config), DeepSpeech2ForCTC(config)
    for layer in port.deepspeech2.layers:
        layer.rnn = UsualPort(layer.rnn.weight_ih.shape[2], config.hidden_size)
    whole_port = copy.deepcopy(port)
    whole_port.deepspeech2.convolutions = nn.ModuleList(
        UsualConvolution(config, index, layer.conv.in_channels) for index, layer in enumerate(port.deepspeech2.convolutions)
    )
    features, frames = batch(800, config.num_frequency_bins)
    mask = (torch.arange(800) < frames.lengths[:, None]).long()
    labels = torch.randint(1, config.vocab_size, (BATCH_SIZE, 100))

    def step(model: DeepSpeech2ForCTC, bf16: bool) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(features, mask, labels).loss
            loss.backward()

        return run

    contenders = {
        "ours": step(ours, False),
        "port": step(port, False),
        "whole port": step(whole_port, False),
        "ours, bf16": step(ours, True),
    }
    timings = in_turns(contenders, rounds, "whole model, training")
    what = "5 × BiGRU-256, two 2-d convolutions, 8 s, training"
    yield f"{what}: ours", f"{1e3 * timings['ours'].median:.0f} ms (CPU {1e3 * timings['ours'].cpu_median:.0f} ms)", ""
    yield f"{what}: the usual port", str(ratio(timings["ours"], timings["whole port"])), "≥ 2"
    yield f"{what}: our convolutions, the usual port's recurrent layers", str(ratio(timings["ours"], timings["port"])), ""
    yield (
        f"{what}: ours in bf16 autocast against the port in float32",
        str(ratio(timings["ours, bf16"], timings["whole port"])),
        "≥ 5 with AMX",
    )

    logits = torch.randn(BATCH_SIZE, 400, config.vocab_size, requires_grad=True)
    timings = in_turns(
        {
            "ours": contenders["ours"],
            "loss": lambda: ctc_loss(logits, frames.lengths // 2, labels, 0).backward(),
            "product": product_rate(torch.float32),
            "bf16 product": product_rate(torch.bfloat16),
        },
        rounds,
        "CTC and products",
    )
    yield "CTC loss in float64, share of that step", f"{100 * timings['loss'].median / timings['ours'].median:.1f} %", ""
    rate = operations_of_a_step(config, mask) / timings["ours"].median
    share = rate / (2 * 2048**3 / timings["product"].median)
    yield f"{what}: share of the sgemm rate, convolutions and loss included", f"{100 * share:.0f} %", ""
    for name in ("product", "bf16 product"):
        yield f"this machine's 2048² {name}", f"{2e-9 * 2048**3 / timings[name].median:.0f} GFLOP/s", ""


def scaling(rounds: int) -> Iterator[Row]:
    module = BatchNormRNN(256, 256)
    batches = {num_frames: batch(num_frames, 256) for num_frames in (200, 400, 800)}
    timings = in_turns(
        {str(num_frames): training_step(module, *given) for num_frames, given in batches.items()}, rounds, "length"
    )
    memory = {num_frames: saved_bytes(functools.partial(module, *given)) for num_frames, given in batches.items()}
    for one, two in ((200, 400), (400, 800)):
        yield f"T = {one} → {two}: time", str(ratio(timings[str(one)], timings[str(two)])), "≤ 2.2"
        yield f"T = {one} → {two}: memory kept for the backward pass", f"{memory[two] / memory[one]:.2f}×", "≤ 2.2"
    sizes = {hidden: BatchNormRNN(hidden, hidden) for hidden in (256, 512, 1024)}
    timings = in_turns(
        {str(hidden): training_step(module, *batch(200, hidden)) for hidden, module in sizes.items()}, rounds, "width"
    )
    for one, two in ((256, 512), (512, 1024)):
        yield f"H = {one} → {two}: time", str(ratio(timings[str(one)], timings[str(two)])), "4 is proportional"


def features(rounds: int) -> Iterator[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    extractor = DeepSpeech2FeatureExtractor(mean=[0.0] * 161, deviation=[1.0] * 161)
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(16_000 * seconds).astype(np.float32) for seconds in (3, 7, 12)] * 4
    timing = in_turns(
        {"features": lambda: extractor(waveforms, sampling_rate=16_000, return_tensors="pt")}, 4 * rounds, "features"
    )["features"]
    torch.set_num_threads(threads)
    seconds = sum(len(waveform) for waveform in waveforms) / 16_000
    yield "features, complete, one core", f"{seconds / timing.median:.0f} × real time", "≥ 3000"


def stream(rounds: int) -> Iterator[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = DeepSpeech2ForCTC(DeepSpeech2Config(bidirectional=False, lookahead=19)).eval()
    folded = model.fold_batch_norm()
    int8 = torch.ao.quantization.quantize_dynamic(folded, {nn.Linear, nn.GRU, nn.LSTM})
    extractor = DeepSpeech2FeatureExtractor(mean=[0.0] * 161, deviation=[1.0] * 161)
    samples = torch.randn(16_000 * rounds)
    sample_pieces = samples.split(1_600)

    def run(live: StreamingModel, take: Callable[[float], None]) -> Tensor:
        frontend, state, found = StreamingFeatures(extractor), live.start(), []
        for index, piece in enumerate(sample_pieces):
            start = time.perf_counter()
            last = index + 1 == len(sample_pieces)
            logits, state = live.step(frontend(piece, last)[None], state, last)
            take(time.perf_counter() - start)
            found.append(logits[0])
        return torch.cat(found)

    with torch.inference_mode():
        inputs = extractor(samples.numpy(), sampling_rate=16_000, return_tensors="pt")
        expected = folded(**inputs).logits[0]
        error = (expected - model(**inputs).logits[0]).abs().max() / expected.abs().max()
    yield "5 × GRU-800, row convolution: folding BatchNorm, largest difference, of the largest logit", f"{error:.1e}", ""
    kinds: dict = {"float32": folded, "int8": int8, "bf16": model.fold_batch_norm().to(torch.bfloat16)}
    for name, kind in kinds.items():
        taken: list[float] = []
        found = run(StreamingModel(kind), taken.append).float()
        chunk, target = statistics.median(taken), "≤ 8 ms" if name == "int8" else ""
        what = f"stream, 5 × GRU-800, row convolution, 100 ms pieces, one core, {name}"
        slow = statistics.quantiles(taken, n=20)[-1]
        yield f"{what}: median of a piece", f"{1e3 * chunk:.1f} ms (95 %: {1e3 * slow:.1f} ms)", target
        yield f"{what}: real-time factor", f"{sum(taken) / (len(samples) / 16_000):.3f}", "≤ 0.1" if name == "int8" else ""
        error = (found - expected).abs().max() / expected.abs().max()
        yield (
            f"{what}: largest difference to one pass in float32, of the largest logit",
            f"{error:.1e}",
            "≤ 1e-6" if name == "float32" else "",
        )
    torch.set_num_threads(threads)


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "layer": layer,
    "model": whole_model,
    "scaling": scaling,
    "features": features,
    "stream": stream,
    "decoding": decoding,
    "gpu": gpu,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    without_gpu = [part for part in PARTS if part != "gpu"]
    parser.add_argument("parts", nargs="*", default=without_gpu, metavar="part", help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender")
    parser.add_argument("--chart", type=Path, help="draws the layer's ratios into this SVG file")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}; the parts are {', '.join(PARTS)}")
    torch.manual_seed(0)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}\n")
    print("| what | figure | target |\n| --- | ---: | --- |")
    rows = []
    for part in arguments.parts:
        for row in PARTS[part](arguments.rounds):
            rows.append(row)
            print("| {} | {} | {} |".format(*row), flush=True)
    if arguments.chart:
        draw(rows, arguments.chart)


def draw(rows: list[Row], path: Path) -> None:
    """Bars of the training ratios: how many times as long each rival takes."""
    import matplotlib.pyplot as plt

    bars = [(what, figure) for what, figure, _ in rows if what.startswith("BiGRU") and "training" in what and "×" in figure]
    names = [what.replace(", training", "") for what, _ in bars]
    values = [float(figure.split("×")[0]) for _, figure in bars]
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(bars) + 1))
    drawn = axes.barh(names, values, color="#4c72b0")
    axes.bar_label(drawn, [f"{value:.1f}×" for value in values], padding=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("time of a training step, as a multiple of ours")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main()
