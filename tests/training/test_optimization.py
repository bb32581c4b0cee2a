"""The learning rate is a function of the step, and equals that of the library's schedules."""

import pytest
import torch
from transformers import get_scheduler

from modeling_deepspeech2.training.arguments import RunArguments
from modeling_deepspeech2.training.optimization import learning_rate


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_schedules_are_those_of_transformers(name, warmup):
    arguments = RunArguments(lr_scheduler_type=name, warmup_steps=warmup, learning_rate=0.3)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    library = get_scheduler("constant_with_warmup" if name == "constant" else name, optimizer, warmup, 20)
    for step in range(20):
        assert learning_rate(arguments, step, 0, 20) == pytest.approx(library.get_last_lr()[0], rel=1e-12, abs=1e-12)
        optimizer.step()
        library.step()


def test_annealing_divides_after_every_epoch():
    """Section 5.2 of the paper."""
    arguments = RunArguments(learning_rate=1.0, anneal=1.25, warmup_steps=4)
    assert [learning_rate(arguments, step, 0, 0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(arguments, 100, 2, 0) == pytest.approx(1 / 1.25**2)
