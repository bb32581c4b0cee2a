"""Clients that are wrong, slow or hostile: each gets the right status, and a good stream beside it its text."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import struct
import time

import httpx
import numpy as np
import pytest
import soundfile
import websockets
from good_client import good_stream


pytestmark = pytest.mark.usefixtures("no_tracebacks")


def encoded(samples: np.ndarray, rate: int = 16_000, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


# HTTP: what is asked, the status, and the code in the OpenAI API's error

SECOND = encoded(0.1 * np.sin(np.arange(16_000) / 5))
SILENCE = encoded(np.zeros(61 * 16_000), form="FLAC")
UNKNOWN_LENGTH = SILENCE[:21] + bytes([SILENCE[21] & 0xF0, 0, 0, 0, 0]) + SILENCE[26:]  # total samples of STREAMINFO
MANY_CHANNELS = encoded(np.zeros((100, 20)))
HIGH_RATE = SECOND[:24] + struct.pack("<I", 2**31 - 1) + SECOND[28:]
NOT_FINITE = encoded(np.full(16_000, np.nan, np.float32), subtype="FLOAT")
HOTWORDS = {f"word {number}": 1.0 for number in range(10_000)}

FORMS = {
    "nothing that is audio": ({"file": b"no audio at all"}, {}, 400, "no_audio"),
    "an empty file": ({"file": b""}, {}, 400, "no_audio"),
    "a playlist for ffmpeg": ({"file": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"}, {}, 400, "no_audio"),
    "no file": ({}, {"model": "x"}, 404, "no_model"),
    "a path as file": ({}, {"file": "/etc/passwd"}, 400, "no_audio"),
    "an address as file": ({}, {"file": "http://127.0.0.1/secret.wav"}, 400, "no_audio"),
    "two files": ({"file": SECOND, "other": SECOND}, {}, 400, "invalid_request"),
    "a hundred fields": ({"file": SECOND}, {f"field{number}": "x" for number in range(100)}, 400, "invalid_request"),
    "a large field": ({"file": SECOND}, {"prompt": "x" * 100_000}, 400, "invalid_request"),
    "an unknown model": ({"file": SECOND}, {"model": "whisper-1"}, 404, "no_model"),
    "a language that no model has": ({"file": SECOND}, {"language": "fi"}, 404, "no_model"),
    "an unknown format": ({"file": SECOND}, {"response_format": "xml"}, 400, "invalid_request"),
    "a kilobyte that holds a minute": ({"file": SILENCE}, {}, 413, "too_long"),
    "a minute of which the header says nothing": ({"file": UNKNOWN_LENGTH}, {}, 413, "too_long"),
    "twenty channels": ({"file": MANY_CHANNELS}, {}, 400, "no_audio"),
    "two gigahertz": ({"file": HIGH_RATE}, {}, 400, "no_audio"),
    "samples that are no numbers": ({"file": NOT_FINITE}, {}, 400, "no_audio"),
    "a file that breaks off": ({"file": SILENCE[:60]}, {}, 400, "no_audio"),
    "ten thousand hot words": ({"file": SECOND}, {"hotwords": json.dumps({str(n): 1 for n in range(5000)})}, 400, None),
    "hot words that are no JSON": ({"file": SECOND}, {"hotwords": "kitchen"}, 400, "invalid_request"),
    "hot words with infinite weight": ({"file": SECOND}, {"hotwords": '{"kitchen": Infinity}'}, 400, "invalid_request"),
    "hot words without a search": ({"file": SECOND}, {"hotwords": '{"kitchen": 5}'}, 400, "invalid_request"),
    "JSON a thousand deep": ({"file": SECOND}, {"hotwords": "[" * 30_000}, 400, "invalid_request"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(server, good, name):
    """Uploads that cannot be used: the status and the error of the OpenAI API, never a traceback."""
    files, data, status, code = FORMS[name]

    async def ask() -> httpx.Response:
        async with good_stream(server, good), httpx.AsyncClient(headers=server.headers) as client:
            # A field of its own makes it multipart without a file, too.
            parts = [(field, (f"{field}.wav", content)) for field, content in files.items()]
            parts += [(field, (None, value)) for field, value in {"extra": "1", **data}.items()]
            return await client.post(f"{server.url}/v1/audio/transcriptions", files=parts, timeout=60)

    response = asyncio.run(ask())
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code or error["code"])
    assert error["message"] and "Traceback" not in response.text


def request(server, head: str, body: bytes = b"", token: str | None = None) -> bytes:
    """A request by hand; the answer up to the end of the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        authorization = f"Authorization: Bearer {server.token if token is None else token}\r\n"
        connection.sendall(f"{head}\r\nHost: {host}:{port}\r\n{authorization}\r\n".encode() + body)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65_536):
                answer += piece
                if b"\r\n\r\n" in answer and b"connection: close" not in answer.lower():
                    break
        return answer


