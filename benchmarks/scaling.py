"""Predicts the time of a training step from counts and a few named rates, and checks the prediction on two processes.

    python -m benchmarks.scaling                # measured here: rates, one process, two processes; predicted beside measured
    python -m benchmarks.scaling --expected     # counts, and what they would cost on GPUs, whose rates are assumed

Every process has one core, so that two processes have twice the computing power. Weak scaling: each process has a batch of
the same size. Strong scaling: they share one batch.
"""

import argparse
import copy
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from benchmarks.gpu_counts import message_bytes, training_step
from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC
from modeling_deepspeech2.recurrent_units import UNITS
from modeling_deepspeech2.training.hardware import keep_freed_memory, spare_exchanges


UTTERANCES, FRAMES, LETTERS = 16, 400, 56  # 4 s each
STEPS = 5


@dataclass
class Rates:
    """What a device and the network between processes do in a second; the inputs of the prediction."""

    products: float  # floating-point operations of large matrix products
    launch: float  # seconds from one kernel to the next, launched from Python
    time_step: float  # seconds that one time step of the recurrence takes at least, for all to wait for each other
    recurrence: float  # floating-point operations of the product of one time step
    message: float  # seconds that every message takes, however short
    bytes: float  # that a process sends
    reader: float  # seconds of speech that one core decodes and augments: `python -m benchmarks.readers`


