"""Uvicorn's connections with limits of their own: on heads of requests, fragments, and clients that do not read.

A head is the request line with all headers; it is bounded in size and time. A client that does not read what it is sent is
not read, either, and is disconnected after some time.
"""

import contextlib
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


LARGEST_HEAD = 65_536  # bytes
HEAD_SECONDS = 10.0
MOST_HEADERS, LONGEST_HEADER = 100, 8_000  # of a websocket; its parser gives no answer to more
LINGER_SECONDS = 2.0  # in which a client can read why it was refused, while what it still sends is thrown away
MOST_FRAGMENTS = 1_000  # of one message

HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
HEAD_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class HttpConnection(HttpToolsProtocol):
    """An HTTP connection; the head of each request is bounded."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._is_in_head, self._head_bytes, self._is_refused = True, 0, False
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:  # of a second request on the same connection
                self._await_head()
        super().data_received(data)
        if self._is_in_head and self._head_bytes > LARGEST_HEAD:
            self._refuse(HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._end_head()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > LARGEST_HEAD:
            self._refuse(HEAD_TOO_LARGE)  # it came in one piece
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        lines = [len(name) + len(value) for name, value in self.headers]
        if len(lines) > MOST_HEADERS or max(lines, default=0) > LONGEST_HEADER:
            self._refuse(HEAD_TOO_LARGE)
        else:
            super().handle_websocket_upgrade()

    def on_message_complete(self) -> None:
        if self._is_refused:
            return
        super().on_message_complete()
        self._is_in_head, self._head_bytes = True, 0

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self._head_bytes:
            self._refuse(HEAD_TOO_SLOW)
        else:
            self.transport.close()

    def _end_head(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._end_head()
        self._is_refused = True
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.loop.call_later(LINGER_SECONDS, self.transport.close)


class WebsocketConnection(WebSocketsSansIOProtocol):
    """A websocket whose client is not read while it does not read: else its pings would fill memory with their answers."""

    frames: list[bytes]  # of the message that has begun

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not (self.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    async def receive(self) -> Any:
        message = await super().receive()
        if not (self.writable.is_set() or self.transport.is_closing()):
            self.transport.pause_reading()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":  # a refusal: without this, uvicorn calls it an error
            self.handshake_complete = True

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) >= MOST_FRAGMENTS:
            self.conn.fail(1009, f"more than {MOST_FRAGMENTS} fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:  # uvicorn logs a traceback
                self.frames = []
                self.conn.fail(1007, "expected UTF-8 in a text message")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()


def disconnect_deaf_clients(listeners: Iterable[Any], seconds: float) -> None:
    """Ends connections whose clients take nothing of what they are sent for so long; without effect where the system has no
    such option."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    for listener in listeners if option is not None else ():
        with contextlib.suppress(OSError), socket.fromfd(listener.fileno(), listener.family, listener.type) as copy:
            copy.setsockopt(socket.IPPROTO_TCP, option, round(1000 * seconds))
