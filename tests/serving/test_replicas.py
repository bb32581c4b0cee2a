"""Two replicas behind nginx: one is killed under its streams, the other's streams go on, and so do new ones."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import websockets
from good_client import pcm
from test_server_process import free_port, wait_until_ready

from modeling_deepspeech2.transcription.recordings import transcribe


REPOSITORY = Path(__file__).parent.parent.parent
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@pytest.fixture
def replica(server, tmp_path):
    """A second server with the same token, as a process, and its address."""
    (tmp_path / "token.txt").write_text(server.token)
    port = free_port()
    command = [sys.executable, "-m", "modeling_deepspeech2.cli.main", "serve", "--port", str(port), "--lm", "off"]
    command += ["--model", "checkpoints/deepspeech2-english-live", "--token_file", str(tmp_path / "token.txt")]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield process, f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def balancer(server, replica, tmp_path):
    """nginx with the documented configuration in front of both; its address."""
    folder, port = tmp_path / "nginx", free_port()
    folder.mkdir()
    os.chmod(tmp_path, 0o755)  # its workers may be another user
    text = (REPOSITORY / "examples" / "serving" / "nginx.conf").read_text()
    for documented, own in {
        "127.0.0.1:8000": f"127.0.0.1:{port}",
        "127.0.0.1:8001": server.url.removeprefix("http://"),
        "127.0.0.1:8002": replica[1],
    }.items():
        assert documented in text
        text = text.replace(documented, own)
    (folder / "nginx.conf").write_text(text)
    directives = f"daemon off; pid {folder}/nginx.pid; error_log stderr crit;"
    process = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf", "-g", directives])
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")
def test_a_replica_is_killed_and_streams_go_on(server, replica, balancer, live_model, clips):
    model, processor, _ = live_model
    content = pcm(clips[1].waveform)
    half = len(content) // 4 * 2
    samples = np.frombuffer(content, "<i2").astype(np.float32) / 32_768
    expected = " ".join(one.text for one in transcribe(model, processor, samples))

    async def open_stream():
        stream = await websockets.connect(f"ws://{balancer}/", additional_headers=server.headers)
        await stream.send(content[:half])
        await stream.recv()
        return stream

    async def finish(stream) -> str | None:
        """The text; None if the stream breaks off."""
        texts = []
        try:
            for message in (content[half:], '{"eof": 1}'):
                await stream.send(message)
                texts.append(json.loads(await stream.recv()).get("text"))
            await stream.close()
        except websockets.ConnectionClosed:
            return None
        return " ".join(filter(None, texts))

    async def run() -> None:
        streams = [await open_stream() for _ in range(6)]
        own = server.service.models["deepspeech2-english-live"].dispatcher.num_streams
        assert 0 < own < 6  # both replicas have some
        replica[0].kill()
        replica[0].wait()
        texts = [await finish(stream) for stream in streams]
        assert texts.count(None) == 6 - own and texts.count(expected) == own
        assert [await finish(await open_stream()) for _ in range(6)] == 6 * [expected]

    asyncio.run(run())
    with urllib.request.urlopen(f"http://{balancer}/health", timeout=60) as answer:
        assert json.load(answer) == {"ready": True}
