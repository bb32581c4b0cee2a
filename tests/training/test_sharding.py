"""Parameters sharded by Accelerate (FSDP 2) in mixed precision: what must be float32 is float32 (law 7)."""

import os
import subprocess
import sys

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2ForCTC
from modeling_deepspeech2.batch_norm import SpeechBatchNorm
from modeling_deepspeech2.batch_norm_rnn import BatchNormRNN
from modeling_deepspeech2.training.hardware import keep_float32_when_sharded


UTTERANCES, FRAMES = 4, 50


def make_model() -> DeepSpeech2ForCTC:
    torch.manual_seed(0)
    return DeepSpeech2ForCTC(DeepSpeech2Config(conv_channels=[4, 4], num_hidden_layers=2, hidden_size=16)).train()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_features": torch.randn(UTTERANCES, FRAMES, 161, generator=generator),
        "attention_mask": torch.ones(UTTERANCES, FRAMES, dtype=torch.long),
        "labels": torch.randint(1, 29, (UTTERANCES, 5), generator=generator),
    }


def test_sharded_models_compute_statistics_recurrence_and_loss_in_float32():
    """By the settings of recipes/accelerate/fsdp.yaml; the loss of two processes is that of one under autocast."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    *dtypes, loss = done.stdout.split()
    assert set(dtypes) == {"torch.float32"} and len(dtypes) == 5 + 2 + 1 + 1
    with torch.autocast("cpu", torch.bfloat16):
        expected = make_model()(**batch()).loss
    assert abs(float(loss) - expected.item()) <= 1e-2 * expected.item()


def main() -> None:
    accelerator = Accelerator(mixed_precision="bf16")
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["DeepSpeech2RecurrentLayer"],
        cpu_ram_efficient_loading=False,
    )
    plugin.set_mixed_precision("bf16")
    # As Accelerate itself does where there are GPUs.
    accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    keep_float32_when_sharded(accelerator)
    model = make_model()
    model, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    dtypes: list[torch.dtype] = []
    for module in model.modules():
        if isinstance(module, BatchNormRNN):
            module.register_forward_pre_hook(lambda layer, _: dtypes.append(layer.weight_hh.dtype))
        elif isinstance(module, SpeechBatchNorm):
            module.register_forward_hook(lambda layer, _, output: dtypes.append(output.dtype))
    whole, rank = batch(), accelerator.process_index
    own = {name: tensor[rank::2] for name, tensor in whole.items()}
    loss = model(**own).loss
    accelerator.backward(loss)
    dtypes += [loss.dtype, next(model.parameters()).grad.dtype]
    total = accelerator.reduce(loss.detach(), "mean")
    if accelerator.is_main_process:
        print(*dtypes, total.item())
    torch.distributed.barrier()  # none closes its connections while another still works
    # Without finalizing Python: about once in 70 ends, a thread of gloo that FSDP's modules keep alive asks for the GIL
    # then, and the way Python 3.11 ends such a thread aborts the process ("terminate called without an active exception").
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
