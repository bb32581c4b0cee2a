"""Settings of the processor, torch and the C library for training, and their description in the run's record."""

import contextlib
import ctypes
import os
import platform
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs, set_seed
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from ..data.processes import available_cores
from ..errors import UserError
from .arguments import RunArguments


PROCESS_GROUP_TIMEOUT = timedelta(hours=3)  # one process measures the durations of a large data set while all wait
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1


def start_accelerator(arguments: RunArguments) -> Accelerator:
    """Accelerate, with threads, precision and seeds as the run asks for them.

    Raises:
        UserError: bf16 on a processor that only emulates it.
    """
    accelerator = Accelerator(
        mixed_precision=arguments.mixed_precision,
        log_with=None if arguments.report_to == "none" else arguments.report_to,
        project_dir=arguments.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT)],
    )
    keep_float32_when_sharded(accelerator)
    set_seed(arguments.seed)
    keep_freed_memory()
    if accelerator.device.type == "cpu":
        if accelerator.mixed_precision == "bf16" and emulates_bf16(torch.backends.cpu.get_cpu_capability()):
            raise UserError(
                "mixed_precision: found bf16, but this processor would be tens of times slower with it; "
                "use --mixed_precision=no."
            )
        set_threads(arguments.dataloader_num_workers)
        if waits_beside_others():
            accelerator.print(
                "Other programs keep the cores busy: with OMP_WAIT_POLICY=PASSIVE in the environment, the threads of this "
                "one leave a core to others while they wait for each other."
            )
    torch.set_float32_matmul_precision(arguments.float32_precision)
    return accelerator


def keep_float32_when_sharded(accelerator: Accelerator) -> None:
    """Mixed precision of sharded parameters (FSDP 2) is autocast within the model, as it is everywhere else.

    Accelerate would have FSDP cast everything to bf16 beforehand: the weights of the recurrence, BatchNorm and the loss.
    """
    plugin = accelerator.state.fsdp_plugin if accelerator.distributed_type == DistributedType.FSDP else None
    if plugin is not None and plugin.fsdp_version == 2:
        plugin.mixed_precision_policy = MixedPrecisionPolicy()


def spare_exchanges(model: torch.nn.Module) -> None:
    """Switches off what DDP would move in every step for nothing.

    Lengths and labels stay on the CPU, where the model reads them: it would wait for them to come back from the GPU. The
    buffers are not exchanged: they are running averages of the same global statistics in every process.
    """
    if isinstance(model, DistributedDataParallel):
        model.device_ids = None
        model.broadcast_buffers = False  # as an argument, torch 2.13 warns of it


def set_threads(num_workers: int) -> None:
    """Threads of this process: what OMP_NUM_THREADS says, else its share of the cores less those of the data workers.

    `accelerate launch` sets OMP_NUM_THREADS to 1 when nobody has set it, so that under it only other numbers count.
    """
    threads = threads_asked_for()
    if threads > 1 or (threads == 1 and "ACCELERATE_MIXED_PRECISION" not in os.environ):
        return
    torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - num_workers))


def waits_beside_others() -> bool:
    """Whether threads of this process wait for each other by keeping cores busy that other programs use as well.

    That is how GNU OpenMP waits by itself: several times as long as one thread would take.
    """
    is_chosen = os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    if is_chosen or not hasattr(os, "getloadavg"):
        return False
    threads = torch.get_num_threads()
    return threads > 1 and os.getloadavg()[0] + threads > available_cores() + 1  # 1: this process, until now


def threads_asked_for() -> int:
    """The number in OMP_NUM_THREADS; of a list such as "4,2", one for each level of nesting, the first; else 0."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def emulates_bf16(capability: str) -> bool:
    """Whether a processor of this capability, as torch calls it, is x86 without AVX-512: bf16 is 50 times slower there."""
    return platform.machine() in ("x86_64", "AMD64") and capability in ("DEFAULT", "AVX2")


def keep_freed_memory() -> None:
    """Freed memory is used again by this process instead of going back to the system; without glibc nothing happens.

    glibc returns every block above 32 MB to the system as soon as it is freed, and at the next step the system hands it
    out again page by page. The large tensors of speech pay for that at every training step on a CPU.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, NEVER)


def return_freed_memory() -> None:
    """Gives back to the system what `keep_freed_memory` has kept so far: before others are forked from this process.

    Each of them would otherwise end up with all of it, as what this process writes to is copied for them first.
    """
    with contextlib.suppress(OSError, AttributeError):  # without glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_lost_process(error: RuntimeError) -> bool:
    """Whether a collective operation failed because another process of the run has ended."""
    # Gloo has no error of its own class.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def describe(accelerator: Accelerator) -> dict[str, str | int]:
    """The hardware of a run and how it is used, for the record."""
    return {
        "device": accelerator.device.type,
        "name": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else processor_name(),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "float32_precision": torch.get_float32_matmul_precision(),
        "mixed_precision": accelerator.mixed_precision,
    }


def processor_name() -> str:
    """Such as "AMD EPYC 9R14"."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
