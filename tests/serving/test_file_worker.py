"""The process for files, as the event loop sees it."""

import asyncio
import contextlib
import multiprocessing
import time
from multiprocessing.connection import Connection

import pytest

from modeling_deepspeech2.serving import files
from modeling_deepspeech2.serving.limits import Limits


def work(connection: Connection, *_: object) -> None:
    """Takes half a second for a file, or stops when its client leaves."""
    connection.send(("ready", None))
    with contextlib.suppress(EOFError, OSError):
        while True:
            if connection.recv() is not None:
                answer = ("abandoned", None) if connection.poll(0.5) else ("done", 0.0)
                connection.send(answer)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the process is forked here")
def test_clients_that_leave_do_not_block_those_that_stay(monkeypatch):
    """Two threads once read the answers after a client had left, and took them from one another: nobody was served again."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(files, "_work", work)
    monkeypatch.setattr(files.multiprocessing, "get_context", lambda _: fork)

    async def main() -> None:
        worker = files.FileWorker({}, Limits())

        async def upload() -> None:
            async for _ in worker.transcribe(files.Job("model", b"file")):
                pass

        for seconds in [0.0, 0.001, 0.01] + 20 * [0.05]:
            client = asyncio.create_task(upload())
            await asyncio.sleep(seconds)
            client.cancel()
            await asyncio.wait([client], timeout=20)
            assert client.cancelled()
        start = time.monotonic()
        await asyncio.wait_for(upload(), 20)
        assert time.monotonic() - start > 0.4  # its own answer, not that of a client before
        worker.stop()

    asyncio.run(main())
