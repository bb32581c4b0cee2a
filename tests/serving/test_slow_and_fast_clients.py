"""Clients that send faster than the server transcribes, hold what they sent, or are too many: nobody else is harmed."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import time

import httpx
import numpy as np
import pytest
import websockets
from good_client import good_stream, pcm

from modeling_deepspeech2.serving.app import Guard, answer
from modeling_deepspeech2.serving.limits import Limits, Refusal
from modeling_deepspeech2.serving.protocols import openai_realtime
from modeling_deepspeech2.transcription.recordings import transcribe


MODEL = "deepspeech2-english-live"


@pytest.fixture
def slow_engine(server, monkeypatch):
    """Sets the seconds that each further batch of the live model takes."""
    engine = server.service.models[MODEL].dispatcher.engine
    step = engine.step

    def slow_down(seconds: float) -> None:
        def slow_step(*arguments):
            time.sleep(seconds)
            return step(*arguments)

        monkeypatch.setattr(engine, "step", slow_step)

    return slow_down


def realtime(server):
    address = server.url.replace("http", "ws") + f"/v1/realtime?model={MODEL}"
    return websockets.connect(address, additional_headers=server.headers)


def update(**audio) -> str:
    return json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio}}})


def append(content: bytes) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(content).decode()})


def test_audio_that_comes_faster_than_it_is_transcribed_waits_in_the_socket(server, live_model, clips, slow_engine):
    """Half a minute at once: at most ten seconds and a message are in the server, and the text is the offline text."""
    model, processor, _ = live_model
    waveform = np.resize(np.concatenate([clip.waveform for clip in clips]), 30 * 16_000)
    content = pcm(waveform)
    dispatcher = server.service.models[MODEL].dispatcher
    slow_engine(0.02)
    most = 0.0

    async def send_all() -> str:
        nonlocal most
        async with realtime(server) as stream:
            await stream.send(update(format={"type": "audio/pcm", "rate": 16_000}, turn_detection=None))
            for start in range(0, len(content), 64_000):
                await stream.send(append(content[start : start + 64_000]))
            await stream.send('{"type": "input_audio_buffer.commit"}')
            while True:
                with contextlib.suppress(TimeoutError):
                    event = json.loads(await asyncio.wait_for(stream.recv(), 0.02))
                    if event["type"].endswith("completed"):
                        return event["transcript"]
                for one in list(dispatcher._streams.values()):
                    most = max(most, one.waiting_seconds)

    samples = np.frombuffer(content, "<i2").astype(np.float32) / 32_768
    assert asyncio.run(send_all()) == " ".join(one.text for one in transcribe(model, processor, samples))
    assert 5 < most <= 12


def test_a_server_that_does_not_keep_up_says_so(server, good, clips, slow_engine):
    """Ten seconds have been waiting for three: the stream is closed with 1013; one that comes afterwards is served."""
    slow_engine(4.0)
    speech = pcm(np.resize(np.concatenate([clip.waveform for clip in clips]), 2 * 16_000))

    async def send_all() -> tuple[dict, int]:
        async with realtime(server) as stream:
            await stream.send(update(format={"type": "audio/pcm", "rate": 16_000}))
            for _ in range(12):
                await stream.send(append(speech))
            event = {}
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    event = json.loads(await asyncio.wait_for(stream.recv(), 60))
            return event, stream.close_code

    event, code = asyncio.run(send_all())
    assert code == 1013 and event["type"] == "error" and "faster than it is transcribed" in event["error"]["message"]
    slow_engine(0.0)

    async def send_good() -> None:
        async with good_stream(server, good):
            pass

    asyncio.run(send_good())


def test_times_of_a_turn_are_those_of_its_words(server, live_model, clips):
    """Also where all samples come at once: a turn begins a pause before its first word at most, and ends with its last."""
    model, processor, _ = live_model
    pause = np.zeros(24_000, np.float32)
    content = pcm(np.concatenate([clips[1].waveform, pause, clips[2].waveform, pause]))

    async def send_all() -> list[tuple[int, int]]:
        async with realtime(server) as stream:
            await stream.send(update(format={"type": "audio/pcm", "rate": 16_000}))
            await stream.send(append(content))
            starts, turns = {}, []
            while len(turns) < 2:
                event = json.loads(await asyncio.wait_for(stream.recv(), 60))
                if event["type"].endswith("speech_started"):
                    starts[event["item_id"]] = event["audio_start_ms"]
                elif event["type"].endswith("speech_stopped"):
                    turns.append((starts[event["item_id"]], event["audio_end_ms"]))
            return turns

    spoken = [one.words for one in transcribe(model, processor, np.frombuffer(content, "<i2").astype(np.float32) / 32_768)]
    for (start, end), words in zip(asyncio.run(send_all()), spoken, strict=True):
        assert -1 <= 1000 * words[0].start - start <= 850
        assert abs(1000 * words[-1].end - end) <= 1


def test_a_stream_whose_text_cannot_be_reported_is_closed(server, clips, monkeypatch):
    """Whatever goes wrong between the model and the socket: 1011, and no connection that stays open and silent."""
    monkeypatch.setattr(openai_realtime._Connection, "_report", lambda *_: 1 / 0)

    async def send_some() -> tuple[dict, int]:
        async with realtime(server) as stream:
            assert json.loads(await stream.recv())["type"] == "session.created"
            await stream.send(append(pcm(clips[1].waveform)))
            event = json.loads(await asyncio.wait_for(stream.recv(), 60))
            await stream.wait_closed()
            return event, stream.close_code

    event, code = asyncio.run(send_some())
    assert code == 1011 and event["error"]["code"] == "failed"


def test_bodies_together_are_bounded():
    """Many uploads that each are small enough: the one with which they become too many is told to come again."""

    class Service:
        limits = Limits(max_mb=1.0, max_waiting_mb=1.5)
        refused = staticmethod(lambda refusal: None)

    async def app(scope, receive, send) -> None:
        response, size = answer(Service(), Refusal("read", status=200)), 0
        try:
            while size < 800_000:
                size += len((await receive())["body"])
            await asyncio.sleep(0.2)
        except Refusal as refusal:
            response = answer(Service(), refusal)
        await response(scope, receive, send)

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(Guard(app, Service(), "token"))
        async with httpx.AsyncClient(transport=transport, headers={"Authorization": "Bearer token"}) as client:

            async def post() -> int:
                return (await client.post("http://x/", content=bytes(800_000))).status_code

            return [*await asyncio.gather(post(), post()), await post()]

    assert asyncio.run(ask()) == [200, 503, 200]


def test_connections_are_limited(server, monkeypatch):
    """Clients that connect and say nothing do not take all of the server: the one too many is closed with 1013."""
    monkeypatch.setattr(server.service, "limits", dataclasses.replace(server.service.limits, max_streams=1))

    async def connect() -> tuple[dict, int]:
        async with realtime(server) as first, realtime(server) as second, realtime(server) as third:
            for stream in (first, second):
                assert json.loads(await stream.recv())["type"] == "session.created"
            event = json.loads(await third.recv())
            await third.wait_closed()
            return event, third.close_code

    event, code = asyncio.run(connect())
    assert code == 1013 and event["error"]["code"] == "overloaded"