POST = "POST /v1/audio/transcriptions HTTP/1.1"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
CHUNK = f"{len(PART) + 2**21:x}\r\n".encode() + PART + bytes(2**21)
REQUESTS = {
    "a wrong token": (f"{POST}\r\n{MULTIPART}\r\nContent-Length: 0", b"", "wrong" * 5, 401),
    "no token": ("GET /v1/models HTTP/1.1", b"", "", 401),
    "no token for the metrics": ("GET /metrics HTTP/1.1", b"", "", 401),
    "a token that is no ASCII": ("GET /v1/models HTTP/1.1", b"", "ünïcödé-tökén-ünïcödé", 401),
    "a page of another site": ("GET /v1/models HTTP/1.1\r\nOrigin: http://evil.example", b"", None, 403),
    "an unknown path": ("GET /v1/files HTTP/1.1", b"", None, 404),
    "a path out of the house": ("GET /../../etc/passwd HTTP/1.1", b"", None, 404),
    "a wrong method": ("DELETE /v1/models HTTP/1.1", b"", None, 405),
    "no form": (f"{POST}\r\nContent-Type: application/json\r\nContent-Length: 2", b"{}", None, 415),
    "no boundary": (f"{POST}\r\nContent-Type: multipart/form-data\r\nContent-Length: 2", b"{}", None, 400),
    "a form of garbage": (f"{POST}\r\n{MULTIPART}\r\nContent-Length: 5", b"\0\1\2\3\4", None, 400),
    "a gigabyte": (f"{POST}\r\n{MULTIPART}\r\nContent-Length: 1000000000", b"", None, 413),
    "chunks without end": (f"{POST}\r\n{MULTIPART}\r\nTransfer-Encoding: chunked", CHUNK, None, 413),
    "a slow sender": (f"{POST}\r\n{MULTIPART}\r\nContent-Length: 1000", b"--x\r\n", None, 408),
    "no HTTP": ("\0\1\2 NONSENSE", b"", None, 400),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(server, good, name):
    """Requests that are wrong before their form is read."""
    head, body, token, status = REQUESTS[name]

    async def ask() -> bytes:
        async with good_stream(server, good):
            return await asyncio.to_thread(request, server, head, body, token)

    assert f" {status} ".encode() in asyncio.run(ask()).splitlines()[0]


def test_a_wrong_method_is_told_the_right_one(server):
    """As HTTP wants it of every 405."""
    assert httpx.delete(f"{server.url}/v1/models", headers=server.headers).headers["allow"] == "GET"


def test_a_client_that_leaves_in_the_middle(server, good):
    """Half an upload, half a message and a reset: nothing is left behind, and places are given back."""

    async def leave() -> None:
        async with good_stream(server, good):
            host, port = server.url.removeprefix("http://").split(":")
            for content in (b"--x\r\nContent-Disposition", b""):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(f"{POST}\r\n{MULTIPART}\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n".encode())
                writer.write(b"Content-Length: 1000\r\n\r\n" + content)
                writer.transport.abort()
            stream = await websockets.connect(server.url.replace("http", "ws"), additional_headers=server.headers)
            await stream.send(bytes(30_000))
            stream.transport.abort()

    before = server.service.models["deepspeech2-english-live"].dispatcher.num_streams
    asyncio.run(leave())
    deadline = time.monotonic() + 60
    while server.service.models["deepspeech2-english-live"].dispatcher.num_streams > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Websockets


async def conversation(server, path: str, messages: list, **settings) -> tuple[list[dict], int]:
    """What a client is told that sends all messages at once, and the code that closes the connection."""
    answers = []
    headers = {"additional_headers": server.headers, **settings}
    async with websockets.connect(server.url.replace("http", "ws") + path, **headers) as stream:
        with contextlib.suppress(websockets.ConnectionClosed):
            for message in messages:
                await stream.send(message)
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                answers.append(json.loads(await asyncio.wait_for(stream.recv(), 60)))
        return answers, stream.close_code


def config(**settings) -> str:
    return json.dumps({"config": settings})


SOCKETS = {
    "text where bytes belong": (["hello"], 1007),
    "JSON that is no object": (["[1, 2]"], 1007),
    "a key that means nothing": (['{"start": 1}'], 1008),
    "a rate of 7 hertz": ([config(sample_rate=7), bytes(100)], 1008),
    "a rate that is text": ([config(sample_rate="16000"), bytes(100)], 1008),
    "a configuration that is a list": (['{"config": []}'], 1008),
    "a configuration after samples": ([bytes(100), config(sample_rate=16_000)], 1008),
    "a list of phrases": ([config(phrase_list=["yes", "no"])], 1008),
    "an unknown model": ([config(model="nobody"), bytes(100)], 1008),
    "a model that reads both ways": ([config(model="tiny_model"), bytes(100)], 1008),
    "hot words without a search": ([config(hotwords={"kitchen": 5}), bytes(100)], 1008),
    "ten thousand hot words": ([config(hotwords=HOTWORDS), bytes(100)], 1008),
    "a message of two megabytes": ([bytes(2 * 2**20)], 1009),
    "nothing at all": ([], 1001),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_vosk_streams(server, good, name):
    """The protocol's own JSON tells what is wrong, and the code of the close says of which kind it is."""
    messages, code = SOCKETS[name]

    async def ask() -> tuple[list[dict], int]:
        async with good_stream(server, good):
            return await conversation(server, "/", messages)

    if name == "nothing at all":  # the good stream would be idle, too
        answers, found = asyncio.run(conversation(server, "/", messages))
    else:
        answers, found = asyncio.run(ask())
    assert found == code
    if code != 1009:
        assert answers[-1]["error"] and "Traceback" not in answers[-1]["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Origin": "http://evil.example"}, 403)],
    ids=["no token", "a wrong token", "a page of another site"],
)
def test_handshakes(server, headers, status):
    """A websocket is refused before it is one."""
    if "Origin" in headers:
        headers = headers | server.headers

    async def ask() -> None:
        async with websockets.connect(server.url.replace("http", "ws"), additional_headers=headers):
            pass

    with pytest.raises(websockets.InvalidStatus) as refused:
        asyncio.run(ask())
    assert refused.value.response.status_code == status


