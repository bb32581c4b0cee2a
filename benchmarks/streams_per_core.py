"""Streams that a core transcribes live: the dispatcher of the server against the code of an earlier commit, in turns.

    python -m benchmarks.streams_per_core                                   # against 434db90, before there was a server
    python -m benchmarks.streams_per_core --before HEAD~20 --streams 10 --clips 20 --rounds 5 --chart streams.svg

Both transcribe the same bundled clips with the same published model, that of the earlier commit, in pieces of 100 ms, and
show the stable and the tentative text after each piece. The earlier code moves its streams by `feed_streams`. What counts is
processor time, so that other programs on the machine hardly matter; the first second of audio, which warms up, does not. The
texts of all clips are compared.
"""

import argparse
import contextlib
import functools
import json
import os
import queue
import statistics
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


def measure_here(folder: str, clips_file: str, streams: int) -> None:
    """In a process of one of the two commits: prints texts and times as JSON."""
    import torch

    import modeling_deepspeech2
    from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor

    torch.set_num_threads(1)
    processor = DeepSpeech2Processor.from_pretrained(folder)
    model = DeepSpeech2ForCTC.from_pretrained(folder).eval()
    with np.load(clips_file) as file:
        clips = list(file.values())
    has_server = (Path(modeling_deepspeech2.__file__).parent / "serving").exists()
    transcribe = by_dispatcher if has_server else by_feed_streams
    found = {}
    for name in DECODERS:
        decoder = CTCBeamSearchDecoder.from_pretrained(folder, processor.tokenizer) if name == "beam search" else None
        texts, seconds = [], 0.0
        for first in range(0, len(clips), streams):
            own, taken = transcribe(model, processor, decoder, clips[first : first + streams])
            texts, seconds = texts + own, seconds + taken
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


def run(tree: Path, folder: Path, clips_file: Path, streams: int) -> dict:
    """This file, with the package of a tree."""
    command = [sys.executable, __file__, "--here", folder, "--clips_file", clips_file, "--streams", str(streams)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    found = subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def compare(settings: argparse.Namespace) -> None:
    from benchmarks.recordings import read_clips

    clips = [clip for clip, _ in read_clips("english")[: settings.clips]]
    with checked_out(settings.before) as tree:
        clips_file = tree.with_name("clips.npz")
        np.savez(clips_file, *clips)
        rounds = []
        for number in range(settings.rounds):
            print(f"round {number + 1} of {settings.rounds}", file=sys.stderr, flush=True)
            rounds.append([run(where, tree / MODEL, clips_file, settings.streams) for where in (tree, REPOSITORY)])
    pieces = sum(max(0, len(clip) - RATE) for clip in clips) / PIECE
    print(
        f"{settings.streams} streams in a batch, {len(clips)} clips, pieces of 100 ms, medians of {settings.rounds} rounds\n"
    )
    print(f"| decoder | processor time a piece: {settings.before} | now | streams per core | ratio | same texts |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    rows = {}
    for name in DECODERS:
        before, now = ([1e3 * one[place][name]["seconds"] / pieces for one in rounds] for place in (0, 1))
        ratio = statistics.median(first / second for first, second in zip(before, now))
        same = sum(map(str.__eq__, rounds[0][0][name]["texts"], rounds[0][1][name]["texts"]))
        before_ms, now_ms = statistics.median(before), statistics.median(now)
        rows[name] = 100 / before_ms, 100 / now_ms
        counts = f"{100 / before_ms:.0f} → {100 / now_ms:.0f}"
        print(
            f"| {name} | {before_ms:.2f} ms ({min(before):.2f}–{max(before):.2f}) | {now_ms:.2f} ms "
            f"({min(now):.2f}–{max(now):.2f}) | {counts} | {ratio:.1f} | {same} of {len(clips)} |"
        )
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
    parser.add_argument("--clips", type=int, default=40, help="of the bundled English test split (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--chart", metavar="FILE")
    parser.add_argument("--here", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--clips_file", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.here:
        measure_here(settings.here, settings.clips_file, settings.streams)
    else:
        compare(settings)


if __name__ == "__main__":
    main()
