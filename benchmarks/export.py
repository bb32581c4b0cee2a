"""What an exported model costs and says beside the pipeline: `python -m benchmarks.export` prints all figures.

    python -m benchmarks.export --model checkpoints/deepspeech2-english --live checkpoints/deepspeech2-english-live

Everything runs on one core, rivals in turns, in seconds of processor time, so that other programs on the machine matter
little. Error rates are of the best path on the bundled English validation split, or on `--dataset` and `--split`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn
from transformers import pipeline

from modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.export.folder import export
from modeling_deepspeech2.export.measurement import measure_files
from modeling_deepspeech2.transcription.exported import ExportedModel
from modeling_deepspeech2.transcription.streaming import StreamingFeatures, StreamingModel


REPOSITORY = Path(__file__).parent.parent
PIECE_SECONDS = 0.1


def in_turns(
    rivals: dict[str, Callable[[np.ndarray], object]], clips: list[np.ndarray], rounds: int = 3
) -> dict[str, float]:
    """Processor seconds of each rival for all clips, the median of the rounds; the first clip warms up."""
    for run in rivals.values():
        run(clips[0])
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        totals = dict.fromkeys(rivals, 0.0)
        for clip in clips:
            for name, run in rivals.items():
                begin = time.process_time()
                run(clip)
                totals[name] += time.process_time() - begin
        for name, total in totals.items():
            taken[name].append(total)
    return {name: float(np.median(totals)) for name, totals in taken.items()}


def torch_stream(model: DeepSpeech2ForCTC, processor: DeepSpeech2Processor) -> Callable[[np.ndarray], None]:
    streaming, size = StreamingModel(model), round(PIECE_SECONDS * processor.feature_extractor.sampling_rate)

    def run(clip: np.ndarray) -> None:
        features, state = StreamingFeatures(processor.feature_extractor), streaming.start()
        for start in range(0, len(clip), size):
            _, state = streaming.step(features(clip[start : start + size])[None], state)

    return run


def exported_stream(model: ExportedModel) -> Callable[[np.ndarray], None]:
    size = round(PIECE_SECONDS * model.sampling_rate)

    def run(clip: np.ndarray) -> None:
        acoustics = model.start()
        for start in range(0, len(clip), size):
            acoustics.feed(clip[start : start + size])

    return run


# A process begins with the peak memory of the one that starts it, so a small one stands between.
LAUNCH = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
usage = os.wait4(process.pid, 0)[2]
print(f"{usage.ru_utime + usage.ru_stime:.2f} s of processor time, peak memory {usage.ru_maxrss / 1024:.0f} MiB")
"""


def first_text(clip: Path, *options: str) -> str:
    """Processor time and peak memory of `deepspeech2 transcribe` for one clip, best path, from the start of the process."""
    command = [str(REPOSITORY / "deepspeech2_command.py"), "transcribe", str(clip), "--lm", "off", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    launcher = [sys.executable, "-I", "-c", LAUNCH, sys.executable, *command]
    return subprocess.run(launcher, capture_output=True, text=True, env=environment, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/deepspeech2-english")
    parser.add_argument("--live", default="checkpoints/deepspeech2-english-live", help="a unidirectional model")
    parser.add_argument("--dataset", default="demo/speech")
    parser.add_argument("--split", default="english/validation")
    parser.add_argument("--clips", type=int, default=20, help="clips that are timed (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    data = SpeechData(arguments.dataset, [arguments.split])
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("model", "live"):
            source, output = getattr(arguments, kind), Path(folder) / kind
            model, processor = DeepSpeech2ForCTC.from_pretrained(source).eval(), DeepSpeech2Processor.from_pretrained(source)
            rate = processor.feature_extractor.sampling_rate
            utterances = data.read(np.arange(min(arguments.clips, len(data.index)))).values()
            clips = [read_waveform(one.audio, rate, one.name) for one in utterances]
            seconds = sum(map(len, clips)) / rate
            export(model, processor, output, live=kind == "live")
            print(f"\n{source}: {len(clips)} clips, {seconds:.0f} s, one core")
            for name, rates in sorted(measure_files(output, processor, {arguments.split: data}).items()):
                size = (output / "onnx" / name).stat().st_size / 1e6
                print(f"  {name}: {size:.1f} MB, WER {rates[0].wer:.1%} on {rates[0].utterances} of {arguments.split}")
            exported = ExportedModel(output, threads=1)
            if kind == "model":
                recognizer = pipeline("automatic-speech-recognition", source, decoder=None)
                rivals = {"pipeline": recognizer, "onnx": lambda clip, model=exported: list(model.transcribe([clip]))}
            else:
                folded = model.fold_batch_norm()
                quantized = torch.ao.quantization.quantize_dynamic(folded, {nn.Linear, nn.GRU, nn.LSTM})
                rivals = {
                    "torch": torch_stream(folded, processor),
                    "torch int8": torch_stream(quantized, processor),
                    "onnx": exported_stream(exported),
                }
            taken = in_turns(rivals, clips)
            unit = f"a piece of {PIECE_SECONDS:g} s" if kind == "live" else "a second of audio"
            count = seconds / PIECE_SECONDS if kind == "live" else seconds
            for name, total in taken.items():
                print(f"  {name}: {1000 * total / count:.2f} ms of processor time for {unit}, {total / taken['onnx']:.2f} ×")
            clip = Path(folder) / "clip.wav"
            soundfile.write(clip, clips[0], rate)
            print("  start to text, onnx:", first_text(clip, "--engine", "onnx", "--model", str(output)))
            print("  start to text, torch:", first_text(clip, "--model", source))


if __name__ == "__main__":
    main()
