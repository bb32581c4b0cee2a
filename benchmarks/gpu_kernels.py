"""Compiles the recurrence's kernels for an H100, without one, and prints what each takes of a multiprocessor.

    python -m benchmarks.gpu_kernels

A thread has 255 registers at most; one that is spilled is a trip to memory at every use. Two programs of the allowed size
run side by side on one multiprocessor. The compiler and the tools come with Triton.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


os.environ["DEEPSPEECH2_REGISTER"] = "later"  # the kernels need none of transformers

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from modeling_deepspeech2 import batch_norm_rnn_triton as kernels  # noqa: E402


HOPPER = GPUTarget("cuda", 90, 32)
REGISTERS, RESERVED = 255, 1024  # of a thread; bytes of shared memory that the driver takes for each program
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
NUMBERS = {"first_step": "i32", "last_step": "i32", "num_steps": "i32", "total": "i32", "hidden": "i32", "clip": "fp32"}
COUNTERS = {"offsets": "*i64", "arrivals": "*i64"}


class Resources(NamedTuple):
    """What a compiled kernel takes; bytes, and products by tensor cores in its code."""

    kernel: str
    units: int
    registers: int
    spilled: int
    shared: int
    tensor_core_products: int


def compile_kernel(name: str, unit: str, block_units: int) -> Resources:
    """One kernel as it is launched for widths that are multiples of 16."""
    kernel = getattr(kernels, f"{name}_kernel")
    constants = {
        "GATES": GATES[unit], "TANH": False, "PRECISION": kernels.PRECISION,
        "BLOCK_ROWS": kernels.BLOCK_ROWS, "BLOCK_UNITS": block_units, "BLOCK_SUM": kernels.BLOCK_SUM,
    }  # fmt: skip
    types = {
        argument: "constexpr" if argument in constants else (NUMBERS | COUNTERS).get(argument, "*fp32")
        for argument in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (argument, kind) in enumerate(types.items())
        if kind.startswith("*") or argument == "hidden"
    }
    options = {"num_warps": kernels.NUM_WARPS, "launch_cooperative_grid": True}  # Triton 3.3 or newer
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=HOPPER, options=options)
    usage = resource_usage(compiled.asm["cubin"])
    return Resources(
        f"{unit}, {name}",
        block_units,
        usage["REG"],
        usage["STACK"] + usage["LOCAL"],
        compiled.metadata.shared,
        compiled.asm["ptx"].count("wgmma.mma_async"),
    )


def resource_usage(binary: bytes) -> dict[str, int]:
    """What NVIDIA's own tool says of a kernel, by its names: REG, STACK, LOCAL, …"""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "kernel.cubin").write_bytes(binary)
        text = subprocess.run([tool, "--dump-resource-usage", file], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def all_resources() -> Iterator[Resources]:
    for unit in GATES:
        for name in ("forward", "backward"):
            for block_units in kernels.UNITS_OF_A_PROGRAM:
                yield compile_kernel(name, unit, block_units)


def main() -> None:
    print(f"Triton {triton.__version__}, sm_90, products in {kernels.PRECISION}\n")
    print("| kernel | units a program | registers a thread | spilled bytes | shared memory, bytes | tensor core products |")
    print("| --- " + "| ---: " * 5 + "|")
    misfits = []
    for found in all_resources():
        print("| " + " | ".join(str(value) for value in found) + " |", flush=True)
        too_large = found.registers > REGISTERS or found.shared + RESERVED > kernels.SHARED_MEMORY
        if too_large or found.spilled or not found.tensor_core_products:
            misfits.append(found.kernel)
    if misfits:
        sys.exit(f"These kernels spill, are too large or use no tensor cores: {', '.join(misfits)}.")


if __name__ == "__main__":
    main()
