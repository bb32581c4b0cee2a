"""The recurrence's kernels compile for a GPU that is not there, and fit on it."""

import os
import subprocess
import sys

import pytest


pytest.importorskip("triton", minversion="3.3", reason="Triton is not installed, or launches no cooperative kernels")


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler for NVIDIA comes for Linux alone")
def test_kernels_compile_for_hopper_without_spills(tmp_path):
    """The command ends with an error when a kernel spills registers, is too large, or leaves the tensor cores idle."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_kernels"],
        capture_output=True,
        text=True,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if "ward |" in line]
    assert len(rows) == 3 * 2 * 2  # units, ways, sizes of programs
    assert all(int(spilled) == 0 and int(registers) <= 255 for _, _, registers, spilled, *_ in rows)
