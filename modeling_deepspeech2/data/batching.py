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
# Utterances that `datasets` puts into one row group, the least that can be read of a parquet file. With fewer for each part
# of a step, all parts would read the same row groups.
ROW_GROUP = 100
SHORTEST = 0.1  # seconds that an utterance counts at least when the data is divided: unreadable ones have none


@dataclass
class EpochPlan:
    """The order of an epoch: which utterances make each step, and which steps are read together.

    Args:
        order: numbers of utterances, one step's after the other's, shape (utterances,).
        ends: where in `order` the utterances of each step and lane end, shape (steps, lanes). A lane is a stretch of the
            data that is read from its beginning to its end. Either each part of a step has its own, or all share one.
        window_ends: the step at which each window ends; a window's utterances are read in one go, shape (windows,).
        parts: batches that each step is shared out into, among processes and accumulation.
        shard_places: where each shard stands in the order in which they are read, shape (shards,).
    """

    order: np.ndarray
    ends: np.ndarray
    window_ends: np.ndarray
    parts: int
    shard_places: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.ends)

    @property
    def lanes(self) -> int:
        return self.ends.shape[1]

    @property
    def step_ends(self) -> np.ndarray:
        """Where in `order` each step ends, shape (steps,)."""
        return self.ends[:, -1]

    def batch(self, step: int, part: int) -> np.ndarray:
        """Numbers of the utterances in one of a step's batches; similar lengths are dealt out to all that share a lane."""
        cell = step * self.lanes + part % self.lanes
        first = self.ends.flat[cell - 1] if cell else 0
        return self.order[first : self.ends.flat[cell]][part // self.lanes :: self.parts // self.lanes]

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

    def is_sorted(self, epoch: int) -> bool:
        """Whether an epoch goes from the shortest utterance to the longest."""
        return self.sorta_grad and epoch == 0

    def plan(self, index: DurationIndex, epoch: int) -> EpochPlan:
        """The first epoch sorted, with `sorta_grad`. Others read shards in random order, each part of a step its own, as
        many as `memory` holds, and draw from what they hold: batches of `batch_size` wholly at random, those of
        `batch_seconds` of similar length.

        Batches of one length are cheaper but teach less: where length tells what is said, a small batch is all alike.
        """
        generator = np.random.default_rng([self.seed, epoch])
        numbers = _repeated(index.weights, generator)
        shards = int(index.shards.max(initial=0)) + 1
        if self.is_sorted(epoch):
            return self._sorted_plan(index, numbers, np.arange(shards))
        places = generator.permutation(shards)
        numbers = numbers[np.lexsort((index.rows[numbers], places[index.shards[numbers]]))]
        batches: list[list[np.ndarray]] = []
        window_ends = []
        for held in self._windows_of_lanes(index, numbers):
            cut = [self._batches(own, index, self.parts // len(held), generator) for own in held]
            for step in generator.permutation(max(map(len, cut))):
                batches.append([own[step] if step < len(own) else own[0][:0] for own in cut])
            window_ends.append(len(batches))
        return _plan(batches, window_ends, self._lanes(index), self.parts, places)

    def _sorted_plan(self, index: DurationIndex, numbers: np.ndarray, places: np.ndarray) -> EpochPlan:
        """From the shortest utterance to the longest."""
        order = numbers[np.argsort(index.seconds[numbers], kind="stable")]
        steps = self._cut(order, index.seconds[order], self.parts) if len(order) else []
        held = np.cumsum([index.sizes[step].sum(dtype=np.int64) for step in steps], dtype=np.int64)
        ends = np.flatnonzero(np.diff(held // self._window)) + 1
        return _plan([[step] for step in steps], [*ends.tolist(), len(steps)][: len(steps)], 1, self.parts, places)

    def _lanes(self, index: DurationIndex) -> int:
        """Stretches of the data that are read at the same time: one for each part, if that saves reading."""
        return self.parts if len(index) >= ROW_GROUP * self.parts else 1

    def _windows_of_lanes(self, index: DurationIndex, numbers: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Of each window what each lane holds, from the utterances in the order in which they are read.

        The lanes are equally long, in seconds if batches are, and all move on at the same speed.
        """
        amounts = np.ones(len(numbers))
        if self.batch_seconds:
            amounts = np.maximum(index.seconds[numbers], SHORTEST).astype(np.float64)
        lanes = self._lanes(index)
        places = (np.cumsum(amounts) - amounts / 2) * lanes / amounts.sum() if len(numbers) else amounts
        lane_of = places.astype(np.int64)
        together = np.argsort(places - lane_of, kind="stable")
        window_of = np.empty_like(lane_of)
        window_of[together] = (np.cumsum(index.sizes[numbers[together]], dtype=np.int64) - 1) // self._window
        group = window_of * lanes + lane_of
        order = np.argsort(group, kind="stable")
        group = group[order]
        for window in np.unique(window_of):
            ends = np.searchsorted(group, window * lanes + np.arange(lanes + 1))
            yield [numbers[order[start:end]] for start, end in zip(ends, ends[1:])]

    def _batches(
        self, numbers: np.ndarray, index: DurationIndex, parts: int, generator: np.random.Generator
    ) -> list[np.ndarray]:
        """What a lane holds, drawn at random: for each step the utterances of so many of its parts."""
        if not self.batch_seconds:
            numbers = generator.permutation(numbers)
        else:
            lengths = index.seconds[numbers] * generator.uniform(1 - JITTER, 1 + JITTER, len(numbers))
            numbers = numbers[np.argsort(lengths, kind="stable")]
        return self._cut(numbers, index.seconds[numbers], parts)

    @property
    def _window(self) -> int:
        """Bytes of one window: while it is worked on, the next is read."""
        return max(1, self.memory // 2)

    def fingerprint(self, index: DurationIndex) -> str:
        """Equal where the plans of all epochs are."""
        digest = hashlib.sha256(repr(self).encode())
        if self._lanes(index) > 1:  # before there were lanes, the plan was another one
            digest.update(b"lanes")
        for field in fields(index):
            digest.update(np.ascontiguousarray(getattr(index, field.name)))
        return digest.hexdigest()[:16]

    def _cut(self, numbers: np.ndarray, seconds: np.ndarray, parts: int) -> list[np.ndarray]:
        """Steps of so many parts from utterances of these lengths, which are sorted, or nearly so; at least one step."""
        if not self.batch_seconds:
            size = self.batch_size * parts
            return np.split(numbers, range(size, len(numbers), size))
        ends, count, longest = [], 0, 0.0
        for place, length in enumerate(seconds.tolist()):
            longest = max(longest, length)
            if count and math.ceil((count + 1) / parts) * longest > self.batch_seconds:
                ends.append(place)
                count, longest = 0, length
            count += 1
        return np.split(numbers, ends)


def _plan(
    batches: list[list[np.ndarray]], window_ends: list[int], lanes: int, parts: int, shard_places: np.ndarray
) -> EpochPlan:
    flat = [own for step in batches for own in step]
    ends = np.cumsum([len(own) for own in flat], dtype=np.int64).reshape(-1, lanes)
    order = np.concatenate([*flat, np.array([], dtype=np.int64)])
    return EpochPlan(order, ends, np.array(window_ends, dtype=np.int64), parts, shard_places)


def _repeated(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each number as often as its weight says: 2.5 is twice, and for every other one, drawn anew, once more."""
    times = np.floor(weights).astype(np.int64)
    times += generator.random(len(weights)) < weights - times
    return np.repeat(np.arange(len(weights)), times)
