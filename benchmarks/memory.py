"""Measures whether memory stays flat: many calls of a pipeline, and hours of one live stream.

    python -m benchmarks.memory checkpoints/deepspeech2-english-live                           # 2,000 calls and 2 hours
    python -m benchmarks.memory checkpoints/deepspeech2-english-live --calls 200 --hours 0.2   # a tenth of it

The speech is that of the bundled test clips, of the model's language, and the decoder in the model's folder is used. Only a
unidirectional model streams. Memory is that of the process, in MB: after the first tenth, when every buffer has been needed,
at the end, and the most from then on.
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import psutil
import torch
from tqdm import tqdm
from transformers import pipeline

from benchmarks.recordings import RATE, read_clips
from modeling_deepspeech2 import DeepSpeech2Pipeline, DeepSpeech2Processor, DeepSpeech2Stream


PIECE_SECONDS = 0.5
SAMPLES = 20  # of the memory, on the way


def memory(steps: Iterable[object], number: int, what: str) -> str:
    """Goes through the steps; gives a row of the table."""
    found: list[float] = []
    for step, _ in enumerate(tqdm(steps, what, number, leave=False), 1):
        if step % max(1, number // SAMPLES) == 0:
            found.append(psutil.Process().memory_info().rss / 1e6)
    settled = found[len(found) // 10 :]
    return f"| {what} | {settled[0]:.1f} | {settled[-1]:.1f} | {max(settled):.1f} | {settled[-1] / settled[0]:.3f} |"


def calls(recognizer: DeepSpeech2Pipeline, clips: list[np.ndarray], number: int) -> Iterator[object]:
    for clip in itertools.islice(itertools.cycle(clips), number):
        yield recognizer(clip, return_timestamps="word")


def pieces(clips: list[np.ndarray], number: int) -> Iterator[np.ndarray]:
    """Clips with half a second between them, as a microphone gives them."""
    rng, held, size = np.random.default_rng(0), np.zeros(0, np.float32), round(PIECE_SECONDS * RATE)
    endless = itertools.cycle(clips)
    for _ in range(number):
        while len(held) < size:
            pause = 1e-3 * rng.standard_normal(RATE // 2).astype(np.float32)
            held = np.concatenate([held, next(endless), pause])
        yield held[:size]
        held = held[size:]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("--calls", type=int, default=2_000, help="of the pipeline (%(default)s)")
    parser.add_argument("--hours", type=float, default=2.0, help="of the live stream (%(default)s)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    recognizer = pipeline("automatic-speech-recognition", arguments.model)
    assert isinstance(recognizer, DeepSpeech2Pipeline)
    clips = [clip for clip, _ in read_clips("mandarin" if recognizer.tokenizer.language == "zh" else "english")]
    print("| what | after a tenth, MB | at the end | most | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    if arguments.calls:
        steps = calls(recognizer, clips, arguments.calls)
        print(memory(steps, arguments.calls, f"{arguments.calls:,} calls of the pipeline"), flush=True)
    config, normalization = recognizer.model.config, recognizer.feature_extractor.normalization
    if arguments.hours and not config.bidirectional and normalization != "utterance":
        processor = DeepSpeech2Processor(recognizer.feature_extractor, recognizer.tokenizer)
        stream = DeepSpeech2Stream(recognizer.model, processor, recognizer.decoder)
        number = round(3600 * arguments.hours / PIECE_SECONDS)
        steps = map(stream.feed, pieces(clips, number))
        print(memory(steps, number, f"{arguments.hours:g} hours of a live stream"), flush=True)


if __name__ == "__main__":
    main()
