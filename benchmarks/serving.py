"""Plays real clips in real time to the server and measures the latency of their text (section 7 of the paper).

    python -m benchmarks.serving --model checkpoints/deepspeech2-english-live --chart serving.svg     # 1 to 100 streams
    python -m benchmarks.serving --model … --lm on --streams 10             # with the language model
    python -m benchmarks.serving --model … --streams 30 --seconds 300       # five minutes
    python -m benchmarks.serving --model … --streams 20 --soak 3600         # an hour in 60 parts
    python -m benchmarks.serving --model … --connections 1000               # opens and closes connections
    python -m benchmarks.serving --model … --hours 24                       # one stream of a day, as fast as possible
    python -m benchmarks.serving --url ws://127.0.0.1:8000/ --server PID    # a server that runs already

Each prints one table, and with --chart draws it. With --model the server is a process of its own that is started and ended
here. To give it and its clients cores of their own, start `taskset -c 0 deepspeech2 serve …` first, and then
`taskset -c 1 python -m benchmarks.serving --url … --server PID`.

The clients run in this process and speak Vosk's protocol. A piece of about 100 ms is sent at the moment when its last sample
would have been recorded; its latency is the time until its answer arrives. Streams start at random moments, and the pieces
vary in length by a half, so that the streams do not fall into step. Each text is compared with the offline text: that of the
same clip uploaded as a file.
"""

import argparse
import asyncio
import contextlib
import io
import json
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import httpx
import numpy as np
import psutil
import soundfile
import websockets

from benchmarks.recordings import RATE, read_clips


PAPER = {10: (44, 70), 20: (48, 86), 30: (67, 114)}  # streams -> median and 98th percentile, ms (ICML version, figure)
PIECE_SECONDS = 0.1


