"""In a training step the CPU waits for a GPU once: whatever would wait is counted, on tensors without data."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import run_ctc
from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC
from modeling_deepspeech2.data.loader import Batch
from modeling_deepspeech2.training.arguments import RunArguments
from modeling_deepspeech2.training.interruption import Interruption
from modeling_deepspeech2.training.progress import Progress


WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "is_nonzero"}
LENGTHS = [81, 60, 33]
META = torch.device("meta")


class CountWaits(TorchDispatchMode):
    """Counts the operations that a GPU must have finished before the CPU goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(leaf.is_meta for leaf in inputs):
            if name == "_to_copy" and torch.device(kwargs.get("device") or META).type == "cpu":
                self.waits["copied to the CPU"] += 1
                return torch.ones(inputs[0].shape, dtype=kwargs.get("dtype") or inputs[0].dtype)
            if name in WAITING or (name == "index" and any(leaf.dtype == torch.bool for leaf in inputs[1:])):
                self.waits[name] += 1
            if name == "_ctc_loss":  # has no kernel for tensors without data
                symbols = 2 * max(args[3] if isinstance(args[3], list) else args[3].tolist()) + 1
                frames, batch_size, _ = args[0].shape
                return args[0].new_empty(batch_size), args[0].new_empty(batch_size, frames, symbols)
            if name == "_ctc_loss_backward":
                return torch.empty_like(args[1])
        return func(*args, **kwargs)


@pytest.fixture
def model() -> DeepSpeech2ForCTC:
    config = DeepSpeech2Config(conv_channels=[4, 4], num_hidden_layers=2, hidden_size=16)
    with META:
        return DeepSpeech2ForCTC(config).train()


@pytest.fixture
def batch() -> Batch:
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    labels = torch.tensor([[3, 3, 5, 6], [7, 8, -100, -100], [9, -100, -100, -100]])
    return Batch(input_features=torch.zeros(*mask.shape, 161), attention_mask=mask, labels=labels, names=["a", "b", "c"])


def test_a_training_step_waits_once(model, batch, monkeypatch):
    """For loss, norm, and the counts of all processes, in one go; two batches are accumulated."""
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "device", META)
    settings = SimpleNamespace(run=RunArguments())
    run = SimpleNamespace(settings=settings, progress=Progress(), accelerator=accelerator, model=model, readers=1)
    run.interruption = Interruption()
    optimizer = torch.optim.AdamW(model.parameters())
    with CountWaits() as counted:
        run_ctc.take_step(run, model, optimizer, [batch, batch], total_steps=10)
    assert counted.waits == {"copied to the CPU": 1}


def test_where_everything_is_on_the_gpu_lengths_and_labels_are_fetched(model, batch):
    """As by `Trainer`, which sends all of a batch there."""
    with CountWaits() as counted:
        inputs = (batch[name].to(META) for name in ("input_features", "attention_mask", "labels"))
        model(*inputs).loss.backward()
    assert counted.waits.total() <= 3
