"""The process for files, as the event loop sees it: clients leave, it is killed, it stalls, and the next file is served."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import pytest

from modeling_deepspeech2.serving import files
from modeling_deepspeech2.serving.files import FileWorker, Job
from modeling_deepspeech2.serving.limits import Limits, Refusal


pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the process is forked here")


def work(connection: Connection, *_: object) -> None:
    """Takes half a second for a file, or stops when its client leaves; some files are its end."""
    connection.send(("ready", None))
    with contextlib.suppress(EOFError, OSError):
        while True:
            job = connection.recv()
            if job is None:
                continue
            if job.content == b"a deadly file":
                os.kill(os.getpid(), signal.SIGKILL)
            elif job.content == b"a file without end":
                time.sleep(60)
            elif job.content == b"a talk":
                for number in range(3):
                    connection.send(("utterance", number))
                connection.send(("done", 0.0))
            else:
                answer = ("abandoned", None) if connection.poll(0.5) else ("done", 0.0)
                connection.send(answer)


def with_a_worker(monkeypatch, test, limits: Limits | None = None, target=work) -> None:
    """Runs a test with a process that has no models."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(files, "_work", target)
    monkeypatch.setattr(files.multiprocessing, "get_context", lambda _: fork)

    async def run() -> None:
        worker = FileWorker({}, limits or Limits())
        try:
            await asyncio.wait_for(test(worker), 240)
        finally:
            worker.process.kill()  # being forked, it does not see that its pipe is closed
            worker.stop()

    asyncio.run(run())


async def upload(worker: FileWorker, content: bytes = b"file") -> list:
    return [utterance async for utterance in worker.transcribe(Job("model", content))]


def test_clients_that_leave_do_not_block_those_that_stay(monkeypatch):
    """Two threads once read the answers after a client had left, and took them from one another: nobody was served again."""

    async def leave(worker: FileWorker) -> None:
        for seconds in [0.0, 0.001, 0.01] + 10 * [0.05]:
            client = asyncio.create_task(upload(worker))
            await asyncio.sleep(seconds)
            client.cancel()
            await asyncio.wait([client], timeout=60)
            assert client.cancelled()
        start = time.monotonic()
        await asyncio.wait_for(upload(worker), 60)
        assert time.monotonic() - start > 0.4  # its own answer, not that of a client before

    with_a_worker(monkeypatch, leave)


def test_a_process_that_was_killed_is_started_again(monkeypatch):
    """Killed by a file: that file is refused. Killed while it waits, as for want of memory: no file is refused."""

    async def kill(worker: FileWorker) -> None:
        with pytest.raises(Refusal, match="could not be transcribed") as refused:
            await upload(worker, b"a deadly file")
        assert refused.value.status == 500
        assert await upload(worker, b"a talk") == [0, 1, 2]
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.join()
        assert await upload(worker, b"a talk") == [0, 1, 2]
        assert worker.waiting == 0

    with_a_worker(monkeypatch, kill)


def test_a_process_that_stalls_is_killed(monkeypatch):
    """A reader that never returns holds up the files behind it for a while, not for ever; leaving it helps, too."""
    monkeypatch.setattr(files, "STALLED_SECONDS", 1.0)

    async def stall(worker: FileWorker) -> None:
        stalled = asyncio.create_task(upload(worker, b"a file without end"))
        behind = asyncio.create_task(upload(worker, b"a talk"))
        with pytest.raises(Refusal, match="could not be transcribed"):
            await stalled
        assert await behind == [0, 1, 2]
        leaving = asyncio.create_task(upload(worker, b"a file without end"))
        await asyncio.sleep(0.1)
        leaving.cancel()
        assert await upload(worker, b"a talk") == [0, 1, 2]

    with_a_worker(monkeypatch, stall)


def test_a_process_that_cannot_load_its_models_ends_the_start(monkeypatch):
    """One sentence with its exit code, and not an end of file."""

    async def start(worker: FileWorker) -> None:
        with pytest.raises(RuntimeError, match="ended with code 3 while it loaded the models"):
            await worker.ready()

    with_a_worker(monkeypatch, start, target=lambda *_: os._exit(3))


def test_who_reads_slowly_keeps_no_other_waiting(monkeypatch):
    """A client of events takes the first one and no more: the next file is served all the same."""

    async def read(worker: FileWorker) -> None:
        slow = worker.transcribe(Job("model", b"a talk"))
        assert await anext(slow) == 0
        assert await upload(worker, b"a talk") == [0, 1, 2]
        assert [utterance async for utterance in slow] == [1, 2]

    with_a_worker(monkeypatch, read)


def test_many_files_at_once(monkeypatch):
    """So many wait, the others are told to come again, and all that waited are served."""

    async def ask(worker: FileWorker) -> None:
        results = await asyncio.gather(*(upload(worker, b"a talk") for _ in range(5)), return_exceptions=True)
        assert [one for one in results if isinstance(one, list)] == 2 * [[0, 1, 2]]
        assert [one.status for one in results if isinstance(one, Refusal)] == 3 * [503]

    with_a_worker(monkeypatch, ask, Limits(max_waiting_files=2))