def encode(waveform: np.ndarray) -> bytes:
    return (waveform * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes()


async def play(url: str, content: bytes, rng: random.Random, is_live: bool = True) -> tuple[str, list[float]]:
    """One clip as one stream -> its text, and the latency of each piece in seconds."""
    texts, latencies = [], []
    async with websockets.connect(url, compression=None) as stream:
        await stream.send(json.dumps({"config": {"sample_rate": RATE, "words": False}}))
        begin, place = time.monotonic(), 0
        while place < len(content):
            size = 2 * round(RATE * PIECE_SECONDS * (rng.uniform(0.5, 1.5) if is_live else 5))
            piece, place = content[place : place + size], place + size
            if is_live:
                await asyncio.sleep(max(0.0, begin + place / (2 * RATE) - time.monotonic()))
            due = begin + place / (2 * RATE) if is_live else time.monotonic()
            await stream.send(piece)
            answer = json.loads(await stream.recv())
            latencies.append(time.monotonic() - due)  # a client that is late counts as the server's delay
            texts.append(answer.get("text"))
        await stream.send('{"eof": 1}')
        texts.append(json.loads(await stream.recv())["text"])
    return " ".join(filter(None, texts)), latencies


async def offline_texts(url: str, clips: list[bytes]) -> list[str]:
    """The text of each clip as an uploaded file."""
    address = url.replace("ws", "http", 1).rstrip("/") + "/v1/audio/transcriptions"
    texts = []
    async with httpx.AsyncClient(timeout=300) as client:
        for clip in clips:
            file = io.BytesIO()
            soundfile.write(file, np.frombuffer(clip, "<i2"), RATE, format="WAV")
            answer = await client.post(address, files={"file": ("clip.wav", file.getvalue())})
            answer.raise_for_status()
            texts.append(answer.json()["text"])
    return texts


async def measure(
    url: str, clips: list[bytes], texts: list[str], streams: int, seconds: float
) -> tuple[list[float], int, int]:
    """Runs streams for some time, each with one clip after the other: latencies, clips, and those with the same text."""
    latencies, played, same = [], 0, 0
    end = time.monotonic() + seconds

    async def speak(number: int) -> None:
        nonlocal played, same
        rng = random.Random(number)
        await asyncio.sleep(rng.uniform(0, 2))
        while time.monotonic() < end:
            index = rng.randrange(len(clips))
            text, own = await play(url, clips[index], rng)
            latencies.extend(own)
            played, same = played + 1, same + (text == texts[index])

    await asyncio.gather(*map(speak, range(streams)))
    return latencies, played, same


def quantiles(latencies: list[float]) -> tuple[float, float]:
    """Median and 98th percentile in milliseconds."""
    return 1e3 * statistics.median(latencies), 1e3 * statistics.quantiles(latencies, n=50)[-1]


class Watched:
    """Memory and processor time of a server with its process for files; nothing is known of a server of no process id."""

    def __init__(self, process: int | None):
        self.process = psutil.Process(process) if process else None

    def memory(self) -> float | None:
        """Resident, of the process of the live streams, in megabytes."""
        return self.process and self.process.memory_info().rss / 1e6

    def cpu_seconds(self) -> float | None:
        return self.process and sum(self.process.cpu_times()[:2])


def show(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


async def table(settings: argparse.Namespace, server: Watched, clips: list[bytes]) -> None:
    texts = await offline_texts(settings.url, clips)
    print("| streams | median | 98 % | paper's median | 98 % | clips | offline text | cores | memory before | after |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = {}
    for streams in settings.streams:
        memory, before, begin = server.memory(), server.cpu_seconds(), time.monotonic()
        latencies, played, same = await measure(settings.url, clips, texts, streams, settings.seconds)
        cores = None if before is None else (server.cpu_seconds() - before) / (time.monotonic() - begin)
        rows[streams] = quantiles(latencies)
        paper = [f"{value} ms" for value in PAPER.get(streams, ())] or ["–", "–"]
        cells = [str(streams), *(f"{value:.0f} ms" for value in rows[streams]), *paper, str(played), str(same)]
        cells += [show(cores, ".2f"), show(memory, ".0f"), show(server.memory(), ".0f")]
        print(f"| {' | '.join(cells)} |", flush=True)
    print("\nMemory in MB, of the process of the live streams.")
    if settings.chart:
        draw_latencies(settings.chart, rows, "live streams", PAPER)


async def soak(settings: argparse.Namespace, server: Watched, clips: list[bytes]) -> None:
    texts = await offline_texts(settings.url, clips)
    streams = settings.streams[0]
    print(f"{streams} streams\n\n| seconds | median | 98 % | clips | offline text | memory |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    rows, everything, memories, before = {}, [], [], server.memory()
    parts = max(1, min(60, round(settings.soak / 5)))
    for part in range(1, parts + 1):
        latencies, played, same = await measure(settings.url, clips, texts, streams, settings.soak / parts)
        everything.append(latencies)
        memories.append(server.memory())
        seconds = settings.soak * part / parts
        rows[seconds] = median, worst = quantiles(latencies)
        memory = show(memories[-1], ".0f")
        print(f"| {seconds:.0f} | {median:.0f} ms | {worst:.0f} ms | {played} | {same} | {memory} MB |", flush=True)
    print_tenths(everything, memories, before)
    if settings.chart:
        draw_latencies(settings.chart, rows, "seconds", {}, memories)


def print_tenths(latencies: list[list[float]], memories: list[float | None], before: float | None) -> None:
    """The first and the last tenth of a soak beside each other, so that what grows can be seen."""
    size = max(1, len(latencies) // 10)
    print("\n| | median | 98 % | memory at its end |\n| --- | ---: | ---: | ---: |")
    for name, part, end in (("first tenth", latencies[:size], size), ("last tenth", latencies[-size:], len(memories))):
        median, worst = quantiles(sum(part, []))
        print(f"| {name} | {median:.0f} ms | {worst:.0f} ms | {show(memories[end - 1], '.0f')} MB |")
    if before is not None:
        print(f"\nMemory before: {before:.0f} MB; last tenth / first tenth: {memories[-1] / memories[size - 1]:.3f}")


async def connections(settings: argparse.Namespace, server: Watched, clips: list[bytes]) -> None:
    """Opens and closes connections, ten at a time, each after half a clip, without closing it properly."""

    async def once(content: bytes) -> None:
        stream = await websockets.connect(settings.url, compression=None)
        await stream.send(content[: len(content) // 4 * 2])
        await stream.recv()
        stream.transport.abort()

    print("| connections | memory | ratio to the first ten |\n| ---: | ---: | ---: |")
    sizes: dict[int, float | None] = {}
    marks = {10, settings.connections, *(settings.connections * part // 100 * 10 for part in range(1, 10))}
    for number in range(0, settings.connections, 10):
        await asyncio.gather(*(once(clips[(number + place) % len(clips)]) for place in range(10)))
        if number + 10 in marks:
            sizes[number + 10] = memory = server.memory()
            ratio = None if memory is None else memory / sizes[10]
            print(f"| {number + 10} | {show(memory, '.0f')} MB | {show(ratio, '.3f')} |", flush=True)
    if settings.chart and server.process:
        draw_memory(settings.chart, sizes, "connections opened and closed")


async def long_stream(settings: argparse.Namespace, server: Watched, clips: list[bytes]) -> None:
    """One stream, as fast as it is answered; a pause of a second ends each clip."""
    pause, step = bytes(2 * RATE), settings.hours / 24
    print("| hours of audio | words | memory | ratio to the first row |\n| ---: | ---: | ---: | ---: |")
    sizes: dict[float, float | None] = {}
    words, seconds, number = 0, 0.0, 0
    async with websockets.connect(settings.url, compression=None) as stream:
        await stream.send(json.dumps({"config": {"sample_rate": RATE, "words": False}}))
        while seconds < 3600 * settings.hours:
            content = clips[number % len(clips)] + pause
            number, seconds = number + 1, seconds + len(content) / (2 * RATE)
            await stream.send(content)
            words += len(json.loads(await stream.recv()).get("text", "").split())
            if seconds >= 3600 * min(settings.hours, step * (len(sizes) + 1)):
                sizes[seconds / 3600] = memory = server.memory()
                first = next(iter(sizes.values()))
                ratio = None if memory is None else memory / first
                print(f"| {seconds / 3600:.2f} | {words} | {show(memory, '.0f')} MB | {show(ratio, '.3f')} |", flush=True)
    if settings.chart and server.process:
        draw_memory(settings.chart, sizes, "hours of audio in one stream")


def draw_latencies(
    file: str, rows: dict[int, tuple[float, float]], across: str, paper: dict, memories: list | tuple = ()
) -> None:
    plt = load_pyplot()
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, found, color in (("here, two CPU cores", rows, "C0"), ("paper, one GPU", paper, "C1")):
        if found:
            axes.plot(list(found), [median for median, _ in found.values()], "o-", color=color, label=f"{name}: median")
            axes.plot(list(found), [worst for _, worst in found.values()], "o--", color=color, label=f"{name}: 98 %")
    axes.set(xlabel=across, ylabel="piece to text, ms", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    if memories and memories[0] is not None:
        right = axes.twinx()
        right.plot(list(rows), memories, color="0.6")
        right.set(ylabel="memory, MB (grey)", ylim=(0, 1.3 * max(memories)))
    figure.savefig(file)


def draw_memory(file: str, sizes: dict[float, float], across: str) -> None:
    plt = load_pyplot()
    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
    axes.plot(list(sizes), list(sizes.values()), "o-")
    axes.axhline(1.1 * next(iter(sizes.values())), color="0.6", linestyle="--")
    axes.set(xlabel=across, ylabel="memory, MB", ylim=(0, 1.3 * max(sizes.values())))
    figure.savefig(file)


def load_pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


@contextlib.contextmanager
def started(model: str, lm: str) -> Iterator[tuple[str, int]]:
    """A server of a model on this machine: its address and process id."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "modeling_deepspeech2.cli.main", "serve", "--model", model, "--lm", lm]
    process = subprocess.Popen([*command, "--port", str(port), "--max_streams", "200"])
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.2)
        yield f"ws://127.0.0.1:{port}/", process.pid
    finally:
        process.terminate()
        process.wait(120)


async def run(settings: argparse.Namespace) -> None:
    clips = [encode(waveform) for waveform, _ in read_clips(settings.language)[: settings.clips]]
    server = Watched(settings.server)
    if settings.connections:
        await connections(settings, server, clips)
    elif settings.hours:
        await long_stream(settings, server, clips)
    elif settings.soak:
        await soak(settings, server, clips)
    else:
        await table(settings, server, clips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model, of which a server is started")
    parser.add_argument("--lm", choices=("on", "off"), default="off", help="for that server (%(default)s)")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/", help="of a server that runs already (%(default)s)")
    parser.add_argument("--server", type=int, metavar="PID", help="of that server, for its memory and processor time")
    parser.add_argument("--language", default="english", help="of the bundled clips (%(default)s)")
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 10, 20, 30, 60, 100])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each row (%(default)s)")
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--connections", type=int, default=0, metavar="N")
    parser.add_argument("--hours", type=float, default=0.0, metavar="N", help="of one stream, as fast as possible")
    parser.add_argument("--chart", metavar="FILE")
    settings = parser.parse_args()
    if settings.connections % 10:
        parser.error("--connections: expected a multiple of 10")
    with contextlib.ExitStack() as stack:
        if settings.model:
            settings.url, settings.server = stack.enter_context(started(settings.model, settings.lm))
        asyncio.run(run(settings))


if __name__ == "__main__":
    main()
