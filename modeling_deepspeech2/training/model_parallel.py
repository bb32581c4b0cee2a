"""Model parallelism: two processes share the layers of one model, and many such pairs share the data.

In every recurrent layer, each process of a pair computes one direction, and the states are added up as in the paper. In the
output layer, each computes half of the symbols. Both compute everything else. Both hold all parameters, so that saving,
loading and evaluation need no special treatment. Neither do the gradients: the objective is the sum of all processes'
losses, every exchange is differentiated as a sum over processes, and data parallelism adds up the gradients of all
processes.
"""

import torch.distributed as dist

from ..batch_norm_rnn import BatchNormRNN
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC


PAIR = 2


def split_model(model: DeepSpeech2ForCTC, rank: int, world_size: int) -> None:
    """Shares the model out to each two neighbouring processes; all must call it.

    Raises:
        UserError: the processes are no pairs, or the layers have not two directions that can be told apart.
    """
    config = model.config
    if world_size % PAIR:
        raise UserError(f"model_parallel needs processes in pairs, but there are {world_size}.")
    if not config.bidirectional or config.batch_norm == "step":
        raise UserError(
            "model_parallel shares out the two directions of layers with bidirectional: true and sequence-wise norm."
        )
    for first in range(0, world_size, PAIR):
        group = dist.new_group(list(range(first, first + PAIR)))
        if first <= rank < first + PAIR:
            model.group = group
            for module in model.modules():
                if isinstance(module, BatchNormRNN):
                    module.group = group
