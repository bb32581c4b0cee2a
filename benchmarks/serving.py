"""Plays real clips in real time to a running server and measures the latency of their text (section 7 of the paper).

    deepspeech2 serve --model checkpoints/deepspeech2-english-live --lm off &
    python -m benchmarks.serving                                             # the table, best path
    python -m benchmarks.serving --chart serving.svg              # and the picture beside the paper's figures
    python -m benchmarks.serving --streams 30 --seconds 300                  # five minutes
    python -m benchmarks.serving --soak 3600 --streams 20 --server PID       # an hour: memory and latency, minute by minute
    python -m benchmarks.serving --connections 1000 --server PID             # opens and closes connections: memory
    python -m benchmarks.serving --capacity checkpoints/deepspeech2-english-live   # no server: processor time a stream

The clients run in this process and speak Vosk's protocol. A piece of about 100 ms is sent at the moment when its last sample
would have been recorded; its latency is the time until its answer arrives. Streams start at random moments, and the pieces
vary in length by a half, so that the streams do not fall into step. Every text is compared with the first text of the same
clip, which was transcribed alone.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from pathlib import Path

import numpy as np
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


def resident(process: int) -> float:
    """Resident memory of a process in megabytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def table(settings: argparse.Namespace, clips: list[bytes], texts: list[str]) -> dict[int, tuple[float, float]]:
    print("| streams | median | 98 % | paper's median | paper's 98 % | clips | same text | cores of the server |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = {}
    for streams in settings.streams:
        before = cpu_seconds(settings.server) if settings.server else 0.0
        begin = time.monotonic()
        latencies, played, same = await measure(settings.url, clips, texts, streams, settings.seconds)
        cores = (cpu_seconds(settings.server) - before) / (time.monotonic() - begin) if settings.server else None
        rows[streams] = quantiles(latencies)
        paper = [f"{value} ms" for value in PAPER.get(streams, ())] or ["–", "–"]
        cells = [str(streams), *(f"{value:.0f} ms" for value in rows[streams]), *paper, str(played), str(same)]
        print(f"| {' | '.join(cells)} | {'–' if cores is None else f'{cores:.2f}'} |", flush=True)
    return rows


async def soak(settings: argparse.Namespace, clips: list[bytes], texts: list[str]) -> None:
    print("| minute | median | 98 % | server's memory | clips | same text |\n| ---: | ---: | ---: | ---: | ---: | ---: |")
    for minute in range(1, round(settings.soak / 60) + 1):
        latencies, played, same = await measure(settings.url, clips, texts, settings.streams[0], 60)
        median, worst = quantiles(latencies)
        memory = f"{resident(settings.server):.0f} MB" if settings.server else "–"
        print(f"| {minute} | {median:.0f} ms | {worst:.0f} ms | {memory} | {played} | {same} |", flush=True)


async def connections(settings: argparse.Namespace, clips: list[bytes]) -> None:
    """Opens and closes connections, ten at a time, each after half a clip, without closing it properly."""

    async def once(content: bytes) -> None:
        stream = await websockets.connect(settings.url, compression=None)
        await stream.send(content[: len(content) // 4 * 2])
        await stream.recv()
        stream.transport.abort()

    sizes = []
    for number in range(0, settings.connections, 10):
        await asyncio.gather(*(once(clips[(number + place) % len(clips)]) for place in range(10)))
        if settings.server and number in (0, 90, settings.connections - 10):
            sizes.append(f"{resident(settings.server):.0f} MB after {number + 10}")
    print(f"{settings.connections} connections; the server's memory: {', '.join(sizes) or 'give --server PID'}")


def capacity(folder: str, clips: list[bytes], number: int) -> None:
    """Processor time of streams in one batch, in pieces of 100 ms, as fast as possible."""
    import torch

    from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor
    from modeling_deepspeech2.serving.dispatcher import Dispatcher
    from modeling_deepspeech2.serving.engine import TorchEngine

    torch.set_num_threads(1)
    processor = DeepSpeech2Processor.from_pretrained(folder)
    engine = TorchEngine(DeepSpeech2ForCTC.from_pretrained(folder).eval(), processor.feature_extractor)
    decoders = {"best path": None, "beam search": CTCBeamSearchDecoder.from_pretrained(folder, processor.tokenizer)}
    waveforms = [np.frombuffer(clip, "<i2").astype(np.float32) / 32_768 for clip in clips]
    print(f"{number} streams, {len(clips)} clips\n\n| decoder | processor time a piece of 100 ms | streams a core |")
    print("| --- | ---: | ---: |")
    for name, decoder in decoders.items():
        dispatcher = Dispatcher(engine, processor.tokenizer, decoder, max_streams=number)
        taken, seconds = 0.0, 0.0
        for first in range(0, len(waveforms), number):
            own = waveforms[first : first + number]
            streams = [dispatcher.open() for _ in own]
            for start in range(0, max(map(len, own)), RATE // 10):
                begin = time.process_time()
                for stream, waveform in zip(streams, own):
                    stream.put(waveform[start : start + RATE // 10])
                while not all(stream.take().is_idle for stream in streams):
                    time.sleep(0.002)
                if first or start >= RATE:  # the first second warms up
                    taken += time.process_time() - begin
                    seconds += sum(len(waveform[start : start + RATE // 10]) for waveform in own) / RATE
            for stream in streams:
                stream.close()
        dispatcher.stop()
        print(f"| {name} | {1e2 * taken / seconds:.2f} ms | {seconds / taken:.0f} |", flush=True)


def draw(rows: dict[int, tuple[float, float]], file: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, found, color in (("here, two CPU cores", rows, "C0"), ("paper, one GPU", PAPER, "C1")):
        axes.plot(list(found), [median for median, _ in found.values()], "o-", color=color, label=f"{name}: median")
        axes.plot(list(found), [worst for _, worst in found.values()], "o--", color=color, label=f"{name}: 98 %")
    axes.set(xlabel="live streams", ylabel="piece to text, ms", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(file)


async def run(settings: argparse.Namespace) -> None:
    clips = [encode(waveform) for waveform, _ in read_clips(settings.language)[: settings.clips]]
    if settings.capacity:
        capacity(settings.capacity, clips, settings.streams[0] if len(settings.streams) == 1 else 20)
        return
    if settings.connections:
        await connections(settings, clips)
        return
    rng = random.Random(0)
    texts = [(await play(settings.url, clip, rng, is_live=False))[0] for clip in clips]
    if settings.soak:
        await soak(settings, clips, texts)
        return
    rows = await table(settings, clips, texts)
    if settings.chart:
        draw(rows, settings.chart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:8000/")
    parser.add_argument("--language", default="english", help="of the bundled clips (%(default)s)")
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 10, 20, 30, 60, 100])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each row (%(default)s)")
    parser.add_argument("--server", type=int, metavar="PID", help="of the server, for its memory and processor time")
    parser.add_argument("--chart", metavar="FILE")
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--connections", type=int, default=0, metavar="N")
    parser.add_argument("--capacity", metavar="MODEL", help="measure a model in this process, 20 streams or --streams")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
