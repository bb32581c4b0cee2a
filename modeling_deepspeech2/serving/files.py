"""Transcribes uploaded files in a separate process, so that they neither delay live streams nor endanger the server.

Files arrive as bytes, and soundfile alone reads them: no path, no address and no other program is ever involved.
"""

import asyncio
import contextlib
import io
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import anyio
import numpy as np
import soundfile

from ..audio import AudioError, read_audio_blocks
from ..decoding_deepspeech2 import CTCBeamSearchDecoder, Hypothesis
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..transcription.recordings import transcribe
from .limits import Limits, Refusal, overloaded


BLOCK_SECONDS = 10.0
MOST_CHANNELS = 8
HIGHEST_RATE = 192_000  # hertz; with the channels it bounds the memory of a block
STALLED_SECONDS = 120.0  # without a sign of life, of which there is one for each block

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """A file to transcribe."""

    model: str  # its name
    content: bytes
    hotwords: dict[str, float] | None = None
    seconds: float = field(default=0.0, init=False)  # of audio, known at the end


def read_upload(content: bytes, rate: int, max_seconds: float) -> Iterator[np.ndarray]:
    """The audio of a file in blocks of mono samples at `rate`.

    Raises:
        Refusal: no audio that soundfile knows, or more of it than is allowed; what the header says is checked first, and
            what really comes again.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            frames, own_rate, channels = file.frames, file.samplerate, file.channels
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise Refusal("file: found no audio; expected wav, flac, mp3 or ogg.", "no_audio", 400, param="file") from error
    if not 1_000 <= own_rate <= HIGHEST_RATE or channels > MOST_CHANNELS:
        raise Refusal(
            f"file: found {own_rate} hertz and {channels} channels, expected 1000 to {HIGHEST_RATE} hertz and at most "
            f"{MOST_CHANNELS} channels.",
            "no_audio",
            param="file",
        )
    too_long = Refusal(f"file: expected at most {max_seconds:g} seconds of audio.", "too_long", 413, param="file")
    if frames > max_seconds * own_rate:
        raise too_long
    samples = 0
    for block in read_audio_blocks(content, rate, BLOCK_SECONDS, "file"):
        samples += len(block)
        if samples > max_seconds * rate:
            raise too_long
        yield block


def _work(connection: Connection, folders: dict[str, tuple[str, bool]], limits: Limits) -> None:
    """The worker process: transcribes one job after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it
    with contextlib.suppress(OSError):
        os.nice(5)  # live streams go first
    models: dict[str, Any] = {}
    for name, (folder, has_search) in folders.items():
        processor = DeepSpeech2Processor.from_pretrained(folder)
        decoder = CTCBeamSearchDecoder.from_pretrained(folder, processor.tokenizer) if has_search else None
        models[name] = DeepSpeech2ForCTC.from_pretrained(folder).eval().fold_batch_norm(), processor, decoder
    connection.send(("ready", None))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = connection.recv()
            if job is not None:  # None: a job that was over before its client left
                connection.send(_transcribe(connection, job, *models[job.model], limits))
                job = None


def _transcribe(connection: Connection, job: Job, model: Any, processor: Any, decoder: Any, limits: Limits) -> tuple:
    rate, samples = processor.feature_extractor.sampling_rate, 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in read_upload(job.content, rate, limits.max_file_seconds):
            samples += len(block)
            yield block
            connection.send(("alive", None))
            if connection.poll():
                raise _Abandoned

    try:
        for utterance in transcribe(model, processor, blocks(), decoder, hotwords=job.hotwords):
            connection.send(("utterance", utterance))
    except _Abandoned:
        connection.recv()
        return ("abandoned", None)
    except Refusal as refusal:
        return ("refused", (str(refusal), refusal.reason, refusal.status, refusal.close_code, refusal.param or ""))
    except AudioError as error:
        return ("refused", (str(error), "no_audio", 400, 1008, "file"))
    except ValueError as error:
        if str(error).startswith("hotwords"):
            return ("refused", (str(error), "invalid_request", 400, 1008, "hotwords"))
        logger.exception("A file failed")
        return ("failed", None)
    except Exception:
        logger.exception("A file failed")
        return ("failed", None)
    return ("done", samples / rate)


class _Abandoned(Exception):
    """The client has left."""


