"""The optimiser and the learning-rate schedule."""

import math

import torch

from .arguments import RunArguments


def make_optimizer(model: torch.nn.Module, arguments: RunArguments) -> torch.optim.Optimizer:
    if arguments.optim == "sgd":
        momentum = arguments.momentum
        return torch.optim.SGD(model.parameters(), arguments.learning_rate, momentum=momentum, nesterov=True)
    return torch.optim.AdamW(model.parameters(), arguments.learning_rate, weight_decay=arguments.weight_decay)


def learning_rate(arguments: RunArguments, step: int, epoch: int, total_steps: int) -> float:
    """Of the step after `step` steps: a linear warm-up, then the schedule.

    `anneal` divides by a constant after every epoch, as the paper does (section 5.2). The others are those of
    `transformers.get_scheduler`, of which "constant" is called constant_with_warmup there. A function of where the run
    stands, so that it needs no state, and a resumed run follows the settings that it is given.
    """
    warmup = arguments.warmup_steps
    if arguments.lr_scheduler_type == "anneal":
        factor = min(1.0, (step + 1) / max(warmup, 1)) / arguments.anneal**epoch
    elif step < warmup:
        factor = step / warmup
    elif arguments.lr_scheduler_type == "constant":
        factor = 1.0
    else:
        done = (step - warmup) / max(total_steps - warmup, 1)
        factor = max(0.0, 1 - done if arguments.lr_scheduler_type == "linear" else 0.5 * (1 + math.cos(math.pi * done)))
    return arguments.learning_rate * factor
