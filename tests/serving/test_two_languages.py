"""English and Mandarin live in one server: each stream gets the text of its own model, whatever the protocol."""

import asyncio
import base64
import json

import httpx
import numpy as np
import pytest
import websockets
from good_client import pcm
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

from modeling_deepspeech2.transcription.recordings import transcribe


ENGLISH, MANDARIN = "deepspeech2-english-live", "tiny_mandarin"


@pytest.fixture(scope="module")
def speech(clips) -> bytes:
    return pcm(clips[1].waveform)


@pytest.fixture(scope="module")
def expected(live_model, mandarin_model, speech) -> dict[str, str]:
    """Language -> the offline text of its model."""
    samples = np.frombuffer(speech, "<i2").astype(np.float32) / 32_768
    texts = {}
    for language, (model, processor) in {"en": live_model[:2], "zh": mandarin_model}.items():
        texts[language] = processor.tokenizer.utterance_separator.join(
            one.text for one in transcribe(model.eval(), processor, samples)
        )
    assert texts["zh"] and " " not in texts["zh"] and texts["zh"] != texts["en"]
    return texts


async def vosk(server, speech: bytes, language: str) -> str:
    config = {"config": {"sample_rate": 16_000, "model": {"en": ENGLISH, "zh": MANDARIN}[language]}}
    async with websockets.connect(server.url.replace("http", "ws"), additional_headers=server.headers) as stream:
        texts = []
        for message in (json.dumps(config), speech, '{"eof": 1}'):
            await stream.send(message)
        for _ in range(2):
            texts.append(json.loads(await stream.recv()).get("text"))
        return {"en": " ", "zh": ""}[language].join(filter(None, texts))


async def realtime(server, speech: bytes, language: str) -> str:
    audio = {
        "format": {"type": "audio/pcm", "rate": 16_000},
        "transcription": {"language": language},
        "turn_detection": None,
    }
    messages = [
        {"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio}}},
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(speech).decode()},
        {"type": "input_audio_buffer.commit"},
    ]
    address = server.url.replace("http", "ws") + "/v1/realtime"
    async with websockets.connect(address, additional_headers=server.headers) as stream:
        for message in messages:
            await stream.send(json.dumps(message))
        while not (event := json.loads(await stream.recv()))["type"].endswith("completed"):
            assert event["type"] != "error", event
        return event["transcript"]


async def wyoming(server, speech: bytes, language: str) -> str:
    form = {"rate": 16_000, "width": 2, "channels": 1}
    async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
        for event in (Transcribe(language=language), AudioStart(**form), AudioChunk(**form, audio=speech), AudioStop()):
            await client.write_event(event.event())
        while not Transcript.is_type((event := await client.read_event()).type):
            assert event.type != "error", event
        return Transcript.from_event(event).text


async def file(server, speech: bytes, language: str) -> str:
    head = b"RIFF" + (36 + len(speech)).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data"
    content = head + len(speech).to_bytes(4, "little") + speech
    async with httpx.AsyncClient(headers=server.headers, timeout=60) as client:
        answer = await client.post(
            f"{server.url}/v1/audio/transcriptions", files={"file": content}, data={"language": language}
        )
    return answer.json()["text"]


def test_each_stream_gets_the_text_of_its_own_language(server, speech, expected):
    """Both languages over four protocols, all at the same time."""

    async def ask() -> list[str]:
        return await asyncio.gather(
            *(
                protocol(server, speech, language)
                for protocol in (vosk, realtime, wyoming, file)
                for language in ("en", "zh")
            )
        )

    assert asyncio.run(ask()) == 4 * [expected["en"], expected["zh"]]
