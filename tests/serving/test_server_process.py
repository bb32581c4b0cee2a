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


def test_a_signal_ends_the_server_and_no_stream_loses_its_text(live_model, clips):
    """SIGTERM with a stream under way: its last text with the language model's search, code 1001, and exit status 0.

    The disk is full meanwhile: neither an upload nor the stream needs it.
    """
    model, processor, _ = live_model
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "modeling_deepspeech2.cli.main",
        "serve",
        "--model",
        str(LIVE_MODEL),
        "--port",
        str(port),
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    content = (clips[1].waveform * 32_767).astype("<i2").tobytes()

    async def talk() -> tuple[str, int]:
        async with websockets.connect(f"ws://127.0.0.1:{port}/") as stream:
            await stream.send(content)
            assert json.loads(await stream.recv())["partial"]
            process.send_signal(signal.SIGTERM)
            return json.loads(await stream.recv())["text"], await closed(stream)

    async def closed(stream) -> int:
        await stream.wait_closed()
        return stream.close_code

    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        fill_the_disk(process)
        file, waveform = io.BytesIO(), np.resize(clips[1].waveform, 40 * 16_000)  # so large that forms often go to the disk
        soundfile.write(file, waveform, 16_000, format="WAV")
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/audio/transcriptions", files={"file": file.getvalue()}, timeout=60)
        assert answer.status_code == 200 and answer.json()["text"]
        text, code = asyncio.run(talk())
        assert process.wait(120) == 0  # of which the server itself takes ten at most
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
    from modeling_deepspeech2 import CTCBeamSearchDecoder

    decoder = CTCBeamSearchDecoder.from_pretrained(LIVE_MODEL, processor.tokenizer)
    samples = np.frombuffer(content, "<i2").astype(np.float32) / 32_768
    assert (text, code) == (" ".join(one.text for one in transcribe(model, processor, samples, decoder)), 1001)
