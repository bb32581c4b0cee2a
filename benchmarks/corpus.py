"""Measures how well `corpus build` cuts and filters and how fast it aligns, on clips with known transcripts.

    python -m benchmarks.corpus cut
    python -m benchmarks.corpus filter --precision 0.98
    python -m benchmarks.corpus align --model runs/mine

The model should not have been trained on the clips; the checkpoints were not trained on the bundled speech. `cut` joins
clips with pauses of 0.2 to 1 s into recordings whose boundaries are known; `filter` corrupts 30 % of the transcripts of two
splits, trains on one split and is evaluated on the other; `align` takes one recording of an hour.
"""

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import soundfile

from modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.corpus.build import BuildSettings, build, judge
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.transcription.alignment import align


RATE = 16_000
PAUSES = (0.2, 1.0)  # seconds
ROOM_LEVEL = 1e-4  # of the noise in the pauses
TOLERANCE = 0.3  # seconds
SPOILT = 0.3  # share of the transcripts


def clips(dataset: str, split: str) -> list[tuple[np.ndarray, str]]:
    data = SpeechData(dataset, [split])
    found = data.read(np.arange(len(data.index)))
    return [(read_waveform(utterance.audio, RATE, utterance.name), utterance.text) for _, utterance in sorted(found.items())]


