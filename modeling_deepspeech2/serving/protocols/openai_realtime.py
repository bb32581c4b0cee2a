"""The websocket `/v1/realtime` of the OpenAI API, for transcription sessions.

Samples arrive as base64 in `input_audio_buffer.append`. With turn detection, which is on unless a session sets it to null, a
pause ends an item; without it, `input_audio_buffer.commit` does. The text of an item is sent in deltas that are never
retracted. Rates other than 24,000 Hz, and `hotwords` beside the name of the model, are extensions.
"""

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import itertools
import logging
import secrets
from dataclasses import dataclass
from typing import Any

import anyio
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from ..dispatcher import Update
from ..limits import Refusal, check_hotwords, check_rate
from ..service import ServedModel, Service
from ..session import Session
from .openai_files import error_body
from .websockets import parse, receive, send, serving


DEFAULT_RATE = 24_000  # hertz
TRANSCRIPTION = "conversation.item.input_audio_transcription"
router = APIRouter()
logger = logging.getLogger(__name__)


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=websocket.scope.get("accepted_subprotocol"))
    await _Connection(websocket, websocket.app.state.service).serve()


@dataclass(frozen=True)
class _Settings:
    """What `session.update` can change."""

    model: ServedModel
    rate: int = DEFAULT_RATE
    has_turns: bool = True
    pause: float = 0.8  # seconds that end a turn
    hotwords: dict[str, float] | None = None


