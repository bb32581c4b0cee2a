"""Clients that exist, unmodified, against a server with the published live model: each gets the offline text."""

import asyncio
import base64
import io
import json
import urllib.request

import httpx
import numpy as np
import openai
import pytest
import soundfile
import soxr
import websockets
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info

from modeling_deepspeech2.transcription.recordings import transcribe


MODEL = "deepspeech2-english-live"


def pcm(waveform: np.ndarray, rate: int = 16_000) -> bytes:
    """16-bit samples, as clients send them."""
    samples = waveform if rate == 16_000 else soxr.resample(waveform, 16_000, rate)
    return (samples * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def offline(live_model):
    """The text that the library itself gives for 16-bit samples."""
    model, processor, _ = live_model

    def text(content: bytes, rate: int = 16_000) -> str:
        samples = np.frombuffer(content, "<i2").astype(np.float32) / 32_768
        if rate != 16_000:
            samples = soxr.resample(samples, rate, 16_000)
        return " ".join(one.text for one in transcribe(model, processor, samples))

    return text


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0)


# OpenAI, files


def test_openai_files_in_every_format(client, live_model, encoded_clips, clips):
    """The bundled Opus clip, through the openai package: the text of `transcribe`, and its words in time."""
    model, processor, _ = live_model
    name, content = encoded_clips[1]
    (expected,) = list(transcribe(model, processor, clips[1].waveform))
    ask = client.audio.transcriptions.create
    file = (name, content)
    assert ask(model=MODEL, file=file).text == expected.text
    assert ask(model=MODEL, file=file, response_format="text").strip() == expected.text
    srt = ask(model=MODEL, file=file, response_format="srt")
    assert srt.startswith("1\n00:00:0") and " ".join(srt.splitlines()[2:4]).strip() == expected.text
    vtt = ask(model=MODEL, file=file, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:0")
    verbose = ask(model=MODEL, file=file, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert verbose.text == expected.text and verbose.language == "en"
    assert verbose.duration == pytest.approx(len(clips[1].waveform) / 16_000, abs=0.01)
    assert [word.word for word in verbose.words] == [word.text for word in expected.words]
    assert [word.start for word in verbose.words] == pytest.approx([word.start for word in expected.words], abs=1e-3)
    assert verbose.segments[0].text == expected.text and verbose.segments[0].avg_logprob < 0


def test_openai_files_as_events(client, live_model, clips):
    """`stream=True`: the deltas put together are the text, over several utterances."""
    model, processor, _ = live_model
    waveform = np.concatenate([clips[1].waveform, np.zeros(20_000, np.float32), clips[2].waveform])
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
    events = list(client.audio.transcriptions.create(model=MODEL, file=("a.wav", file.getvalue()), stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) >= 2 and events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text == " ".join(one.text for one in transcribe(model, processor, waveform))


def test_events_pass_through_proxies(server, encoded_clips):
    """nginx and others hold an answer back until it is whole, unless its headers say that each event goes on at once."""
    address, data = f"{server.url}/v1/audio/transcriptions", {"model": "tiny_model", "stream": "true"}
    answer = httpx.post(address, files={"file": encoded_clips[0]}, data=data, headers=server.headers, timeout=60)
    assert answer.text.startswith("data: ") and answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no" and answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("language", ["en", "EN", "en-GB", "en_US"])
def test_languages_as_clients_write_them(server, language):
    """With or without a region, in either spelling."""
    assert server.service.find(None, live=True, language=language).name == MODEL


def test_openai_models(client):
    """Both models are listed; the one that reads both ways is not for live use."""
    found = {one.id: one for one in client.models.list()}
    assert found.keys() == {MODEL, "tiny_model", "tiny_mandarin"}
    assert found[MODEL].live and not found["tiny_model"].live
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_model_that_reads_both_ways_serves_files(client, encoded_clips):
    """The tiny model's noise is some text; live it is refused, see the bad clients."""
    assert client.audio.transcriptions.create(model="tiny_model", file=encoded_clips[0], response_format="text").strip()


# OpenAI, realtime


async def realtime_items(server, content: bytes, rate: int, turns: bool) -> tuple[list[str], list[str]]:
    """Transcripts of the items, and the deltas of each put together."""
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.token)
    session = {
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": rate},
                "transcription": {"model": MODEL, "language": "en"},
                "turn_detection": {"type": "server_vad"} if turns else None,
            }
        },
    }
    async with client.realtime.connect(model=MODEL, extra_query={"intent": "transcription"}) as connection:
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(session=session)
        assert (await connection.recv()).type == "session.updated"
        for start in range(0, len(content), 9_600):
            piece = base64.b64encode(content[start : start + 9_600]).decode()
            await connection.input_audio_buffer.append(audio=piece)
        await connection.input_audio_buffer.commit()
        texts, deltas = [], {}
        while True:
            event = await asyncio.wait_for(connection.recv(), 60)
            assert event.type != "error", event
            if event.type == "conversation.item.input_audio_transcription.delta":
                deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
            elif event.type == "conversation.item.input_audio_transcription.completed":
                texts.append(event.transcript)
                if not turns or len(texts) == 2:
                    return texts, list(deltas.values())


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_openai_realtime_without_turns(server, offline, clips, rate):
    """A commit makes an item of everything, also at the 24 kHz that clients send."""
    content = pcm(np.concatenate([clips[1].waveform, np.zeros(20_000, np.float32), clips[2].waveform]), rate)
    texts, deltas = asyncio.run(realtime_items(server, content, rate, turns=False))
    assert texts == deltas == [offline(content, rate)]