@dataclass
class Counts:
    """What one process does in a training step; independent of the device."""

    operations: float  # of all products but those of the recurrence
    recurrence: float  # operations of one time step
    time_steps: int  # of all layers, forwards and backwards
    kernels: int  # beside the recurrence
    messages: int
    message_bytes: int
    gradient_bytes: int
    seconds: float  # of speech

    @classmethod
    def of(cls, config: DeepSpeech2Config, utterances: int, frames: int) -> "Counts":
        """By passing tensors without data through the model."""
        config = clipped(config)
        with torch.device("meta"):
            model = DeepSpeech2ForCTC(config)
        operations = operations_of_a_step(config, torch.ones(utterances, frames, dtype=torch.long))
        time_steps = 2 * config.num_hidden_layers * -(-frames // config.time_stride)
        recurrence = utterances * operations_of_a_row(config)
        forward, backward = training_step(config, utterances, frames)
        sent, messages = message_bytes(config)
        return cls(
            operations=operations - time_steps * recurrence,
            recurrence=recurrence,
            time_steps=time_steps,
            kernels=forward.kernels.total() + backward.kernels.total(),
            messages=messages,
            message_bytes=sent,
            gradient_bytes=4 * model.num_parameters(),
            seconds=utterances * frames / 100,
        )


def clipped(config: DeepSpeech2Config) -> DeepSpeech2Config:
    """The same products by our own recurrence; without data, torch's kernel of tanh units is a slow loop."""
    config = copy.deepcopy(config)
    config.hidden_act = "clipped_relu"
    return config


def operations_of_a_row(config: DeepSpeech2Config) -> int:
    """Of the recurrence, for one frame in one layer and one pass: the products with U."""
    directions = 2 if config.bidirectional else 1
    return 2 * directions * UNITS[config.rnn_type].gates * config.hidden_size**2


def operations_of_a_step(config: DeepSpeech2Config, mask: torch.Tensor) -> int:
    """Multiplications and additions of all products of a training step, forwards and backwards, without the loss."""
    config = clipped(config)
    with torch.device("meta"):
        model = DeepSpeech2ForCTC(config).train()
        features = torch.empty(*mask.shape, config.num_frequency_bins)
    with FlopCounterMode(display=False) as counter:
        logits = model(features, mask).logits
        logits.backward(torch.empty_like(logits))
    rows = int((-(-mask.sum(1) // config.time_stride)).sum())
    return counter.get_total_flops() + 2 * config.num_hidden_layers * rows * operations_of_a_row(config)


def computing(counts: Counts, rates: Rates) -> float:
    """Seconds of a step of one process. The CPU launches while the device computes: the slower of both counts."""
    steps = counts.time_steps * max(rates.time_step, counts.recurrence / rates.recurrence)
    return max(counts.operations / rates.products + steps, counts.kernels * rates.launch)


def exchanging(counts: Counts, rates: Rates, processes: int) -> float:
    """Seconds in which a process waits for the others: every message of BatchNorm, and half of the gradients, of which the
    backward pass hides the other half."""
    if processes == 1:
        return 0.0
    ring = 2 * (processes - 1) / processes
    messages = counts.messages * rates.message * math.ceil(math.log2(processes)) + ring * counts.message_bytes / rates.bytes
    return messages + ring * counts.gradient_bytes / rates.bytes / 2


def settings() -> dict:
    """The settings of recipes/english.yaml, with fewer units."""
    convolutions = {"conv_channels": [16, 32], "conv_kernel_sizes": [[21, 11], [11, 7]], "conv_strides": [[4, 3], [2, 1]]}
    return convolutions | {"num_hidden_layers": 4, "hidden_size": 256, "hidden_act": "tanh"}


def median_seconds(run: Callable[[], object], times: int) -> float:
    """Of one run, after one that is not counted; the processes begin together."""
    taken = []
    for _ in range(times + 1):
        dist.barrier()
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def train(utterances: int) -> float:
    """Seconds of a training step of this process."""
    torch.manual_seed(0)
    model = DistributedDataParallel(DeepSpeech2ForCTC(DeepSpeech2Config(**settings())))
    spare_exchanges(model)
    features, labels = torch.randn(utterances, FRAMES, 161), torch.randint(1, 29, (utterances, LETTERS))
    mask = torch.ones(utterances, FRAMES, dtype=torch.long)

    def step() -> None:
        model.zero_grad()
        model(features, mask, labels).loss.backward()

    return median_seconds(step, STEPS)


def exchange(numbers: int) -> float:
    """Seconds of one sum over all processes."""
    tensor = torch.zeros(numbers)
    return median_seconds(lambda: dist.all_reduce(tensor), 20)


WORK: dict[str, Callable[[int], float]] = {"train": train, "exchange": exchange}


def worker(kind: str, number: int) -> None:
    """One of several processes; the first one writes the seconds as a line of JSON."""
    keep_freed_memory()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    seconds = WORK[kind](number)
    if dist.get_rank() == 0:
        print(json.dumps(seconds))
    dist.destroy_process_group()


def launch(processes: int, kind: str, number: int) -> float:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    command += ["-m", "benchmarks.scaling", "--worker", kind, str(number)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(rounds: int) -> None:
    """Prints what one and two processes take, and what the model says of two from what one takes and what messages take."""
    runs = {
        "one": (1, "train", UTTERANCES),
        "half": (1, "train", UTTERANCES // 2),
        "weak": (2, "train", UTTERANCES),
        "strong": (2, "train", UTTERANCES // 2),
        "short": (2, "exchange", 100),
        "long": (2, "exchange", 1_000_000),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), "rounds", leave=False):
        for name, run in runs.items():
            found[name].append(launch(*run))
    seconds = {name: statistics.median(values) for name, values in found.items()}
    counts = Counts.of(DeepSpeech2Config(**settings()), UTTERANCES, FRAMES)
    sent = 4e6 / max(seconds["long"] - seconds["short"], 1e-9)  # of two processes, each sends as much as the tensor holds
    rates = Rates(math.inf, 0, 0, math.inf, message=seconds["short"], bytes=sent, reader=math.inf)
    waiting = exchanging(counts, rates, 2)
    print(f"One process, {UTTERANCES} utterances of {FRAMES / 100:.0f} s: {1e3 * seconds['one']:.0f} ms a step")
    print(f"A message: {1e6 * rates.message:.0f} µs, and {rates.bytes / 1e9:.2f} GB/s\n")
    print("| | utterances a process | speed against one process | predicted |\n| --- | ---: | ---: | ---: |")
    for name, alone, factor in (("weak", "one", 2), ("strong", "half", 1)):
        ratios = sorted(factor * one / two for one, two in zip(found["one"], found[name]))
        predicted = factor * seconds["one"] / (seconds[alone] + waiting)
        speed = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        print(f"| {name}, 2 processes | {runs[name][2]} | {speed} | {predicted:.2f} |")
    print(f"\nExchanged in a step: gradients {counts.gradient_bytes / 1e6:.1f} MB, ", end="")
    print(f"BatchNorm {counts.message_bytes / 1e3:.0f} kB in {counts.messages} messages")


# None of these was measured: GPUs of the H100 class, eight in a machine, and 400 Gbit/s for each of them between machines.
NODE = 8
GPU = Rates(
    products=300e12, launch=6e-6, time_step=4e-6, recurrence=60e12, message=25e-6, bytes=300e9, reader=460
)  # fmt: skip
NETWORK_BYTES = 40e9
BATCH, LENGTH = 64, 1231  # utterances a GPU, frames: LibriSpeech's mean


def librispeech() -> DeepSpeech2Config:
    """The network of recipes/untested/librispeech.yaml."""
    return DeepSpeech2Config(
        conv_channels=[32, 32, 96],
        conv_kernel_sizes=[[41, 11], [21, 11], [21, 11]],
        conv_strides=[[2, 2], [2, 1], [2, 1]],
        rnn_type="rnn",
        num_hidden_layers=7,
        hidden_size=2112,
    )


def expected() -> None:
    counts = Counts.of(librispeech(), BATCH, LENGTH)
    print(
        f"recipes/untested/librispeech.yaml, {BATCH} utterances of {LENGTH / 100:.1f} s on each GPU; counts of one step:\n"
    )
    print("| | |\n| --- | ---: |")
    print(f"| operations of products beside the recurrence | {counts.operations / 1e12:.1f}e12 |")
    print(f"| time steps of the recurrence, forwards and backwards | {counts.time_steps:,} |")
    print(f"| operations of one time step | {counts.recurrence / 1e9:.2f}e9 |")
    print(f"| kernels beside the recurrence | {counts.kernels} |")
    print(f"| messages of BatchNorm | {counts.messages}, {counts.message_bytes / 1e3:.0f} kB |")
    print(f"| gradients | {counts.gradient_bytes / 1e6:.0f} MB |\n")
    print("| assumed, not measured | |\n| --- | ---: |")
    for what, value in (
        ("operations a second of large products", f"{GPU.products:.0e}"),
        ("operations a second of the product of one time step", f"{GPU.recurrence:.0e}"),
        ("a time step, at least", f"{1e6 * GPU.time_step:.0f} µs"),
        ("from one kernel to the next, launched from Python", f"{1e6 * GPU.launch:.0f} µs"),
        ("a message", f"{1e6 * GPU.message:.0f} µs · log2(GPUs)"),
        (
            "bytes a second that a GPU sends, within a machine of 8 and between machines",
            f"{GPU.bytes:.0e}, {NETWORK_BYTES:.0e}",
        ),
        ("speech that one core reads and augments", f"{GPU.reader:.0f} × real time"),
    ):
        print(f"| {what} | {value} |")
    print()
    print("| GPUs | computing, ms | waiting for others, ms | efficiency | cores that read, a GPU |\n" + "| ---: " * 5 + "|")
    for gpus in (1, 8, 16, 32, 64, 128):
        own = computing(counts, GPU)
        network = GPU if gpus <= NODE else Rates(**vars(GPU) | {"bytes": NETWORK_BYTES})
        waiting = exchanging(counts, network, gpus)
        cores = counts.seconds / (own + waiting) / GPU.reader
        print(f"| {gpus} | {1e3 * own:.0f} | {1e3 * waiting:.1f} | {own / (own + waiting):.0%} | {cores:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expected", action="store_true", help="print counts and predictions alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], int(arguments.worker[1]))
    elif arguments.expected:
        expected()
    else:
        measured(arguments.rounds)


if __name__ == "__main__":
    main()
