"""Counts what a training step asks of a GPU, without one: its kernels, and the bytes of BatchNorm's messages.

    python -m benchmarks.gpu_counts

Tensors without data take the same path as those on a GPU; every operation that computes something is one kernel, and the
recurrence as many as `choose` says. Lengths are on the CPU, as the loader leaves them, so that nothing waits for the GPU.
"""

from collections import Counter
from collections.abc import Callable
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC, recurrence
from modeling_deepspeech2.batch_norm import SpeechBatchNorm
from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.ctc_loss import ctc_loss


UTTERANCES, FRAMES = 64, 1231  # 12.3 s each, LibriSpeech's mean
NO_KERNELS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "_unsafe_view"}


class CountKernels(TorchDispatchMode):
    """Counts the operations on tensors without data that compute something; those on the CPU are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.recurrence = 0
        self.copies = 0  # from the CPU to the device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = without_data(func, args) if "_ctc_loss" in func._schema.name else func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func._schema.name.rpartition("::")[2]
        if any(leaf.is_meta for leaf in [*inputs, *tree_leaves(outputs)] if isinstance(leaf, Tensor)):
            self.count(name, func, inputs)
        return outputs

    def count(self, name: str, func, inputs: list[Tensor]) -> None:
        if name.startswith("recurrence"):
            states, weight = inputs[:2]
            clip = 20.0  # the units of this count are clipped
            choice = recurrence.choose(states.device, states.dtype, clip, weight.shape[2], len(weight))
            self.recurrence += choice.launches(next(len(leaf) for leaf in inputs if leaf.device.type == "cpu"))
        elif name == "_to_copy" and not inputs[0].is_meta:
            self.copies += 1
        elif name not in NO_KERNELS and not func.is_view:
            self.kernels[name] += 1


def training_step(config: DeepSpeech2Config, utterances: int, frames: int) -> tuple[CountKernels, CountKernels]:
    """What the forward pass and the backward pass of one step launch; without the loss."""
    with torch.device("meta"):
        model = DeepSpeech2ForCTC(config).train()
        features = torch.empty(utterances, frames, config.num_frequency_bins)
    mask = torch.ones(utterances, frames, dtype=torch.long)
    with CountKernels() as forward:
        logits = model(features, mask).logits
    grad = torch.empty_like(logits)
    with CountKernels() as backward:
        logits.backward(grad)
    return forward, backward


def without_data(func, args: tuple) -> Tensor | tuple[Tensor, Tensor]:
    """What torch's CTC loss and its backward pass return, which torch does not know for tensors without data."""
    log_probs = next(argument for argument in args if isinstance(argument, Tensor) and argument.ndim == 3)
    if func._schema.name.endswith("_backward"):
        return torch.empty_like(log_probs)
    frames, utterances, _ = log_probs.shape
    return log_probs.new_empty(utterances), log_probs.new_empty(utterances, frames, 1)


def loss_of_a_step(config: DeepSpeech2Config, utterances: int, frames: int) -> tuple[CountKernels, CountKernels]:
    """What the loss launches, forwards and backwards; torch's own CTC kernels count as one each."""
    frames = -(-frames // config.time_stride)
    logits = torch.empty(utterances, frames, config.vocab_size, device="meta", requires_grad=True)
    lengths, labels = torch.full((utterances,), frames), torch.randint(1, config.vocab_size, (utterances, frames // 4))
    with CountKernels() as forward:
        loss = ctc_loss(logits, lengths, labels, config.pad_token_id)
    with CountKernels() as backward:
        loss.backward()
    return forward, backward


def message_bytes(config: DeepSpeech2Config) -> tuple[int, int]:
    """Bytes and messages by which the statistics of one process travel in a training step."""
    sizes = []

    def count(tensor: Tensor, *_, **__) -> None:
        sizes.append(tensor.numel() * tensor.element_size())

    with (
        mock.patch.object(dist, "is_initialized", lambda: True),
        mock.patch.object(dist, "get_world_size", lambda group=None: 2),
        mock.patch.object(dist, "all_reduce", count),
        mock.patch("modeling_deepspeech2.batch_norm.message_group", lambda: None),
    ):
        training_step(config, 2, 8)  # their size does not depend on that of the batch
    return sum(sizes), len(sizes)


def message_bytes_before(config: DeepSpeech2Config) -> int:
    """What travelled when mean and variance were two messages, and folded layers exchanged D × D matrices."""
    with torch.device("meta"):
        model = DeepSpeech2ForCTC(config)
    layers = [module for module in model.modules() if isinstance(module, BatchNormRNN)]
    folded = [layer for layer in layers if config.hidden_act == "tanh"]
    norms = {module for module in model.modules() if isinstance(module, SpeechBatchNorm)} - {layer.norm for layer in folded}
    numbers = sum(4 * len(norm.weight) + 1 for norm in norms)
    for layer in folded:
        size = layer.weight_ih.shape[2]
        numbers += 2 * (1 + size + size * size)
    return 4 * numbers


NETWORKS: dict[str, DeepSpeech2Config] = {
    "5 × BiGRU-800, clipped": DeepSpeech2Config(conv_channels=[32, 32], hidden_size=800, num_hidden_layers=5),
    "7 × BiRNN-2112, tanh": DeepSpeech2Config(
        conv_channels=[32, 32], rnn_type="rnn", hidden_act="tanh", hidden_size=2112, num_hidden_layers=7
    ),
}


def one_launch_a_step(device: torch.device, *_: object, **__: object) -> recurrence.Choice:
    return recurrence.Choice("steps", "counted as if the programs did not fit on the GPU at once")


def main() -> None:
    name, config = next(iter(NETWORKS.items()))
    forward, backward = training_step(config, UTTERANCES, FRAMES)
    with mock.patch.object(recurrence, "choose", one_launch_a_step):
        stepwise = training_step(config, UTTERANCES, FRAMES)
    print(f"{name}, {UTTERANCES} × {FRAMES / 100:.1f} s, one training step, without the optimiser\n")
    print("| | forward | backward |\n| --- | ---: | ---: |")
    rows: dict[str, Callable[[CountKernels], int]] = {
        "kernels beside the recurrence": lambda found: found.kernels.total(),
        "launches of the recurrence": lambda found: found.recurrence,
        "copies of indices from the CPU": lambda found: found.copies,
    }
    for what, number in rows.items():
        print(f"| {what} | {number(forward)} | {number(backward)} |")
    loss = loss_of_a_step(config, UTTERANCES, FRAMES)
    print(f"| kernels of the loss | {loss[0].kernels.total()} | {loss[1].kernels.total()} |")
    print(f"| launches of the recurrence, one a step | {stepwise[0].recurrence:,} | {stepwise[1].recurrence:,} |\n")
    for what, found in (("forward", forward), ("backward", backward)):
        print(f"{what}:", ", ".join(f"{count} {kernel}" for kernel, count in found.kernels.most_common()))
    print("\n| statistics of BatchNorm, a step of each process | before | now | messages |\n| --- | ---: | ---: | ---: |")
    for name, config in NETWORKS.items():
        now, messages = message_bytes(config)
        print(f"| {name} | {message_bytes_before(config) / 1e6:,.3f} MB | {now / 1e6:,.3f} MB | {messages} |")


if __name__ == "__main__":
    main()