class FileWorker:
    """The process, as the server's event loop sees it; it is started again if it dies or stalls.

    Args:
        folders: name -> folder or repository of each model, and whether to use the decoder that is saved there.
    """

    def __init__(self, folders: dict[str, tuple[str, bool]], limits: Limits):
        self.arguments, self.limits = (folders, limits), limits
        self.waiting = 0
        self._lock = asyncio.Lock()
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, *self.arguments), daemon=True, name="files")
        self.process.start()
        other.close()
        self.is_ready = False
        self._message: asyncio.Future[tuple] | None = None  # that is being waited for

    async def ready(self) -> None:
        """Waits until the models are loaded.

        Raises:
            RuntimeError: the process ended before.
        """
        async with self._lock:
            try:
                await self._wait_until_ready()
            except (EOFError, OSError) as error:
                self.process.join()
                code = self.process.exitcode
                raise RuntimeError(f"The process for files ended with code {code} while it loaded the models.") from error

    async def _wait_until_ready(self) -> None:
        if not self.process.is_alive():
            await self._restart()
        if not self.is_ready:
            await self._receive()
            self.is_ready = True

    async def _restart(self) -> None:
        self.process.kill()
        self.process.join()
        logger.error("The process for files died (exit code %s); a new one is started", self.process.exitcode)
        if self._message is not None:  # a thread that reads; it comes to the end
            await asyncio.wait([self._message])
            self._message.exception()
        self.connection.close()
        self._start()

    async def _receive(self) -> tuple:
        """The next message. A wait that is cancelled goes on, and the next call gets what it brings: two threads that read
        at once would take each other's messages."""
        if self._message is None:
            self._message = asyncio.ensure_future(anyio.to_thread.run_sync(self.connection.recv, abandon_on_cancel=True))
        message = await asyncio.shield(self._message)
        self._message = None
        return message

    async def transcribe(self, job: Job) -> AsyncIterator[Hypothesis]:
        """The utterances of a file. They are found as fast as possible: who reads them slowly keeps no other file waiting.

        Raises:
            Refusal: too many files are waiting, the file cannot be used, or the process died of it.
        """
        found: asyncio.Queue[Hypothesis | None] = asyncio.Queue()
        finder = asyncio.create_task(self._find(job, found))
        finder.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (utterance := await found.get()) is not None:
                yield utterance
            await finder
        finally:
            finder.cancel()
            await asyncio.gather(finder, return_exceptions=True)

    async def _find(self, job: Job, found: asyncio.Queue) -> None:
        if self.waiting >= self.limits.max_waiting_files:
            raise overloaded(f"{self.waiting} files are waiting")
        self.waiting += 1
        try:
            async with self._lock:
                try:
                    await self._wait_until_ready()
                    await self._work_on(job, found)
                except (EOFError, OSError) as error:
                    await self._restart()
                    raise Refusal("The file could not be transcribed.", "failed", 500, 1011) from error
        finally:
            self.waiting -= 1

    async def _work_on(self, job: Job, found: asyncio.Queue) -> None:
        is_over = False
        sent = asyncio.ensure_future(anyio.to_thread.run_sync(self.connection.send, job))
        try:
            await asyncio.shield(sent)
            while not is_over:
                kind, value = await self._next_answer()
                is_over = kind not in ("utterance", "alive")
                if kind == "utterance":
                    found.put_nowait(value)
            if kind == "refused":
                raise Refusal(*value)
            if kind != "done":
                raise Refusal("The file could not be transcribed.", "failed", 500, 1011)
            job.seconds = value
        finally:
            if not is_over and self.process.is_alive():
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([sent])
                    await self._abandon()

    async def _next_answer(self) -> tuple:
        """The next message of a process at work; one that says nothing is ended, which raises an OSError."""
        try:
            with anyio.fail_after(STALLED_SECONDS):
                return await self._receive()
        except TimeoutError:
            logger.error("The process for files has stalled")
            self.process.kill()
            self.process.join()
            raise

    async def _abandon(self) -> None:
        """Tells the process that the job was abandoned, and drains its results."""
        with contextlib.suppress(EOFError, OSError):  # the next job finds that the process is gone
            self.connection.send(None)
            while (await self._next_answer())[0] in ("utterance", "alive"):
                pass

    def stop(self) -> None:
        self.connection.close()  # which ends it, if it has no file under way
        self.process.join(2)
        self.process.kill()
        self.process.join()
