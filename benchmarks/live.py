"""Measures a live stream: the delay until the first word appears, and the cost of a 100 ms piece.

    python -m benchmarks.live --model runs/live          # a unidirectional model; the bundled English test clips, one core
    python -m benchmarks.live --model runs/live --lm     # with the decoder in its folder, too

Whatever the sizes of the pieces, a stream has to give the logits and the text of a single pass. The first word is delayed by
the model's lookahead, by the network's hesitation, and by the computing time. A clip's sound is taken to begin where its
power first reaches a thousandth of its maximum. Many streams go through the model in one batch.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.recordings import RATE, read_clips
from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor, DeepSpeech2Stream
from modeling_deepspeech2.transcription.recordings import transcribe
from modeling_deepspeech2.transcription.streaming import StreamingFeatures, StreamingModel
from modeling_deepspeech2.transcription.streams import feed_streams


PIECE = RATE // 10


def onset(waveform: np.ndarray) -> float:
    """Seconds until the sound begins."""
    power = np.convolve(waveform**2, np.ones(320) / 320, "same")
    return float(np.argmax(power > 1e-3 * power.max())) / RATE


def random_pieces(waveform: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Splits samples into pieces of one sample to a second and a half."""
    sizes = np.exp(rng.uniform(0, np.log(1.5 * RATE), len(waveform))).astype(int) + 1
    return np.split(waveform, np.cumsum(sizes)[: np.searchsorted(np.cumsum(sizes), len(waveform))])


def exactness(model: StreamingModel, processor: DeepSpeech2Processor, clips: list[np.ndarray]) -> float:
    """The largest difference between a stream's logits and those of one pass, as a share of the largest logit."""
    rng, differences, largest = np.random.default_rng(0), [], []
    dtype = model.model.dtype
    for clip in tqdm(clips, desc="logits", leave=False):
        features, state, found = StreamingFeatures(processor.feature_extractor), model.start(), []
        pieces = random_pieces(clip, rng)
        for number, piece in enumerate(pieces, 1):
            frames = features(piece, number == len(pieces))[None].to(dtype)
            logits, state = model.step(frames, state, number == len(pieces))
            found.append(logits[0])
        with torch.inference_mode():
            inputs = processor(clip, sampling_rate=RATE, return_tensors="pt").to(dtype)
            expected = model.model(**inputs).logits[0]
        differences.append(float((torch.cat(found) - expected).abs().max()))
        largest.append(float(expected.abs().max()))
    return max(differences) / max(largest)


def quantiles(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.1f} ms (95 %: {1e3 * statistics.quantiles(seconds, n=20)[-1]:.1f} ms)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--lm", action="store_true")
    parser.add_argument("--clips", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = StreamingModel(DeepSpeech2ForCTC.from_pretrained(arguments.model))
    processor = DeepSpeech2Processor.from_pretrained(arguments.model)
    decoders = {"best path": None, "beam search, no LM": CTCBeamSearchDecoder(processor.tokenizer)}
    if arguments.lm:
        decoders["beam search, LM"] = CTCBeamSearchDecoder.from_pretrained(arguments.model, processor.tokenizer)
    clips = [waveform for waveform, _ in read_clips("english")[: arguments.clips]]

    print("| what | figure |\n| --- | ---: |")
    double = StreamingModel(DeepSpeech2ForCTC.from_pretrained(arguments.model, dtype=torch.float64))
    differences = " and ".join(f"{exactness(one, processor, clips):.1e}" for one in (model, double))
    what = f"logits of {len(clips)} clips in random pieces: difference to one pass, of the largest, in float32 and float64"
    print(f"| {what} | {differences} |")
    rng = np.random.default_rng(1)
    for name, decoder in decoders.items():
        first, first_word, taken, same = [], [], [], 0
        for clip in tqdm(clips, desc=name, leave=False):
            stream, seen, seen_word = DeepSpeech2Stream(model, processor, decoder), False, False
            for start in range(0, len(clip), PIECE):
                begin = time.perf_counter()
                stream.feed(clip[start : start + PIECE])
                text = str(stream.text)
                taken.append(time.perf_counter() - begin)
                late = min(start + PIECE, len(clip)) / RATE + taken[-1] - onset(clip)
                if not seen and text:
                    seen = True
                    first.append(late)
                if not seen_word and " " in text:  # the next one has begun
                    seen_word = True
                    first_word.append(late)
            stream.finish()
            in_pieces = DeepSpeech2Stream(model, processor, decoder)
            for piece in random_pieces(clip, rng):
                in_pieces.feed(piece)
            in_pieces.finish()
            offline = [one.text for one in transcribe(model.model, processor, clip, decoder)]
            same += stream.text.stable == in_pieces.text.stable == " ".join(offline)
        print(f"| {name}: first letters seen after the sound begins | {quantiles(first)} |")
        print(f"| {name}: first word is complete after the sound begins | {quantiles(first_word)} |")
        print(f"| {name}: a piece of 100 ms | {quantiles(taken)} |")
        print(
            f"| {name}: text in pieces of 100 ms and at random is that of `transcribe` | {same} of {len(clips)} clips |",
            flush=True,
        )

    for number in (1, 8, 32):
        streams = [DeepSpeech2Stream(model, processor) for _ in range(number)]
        taken = []
        for start in range(0, 3 * RATE, PIECE):
            pieces = [np.resize(clips[index % len(clips)], 3 * RATE)[start : start + PIECE] for index in range(number)]
            begin = time.perf_counter()
            feed_streams(streams, pieces)
            taken.append((time.perf_counter() - begin) / number)
        print(f"| {number} streams in one batch: a piece of one stream | {quantiles(taken)} |")


if __name__ == "__main__":
    main()
