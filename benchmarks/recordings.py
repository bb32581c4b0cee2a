"""Measures long recordings: hours of audio through `deepspeech2 transcribe`, and the alignment of an hour in one go.

    python -m benchmarks.recordings                          # 3 hours; a small model with random weights, of either kind
    python -m benchmarks.recordings --model runs/english     # a trained one
    python -m benchmarks.recordings --cuts --model runs/demo_english   # clips joined with known cuts, aligned
    python -m benchmarks.recordings --pauses --model runs/demo_english # the same with pauses of 1, 2 and 5 seconds

The recordings are clips of the bundled speech, separated by pauses. Memory is the peak resident memory of the process.
"""

import argparse
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet
import soundfile
from tqdm import tqdm
from transformers import AutoTokenizer

from modeling_deepspeech2 import DeepSpeech2Config, DeepSpeech2FeatureExtractor, DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.training.publishing import save_repository
from modeling_deepspeech2.transcription.alignment import align, ctc_viterbi


RATE = 16_000
REPOSITORY = Path(__file__).parent.parent
EDGE_SECONDS = 60.0  # from the end of a piece, where its last chunk is another one than that of the whole


def read_clips(language: str) -> list[tuple[np.ndarray, str]]:
    (file,) = (REPOSITORY / "demo" / "speech" / language).glob("test-*.parquet")
    rows = pyarrow.parquet.read_table(file).to_pylist()
    return [(soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0], row["text"]) for row in rows]


def write_recording(path: Path, seconds: float) -> None:
    clips, rng = read_clips("english"), np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1) as file, tqdm(total=seconds, desc="writing", leave=False) as bar:
        while file.frames < seconds * RATE:
            before = file.frames
            file.write(clips[rng.integers(len(clips))][0])
            file.write(1e-3 * rng.standard_normal(int(rng.choice([0.2, 0.5, 1.5]) * RATE)).astype(np.float32))
            bar.update((file.frames - before) / RATE)


def small_model(folder: Path, **settings) -> Path:
    """A model of the shape of recipes/english.yaml, with random weights."""
    convolutions = {"conv_channels": [16, 32], "conv_kernel_sizes": [[21, 11], [11, 7]], "conv_strides": [[4, 3], [2, 1]]}
    config = DeepSpeech2Config(**convolutions, num_hidden_layers=4, hidden_size=256, hidden_act="tanh", **settings)
    extractor = DeepSpeech2FeatureExtractor().fit(clip for clip, _ in read_clips("english")[:20])
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "tokenizer" / "english")
    save_repository(folder, DeepSpeech2ForCTC(config), DeepSpeech2Processor(extractor, tokenizer))
    return folder


