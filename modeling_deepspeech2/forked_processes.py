"""Decodes on several cores in forked processes, which share language models instead of copying them."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from .errors import UserError


_function: Callable[..., Any] | None = None


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_forked(function: Callable[..., Any], jobs: Sequence[tuple], num_processes: int | None = None) -> list[Any]:
    """`function(*job)` of each job, in order.

    Args:
        function: anything that computes without torch, whose threads do not survive a fork; it is not copied.
        jobs: its arguments, which are.
        num_processes: None: all cores. Where the system is not Linux, all is done in this process.

    Raises:
        UserError: one of the processes was killed.
    """
    if num_processes is None:
        num_processes = available_cores()
    num_processes = min(num_processes, len(jobs)) if sys.platform == "linux" else 1
    if num_processes <= 1:
        return [function(*job) for job in jobs]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_processes, context, _take, (function,)) as pool:
        try:
            return [job.result() for job in [pool.submit(_call, *job) for job in jobs]]
        except BrokenProcessPool as error:
            raise UserError(
                f"One of the {num_processes} processes that decode was killed, most likely for lack of memory: use fewer."
            ) from error


def _take(function: Callable[..., Any]) -> None:
    """In a process of its own."""
    global _function
    _function = function


def _call(*job: Any) -> Any:
    assert _function is not None
    return _function(*job)
