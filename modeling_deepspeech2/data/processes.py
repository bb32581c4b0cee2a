"""Distributes work over several processes; results keep the order of the items, and few are in flight at a time."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from .errors import DataError


Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(function: Callable[[Item], Result], items: Iterable[Item], num_processes: int) -> Iterator[Result]:
    """`function` of each item, in order; with one process, in this one.

    Args:
        function: found by its module and name, for the other processes import it.
        num_processes: how many run it; each computes with one thread.

    Raises:
        DataError: a process was killed.
    """
    if num_processes <= 1:
        yield from map(function, items)
        return
    # A fork would copy the threads' locks, but not the threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, context, initializer=torch.set_num_threads, initargs=(1,))
    waiting = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            f"One of {num_processes} worker processes was killed, most often because the memory was full: use fewer "
            f"processes. What the others had finished is kept where the command keeps its parts."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
