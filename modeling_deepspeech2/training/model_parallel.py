"""Model parallelism: some processes share the layers of one model, and many such groups share the data.

In every recurrent layer, each of the first two processes of a group computes one direction, and the states are added up as
in the paper. In the output layer, each computes its share of the symbols. All compute everything else: W·x, for example,
takes less time than its exchange would. All hold all parameters, so that saving, loading and evaluation need no special
treatment. Neither do the gradients: the objective is the sum of all processes' losses, every exchange is differentiated as a
sum over processes, and data parallelism adds up the gradients of all processes.
"""

import torch
from accelerate import ParallelismConfig
from torch.distributed.distributed_c10d import _set_pg_timeout

from ..batch_norm_rnn import BatchNormRNN
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from .hardware import PROCESS_GROUP_TIMEOUT


def split_model(model: DeepSpeech2ForCTC, size: int, world_size: int, device: torch.device) -> None:
    """Shares the model out to each `size` neighbouring processes; all must call it.

    Raises:
        UserError: the processes cannot be grouped, or the layers have not two directions that can be told apart.
    """
    config = model.config
    if world_size % size:
        raise UserError(
            f"tensor_parallel_size: found {size}, but the number of processes, {world_size}, must be a multiple of it."
        )
    if not config.bidirectional or config.batch_norm == "step":
        raise UserError(
            "tensor_parallel_size shares out the two directions of layers with bidirectional: true and sequence-wise norm."
        )
    # Not handed to Accelerate, which leaves data parallelism out where a model is shared out.
    mesh = ParallelismConfig(dp_shard_size=world_size // size, tp_size=size).build_device_mesh(device.type)
    model.group = mesh["tp"].get_group()
    _set_pg_timeout(PROCESS_GROUP_TIMEOUT, model.group)  # a mesh takes none: NCCL's is ten minutes
    for module in model.modules():
        if isinstance(module, BatchNormRNN):
            module.group = model.group
