"""Runs `run_ctc.py` in a fork of a process that has imported all it needs: each of many short runs saves five seconds.

The fork is of a process without threads that has done nothing else (`multiprocessing`'s fork server), so a run finds what a
new interpreter finds; the script itself is read anew.
"""

import functools
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parent.parent
TIMEOUT = 300  # seconds


def free_port() -> int:
    """One that processes can find each other at."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def become_one_of(processes: int, rank: int, port: int) -> None:
    """Tells this process what a launcher would."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")


@functools.cache
def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["run_ctc", __name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # read on import
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]))
        forkserver.ensure_running()
    return context


def _script(arguments: list[str], output: str, before: Callable[[], object] | None) -> None:
    multiprocessing.set_start_method(None, force=True)  # that of a new interpreter for data workers, too
    file = os.open(output, os.O_WRONLY)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    os.chdir(REPOSITORY)
    if before is not None:
        before()
    sys.argv = [str(REPOSITORY / "run_ctc.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def start_run_ctc_in_a_fork(
    arguments: list[str], output: str, before: Callable[[], object] | None = None
) -> multiprocessing.Process:
    """Offline, on one CPU process.

    Args:
        output: the file for all that is printed.
        before: called in the fork first; a function that can be pickled.
    """
    process = _fork_server().Process(target=_script, args=(arguments, output, before))
    process.start()
    return process


def run_ctc_in_a_fork(arguments: list[str], before: Callable[[], object] | None = None) -> tuple[int, str]:
    """The same to its end -> exit status, and what was printed."""
    with tempfile.NamedTemporaryFile() as output:
        process = start_run_ctc_in_a_fork(arguments, output.name, before)
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"run_ctc.py {' '.join(arguments)}")
        return process.exitcode, Path(output.name).read_text()
