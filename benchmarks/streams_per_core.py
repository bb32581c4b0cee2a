"""Streams that a core transcribes live: the dispatcher of the server against the code of an earlier commit, in turns.

    python -m benchmarks.streams_per_core                                   # against 434db90, before there was a server
    python -m benchmarks.streams_per_core --before HEAD~20 --streams 10 --seconds 5 --rounds 3 --chart streams.svg

Both transcribe the same streams with the same published model, that of the earlier commit, in pieces of 100 ms, and show
the stable and the tentative text after each piece. A stream is bundled clips one behind the other, without pauses; all are
equally long. The earlier code moves its streams by `feed_streams`. What counts is processor time, so that other programs on
the machine hardly matter; the first second of audio, which warms up, does not. The texts of all streams are compared.
"""

import argparse
import contextlib
import functools
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


REPOSITORY = Path(__file__).parent.parent
MODEL = "checkpoints/deepspeech2-english-live"
RATE = 16_000
PIECE = RATE // 10
DECODERS = ("best path", "beam search")


def by_dispatcher(model: Any, processor: Any, decoder: Any, clips: list[np.ndarray]) -> tuple[list[str], float]:
    """The texts, and the processor time in seconds."""
    from modeling_deepspeech2.serving.dispatcher import Dispatcher
    from modeling_deepspeech2.serving.engine import TorchEngine

    dispatcher = Dispatcher(TorchEngine(model, processor.feature_extractor), processor.tokenizer, decoder, len(clips))
    news: queue.SimpleQueue[int] = queue.SimpleQueue()  # numbers of streams; to poll would cost processor time
    streams = [dispatcher.open(functools.partial(news.put, index)) for index in range(len(clips))]
    texts: list[list[str]] = [[] for _ in clips]

    def wait_for(waiting: set[int]) -> None:
        """Until all of these are idle or over."""
        while waiting:
            update = streams[index := news.get()].take()
            texts[index] += [one.text for one in update.ended]
            if update.is_idle or update.is_over:
                waiting.discard(index)

    def feed(start: int) -> None:
        going = {index for index, clip in enumerate(clips) if start < len(clip)}
        for index in going:
            streams[index].put(clips[index][start : start + PIECE])
        wait_for(going)

    seconds = timed(feed, clips)
    for stream in streams:
        stream.finish()
    over: set[int] = set()
    while len(over) < len(streams):
        update = streams[index := news.get()].take()
        texts[index] += [one.text for one in update.ended]
        over |= {index} if update.is_over else set()
    dispatcher.stop()
    return [" ".join(own) for own in texts], seconds


def by_feed_streams(model: Any, processor: Any, decoder: Any, clips: list[np.ndarray]) -> tuple[list[str], float]:
    """The same in the code before the server."""
    from modeling_deepspeech2 import DeepSpeech2Stream
    from modeling_deepspeech2.streaming_deepspeech2 import StreamingModel, feed_streams

    shared = StreamingModel(model)
    streams = [DeepSpeech2Stream(shared, processor, decoder=decoder) for _ in clips]
    texts: list[list[str]] = [[] for _ in clips]

    def feed(start: int) -> None:
        going = [index for index, clip in enumerate(clips) if start < len(clip)]
        ended = feed_streams([streams[index] for index in going], [clips[index][start : start + PIECE] for index in going])
        for index, own in zip(going, ended):
            texts[index] += [one.text for one in own]
        for index in going:
            str(streams[index].text)

    seconds = timed(feed, clips)
    for stream, own in zip(streams, texts):
        own += [one.text for one in stream.finish()]
    return [" ".join(own) for own in texts], seconds


def timed(feed: Callable[[int], None], clips: list[np.ndarray]) -> float:
    """Processor time of all pieces behind the first second."""
    begin = 0.0
    for start in range(0, max(map(len, clips)), PIECE):
        if start == RATE:
            begin = time.process_time()
        feed(start)
    return time.process_time() - begin


