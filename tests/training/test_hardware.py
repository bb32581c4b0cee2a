"""Training keeps its memory: a large tensor takes the place of the one before it without a page fault for every page."""

import subprocess
import sys

import pytest
import torch

from modeling_deepspeech2.data.processes import available_cores
from modeling_deepspeech2.training.hardware import set_threads, waits_beside_others


FAULTS = """
import resource, sys
import psutil, torch
from modeling_deepspeech2.training.hardware import keep_freed_memory, return_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(64 * 2**20 // 4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
before = psutil.Process().memory_info().rss
return_freed_memory()
print((before - psutil.Process().memory_info().rss) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_freed_memory_is_used_again():
    """64 MB are at least 32 pages, huge ones where the system deals in them; after a few rounds none is faulted in again.

    Before processes are forked, which would copy them, the pages are returned.
    """

    def measure(mode: str) -> list[float]:
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        return [float(figure) for figure in done.stdout.split()]

    if measure("give back")[0] < 32:
        pytest.skip("this C library keeps large blocks by itself")
    faults, returned = measure("keep")
    assert faults < 32 and returned >= 60


@pytest.mark.parametrize(
    "environment, workers, expected",
    [
        ({}, 0, "all"),
        ({}, 1_000, 1),
        ({"LOCAL_WORLD_SIZE": "1000"}, 0, 1),
        ({"OMP_NUM_THREADS": "3"}, 0, 7),
        ({"OMP_NUM_THREADS": "1"}, 0, 7),
        ({"OMP_NUM_THREADS": "4,2"}, 0, 7),
        ({"OMP_NUM_THREADS": "many"}, 0, "all"),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 0, "all"),
        ({"OMP_NUM_THREADS": "3", "ACCELERATE_MIXED_PRECISION": "no"}, 0, 7),
    ],
)
def test_threads_are_those_that_were_asked_for_or_a_share_of_the_cores(environment, workers, expected, monkeypatch):
    """7: left alone, as torch has read OMP_NUM_THREADS itself. `accelerate launch` sets it to 1 where nobody has."""
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        set_threads(workers)
        assert torch.get_num_threads() == (available_cores() if expected == "all" else expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "load, threads, policy, expected",
    [(0.9, 2, None, False), (3.5, 2, None, True), (3.5, 1, None, False), (3.5, 2, "PASSIVE", False)],
)
def test_threads_that_spin_beside_other_programs_are_named(load, threads, policy, expected, monkeypatch):
    """On two cores; a training that starts there alone hears nothing, nor does one that has chosen how to wait."""
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    monkeypatch.setattr("modeling_deepspeech2.training.hardware.available_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert waits_beside_others() == expected
