"""Measures ratios that a busy machine cannot distort: contenders take turns in one process, and medians are compared."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from tqdm import tqdm


class Timing(NamedTuple):
    """Seconds of each run of one contender."""

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu)


class Ratio(NamedTuple):
    """How many times as long the other contender took, run by run: the median and the two quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({self.low:.2f}–{self.high:.2f})"


def in_turns(contenders: dict[str, Callable[[], object]], rounds: int, label: str) -> dict[str, Timing]:
    """Runs all contenders `rounds` times, one after the other, after one run each that is not counted."""
    timings = {name: Timing([], []) for name in contenders}
    for turn in tqdm(range(rounds + 1), desc=label, leave=False):
        for name, run in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].cpu.append(time.process_time() - cpu)
    return timings


def ratio(ours: Timing, other: Timing) -> Ratio:
    ratios = sorted(theirs / own for own, theirs in zip(ours.wall, other.wall))
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Ratio(statistics.median(ratios), low, high)


def saved_bytes(run: Callable[[], torch.Tensor]) -> int:
    """Memory that a forward pass keeps for the backward pass, each storage counted once."""
    storages = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in storages.values())
