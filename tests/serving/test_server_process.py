"""The command `deepspeech2 serve`: settings that stop it before any work, and a real process that is told to end."""

import asyncio
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import soundfile
import websockets

from modeling_deepspeech2 import CTCBeamSearchDecoder
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.transcription.recordings import transcribe


REPOSITORY = Path(__file__).parent.parent.parent
LIVE_MODEL = REPOSITORY / "checkpoints" / "deepspeech2-english-live"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host: 0.0.0.0 can be reached by others"),
        (["--host", "0.0.0.0", "--token_file", "nowhere.txt"], "--token_file: nowhere.txt cannot be read"),
        (["--token_file", "short.txt"], "at least 16 ASCII characters"),
        (["--max_streams", "0"], "--max_streams: found 0"),
        (["--port", "70000"], "--port: found 70000"),
        (["--model", "no/such/folder"], "--model: found no Deep Speech 2 model in no/such/folder"),
        (["--model", str(LIVE_MODEL)], "two models of the name deepspeech2-english-live"),
    ],
)
def test_wrong_settings_are_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    """Before a port is opened or a process started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("secret\n")
    assert main(["serve", "--model", str(LIVE_MODEL), "--lm", "off", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--port", "--wyoming"])
def test_a_port_that_is_taken_is_one_sentence(option, capsys):
    """Before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", "no/such/folder", option, str(port)]) == 2
    assert f"{option}: cannot listen on 127.0.0.1, port {port} (Address already in use)" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_until_ready(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 400
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                assert json.load(answer) == {"ready": True}
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)


def fill_the_disk(process: subprocess.Popen) -> None:
    """From now on the process and its own can write no byte to any file."""
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (0, 0))


@pytest.fixture
def process():
    """A server of the published live model with its language model, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "modeling_deepspeech2.cli.main", "serve", "--model", str(LIVE_MODEL)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    started = subprocess.Popen(
        [*command, "--port", str(port)], cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", started)
        yield started, port
    finally:
        started.kill()
        started.wait()


def test_hot_words_a_full_disk_and_a_signal(process, live_model, clips):
    """With the language model, files and streams get the texts of `transcribe`, hot words included, on a disk that is full.

    After SIGTERM the stream under way gets its last text and code 1001, an upload under way 503; the exit status is 0.
    """
    server, port = process
    model, processor, _ = live_model
    decoder = CTCBeamSearchDecoder.from_pretrained(LIVE_MODEL, processor.tokenizer)
    content = (clips[1].waveform * 32_767).astype("<i2").tobytes()
    samples = np.frombuffer(content, "<i2").astype(np.float32) / 32_768
    fill_the_disk(server)

    def offline(waveform: np.ndarray, hotwords: dict[str, float] | None) -> str:
        return " ".join(one.text for one in transcribe(model, processor, waveform, decoder, hotwords=hotwords))

    def upload(waveform: np.ndarray, hotwords: dict[str, float] | None) -> str:
        file = io.BytesIO()
        soundfile.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
        data = {"hotwords": json.dumps(hotwords)}
        address = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
        return httpx.post(address, files={"file": file.getvalue()}, data=data, timeout=120).json()["text"]

    async def talk(hotwords: dict[str, float] | None, is_last: bool = False) -> tuple[str, int]:
        async with websockets.connect(f"ws://127.0.0.1:{port}/") as stream:
            await stream.send(json.dumps({"config": {"hotwords": hotwords}}))
            await stream.send(content)
            assert json.loads(await stream.recv())["partial"]
            if is_last:
                half_an_upload.sendall(f"{upload_head}\r\n\r\n--x\r\n".encode())
                await asyncio.sleep(0.5)
                server.send_signal(signal.SIGTERM)
            else:
                await stream.send('{"eof": 1}')
            text = json.loads(await stream.recv())["text"]
            await stream.wait_closed()
            return text, stream.close_code

    half_an_upload = socket.create_connection(("127.0.0.1", port), timeout=60)
    upload_head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1000\r\n"
    upload_head += "Content-Type: multipart/form-data; boundary=x"
    hotwords = {"sat": 10.0}
    texts = [offline(samples, None), offline(samples, hotwords)]
    assert texts[0] != texts[1]
    assert [upload(samples, None), upload(samples, hotwords)] == texts
    long = np.concatenate([samples, np.zeros(30 * 16_000, np.float32)])  # forms of its size are often written to the disk
    assert upload(long, None) == texts[0]
    assert asyncio.run(talk(None)) == (texts[0], 1000)
    assert asyncio.run(talk(hotwords, is_last=True)) == (texts[1], 1001)
    with half_an_upload:
        assert b" 503 " in half_an_upload.recv(1_000)
    assert server.wait(120) == 0  # ten seconds at most, but for a busy machine
    said = server.stderr.read()
    assert f"Serving deepspeech2-english-live at http://127.0.0.1:{port}/" in said and "Traceback" not in said
