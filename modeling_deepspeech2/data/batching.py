"""Plans an epoch: SortaGrad, and batches of utterances of similar length (section 3.3 of the paper).

The plan says which utterances make up which step and which steps are read together. It needs only what is known before the
audio is read, and depends only on the seed and the epoch, so that all processes and all resumed runs make the same plan.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .durations import DurationIndex


# Lengths are perturbed by this much before they are sorted, so that batches differ from epoch to epoch.
JITTER = 0.05


@dataclass
class EpochPlan:
    """The order of an epoch: which utterances make each step, and which steps are read together.

    Args:
        order: numbers of utterances, one step's after the other's, shape (utterances,).
        step_ends: where in `order` each step ends, shape (steps,).
        window_ends: the step at which each window ends; a window's utterances are read in one go, shape (windows,).
        parts: batches that each step is shared out into, among processes and accumulation.
    """

    order: np.ndarray
    step_ends: np.ndarray
    window_ends: np.ndarray
    parts: int

    @property
    def steps(self) -> int:
        return len(self.step_ends)

    def batch(self, step: int, part: int) -> np.ndarray:
        """Numbers of the utterances in one of a step's batches; similar lengths are dealt out to all of them."""
        first = self.step_ends[step - 1] if step else 0
        return self.order[first + part : self.step_ends[step] : self.parts]

    def windows(self, first_step: int = 0) -> Iterator[range]:
        """The steps of each window, from `first_step` on."""
        start = 0
        for end in self.window_ends.tolist():
            if end > first_step:
                yield range(max(start, first_step), end)
            start = end


@dataclass
class Batching:
    """How utterances become steps.

    Args:
        batch_size: utterances in a batch.
        batch_seconds: instead, as many as fit into so many seconds when all are padded to the longest; 0 for batch_size.
        parts: batches a step is shared out into: processes · accumulation.
        sorta_grad: the first epoch goes from the shortest utterance to the longest.
        seed: of everything random.
        memory: bytes of encoded audio that may be held, on all processes together: the window in use and the next one.
    """

    batch_size: int
    batch_seconds: float = 0.0
    parts: int = 1
    sorta_grad: bool = False
    seed: int = 0
    memory: int = 256 * 2**20

    @classmethod
    def from_arguments(cls, arguments: Any, parts: int) -> "Batching":
        """From the settings of a run; `shuffle_memory` is in megabytes there."""
        return cls(
            batch_size=arguments.per_device_train_batch_size,
            batch_seconds=arguments.batch_seconds,
            parts=parts,
            sorta_grad=arguments.sorta_grad,
            seed=arguments.seed,
            memory=arguments.shuffle_memory * 2**20,
        )

    def plan(self, index: DurationIndex, epoch: int) -> EpochPlan:
        """The first epoch sorted, with `sorta_grad`; others read shards in random order, as many as `memory` holds, and draw
        from what they hold: batches of `batch_size` wholly at random, those of `batch_seconds` of similar length.

        Batches of one length are cheaper but teach less: where length tells what is said, a small batch is all alike.
        """
        generator = np.random.default_rng([self.seed, epoch])
        numbers = _repeated(index.weights, generator)
        if self.sorta_grad and epoch == 0:
            order = numbers[np.argsort(index.seconds[numbers], kind="stable")]
            step_ends = self._cut(index.seconds[order])
            held = _held_at(index.sizes[order], step_ends)
            window_ends = [
                step + 1
                for step in range(len(step_ends))
                if step + 1 == len(step_ends) or held[step + 1] // self._window > held[step] // self._window
            ]
            return EpochPlan(order, step_ends, np.array(window_ends, dtype=np.int64), self.parts)
        place = generator.permutation(index.shards.max(initial=0) + 1)[index.shards]
        numbers = numbers[np.lexsort((index.rows[numbers], place[numbers]))]
        window_of = (np.cumsum(index.sizes[numbers], dtype=np.int64) - 1) // self._window
        order, step_ends, window_ends = [numbers[:0]], [], []
        done = 0
        for window in np.split(numbers, np.flatnonzero(np.diff(window_of)) + 1) if len(numbers) else []:
            if self.batch_seconds:
                lengths = index.seconds[window] * generator.uniform(1 - JITTER, 1 + JITTER, len(window))
                window = window[np.argsort(lengths, kind="stable")]
            else:
                window = generator.permutation(window)
            steps = np.split(window, self._cut(index.seconds[window])[:-1])
            for step in generator.permutation(len(steps)):
                order.append(steps[step])
                done += len(steps[step])
                step_ends.append(done)
            window_ends.append(len(step_ends))
        return EpochPlan(
            np.concatenate(order), np.array(step_ends, dtype=np.int64), np.array(window_ends, dtype=np.int64), self.parts
        )

    @property
    def _window(self) -> int:
        """Bytes of one window: while it is worked on, the next is read."""
        return max(1, self.memory // 2)

    def fingerprint(self, index: DurationIndex) -> str:
        """Equal where the plans of all epochs are."""
        digest = hashlib.sha256(repr(self).encode())
        for field in fields(index):
            digest.update(np.ascontiguousarray(getattr(index, field.name)))
        return digest.hexdigest()[:16]

    def _cut(self, seconds: np.ndarray) -> np.ndarray:
        """Where each step ends among utterances of these lengths, which are sorted, or nearly so."""
        total = len(seconds)
        if not self.batch_seconds:
            size = self.batch_size * self.parts
            return np.minimum(np.arange(size, total + size, size), total)
        ends, count, longest = [], 0, 0.0
        for number, length in enumerate(seconds.tolist()):
            longest = max(longest, length)
            if count and math.ceil((count + 1) / self.parts) * longest > self.batch_seconds:
                ends.append(number)
                count, longest = 0, length
            count += 1
        return np.array([*ends, total] if total else [], dtype=np.int64)


def _repeated(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each number as often as its weight says: 2.5 is twice, and for every other one, drawn anew, once more."""
    times = np.floor(weights).astype(np.int64)
    times += generator.random(len(weights)) < weights - times
    return np.repeat(np.arange(len(weights)), times)


def _held_at(sizes: np.ndarray, step_ends: np.ndarray) -> np.ndarray:
    """Bytes up to the end of each step."""
    total = np.cumsum(sizes, dtype=np.int64)
    return total[step_ends - 1] if len(step_ends) else total