def test_openai_realtime_with_turns(server, offline, clips):
    """A pause ends an item."""
    content = pcm(np.concatenate([clips[1].waveform, np.zeros(20_000, np.float32), clips[2].waveform]))
    texts, deltas = asyncio.run(realtime_items(server, content, 16_000, turns=True))
    assert len(texts) == 2 and texts == deltas and " ".join(texts) == offline(content)


# Vosk


async def vosk_texts(
    server, content: bytes, rate: int = 16_000, size: int = 8_000, config: dict | None = None
) -> list[dict]:
    """The loop of Vosk's own client: a configuration, then one answer for each message."""
    answers = []
    async with websockets.connect(server.url.replace("http", "ws"), additional_headers=server.headers) as socket:
        await socket.send(json.dumps({"config": {"sample_rate": rate}}))
        for start in range(0, len(content), size):
            await socket.send(content[start : start + size])
            answers.append(json.loads(await socket.recv()))
        await socket.send('{"eof" : 1}')
        answers.append(json.loads(await socket.recv()))
    return answers


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_vosk(server, offline, clips, rate):
    """Partial texts while it goes on, results with words and times at the end; odd sizes and half samples do not matter."""
    content = pcm(np.concatenate([clips[1].waveform, np.zeros(20_000, np.float32), clips[2].waveform]), rate)
    answers = asyncio.run(vosk_texts(server, content, rate, size=7_001))
    text = " ".join(answer["text"] for answer in answers if answer.get("text"))
    assert text == offline(content, rate)
    words = [word for answer in answers for word in answer.get("result", [])]
    assert " ".join(word["word"] for word in words) == text
    assert all(0 <= word["conf"] <= 1 and word["start"] < word["end"] for word in words)
    assert any(answer.get("partial") for answer in answers)


def test_many_clients_at_once(server, offline, clips):
    """Twelve streams of different protocols and pieces at the same time: nobody gets a word of another."""

    async def all_at_once() -> list[str]:
        jobs = [vosk_texts(server, pcm(clips[index % 8].waveform), size=1_600 + 500 * index) for index in range(12)]
        answers = await asyncio.gather(*jobs)
        return [" ".join(one["text"] for one in own if one.get("text")) for own in answers]

    assert asyncio.run(all_at_once()) == [offline(pcm(clips[index % 8].waveform)) for index in range(12)]


# Wyoming


def test_wyoming(server, offline, clips):
    """Describe, then two requests over one connection, with the client of the wyoming package."""

    async def ask() -> tuple[Info, list[str]]:
        texts = []
        async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
            await client.write_event(Describe().event())
            info = Info.from_event(await client.read_event())
            for clip in clips[1:3]:
                await client.write_event(Transcribe(name=MODEL, language="en").event())
                await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
                content = pcm(clip.waveform)
                for start in range(0, len(content), 2_048):
                    chunk = AudioChunk(rate=16_000, width=2, channels=1, audio=content[start : start + 2_048])
                    await client.write_event(chunk.event())
                await client.write_event(AudioStop().event())
                while not Transcript.is_type((event := await client.read_event()).type):
                    assert event.type != "error", event
                texts.append(Transcript.from_event(event).text)
                assert (await client.read_event()).type == "transcript-stop"
        return info, texts

    info, texts = asyncio.run(ask())
    assert [model.name for model in info.asr[0].models] == [MODEL, "tiny_mandarin"]
    assert texts == [offline(pcm(clip.waveform)) for clip in clips[1:3]]


# Health, metrics, page


def get(server, path: str) -> str:
    request = urllib.request.Request(server.url + path, headers=server.headers)
    return urllib.request.urlopen(request, timeout=60).read().decode()


def test_health_metrics_and_page(server, clips):
    """Ready after the warm-up; the histograms count what was served; the page needs nothing from elsewhere."""
    asyncio.run(vosk_texts(server, pcm(clips[1].waveform)))
    assert json.loads(get(server, "/health")) == {"ready": True}
    metrics = dict(line.rsplit(" ", 1) for line in get(server, "/metrics").splitlines() if not line.startswith("#"))
    assert float(metrics["deepspeech2_open_streams"]) == 0
    assert float(metrics["deepspeech2_piece_to_text_seconds_count"]) > 0
    assert float(metrics["deepspeech2_batch_streams_count"]) > 0
    assert float(metrics['deepspeech2_audio_seconds_total{kind="live"}']) >= len(clips[1].waveform) / 16_000
    page = get(server, "/")
    assert "AudioWorklet" in page and "http" not in page.replace("href.replace(/^http/", "")
