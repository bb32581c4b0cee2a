"""The Wyoming protocol over TCP, which voice assistants speak: describe, transcribe, samples, and a transcript.

The protocol has no authentication, so this port listens on the loopback address only.
"""

import asyncio
import contextlib
import logging
from typing import Any

import anyio
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info

from ..limits import Refusal, check_hotwords
from ..service import ServedModel, Service
from ..session import Session


HOST = "127.0.0.1"
WEIGHT = 5.0  # of the names and terms that a client sends
logger = logging.getLogger(__name__)


async def start(service: Service, port: int) -> asyncio.Server:
    """Listens; port 0 takes any that is free."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Connection(service, reader, writer).serve()

    return await asyncio.start_server(connected, HOST, port)


class _TooLarge(Exception):
    """Not a ValueError, which `async_read_event` keeps to itself."""


class _BoundedReader:
    """A stream of which no event may take more than `largest` bytes, whatever its header says."""

    def __init__(self, reader: asyncio.StreamReader, largest: int):
        self.reader, self.largest, self.is_over = reader, largest, False

    async def readline(self) -> bytes:
        line = await self.reader.readline()  # which asyncio bounds
        self.is_over = not line
        return line

    async def readexactly(self, size: int) -> bytes:
        if not isinstance(size, int) or not 0 <= size <= self.largest:
            raise _TooLarge(f"found an event of {size} bytes, expected at most {self.largest}.")
        return await self.reader.readexactly(size)


class _Connection:
    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.service, self.limits, self.writer = service, service.limits, writer
        self.reader: Any = _BoundedReader(reader, self.limits.max_message_bytes)
        self.model: ServedModel | None = None
        self.session: Session | None = None
        self.texts: list[str] = []
        self.hotwords: dict[str, float] | None = None

    async def serve(self) -> None:
        try:
            with self.service.connection():
                try:
                    while await self._handle(await self._read()):
                        pass
                except asyncio.CancelledError:
                    if not self.service.is_ending:
                        raise
                    asyncio.current_task().uncancel()
                    await self._finish()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Refusal as refusal:
            await self._tell(refusal)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # not as the protocol has it
            await self._tell(Refusal("The event is not as the Wyoming protocol has it.", "no_json"))
        except Exception:
            logger.exception("A Wyoming connection failed")
            await self._tell(Refusal("The stream could not be transcribed.", "failed"))
        finally:
            self._close()
            self.writer.close()

    async def _read(self) -> Event | None:
        try:
            with anyio.fail_after(self.limits.idle_seconds):
                event = await async_read_event(self.reader)
        except TimeoutError as error:
            raise Refusal(f"Nothing came for {self.limits.idle_seconds:g} seconds.", "idle") from error
        except _TooLarge as error:
            raise Refusal(str(error), "too_large") from error
        if event is None and not self.reader.is_over:
            raise ValueError("no JSON")
        return event

    async def _handle(self, event: Event | None) -> bool:
        """Whether more may come; unknown events are passed over, as the protocol wants."""
        if event is None:
            return False
        if Describe.is_type(event.type):
            await self._write(self._info().event())
        elif Transcribe.is_type(event.type):
            wanted = Transcribe.from_event(event)
            self.model = self.service.find(wanted.name, live=True, language=wanted.language)
            self.hotwords = self._usable([*(wanted.transcript_names or []), *(wanted.transcript_terms or [])])
        elif AudioStart.is_type(event.type):
            if self.session is not None:
                raise Refusal("audio-start: found it twice, expected audio-stop before the second.")
            self._open(AudioStart.from_event(event))
        elif AudioChunk.is_type(event.type):
            await self._put(AudioChunk.from_event(event))
        elif AudioStop.is_type(event.type):
            await self._finish()
        return True

    def _usable(self, words: list) -> dict[str, float] | None:
        """Those of a client's names and terms that the model can prefer; they are hints, and the others are passed over."""
        usable: dict[str, float] = {}
        for word in words[: self.limits.max_hotwords]:
            with contextlib.suppress(Refusal):
                own = check_hotwords({str(word): WEIGHT}, self.limits)
                self.model.check_hotwords(own)
                usable |= own
        if len(usable) < len(words):
            logger.info("%d of %d names and terms are passed over", len(words) - len(usable), len(words))
        return usable or None

    def _open(self, audio: AudioStart | AudioChunk) -> None:
        if audio.width != 2 or audio.channels != 1:
            raise Refusal(f"audio: found {audio.channels} channels of {audio.width} bytes, expected 1 of 2.", "wrong_rate")
        self.model = self.model or self.service.find(None, live=True)
        self.session, self.texts = self.service.session(self.model, audio.rate, hotwords=self.hotwords), []

    async def _put(self, chunk: AudioChunk) -> None:
        if self.session is None:
            raise Refusal("audio-chunk: expected audio-start before it.")
        if (chunk.rate, chunk.width, chunk.channels) != (self.session.rate, 2, 1):
            raise Refusal("audio-chunk: expected the format of audio-start.", "wrong_rate")
        await self.session.put(chunk.audio)
        self.texts += [one.text for one in self.session.take().ended]

    async def _finish(self) -> None:
        if self.session is None:
            return
        self.texts += [one.text for one in (await self.session.finish()).ended]
        self._close()
        text, language = self.model.between.join(self.texts), self.model.language
        await self._write(TranscriptStart(language=language).event())
        await self._write(TranscriptChunk(text=text).event())
        await self._write(Transcript(text=text, language=language).event())
        await self._write(TranscriptStop().event())

    def _close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    async def _write(self, event: Event) -> None:
        try:
            with anyio.fail_after(self.limits.patience_seconds):
                await async_write_event(event, self.writer)
        except TimeoutError as error:
            raise Refusal("The answers are not read.", "not_read") from error

    async def _tell(self, refusal: Refusal) -> None:
        self.service.refused(refusal)
        with contextlib.suppress(ConnectionError, Refusal):
            await self._write(Error(text=str(refusal), code=refusal.reason).event())

    def _info(self) -> Info:
        facts = {"installed": True, "version": None, "attribution": Attribution(name="Deep Speech 2", url="")}
        models = [
            AsrModel(name=one.name, description=one.name, languages=[one.language] if one.language else [], **facts)
            for one in self.service.models.values()
            if one.dispatcher is not None
        ]
        name = "deepspeech2"
        program = AsrProgram(name=name, description=name, models=models, supports_transcript_streaming=True, **facts)
        return Info(asr=[program])
