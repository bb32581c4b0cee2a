"""Measures training on one and two processes, counts what they exchange, and estimates larger systems.

    python -m benchmarks.scaling                # measured: 1 process against 2, weak and strong, in turns
    python -m benchmarks.scaling --expected     # estimated from a stated model: 8 to 128 GPUs, 960 and 12,000 hours

Every process has one core, so that two processes have twice the computing power. Weak scaling: each process has a batch of
the same size. Strong scaling: they share one batch.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC
from modeling_deepspeech2.training.hardware import keep_freed_memory


UTTERANCES, FRAMES, LETTERS = 16, 400, 56  # 4 s each
STEPS = 5


def settings() -> dict:
    """The settings of recipes/english.yaml."""
    convolutions = {"conv_channels": [16, 32], "conv_kernel_sizes": [[21, 11], [11, 7]], "conv_strides": [[4, 3], [2, 1]]}
    return convolutions | {"num_hidden_layers": 4, "hidden_size": 256, "hidden_act": "tanh"}


def worker(utterances: int) -> None:
    """One process of a training; the first writes seconds a step and bytes a step as one line of JSON."""
    keep_freed_memory()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(DeepSpeech2ForCTC(DeepSpeech2Config(**settings())))
    features, labels = torch.randn(utterances, FRAMES, 161), torch.randint(1, 29, (utterances, LETTERS))
    mask = torch.ones(utterances, FRAMES, dtype=torch.long)
    statistics_bytes = 0
    reduce = dist.all_reduce

    def counting_reduce(tensor: torch.Tensor, *args, **kwargs):
        nonlocal statistics_bytes
        statistics_bytes += tensor.numel() * tensor.element_size()
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = counting_reduce
    seconds = []
    for _ in range(STEPS + 1):
        dist.barrier()
        start = time.perf_counter()
        model.zero_grad()
        model(features, mask, labels).loss.backward()
        seconds.append(time.perf_counter() - start)
    if dist.get_rank() == 0:
        gradient_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        found = {"seconds": statistics.median(seconds[1:]), "gradients": gradient_bytes}
        print(json.dumps(found | {"statistics": statistics_bytes // (STEPS + 1)}))
    dist.destroy_process_group()


def launch(processes: int, utterances: int) -> dict:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [*command, "-m", "benchmarks.scaling", "--worker", str(utterances)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(rounds: int) -> None:
    found: dict[str, list[dict]] = {"one": [], "weak": [], "strong": []}
    for _ in tqdm(range(rounds), "rounds", leave=False):
        found["one"].append(launch(1, UTTERANCES))
        found["weak"].append(launch(2, UTTERANCES))
        found["strong"].append(launch(2, UTTERANCES // 2))

    def row(name: str, factor: float) -> str:
        ratios = sorted(factor * one["seconds"] / two["seconds"] for one, two in zip(found["one"], found[name]))
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"

    one, two = found["one"][0], found["weak"][0]
    print(f"One process, {UTTERANCES} utterances of {FRAMES / 100:.0f} s: {1e3 * one['seconds']:.0f} ms a step\n")
    print("| | utterances a process | speed against one process, median (range) |\n| --- | ---: | ---: |")
    print(f"| weak, 2 processes | {UTTERANCES} | {row('weak', 2)} |")
    print(f"| strong, 2 processes | {UTTERANCES // 2} | {row('strong', 1)} |\n")
    print(f"Exchanged in a step: gradients {one['gradients'] / 1e6:.1f} MB, BatchNorm {two['statistics'] / 1e3:.0f} kB")


# What the reckoning assumes of a GPU of the H100's class, and of the network between them.
PRODUCT_RATE = 250e12  # multiplications and additions a second that large products in bf16 reach
STEP_SECONDS = 25e-6  # from one step of the recurrence to the next, launched from Python
CONVOLUTIONS = 1.5  # all products against those of the recurrent and fully connected layers
NODE = 8  # GPUs that share NVLink
NODE_RATE, NETWORK_RATE = 300e9, 40e9  # bytes a second of a ring, within a node and between nodes
MESSAGE_SECONDS = 30e-6
PRICE = 2.5  # dollars an hour of one GPU
READER_RATE = 200  # times real time that one worker process decodes and augments; see data_wait_share of a run
EPOCHS, UTTERANCE_SECONDS, BATCH = 20, 12.3, 64  # LibriSpeech's mean length; utterances a GPU


def seconds_of_a_step(config: DeepSpeech2Config, parameters: int, gpus: int) -> tuple[float, float]:
    """Computing, exchanging; the recurrence is bound by its number of steps in time, all else by the rate of products."""
    frames = UTTERANCE_SECONDS * 100 / config.time_stride
    products = 3 * 2 * CONVOLUTIONS * parameters * frames * BATCH / PRODUCT_RATE
    recurrence = 2 * config.num_hidden_layers * frames * STEP_SECONDS  # forwards and backwards
    if gpus == 1:
        return products + recurrence, 0.0
    rate = NODE_RATE if gpus <= NODE else NETWORK_RATE
    ring = 2 * (gpus - 1) / gpus * 4 * parameters / rate
    messages = 4 * config.num_hidden_layers * MESSAGE_SECONDS * math.log2(gpus)
    # Half of the gradients' way is hidden behind the backward pass; BatchNorm waits for every message.
    return products + recurrence, ring / 2 + messages


def expected() -> None:
    convolutions = {
        "conv_channels": [32, 32, 96],
        "conv_kernel_sizes": [[41, 11], [21, 11], [21, 11]],
        "conv_strides": [[2, 2], [2, 1], [2, 1]],
    }
    config = DeepSpeech2Config(**convolutions, rnn_type="rnn", num_hidden_layers=7, hidden_size=2112)
    with torch.device("meta"):
        parameters = DeepSpeech2ForCTC(config).num_parameters()
    size = f"{parameters / 1e6:.0f} M parameters"
    print(f"recipes/untested/librispeech.yaml: {size}, {BATCH} utterances a GPU, {EPOCHS} epochs\n")
    alone, _ = seconds_of_a_step(config, parameters, 1)
    print(f"Audio that one GPU takes: {BATCH * UTTERANCE_SECONDS / alone:,.0f} times real time,", end=" ")
    print(f"which {BATCH * UTTERANCE_SECONDS / alone / READER_RATE:.0f} workers read at {READER_RATE} times each\n")
    print(
        "| GPUs | computing, ms | exchanging, ms | efficiency | 960 h: hours | dollars | 12,000 h: hours | dollars |\n"
        + "| ---: " * 8
        + "|"
    )
    for gpus in (1, 8, 16, 32, 64, 128):
        computing, exchanging = seconds_of_a_step(config, parameters, gpus)
        cells = [
            f"{gpus}",
            f"{1e3 * computing:.0f}",
            f"{1e3 * exchanging:.0f}",
            f"{computing / (computing + exchanging):.0%}",
        ]
        for hours in (960, 12_000):
            steps = EPOCHS * hours * 3600 / UTTERANCE_SECONDS / (BATCH * gpus)
            wall = steps * (computing + exchanging) / 3600
            cells += [f"{wall:,.1f}", f"{wall * gpus * PRICE:,.0f}"]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expected", action="store_true", help="print the reckoning alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
    elif arguments.expected:
        expected()
    else:
        measured(arguments.rounds)


if __name__ == "__main__":
    main()