def test_browsers_send_the_token_as_a_subprotocol(server):
    """They cannot set headers; the token is not repeated in the answer."""

    async def ask() -> str:
        protocols = ["vosk", f"openai-insecure-api-key.{server.token}"]
        async with websockets.connect(server.url.replace("http", "ws"), subprotocols=protocols) as stream:
            return stream.subprotocol

    assert asyncio.run(ask()) == "vosk"


APPEND = json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(960)).decode()})


def update(**audio) -> str:
    return json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio}}})


EVENTS = {
    "no base64": ('{"type": "input_audio_buffer.append", "audio": "***"}', "no_audio"),
    "no samples": ('{"type": "input_audio_buffer.append"}', "no_audio"),
    "an unknown event": ('{"type": "response.create"}', "invalid_request"),
    "a commit of nothing": ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
    "a session that speaks": ('{"type": "session.update", "session": {"type": "realtime"}}', "invalid_request"),
    "telephone's samples": (update(format={"type": "audio/pcmu"}), "invalid_request"),
    "a rate of 1 hertz": (update(format={"type": "audio/pcm", "rate": 1}), "wrong_rate"),
    "an unknown model": (update(transcription={"model": "nobody"}), "no_model"),
    "a format that is a list": (update(format=[1]), "invalid_request"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_realtime_events(server, good, name):
    """An error event names the event that caused it, and the connection goes on: what follows is transcribed."""
    event, code = EVENTS[name]
    event = json.dumps({**json.loads(event), "event_id": "mine"})

    async def ask() -> list[dict]:
        found = []
        async with (
            good_stream(server, good),
            websockets.connect(
                server.url.replace("http", "ws") + "/v1/realtime", additional_headers=server.headers
            ) as stream,
        ):
            for message in (event, APPEND, '{"type": "input_audio_buffer.commit"}'):
                await stream.send(message)
            while not found or not found[-1]["type"].endswith("completed"):
                found.append(json.loads(await asyncio.wait_for(stream.recv(), 60)))
        return found

    errors = [one["error"] for one in asyncio.run(ask()) if one["type"] == "error"]
    assert [(error["code"], error["event_id"]) for error in errors] == [(code, "mine")]


def test_realtime_without_json(server):
    """What is no event at all ends the connection."""
    answers, code = asyncio.run(conversation(server, "/v1/realtime", [b"\0\1\2"]))
    assert code == 1007 and answers[-1]["type"] == "error"


def test_too_many_streams(server, good):
    """The stream too many is told to try again later (1013); one that ends makes room."""

    async def ask() -> tuple[list[dict], int]:
        async with good_stream(server, good), contextlib.AsyncExitStack() as stack:
            for _ in range(15):
                address = server.url.replace("http", "ws")
                stream = await stack.enter_async_context(websockets.connect(address, additional_headers=server.headers))
                await stream.send(bytes(100))
                await stream.recv()
            return await conversation(server, "/", [bytes(100)])

    answers, code = asyncio.run(ask())
    assert code == 1013 and answers[-1]["code"] == "overloaded"


# Wyoming

START = {"type": "audio-start", "data": {"rate": 16_000, "width": 2, "channels": 1}}
STARTED = json.dumps(START).encode() + b"\n"
NEGATIVE = json.dumps({"type": "audio-chunk", "data": START["data"], "payload_length": -5}).encode() + b"\n"
WYOMING = {
    "a payload of a terabyte": ({"type": "audio-chunk", "payload_length": 10**12}, "too_large"),
    "a length that is text": ({"type": "audio-chunk", "data_length": "many"}, "no_json"),
    "half a payload's length": ({"type": "audio-chunk", "payload_length": 0.5}, "too_large"),
    "a negative length, read as none, then no JSON": (STARTED + NEGATIVE + b"hello", "no_json"),
    "no JSON": (b"hello", "no_json"),
    "no UTF-8": (b'{"type": "\xff\xfe"}', "no_json"),
    "a line of 70,000 letters": (b"a" * 70_000, "no_json"),
    "data that are no JSON": (b'{"type": "transcribe", "data_length": 5}\nhello', "no_json"),
    "JSON 100,000 deep": (b'{"type": "transcribe", "data_length": 100000}\n' + b"[" * 100_000, "no_json"),
    "a list": ([1, 2], "no_json"),
    "samples before their format": ({"type": "audio-chunk", "data": START["data"], "payload_length": 2}, "invalid_request"),
    "24 bits": ({**START, "data": {"rate": 16_000, "width": 3, "channels": 1}}, "wrong_rate"),
    "a rate of 1 hertz": ({**START, "data": {"rate": 1, "width": 2, "channels": 1}}, "wrong_rate"),
    "no rate": ({**START, "data": {}}, "no_json"),
    "an unknown model": ({"type": "transcribe", "data": {"name": "nobody"}}, "no_model"),
}


@pytest.mark.parametrize("name", WYOMING)
def test_wyoming_events(server, good, name):
    """An error event, then the connection is over."""
    event, code = WYOMING[name]

    async def ask() -> dict:
        async with good_stream(server, good):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.wyoming_port)
            writer.write((event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n" + bytes(2))
            header = json.loads(await asyncio.wait_for(reader.readline(), 60))
            data = json.loads(await reader.readexactly(header["data_length"]))
            assert header["type"] == "error" and await reader.read() == b""
            writer.close()
            return data

    assert asyncio.run(ask())["code"] == code


def test_refusals_are_counted(server):
    """By reason, for whoever watches the metrics."""
    metrics = httpx.get(f"{server.url}/metrics", headers=server.headers).text
    assert 'deepspeech2_refusals_total{reason="wrong_token"}' in metrics
