"""Law 2: several processes with a share of the utterances each train exactly like one process with all of them."""

import os
import subprocess
import sys

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC
from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.training.hardware import spare_exchanges


LENGTHS = [33, 18, 25, 40, 12, 29, 36, 21]


def gradients_of_a_step(
    rank: int,
    world_size: int,
    uneven: bool,
    stock_kernel: bool = False,
    sharded: bool = False,
    checkpointed: bool = False,
) -> dict[str, torch.Tensor]:
    """Loss averaged over all utterances, its gradients, and the running averages, as `run_ctc.py` makes them."""
    torch.manual_seed(0)
    BatchNormRNN._has_stock_kernel = lambda layer, rows: stock_kernel  # as on a GPU
    config = DeepSpeech2Config(
        vocab_size=7,
        num_frequency_bins=21,
        conv_channels=[3, 4],
        conv_kernel_sizes=[[7, 5], [3, 3]],
        num_hidden_layers=2,
        hidden_size=6,
        hidden_act="tanh",
    )
    model = DeepSpeech2ForCTC(config).train()
    features = torch.randn(len(LENGTHS), max(LENGTHS), 21)
    labels = torch.randint(1, 7, (len(LENGTHS), 5))
    # Uneven: the last process has no utterance at all.
    sharing = world_size - 1 if uneven and world_size > 1 else world_size
    own = list(range(rank, len(LENGTHS), sharing)) if rank < sharing else []
    lengths = torch.tensor([LENGTHS[i] for i in own], dtype=torch.long)
    frames = max([1, *lengths.tolist()])
    mask = (torch.arange(frames) < lengths[:, None]).long()
    if checkpointed:
        model.gradient_checkpointing_enable()
    trained: torch.nn.Module = model
    if world_size > 1 and not sharded:  # many buckets: gradients are exchanged between the messages of the statistics
        trained = DistributedDataParallel(model, bucket_cap_mb=0.0005)
        spare_exchanges(trained)
    if sharded:
        for layer in model.deepspeech2.layers:
            fully_shard(layer)
        fully_shard(model)
    loss = trained(features[own, :frames], mask, labels[own]).loss * len(own) / len(LENGTHS) * world_size
    loss.backward()
    gradients = {name: p.grad.full_tensor() if sharded else p.grad for name, p in model.named_parameters()}
    return gradients | dict(model.named_buffers())


@pytest.mark.parametrize(
    "world_size, uneven, stock_kernel, sharded, checkpointed",
    [
        (2, False, False, False, False),
        (2, True, False, False, False),
        (3, False, False, False, False),
        (3, True, False, False, False),
        (2, False, True, False, False),
        (3, True, True, False, True),
        (2, False, False, True, False),
        (3, True, False, True, False),
    ],
)
def test_processes_together_equal_one(monkeypatch, world_size, uneven, stock_kernel, sharded, checkpointed, tmp_path):
    """Data parallel, with the parameters sharded as well (FSDP), and with layers that are computed again on the way back."""
    monkeypatch.setattr(BatchNormRNN, "_has_stock_kernel", None)  # what the step changes, it changes for itself alone
    file = tmp_path / "gradients.pt"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
    subprocess.run(
        [*command, __file__, str(file), *(str(int(flag)) for flag in (uneven, stock_kernel, sharded, checkpointed))],
        check=True,
        env=environment,
        timeout=300,
    )
    expected = gradients_of_a_step(0, 1, False)
    found = torch.load(file)
    scale = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        assert (found[name] - value).abs().max().item() <= 1e-5 * scale, name


def main() -> None:
    torch.distributed.init_process_group("gloo")
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    values = gradients_of_a_step(rank, world_size, *(flag == "1" for flag in sys.argv[2:]))
    if rank == 0:
        torch.save(values, sys.argv[1])
    torch.distributed.barrier()  # none closes its connections while another still works
    # Without finalizing Python: about once in 70 ends, a thread of gloo that FSDP's modules keep alive asks for the GIL
    # then, and the way Python 3.11 ends such a thread aborts the process ("terminate called without an active exception").
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
