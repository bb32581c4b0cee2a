"""`POST /v1/audio/transcriptions` and `GET /v1/models`, as in the OpenAI API.

The field `hotwords`, a JSON object of words and weights, is an extension. Fields that these models cannot use, such as
`prompt` and `temperature`, are accepted and ignored.
"""

import asyncio
import json
import math
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ...decoding_deepspeech2 import Hypothesis
from ...transcription.subtitles import make_cues, srt, vtt
from ..files import Job
from ..limits import Refusal, check_hotwords
from ..service import ServedModel, Service, finite


FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies hand each event on as it comes
router = APIRouter()


class _InMemoryParser(MultiPartParser):
    """The size of a request is limited: no upload goes to the disk, which might be full."""

    spool_max_size = sys.maxsize


@router.get("/v1/models")
async def list_models(request: Request) -> dict:
    service: Service = request.app.state.service
    return {"object": "list", "data": [_described(one) for one in service.models.values()]}


@router.get("/v1/models/{name:path}")
async def show_model(name: str, request: Request) -> dict:
    return _described(request.app.state.service.find(name))


def _described(model: ServedModel) -> dict:
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "local",
        "language": model.language,
        "live": model.dispatcher is not None,
    }


@router.post("/v1/audio/transcriptions")
async def transcribe_file(request: Request) -> Response:
    service: Service = request.app.state.service
    form = await _read_form(request, service)
    model = service.find(_text(form, "model"), language=_text(form, "language"))
    style = _text(form, "response_format") or "json"
    if style not in FORMATS:
        raise Refusal(f"response_format: found {style[:40]!r}, expected {', '.join(FORMATS)}.", param="response_format")
    is_streamed = _read_flag(form, "stream")
    if is_streamed and style not in ("json", "text"):
        raise Refusal(f"response_format: found {style} with stream, expected json or text.", param="response_format")
    granularities = form.getlist("timestamp_granularities[]")
    if any(one not in ("word", "segment") for one in granularities):
        raise Refusal("timestamp_granularities: expected word, segment or both.", param="timestamp_granularities")
    job = Job(model.name, await _read_file(form), _read_hotwords(form, service))
    await form.close()  # the job has the content
    utterances = service.files.transcribe(job)
    if is_streamed:
        async with _watched(request, service):  # before the status is sent: the file may be none
            first = await anext(utterances, None)
        events = _events(service, model, job, first, utterances)
        return StreamingResponse(events, media_type="text/event-stream", headers=UNBUFFERED)
    found = []
    async with _watched(request, service), aclosing(utterances):
        async for utterance in utterances:
            found.append(utterance)
    service.metrics.audio.labels("file").inc(job.seconds)
    return _answer(style, model, found, job.seconds, words="word" in granularities)


async def _read_form(request: Request, service: Service) -> FormData:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refusal("Expected the content type multipart/form-data with a field 'file'.", status=415)
    try:
        with service.connection(), anyio.fail_after(service.limits.upload_seconds):
            parser = _InMemoryParser(request.headers, request.stream(), max_files=1, max_fields=50, max_part_size=65_536)
            return await parser.parse()
    except MultiPartException as error:
        raise Refusal(f"The form cannot be read: {error.message}") from error
    except TimeoutError as error:
        raise Refusal("The request's body did not come in time.", "too_slow", 408) from error
    except ClientDisconnect as error:
        raise Refusal("The client has left.", "left", 499) from error
    except asyncio.CancelledError as error:
        raise _ending(service, error) from error


def _text(form: FormData, field: str) -> str | None:
    value = form.get(field)
    if isinstance(value, UploadFile):
        raise Refusal(f"{field}: found a file, expected text.", param=field)
    return value


async def _read_file(form: FormData) -> bytes:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        found = "text (a path or an address is never opened)" if upload else "nothing"
        raise Refusal(f"file: found {found}, expected the content of an audio file.", "no_audio", param="file")
    content = await upload.read()
    if not content:
        raise Refusal("file: found no bytes, expected the content of an audio file.", "no_audio", param="file")
    return content