def measure_here(folder: str, file: str) -> None:
    """In a process of one of the two commits: prints texts and times as JSON."""
    import torch

    import modeling_deepspeech2
    from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor

    torch.set_num_threads(1)
    processor = DeepSpeech2Processor.from_pretrained(folder)
    model = DeepSpeech2ForCTC.from_pretrained(folder).eval()
    with np.load(file) as content:
        streams = list(content.values())
    has_server = (Path(modeling_deepspeech2.__file__).parent / "serving").exists()
    transcribe = by_dispatcher if has_server else by_feed_streams
    found = {}
    for name in DECODERS:
        decoder = CTCBeamSearchDecoder.from_pretrained(folder, processor.tokenizer) if name == "beam search" else None
        texts, seconds = transcribe(model, processor, decoder, streams)
        found[name] = {"texts": texts, "seconds": seconds}
    print(json.dumps(found))


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A working tree of a commit, beside this one."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, revision], cwd=REPOSITORY, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=REPOSITORY, check=True)


def run(tree: Path, folder: Path, file: Path) -> dict:
    """This file, with the package of a tree."""
    command = [sys.executable, __file__, "--here", folder, "--file", file]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    found = subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def joined(clips: list[np.ndarray], streams: int, seconds: float) -> list[np.ndarray]:
    """Streams of one length, each of clips one behind the other."""
    everything, size = np.concatenate(clips), round(seconds * RATE)
    places = np.cumsum([0, *map(len, clips)])[np.arange(streams) * len(clips) // streams]
    return [np.resize(np.roll(everything, -place), size) for place in places]


def compare(settings: argparse.Namespace) -> None:
    from benchmarks.recordings import read_clips

    streams = joined([clip for clip, _ in read_clips("english")], settings.streams, settings.seconds)
    with checked_out(settings.before) as tree:
        np.savez(file := tree.with_name("streams.npz"), *streams)
        rounds = []
        for number in range(settings.rounds):
            print(f"round {number + 1} of {settings.rounds}", file=sys.stderr, flush=True)
            rounds.append([run(where, tree / MODEL, file) for where in (tree, REPOSITORY)])
    pieces = sum(len(stream) - RATE for stream in streams) / PIECE
    milliseconds = {
        name: np.array([[1e3 * place[name]["seconds"] / pieces for place in one] for one in rounds]) for name in DECODERS
    }
    milliseconds["the search alone"] = milliseconds["beam search"] - milliseconds["best path"]
    print(
        f"{settings.streams} streams of {settings.seconds:g} s in a batch, pieces of 100 ms, medians of {settings.rounds} "
        f"rounds\n\n| decoder | processor time a piece: {settings.before} | now | streams per core | ratio | same texts |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    rows = {}
    for name, found in milliseconds.items():
        before, now = np.median(found, 0)
        ranges = [f"{own.min():.2f}–{own.max():.2f}" for own in found.T]
        cells = [name, f"{before:.2f} ms ({ranges[0]})", f"{now:.2f} ms ({ranges[1]})", "", "", ""]
        if name in DECODERS:
            rows[name] = 100 / before, 100 / now
            cells[3] = f"{100 / before:.0f} → {100 / now:.0f}"
            cells[5] = f"{sum(map(str.__eq__, *(place[name]['texts'] for place in rounds[0])))} of {len(streams)}"
        cells[4] = f"{np.median(found[:, 0] / found[:, 1]):.1f}"
        print(f"| {' | '.join(cells)} |")
    if settings.chart:
        draw(rows, settings)


def draw(rows: dict[str, tuple[float, float]], settings: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 2.4), layout="constrained")
    for place, name in enumerate(rows):
        bars = axes.barh([place - 0.2, place + 0.2], rows[name], height=0.38, color=["0.7", "C0"])
        axes.bar_label(bars, [f"{settings.before}: {rows[name][0]:.0f}", f"now: {rows[name][1]:.0f}"], padding=3)
    axes.set(xlabel="live streams per core", yticks=range(len(rows)), yticklabels=rows)
    axes.set_xlim(0, 1.3 * max(max(pair) for pair in rows.values()))
    axes.invert_yaxis()
    figure.savefig(settings.chart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="434db90", metavar="COMMIT", help="to compare with (%(default)s)")
    parser.add_argument("--streams", type=int, default=20, help="in one batch (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stream (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--chart", metavar="FILE")
    parser.add_argument("--here", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.here:
        measure_here(settings.here, settings.file)
    else:
        compare(settings)


if __name__ == "__main__":
    main()
