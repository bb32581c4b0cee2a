"""Clients that break HTTP or the websocket protocol itself: each is turned away, and a good stream keeps its text."""

import asyncio
import contextlib
import json
import socket
import struct
import time
import zlib

import httpx
import psutil
import pytest
from good_client import good_stream

from modeling_deepspeech2.serving import connections
from modeling_deepspeech2.serving.app import Guard


pytestmark = pytest.mark.usefixtures("no_tracebacks")
UPGRADE = (
    "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
POST = "POST /v1/audio/transcriptions HTTP/1.1"
FORM = "Content-Type: multipart/form-data; boundary=x"
TEXT, BINARY, CONTINUATION, CLOSE, PING = 1, 2, 0, 8, 9


def connect(server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def answer_to(server, head: str, body: bytes = b"", token: str | None = None) -> bytes:
    """What comes before the server closes the connection, or before it is silent."""
    with connect(server) as connection:
        own = f"Host: {server.url.removeprefix('http://')}\r\nAuthorization: Bearer {token or server.token}\r\n"
        answer = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.sendall(f"{head}\r\n{own}\r\n".encode() + body)
            while piece := connection.recv(65_536):
                answer += piece
                connection.settimeout(0.5)
        return answer


def beside_a_good_stream(server, good, function, *arguments):
    async def run():
        async with good_stream(server, good):
            return await asyncio.to_thread(function, server, *arguments)

    return asyncio.run(run())


HEADS = {
    "two ways to say how long": (f"{POST}\r\n{FORM}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n", 400),
    "two lengths": (f"{POST}\r\n{FORM}\r\nContent-Length: 5\r\nContent-Length: 6", b"hello!", 400),
    "a negative length": (f"{POST}\r\n{FORM}\r\nContent-Length: -1", b"", 400),
    "a length beyond all numbers": (f"{POST}\r\n{FORM}\r\nContent-Length: {'9' * 400}", b"", 400),
    "a length in other digits": (f"{POST}\r\n{FORM}\r\nContent-Length: ٣", b"", 400),
    "an unknown encoding": (f"{POST}\r\n{FORM}\r\nTransfer-Encoding: xchunked", b"0\r\n\r\n", 400),
    "a chunk of no size": (f"{POST}\r\n{FORM}\r\nTransfer-Encoding: chunked", b"zz\r\nhello\r\n", 400),
    "a chunk of negative size": (f"{POST}\r\n{FORM}\r\nTransfer-Encoding: chunked", b"-5\r\nhello\r\n", 400),
    "a header on two lines": ("GET /health HTTP/1.1\r\nX: a\r\n b", b"", 400),
    "a space in a header's name": ("GET /health HTTP/1.1\r\nX Y: a", b"", 400),
    "two hosts": ("GET /v1/models HTTP/1.1\r\nHost: other.example", b"", 400),
    "two tokens": ("GET /v1/models HTTP/1.1\r\nAuthorization: Bearer wrong", b"", 400),
    "a header of a megabyte": (f"GET /health HTTP/1.1\r\nX: {'a' * 2**20}", b"", 431),
    "an address of a megabyte": (f"GET /{'a' * 2**20} HTTP/1.1", b"", 431),
    "HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM", b"", 400),
    "TLS": ("\x16\x03\x01\x02", bytes(150), 400),
    "a proxy's request": ("CONNECT other.example:80 HTTP/1.1", b"", 400),
    "a websocket of another version": (UPGRADE.replace(": 13", ": 99"), b"", 400),
    "a websocket without a key": (UPGRADE.rpartition("\r\n")[0], b"", 400),
    "a websocket where there is none": (UPGRADE.replace("GET /", "GET /nowhere"), b"", 404),
    "a form of HTTP/1.0 without a length": (f"POST /v1/audio/transcriptions HTTP/1.0\r\n{FORM}", b"", 400),
    "a thousand headers": ("GET /health HTTP/1.1" + "".join(f"\r\nX{n}: {'a' * 100}" for n in range(1_000)), b"", 431),
    "a chunk that breaks off": (f"{POST}\r\n{FORM}\r\nTransfer-Encoding: chunked", b"5\r\nhelloXX0\r\n\r\n", 400),
    "an upgrade to nothing known": ("GET /health HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c", b"", 200),
    "HTTP/1.0": ("GET /health HTTP/1.0", b"", 200),
    "a websocket with a key of two letters": (UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "YQ=="), b"", 400),
    "a websocket of many headers": (UPGRADE + "".join(f"\r\nX{n}: a" for n in range(200)), b"", 431),
    "a websocket of a long header": (f"{UPGRADE}\r\nX: {'a' * 20_000}", b"", 431),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(server, good, name):
    """What two programs could read in two ways is refused, and nothing of a head is kept beyond a size."""
    head, body, status = HEADS[name]
    answer = beside_a_good_stream(server, good, answer_to, head, body)
    assert f" {status} ".encode() in answer.partition(b"\r\n")[0] and b"Traceback" not in answer


def test_a_token_counts_in_its_header_alone(server):
    """An address is written into logs: a token in it is none."""
    head = f"GET /v1/models?token={server.token}&api_key={server.token}&authorization=Bearer%20{server.token} HTTP/1.1"
    assert b" 401 " in answer_to(server, head, token="another one")


def test_requests_behind_each_other(server, good):
    """Sent without waiting for an answer: each is answered in its turn."""

    def ask(server) -> bytes:
        one = f"GET /health HTTP/1.1\r\nHost: {server.url.removeprefix('http://')}\r\n"
        with connect(server) as connection:
            connection.sendall((f"{one}\r\n" * 49 + f"{one}Connection: close\r\n\r\n").encode())
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    assert beside_a_good_stream(server, good, ask).count(b"HTTP/1.1 200 OK") == 50


BEGINNINGS = [b"", b"GET /health HTTP/1.1\r\nX: a", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /"]


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=["nothing", "half a head", "half a second head"])
def test_heads_that_never_end(server, good, beginning, monkeypatch):
    """They are closed after some time, even if a little more of them comes again and again."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.1)

    def drip(server) -> float:
        begin = time.monotonic()
        with connect(server) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(beginning)
            connection.settimeout(0.05)
            while time.monotonic() < begin + 120:
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(65_536):
                        break
                if beginning:
                    connection.sendall(b"a")
        return time.monotonic() - begin

    assert beside_a_good_stream(server, good, drip) < 60


def test_no_token_means_this_machine_alone():
    """A name of another site that is resolved to this machine makes its page a page of this origin: the name is refused."""

    class Service:
        limits = type("Limits", (), {"max_mb": 1.0, "max_waiting_mb": 1.0})
        refused = staticmethod(lambda refusal: None)

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def statuses(token: str | None, headers: dict[str, str], hosts: list[str]) -> list[int]:
        transport = httpx.ASGITransport(Guard(app, Service(), token))
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            addresses = [f"http://{host}" for host in hosts]
            return [(await client.post(one, headers={"Origin": one})).status_code for one in addresses]

    local = ["127.0.0.1:8000", "localhost", "[::1]:8000"]
    other = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000"]
    assert asyncio.run(statuses(None, {}, local)) == [200] * 3
    assert asyncio.run(statuses(None, {}, other)) == [403] * 3
    assert asyncio.run(statuses("secret", {"Authorization": "Bearer secret"}, other)) == [200] * 3


def test_a_half_closed_socket(server, good):
    """Who ends his half behind an upload counts as gone: his place is given back, and the work for him ends."""

    def half_close(server) -> bytes:
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nabc\r\n--x--\r\n'
        with connect(server) as connection:
            own = f"Host: {server.url.removeprefix('http://')}\r\nAuthorization: Bearer {server.token}\r\n"
            head = f"{POST}\r\n{FORM}\r\n{own}Content-Length: {len(part)}\r\n\r\n"
            connection.sendall(head.encode() + part)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65_536)

    answer = beside_a_good_stream(server, good, half_close)
    assert answer == b"" or b" 400 " in answer  # whichever came first
    deadline = time.monotonic() + 60
    while server.service.files.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Websockets, frame by frame


def frame(opcode: int, payload: bytes = b"", is_last: bool = True, bits: int = 0, mask: int = 0x80, size: int | None = None):
    """A frame of RFC 6455, masked with zeros; `size` is what its head claims."""
    size = len(payload) if size is None else size
    head = bytes([(0x80 if is_last else 0) | bits | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 2**16:
        head += bytes([mask | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", size)
    return head + (bytes(4) if mask else b"") + payload


COMPRESSED = zlib.compress(bytes(10**7))[2:-4]
FRAMES = {
    "text that is none": (frame(TEXT, b"\xff\xfe"), 1007),
    "text of which a piece is none": (frame(TEXT, b"{", False) + frame(CONTINUATION, b"\xff"), 1007),
    "a letter in two pieces": (frame(TEXT, b'{"config": {"model": "\xc3', False) + frame(CONTINUATION, b'\xa9"}}')
                               + frame(BINARY, bytes(2)), 1008),
    "a reason that is no text": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "no mask": (frame(TEXT, b"{}", mask=0), 1002),
    "an unknown kind": (frame(5, b"a"), 1002),
    "ten megabytes in ten kilobytes": (frame(BINARY, COMPRESSED, bits=0x40), 1002),
    "an exabyte": (frame(BINARY, size=2**62), 1009),
    "a message without beginning": (frame(CONTINUATION, b"a"), 1002),
    "a beginning in a message": (frame(BINARY, b"a", False) + frame(BINARY, b"b"), 1002),
    "fragments without end": (frame(BINARY, b"ab", False) + 2_000 * frame(CONTINUATION, b"", False), 1009),
    "two megabytes in pieces": (frame(BINARY, bytes(60_000), False) + 30 * frame(CONTINUATION, bytes(60_000), False), 1009),
    "a long ping": (frame(PING, b"a" * 126), 1002),
    "a ping in pieces": (frame(PING, b"a", False), 1002),
    "a close of no kind": (frame(CLOSE, b"\0\1"), 1002),
    "half a close": (frame(CLOSE, b"\3"), 1002),
    "half a pair of surrogates": (frame(TEXT, b'{"config": {"model": "\\ud800"}}') + frame(BINARY, bytes(2)), 1008),
    "a number of 5,000 digits": (frame(TEXT, b'{"config": {"sample_rate": 1' + b"0" * 5_000 + b"}}"), 1007),
    "JSON 100,000 deep": (frame(TEXT, b"[" * 100_000), 1007),
    "a rate of 100,000 letters": (frame(TEXT, json.dumps({"config": {"sample_rate": "x" * 10**5}}).encode())
                                  + frame(BINARY, bytes(2)), 1008),
}  # fmt: skip


def frames_from(server, content: bytes) -> list[tuple[int, bytes]]:
    """The kinds and payloads of the server's frames up to its close."""
    with connect(server) as connection:
        host = server.url.removeprefix("http://")
        connection.sendall(f"{UPGRADE}\r\nHost: {host}\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode())
        stream, found = connection.makefile("rb"), []
        while stream.readline() != b"\r\n":
            pass
        with contextlib.suppress(ConnectionError):
            connection.sendall(content)
        while not found or found[-1][0] != CLOSE:
            first, size = stream.read(2)
            size = struct.unpack(">H", stream.read(2))[0] if size == 126 else size
            found.append((first & 15, stream.read(size)))
        return found


@pytest.mark.parametrize("name", FRAMES)
def test_frames(server, good, name):
    """The code of the close says which rule was broken; no answer repeats what was sent at length."""
    content, code = FRAMES[name]
    found = beside_a_good_stream(server, good, frames_from, content)
    assert struct.unpack(">H", found[-1][1][:2])[0] == code
    assert sum(len(payload) for _, payload in found) < 1_000


def test_a_flood_of_pings_fills_no_memory(server, good):
    """Who does not read the answers is not read, and is disconnected after the patience of the server."""

    def flood(server) -> tuple[float, float]:
        with connect(server) as connection:
            host = server.url.removeprefix("http://")
            connection.sendall(f"{UPGRADE}\r\nHost: {host}\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode())
            before, begin, pings = psutil.Process().memory_info().rss, time.monotonic(), 500 * frame(PING, b"a" * 125)
            connection.settimeout(120)
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < begin + 120:
                    connection.sendall(pings)
            return psutil.Process().memory_info().rss - before, time.monotonic() - begin

    grown, seconds = flood(server)
    assert grown < 20e6 and seconds < 100
