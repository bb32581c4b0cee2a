"""Two replicas behind nginx: plays clips to both, kills one, and shows that new streams go on.

    python -m examples.serving.two_replicas --model checkpoints/deepspeech2-english-live [--nginx /usr/sbin/nginx]

The streams of the replica that was killed break off, and their clients open new ones; all others go on.
"""

import argparse
import asyncio
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import websockets

from benchmarks.recordings import read_clips
from benchmarks.serving import encode, play


REPOSITORY = Path(__file__).parent.parent.parent
PORTS = (8001, 8002)  # as in nginx.conf


def wait_until_ready(url: str, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def play_all(clips: list[bytes], expected: list[str] | None = None) -> list[str]:
    """All clips at the same time through nginx, as fast as they are answered."""
    url = "ws://127.0.0.1:8000/"
    results = await asyncio.gather(
        *(play(url, clip, random.Random(0), is_live=False) for clip in clips), return_exceptions=True
    )
    outcomes = collections.Counter(type(one).__name__ if isinstance(one, BaseException) else "text" for one in results)
    texts = ["" if isinstance(one, BaseException) else one[0] for one in results]
    same = "" if expected is None else f", {sum(map(str.__eq__, texts, expected))} with the text of before"
    print(f"{len(clips)} streams: {dict(outcomes)}{same}", flush=True)
    return texts


async def kill_in_the_middle(clips: list[bytes], replica: subprocess.Popen) -> None:
    """Half of each clip, then the replica is killed."""
    streams = [await websockets.connect("ws://127.0.0.1:8000/") for _ in clips]
    for stream, clip in zip(streams, clips):
        await stream.send(clip[: len(clip) // 4 * 2])
        await stream.recv()
    replica.kill()
    alive = 0
    for stream, clip in zip(streams, clips):
        try:
            await stream.send(clip[len(clip) // 4 * 2 :])
            await stream.recv()
            alive += 1
        except websockets.ConnectionClosed:
            pass
        await stream.close()
    print(f"a replica killed under {len(clips)} streams: {alive} go on, {len(clips) - alive} broke off", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--nginx", default=shutil.which("nginx") or "/usr/sbin/nginx")
    parser.add_argument("--clips", type=int, default=20)
    settings = parser.parse_args()
    clips = [encode(waveform) for waveform, _ in read_clips("english")[: settings.clips]]
    command = [sys.executable, "-m", "modeling_deepspeech2.cli.main", "serve", "--model", settings.model, "--lm", "off"]
    replicas = [subprocess.Popen([*command, "--port", str(port)], cwd=REPOSITORY) for port in PORTS]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # nginx's workers are another user
        configuration = Path(__file__).with_name("nginx.conf")
        lines = f"daemon off; pid {folder}/nginx.pid; error_log stderr warn;"
        nginx = subprocess.Popen([settings.nginx, "-p", folder, "-c", str(configuration), "-g", lines])
        try:
            for port in PORTS:
                wait_until_ready(f"http://127.0.0.1:{port}")
            wait_until_ready("http://127.0.0.1:8000")
            expected = asyncio.run(play_all(clips))
            asyncio.run(kill_in_the_middle(clips, replicas[0]))
            asyncio.run(play_all(clips, expected))
        finally:
            nginx.send_signal(signal.SIGTERM)
            for replica in replicas:
                replica.terminate()
            for process in (nginx, *replicas):
                process.wait(120)


if __name__ == "__main__":
    main()