def transcribe(recording: Path, model: Path, *arguments: str) -> tuple[list[dict], float, float]:
    """Words, seconds and peak GB of the command."""
    command = [sys.executable, "-m", "modeling_deepspeech2.cli.main", "transcribe", str(recording)]
    start, most = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        output = ["--format", "json", "--output", folder]
        process = psutil.Popen([*command, "--model", str(model), *output, *arguments])
        while process.poll() is None:
            try:
                most = max(most, process.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        if process.wait():
            raise SystemExit(process.returncode)
        found = json.loads((Path(folder) / f"{recording.stem}.json").read_text())
    words = [word for utterance in found["utterances"] for word in utterance["words"]]
    return words, time.perf_counter() - start, most / 1e9


def long_file(models: dict[str, Path], hours: float, arguments: list[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        recording, piece = Path(folder) / "whole.flac", Path(folder) / "piece.flac"
        write_recording(recording, 3600 * hours)
        seconds = soundfile.info(recording).duration
        minutes = min(10, 30 * hours)
        samples, _ = soundfile.read(recording, frames=round(60 * minutes * RATE), dtype="int16")
        soundfile.write(piece, samples, RATE)
        for name, model in models.items():
            words, wall, memory = transcribe(recording, model, *arguments)
            yield f"| {name}: {seconds / 3600:.1f} hours | {seconds / wall:.0f} × real time, {memory:.2f} GB |"
            alone, _, _ = transcribe(piece, model, *arguments)
            last = 60 * minutes - EDGE_SECONDS
            whole, alone = ([word for word in some if word["end"] < last] for some in (words, alone))
            agree = sum(one == other for one, other in zip(whole, alone)) / max(len(whole), len(alone), 1)
            yield f"| {name}: words and times of its first {minutes:.0f} minutes alone | {agree:.2%} of {len(whole)} equal |"


def alignment(minutes: float) -> Iterator[str]:
    rng = np.random.default_rng(0)
    frames, letters = round(60 * minutes * 50), round(60 * minutes * 15)
    labels = rng.integers(1, 29, letters)
    emissions = rng.standard_normal((frames, 29), dtype=np.float32) - 5
    before = psutil.Process().memory_info().rss
    start, cpu = time.perf_counter(), time.process_time()
    ctc_viterbi(emissions, labels, 0)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    what = f"alignment of {minutes:.0f} minutes, {frames} frames, {letters} letters, without the model"
    yield f"| {what} | {wall:.1f} s (CPU {cpu:.1f} s), {(most - before) / 1e6:.0f} MB |"


def cuts(model_name: str, language: str) -> Iterator[str]:
    """How far each known cut lies from the border between the words on both sides of it, the gap between the two.

    And, since a gap may be too wide: how far the words' edges lie from where the sound of both clips ends and begins, as far
    as their power tells (a hundredth of the clip's largest).
    """
    model, processor = DeepSpeech2ForCTC.from_pretrained(model_name), DeepSpeech2Processor.from_pretrained(model_name)
    clips = read_clips(language)
    places = np.cumsum([len(waveform) for waveform, _ in clips])[:-1] / RATE
    lines = align(np.concatenate([waveform for waveform, _ in clips]), [text for _, text in clips], model, processor).lines
    ends, starts = np.array([line.end for line in lines[:-1]]), np.array([line.start for line in lines[1:]])
    distance = np.maximum(0, np.maximum(ends - places, places - starts))
    yield f"| {len(places)} cuts: word borders within 0.1 s | {(distance <= 0.1).mean():.1%} |"
    spans = np.array([sounding(waveform) for waveform, _ in clips])
    begins = np.concatenate([[0], places]) + spans[:, 0]
    stops = np.concatenate([[0], places]) + spans[:, 1]
    edges = (("a word ends where its sound does", ends - stops[:-1]), ("the next begins there", starts - begins[1:]))
    for what, late in edges:
        shares = f"{(abs(late) <= 0.1).mean():.0%} within 0.1 s, {(abs(late) <= 0.3).mean():.0%} within 0.3 s"
        yield f"| – {what} | {shares}; median {np.median(late):+.2f} s |"


def background(kind: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Makes the sound of a pause: "digital silence", "tone", or white noise of so many dBFS, e.g. "-60"."""
    samples = np.arange(round(seconds * RATE))
    if kind == "digital silence":
        return np.zeros(len(samples), np.float32)
    if kind == "tone":
        return (0.01 * np.sin(2 * np.pi * 440 * samples / RATE)).astype(np.float32)
    return (10 ** (float(kind) / 20) * rng.standard_normal(len(samples))).astype(np.float32)


def join(clips: list[np.ndarray], pauses: list[tuple[str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Clips with a pause, kind and seconds, before each -> samples, and where the sound of each begins, in seconds."""
    rng, pieces, starts, seconds = np.random.default_rng(0), [], [], 0.0
    for clip, (kind, length) in zip(clips, pauses, strict=True):
        pause = background(kind, length, rng)
        starts.append(seconds + len(pause) / RATE + sounding(clip)[0])
        seconds += (len(pause) + len(clip)) / RATE
        pieces += [pause, clip]
    return np.concatenate(pieces), np.array(starts)


def pauses(model_name: str, language: str, repeats: int = 3) -> Iterator[str]:
    """How many of 20 lines of an aligned recording begin more than 0.3 s from the sound of their clip, and the worst."""
    model, processor = DeepSpeech2ForCTC.from_pretrained(model_name), DeepSpeech2Processor.from_pretrained(model_name)
    clips = read_clips(language)
    for kind in ("-60", "-45", "digital silence", "tone"):
        for seconds in (1, 2, 5):
            late: list[float] = []
            for seed in range(repeats):
                drawn = [clips[index] for index in np.random.default_rng(seed).choice(len(clips), 20, replace=False)]
                waveform, starts = join([clip for clip, _ in drawn], [(kind, seconds)] * 20)
                lines = align(waveform, [text for _, text in drawn], model, processor).lines
                late += [line.start - start for line, start in zip(lines, starts, strict=True)]
            off, worst = sum(abs(one) > 0.3 for one in late), max(late, key=abs)
            noise = kind if not kind.startswith("-") else f"noise at {kind} dBFS"
            yield f"| {len(late)} lines, pauses of {seconds} s, {noise}: more than 0.3 s off | {off}; worst {worst:+.2f} s |"


def sounding(waveform: np.ndarray) -> tuple[float, float]:
    """Seconds at which the sound of a clip begins and ends."""
    power = np.convolve(waveform**2, np.ones(320) / 320, "same")
    (loud,) = np.nonzero(power > 1e-2 * power.max())
    return loud[0] / RATE, (loud[-1] + 1) / RATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a trained model; else small ones with random weights")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--lm", action="store_true", help="with the decoder in the model's folder")
    parser.add_argument("--cuts", action="store_true", help="known cuts alone, with --model")
    parser.add_argument("--pauses", action="store_true", help="lines behind pauses alone, with --model")
    parser.add_argument("--language", choices=["english", "mandarin"], default="english", help="of --cuts and --pauses")
    arguments = parser.parse_args()
    if (arguments.cuts or arguments.pauses) and arguments.model is None:
        parser.error("--cuts and --pauses need a trained --model")
    print("| what | figure |\n| --- | ---: |")
    if arguments.cuts or arguments.pauses:
        for row in (cuts if arguments.cuts else pauses)(arguments.model, arguments.language):
            print(row, flush=True)
        return
    for row in alignment(20 * arguments.hours):
        print(row, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model:
            models = {arguments.model: Path(arguments.model)}
        else:
            models = {
                "bidirectional": small_model(Path(folder) / "both"),
                "unidirectional": small_model(Path(folder) / "one", bidirectional=False, lookahead=19),
            }
        for row in long_file(models, arguments.hours, ["--lm", "on" if arguments.lm else "off"]):
            print(row, flush=True)


if __name__ == "__main__":
    main()
