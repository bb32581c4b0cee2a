"""What both websocket protocols share: receiving a client's next message and sending an answer, each with a time limit."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
from fastapi import WebSocket, WebSocketDisconnect

from ..limits import Refusal
from ..service import Service


logger = logging.getLogger(__name__)


async def receive(websocket: WebSocket, idle_seconds: float) -> str | bytes:
    """The next message.

    Raises:
        WebSocketDisconnect: the client has left.
        Refusal: no message arrived in time.
    """
    try:
        with anyio.fail_after(idle_seconds):
            message = await websocket.receive()
    except TimeoutError as error:
        raise Refusal(f"Nothing came for {idle_seconds:g} seconds.", "idle", 408, 1001) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    content = message.get("bytes")
    return message.get("text", "") if content is None else content


async def send(websocket: WebSocket, content: dict, patience_seconds: float) -> None:
    """One JSON message.

    Raises:
        WebSocketDisconnect: the connection is closed.
        Refusal: the client does not read.
    """
    try:
        with anyio.fail_after(patience_seconds):
            # Half a pair of surrogates may come back from a client's own words.
            await websocket.send_text(json.dumps(content, ensure_ascii=False).encode(errors="replace").decode())
    except TimeoutError as error:
        raise Refusal("The answers are not read.", "not_read", 408, 1013) from error
    except RuntimeError as error:  # as starlette calls it where another task has closed it
        raise WebSocketDisconnect(1006) from error


@contextlib.asynccontextmanager
async def serving(
    websocket: WebSocket,
    service: Service,
    tell: Callable[[Refusal], Awaitable[None]],
    finish: Callable[[], Awaitable[None]],
) -> AsyncIterator[None]:
    """Around a websocket's messages: a refusal is reported and closes it, and a shutdown of the server finishes it (1001).

    Args:
        tell: sends an error in the protocol's own format.
        finish: sends the last text.
    """
    code, reason = 1000, ""
    try:
        with service.connection():
            try:
                yield
            except asyncio.CancelledError:
                if not service.is_ending:
                    raise
                asyncio.current_task().uncancel()
                code, reason = 1001, "The server is ending."
                await finish()
    except WebSocketDisconnect:
        return
    except Refusal as refusal:
        service.refused(refusal)
        code, reason = refusal.close_code, str(refusal)
        with contextlib.suppress(Exception):
            await tell(refusal)
    except Exception:
        logger.exception("A websocket failed")
        code, reason = 1011, "The stream could not be transcribed."
        with contextlib.suppress(Exception):
            await tell(Refusal(reason, "failed", 500, 1011))
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await websocket.close(code, reason.encode()[:120].decode(errors="ignore"))


def parse(text: str | bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Refusal: anything else.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal("Expected a JSON object, found text that is none.", "no_json", close_code=1007) from error
    if not isinstance(content, dict):
        raise Refusal("Expected a JSON object.", "no_json", close_code=1007)
    return content