def _read_flag(form: FormData, field: str) -> bool:
    value = (_text(form, field) or "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise Refusal(f"{field}: found {value[:40]!r}, expected true or false.", param=field)
    return value in ("true", "1")


def _read_hotwords(form: FormData, service: Service) -> dict[str, float] | None:
    text = _text(form, "hotwords")
    try:
        hotwords = json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise Refusal('hotwords: expected JSON such as {"kitchen": 5}.', param="hotwords") from error
    return check_hotwords(hotwords, service.limits)


@asynccontextmanager
async def _watched(request: Request, service: Service) -> AsyncIterator[None]:
    """Cancels the work for a client that has disconnected."""
    task, has_left = asyncio.current_task(), False

    async def watch() -> None:
        nonlocal has_left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError as error:
        if not has_left:
            raise _ending(service, error) from error
        task.uncancel()
        raise Refusal("The client has left.", "left", 499) from error
    finally:
        watcher.cancel()


def _ending(service: Service, cancelled: asyncio.CancelledError) -> BaseException:
    """What a request ends with that was cancelled: at shutdown, an answer that the client can understand."""
    if not service.is_ending:
        return cancelled
    asyncio.current_task().uncancel()
    return Refusal("The server is ending.", "ending", 503)


def _answer(style: str, model: ServedModel, found: list[Hypothesis], seconds: float, words: bool) -> Response:
    text = model.between.join(one.text for one in found)
    if style == "text":
        return PlainTextResponse(text + "\n")
    if style in ("srt", "vtt"):
        parts = (srt if style == "srt" else vtt)(make_cues(one.words for one in found))
        return PlainTextResponse("".join(parts), media_type="text/vtt" if style == "vtt" else "application/x-subrip")
    usage = {"type": "duration", "seconds": math.ceil(seconds)}
    if style == "json":
        return JSONResponse({"text": text, "usage": usage})
    answer: dict[str, Any] = {
        "task": "transcribe",
        "language": model.language or "",
        "duration": finite(seconds),
        "text": text,
        "segments": [_segment(number, one) for number, one in enumerate(found)],
        "usage": usage,
    }
    if words:
        spans = [span for one in found for span in one.words]
        answer["words"] = [{"word": one.text, "start": finite(one.start), "end": finite(one.end)} for one in spans]
    return JSONResponse(answer)


def _segment(number: int, utterance: Hypothesis) -> dict:
    confidences = [max(word.confidence, 1e-10) for word in utterance.words]
    content = utterance.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": finite(utterance.words[0].start),
        "end": finite(utterance.words[-1].end),
        "text": utterance.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": finite(sum(map(math.log, confidences)) / len(confidences)),
        "compression_ratio": finite(len(content) / len(zlib.compress(content))),
        "no_speech_prob": 0.0,
    }


async def _events(
    service: Service, model: ServedModel, job: Job, first: Hypothesis | None, utterances: AsyncIterator[Hypothesis]
) -> AsyncIterator[str]:
    text = ""
    try:
        async with aclosing(utterances):
            if first is not None:
                text = first.text
                yield _event({"type": "transcript.text.delta", "delta": text})
            async for utterance in utterances:
                delta = model.between + utterance.text if text else utterance.text
                text += delta
                yield _event({"type": "transcript.text.delta", "delta": delta})
    except Refusal as refusal:  # the status is sent already
        service.refused(refusal)
        yield _event({"error": error_body(refusal)})
        return
    service.metrics.audio.labels("file").inc(job.seconds)
    yield _event({"type": "transcript.text.done", "text": text})


def _event(content: dict) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def error_body(refusal: Refusal) -> dict:
    """A refusal in the error format of the OpenAI API."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {"message": str(refusal), "type": kind, "param": refusal.param, "code": refusal.reason}