def joined(
    parts: list[tuple[np.ndarray, str]], minutes: float, seed: int
) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    """A recording of clips in random order, and where in it each of them is; clips are repeated when all have been used."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    pieces, truth, seconds, waiting = [], [], 0.0, []
    while seconds < 60 * minutes:
        waiting = waiting or draw.sample(parts, len(parts))
        waveform, text = waiting.pop()
        truth.append((seconds, seconds + len(waveform) / RATE, text))
        pause = round(draw.uniform(*PAUSES) * RATE)
        pieces += [waveform, (ROOM_LEVEL * noise.standard_normal(pause)).astype(np.float32)]
        seconds += (len(waveform) + pause) / RATE
    return np.concatenate(pieces), truth


def cut(settings: argparse.Namespace) -> None:
    parts = clips(settings.dataset, settings.split)
    tokenizer = DeepSpeech2Processor.from_pretrained(settings.model).tokenizer
    with tempfile.TemporaryDirectory() as folder:
        source, truths = Path(folder) / "recordings", {}
        source.mkdir()
        for number in range(settings.recordings):
            waveform, truth = joined(parts, settings.minutes, number)
            soundfile.write(source / f"{number}.flac", waveform, RATE)
            (source / f"{number}.txt").write_text(" ".join(text for _, _, text in truth))
            truths[f"{number}.flac"] = truth
        building = BuildSettings(settings.model, precision=settings.precision)
        built = build(str(source), [], Path(folder) / "built", building, settings.processes)
    near = total = right = kept = 0
    lengths = []
    for name, truth in truths.items():
        own = built.segments[built.segments["source"] == name]
        pauses = np.array([(before[1], after[0]) for before, after in zip(truth, truth[1:])])
        for before, after in zip(own["end"], own["start"].iloc[1:]):
            off = np.maximum(np.maximum(pauses[:, 0] - min(before, after), max(before, after) - pauses[:, 1]), 0)
            near += bool(off.min() <= TOLERANCE)
            total += 1
        for segment in own[own["reason"] == ""].itertuples():
            said = [text for start, end, text in truth if segment.start <= (start + end) / 2 <= segment.end]
            right += tokenizer.normalize(" ".join(said)) == tokenizer.normalize(segment.text)
            kept += 1
            lengths.append(segment.duration)
    print(f"{settings.recordings} recordings of {settings.minutes:g} min from {len(parts)} clips of {settings.split}")
    print(f"boundaries within {TOLERANCE} s of a true pause: {near / total:.1%} of {total}")
    print(f"kept segments whose transcript equals the true words: {right / kept:.1%} of {kept}")
    print(f"segments made: {len(built.segments)}")
    lengths = np.percentile(lengths, [5, 50, 95])
    print("seconds of a segment, 5 – 50 – 95 %:", " – ".join(f"{value:.1f}" for value in lengths))


def spoil(texts: list[str], seed: int) -> tuple[list[str], np.ndarray]:
    """30 % of the transcripts made wrong: another clip's, the next one's, or without some of their last words."""
    draw = random.Random(seed)
    wrong = np.zeros(len(texts), dtype=bool)
    found = list(texts)
    for number in draw.sample(range(len(texts)), round(SPOILT * len(texts))):
        kind = draw.choice(["swapped", "shifted", "truncated"])
        pieces = texts[number].split() if " " in texts[number] else list(texts[number])
        if kind == "swapped":
            found[number] = draw.choice(texts)
        elif kind == "shifted":
            found[number] = texts[(number + 1) % len(texts)]
        elif len(pieces) > 1:
            joint = " " if " " in texts[number] else ""
            found[number] = joint.join(pieces[: draw.randint(1, len(pieces) - 1)])
        wrong[number] = found[number] != texts[number]
    return found, wrong


def spoilt_copy(folder: Path, dataset: str, split: str, limit: int, seed: int) -> dict[str, bool]:
    """A data set with spoilt transcripts, and whether each is wrong."""
    folder.mkdir()
    data = SpeechData(dataset, [split])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data.index))[:limit])
    utterances = list(data.read(chosen).values())
    texts, wrong = spoil([utterance.text for utterance in utterances], seed)
    rows = [
        {"id": f"{number}", "audio": utterance.audio, "text": text}
        for number, (utterance, text) in enumerate(zip(utterances, texts))
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return {f"{number}": bool(is_wrong) for number, is_wrong in enumerate(wrong)}


def filter_(settings: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spoilt_copy(folder / "sample", settings.dataset, settings.sample, settings.limit, seed=1)
        truth = spoilt_copy(folder / "other", settings.dataset, settings.split, settings.limit, seed=2)
        settled = BuildSettings(settings.model, precision=settings.precision)
        trained = build(str(folder / "sample"), [], folder / "built", settled, settings.processes)
        plain = BuildSettings(settings.model, precision=0)
        judged = build(str(folder / "other"), [], folder / "judged", plain, settings.processes).segments
    judge(judged, trained.filter)
    wrong = judged["source"].map(truth).astype(bool)
    rejected = judged["reason"] != ""
    print(
        f"filter trained on {trained.filter.sample} self-labelled of {settings.sample}, precision {settings.precision:.0%}"
    )
    print(f"clips of {settings.split}: {len(judged)} segments, {int(wrong.sum())} with a wrong transcript")
    print(f"wrong ones removed: {(rejected & wrong).sum() / wrong.sum():.1%}")
    print(f"right ones kept:    {(~rejected & ~wrong).sum() / (~wrong).sum():.1%}")
    print(f"right among those kept: {(~rejected & ~wrong).sum() / (~rejected).sum():.1%}, before {(~wrong).mean():.1%}")
    print(pandas.DataFrame({"probability": judged["probability"], "wrong": wrong}).groupby("wrong").describe().to_string())


def align_hour(settings: argparse.Namespace) -> None:
    model = DeepSpeech2ForCTC.from_pretrained(settings.model).eval()
    processor = DeepSpeech2Processor.from_pretrained(settings.model)
    waveform, truth = joined(clips(settings.dataset, settings.split), 60, 0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hour.flac"
        soundfile.write(file, waveform, RATE)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        del waveform
        started = time.perf_counter()
        alignment = align(str(file), [text for _, _, text in truth], model, processor)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    off = [max(0.0, start - line.start, line.end - end) for (start, end, _), line in zip(truth, alignment.lines)]
    print(
        f"an hour of {settings.split} aligned in {seconds:.0f} s: {3600 / seconds:.0f} × real time, acoustic pass included"
    )
    print(f"most memory of the process: {peak:.2f} GB ({before:.2f} GB before, with the hour's samples)")
    print(f"lines within {TOLERANCE} s of where they are: {np.mean(np.array(off) <= TOLERANCE):.1%} of {len(off)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cut", "filter", "align"])
    parser.add_argument("--model", default="checkpoints/deepspeech2-english", help="(default %(default)s)")
    parser.add_argument("--dataset", default="demo/speech")
    parser.add_argument("--split", default="english/test")
    parser.add_argument("--sample", default="english/train", help="`filter`: what the classifier is trained on")
    parser.add_argument("--limit", type=int, default=600, help="`filter`: clips of each split")
    parser.add_argument("--minutes", type=float, default=30.0, help="`cut`: of a recording")
    parser.add_argument("--recordings", type=int, default=2, help="`cut`: how many")
    parser.add_argument("--precision", type=float, default=0.95)
    parser.add_argument("--processes", type=int, default=2)
    settings = parser.parse_args()
    {"cut": cut, "filter": filter_, "align": align_hour}[settings.what](settings)


if __name__ == "__main__":
    main()
