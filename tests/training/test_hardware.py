"""Training keeps its memory: a large tensor takes the place of the one before it without a page fault for every page."""

import subprocess
import sys

import pytest


FAULTS = """
import resource, sys
import torch
from modeling_deepspeech2.training.hardware import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(64 * 2**20 // 4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_freed_memory_is_used_again():
    """64 MB are at least 32 pages, huge ones where the system deals in them; after a few rounds none is faulted in again."""

    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True).stdout)

    if faults("give back") < 32:
        pytest.skip("this C library keeps large blocks by itself")
    assert faults("keep") < 32