class _Connection:
    def __init__(self, websocket: WebSocket, service: Service):
        self.websocket, self.service, self.limits = websocket, service, service.limits
        self.settings: _Settings
        self.session: Session | None = None
        self.before = 0.0  # seconds of audio before this stream
        self.news, self.turn = asyncio.Event(), anyio.Lock()
        self.item: str | None = None  # the one under way
        self.previous: str | None = None
        self.sent = ""  # of its text
        self.held: list[str] = []  # texts of its utterances that are over, without turn detection
        self.number = itertools.count(1)

    async def serve(self) -> None:
        reporter = asyncio.create_task(self._report_news())
        try:
            async with serving(self.websocket, self.service, self._tell, self._commit_rest):
                self.settings = _Settings(self.service.find(self.websocket.query_params.get("model"), live=True))
                await self._send("session.created", session=self._described())
                while True:
                    await self._handle(await receive(self.websocket, self.limits.idle_seconds))
        finally:
            reporter.cancel()
            self._close()

    async def _handle(self, message: str | bytes) -> None:
        """Handles one event of the client; errors in it are reported, and the connection stays open."""
        event: dict[str, Any] = {}
        try:
            event = parse(message)
            kind = event.get("type")
            if kind == "input_audio_buffer.append":
                await self._append(event.get("audio"))
            elif kind == "input_audio_buffer.commit":
                async with self.turn:
                    await self._commit()
            elif kind == "input_audio_buffer.clear":
                async with self.turn:
                    self.before += 0.0 if self.session is None else self.session.seconds
                    self._close()
                    self.item, self.sent, self.held = None, "", []
                await self._send("input_audio_buffer.cleared")
            elif kind in ("session.update", "transcription_session.update"):
                self._configure(event.get("session"))
                await self._send(kind + "d", session=self._described())
            else:
                raise Refusal(f"type: found {str(kind)[:60]!r}, which a transcription session does not have.", param="type")
        except Refusal as refusal:
            if refusal.close_code != 1008:
                raise
            self.service.refused(refusal)
            await self._tell(refusal, str(event.get("event_id", ""))[:100] or None)

    async def _append(self, audio: object) -> None:
        try:
            content = base64.b64decode(audio, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise Refusal("audio: expected base64 of 16-bit samples.", "no_audio", param="audio") from error
        if self.session is None:
            settings = self.settings
            self.session = self.service.session(
                settings.model, settings.rate, hotwords=settings.hotwords, end_of_utterance=settings.pause, news=self.news
            )
        await self.session.put(content)

    def _configure(self, session: object) -> None:
        """Changes what the session names, and nothing if something in it is wrong."""
        if self.session is not None:
            raise Refusal("session.update: found it after audio, expected it before, or after a commit or clear.")
        session = _object(session, "session")
        if session.get("type", "transcription") != "transcription":
            raise Refusal("session.type: this server has sessions of the type 'transcription' only.", param="session.type")
        audio = _object(_object(session.get("audio"), "audio").get("input"), "audio.input")
        is_beta = "input_audio_format" in session or "input_audio_transcription" in session
        wanted = session.get("input_audio_transcription") if is_beta else audio.get("transcription")
        wanted = _object(wanted, "transcription")
        form = _object(audio.get("format"), "format")
        kind = session.get("input_audio_format", "pcm16") if is_beta else form.get("type", "audio/pcm")
        if kind not in ("audio/pcm", "pcm16"):
            raise Refusal(f"format: found {str(kind)[:40]!r}, expected 16-bit PCM.", param="session.audio.input.format")
        changes: dict[str, Any] = {}
        if "rate" in form:
            changes["rate"] = check_rate(form["rate"], self.limits)
        name, language = _text(wanted, "model"), _text(wanted, "language")
        if name or language:
            changes["model"] = self.service.find(name, live=True, language=language)
        if "hotwords" in wanted:
            changes["hotwords"] = check_hotwords(wanted["hotwords"], self.limits)
        for holder in (session, audio):
            if "turn_detection" in holder:
                detection = _object(holder["turn_detection"], "turn_detection")
                changes["has_turns"] = holder["turn_detection"] is not None
                changes["pause"] = _seconds_of_silence(detection)
        settings = dataclasses.replace(self.settings, **changes)
        settings.model.check_hotwords(settings.hotwords)
        self.settings = settings

    def _described(self) -> dict:
        settings, detection = self.settings, None
        if settings.has_turns:
            detection = {"type": "server_vad", "silence_duration_ms": round(1000 * settings.pause)}
        audio = {
            "format": {"type": "audio/pcm", "rate": settings.rate},
            "transcription": {"model": settings.model.name, "language": settings.model.language},
            "turn_detection": detection,
        }
        return {"type": "transcription", "object": "realtime.transcription_session", "audio": {"input": audio}}

    # Text

    async def _report_news(self) -> None:
        """Ends with the connection; what goes wrong here ends it, for no text would come any more."""
        try:
            while True:
                await self.news.wait()
                self.news.clear()
                async with self.turn:
                    if self.session is not None:
                        await self._report(self.session.take())
        except WebSocketDisconnect:
            return
        except Refusal as error:  # the client does not read, or the stream broke off
            refusal = error
        except Exception:
            logger.exception("The text of a stream could not be reported")
            refusal = Refusal("The stream could not be transcribed.", "failed", 500, 1011)
        self.service.refused(refusal)
        await self._tell(refusal)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it is closed
            await self.websocket.close(refusal.close_code)

    async def _report(self, update: Update) -> None:
        for utterance in update.ended:
            if self.settings.has_turns:
                await self._begin_item(utterance.words[0].start)
                end = round(1000 * (self.before + utterance.words[-1].end))
                await self._send("input_audio_buffer.speech_stopped", audio_end_ms=end, item_id=self.item)
                await self._end_item(utterance.text)
            else:
                self.held.append(utterance.text)
                await self._begin_item()
                await self._send_delta(self.settings.model.between.join(self.held))
        if update.text.stable:
            await self._begin_item(update.start)
            await self._send_delta(self.settings.model.between.join([*self.held, update.text.stable]))

    async def _begin_item(self, start: float | None = None) -> None:
        if self.item is None:
            self.item = f"item_{secrets.token_hex(8)}"
            if self.settings.has_turns:
                begin = round(1000 * (self.before + (self.session.seconds if start is None else start)))
                await self._send("input_audio_buffer.speech_started", audio_start_ms=begin, item_id=self.item)

    async def _send_delta(self, text: str) -> None:
        if len(text) > len(self.sent):
            await self._send(f"{TRANSCRIPTION}.delta", item_id=self.item, content_index=0, delta=text[len(self.sent) :])
            self.sent = text

    async def _end_item(self, text: str) -> None:
        await self._send("input_audio_buffer.committed", item_id=self.item, previous_item_id=self.previous)
        await self._send_delta(text)
        usage = {"type": "duration", "seconds": round(self.session.seconds, 2)}
        await self._send(f"{TRANSCRIPTION}.completed", item_id=self.item, content_index=0, transcript=text, usage=usage)
        self.previous, self.item, self.sent, self.held = self.item, None, "", []

    async def _commit(self) -> None:
        """Makes an item of the audio so far, regardless of pauses."""
        if self.session is None or self.session.seconds == 0:
            message = "The buffer is empty: append audio before a commit."
            raise Refusal(message, "input_audio_buffer_commit_empty")
        update = await self.session.finish()
        await self._report(update)
        if self.item is not None or not self.settings.has_turns or not update.ended:
            await self._begin_item()
            await self._end_item(self.settings.model.between.join(self.held))
        self.before += self.session.seconds
        self._close()

    async def _commit_rest(self) -> None:
        async with self.turn:
            if self.session is not None and self.session.seconds:
                await self._commit()

    def _close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    async def _send(self, kind: str, **content: Any) -> None:
        event = {"type": kind, "event_id": f"event_{next(self.number)}", **content}
        await send(self.websocket, event, self.limits.patience_seconds)

    async def _tell(self, refusal: Refusal, event_id: str | None = None) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it is closed
            await self._send("error", error={**error_body(refusal), "event_id": event_id})


def _object(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(f"{name}: expected an object.", param=name)
    return value


def _text(holder: dict[str, Any], field: str) -> str | None:
    value = holder.get(field)
    if value is not None and not isinstance(value, str):
        raise Refusal(f"{field}: expected text.", param=field)
    return value


def _seconds_of_silence(detection: dict[str, Any]) -> float:
    silence = detection.get("silence_duration_ms")
    silence = 800 if silence is None else silence
    if isinstance(silence, bool) or not isinstance(silence, (int, float)) or not 100 <= silence <= 10_000:
        raise Refusal("silence_duration_ms: expected a number from 100 to 10000.", param="turn_detection")
    return silence / 1000
