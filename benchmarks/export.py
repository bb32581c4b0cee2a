"""What an exported model costs and says beside the pipeline: `python -m benchmarks.export` prints all figures.

    python -m benchmarks.export                          # the models of checkpoints/
    python -m benchmarks.export --models runs/mine --dataset my_speech --split validation

Everything runs on one core, rivals in turns, in seconds of processor time, so that other programs on the machine matter
little. Texts and error rates are of the best path but where `--lm on` is said, on the bundled validation split.
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

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.decoding_deepspeech2 import has_decoder
from modeling_deepspeech2.export.folder import export
from modeling_deepspeech2.export.measurement import measure_files
from modeling_deepspeech2.recognition import Recognition
from modeling_deepspeech2.transcription.exported import ExportedModel
from modeling_deepspeech2.transcription.streaming import StreamingFeatures, StreamingModel


REPOSITORY = Path(__file__).parent.parent
MODELS = [f"checkpoints/deepspeech2-{name}" for name in ("english", "english-live", "mandarin")]
LANGUAGES = {"en": "english", "zh": "mandarin"}  # the configurations of the bundled speech
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


def first_text(clip: Path, lm: str, *options: str) -> str:
    """Processor time and peak memory of `deepspeech2 transcribe` for one clip, from the start of the process."""
    command = [str(REPOSITORY / "deepspeech2_command.py"), "transcribe", str(clip), "--lm", lm, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    launcher = [sys.executable, "-I", "-c", LAUNCH, sys.executable, *command]
    return subprocess.run(launcher, capture_output=True, text=True, env=environment, check=True).stdout.strip()


class Exported:
    """A model, what it becomes when it is exported, and clips."""

    def __init__(self, source: str, output: Path, data: SpeechData, number: int):
        self.source, self.output = source, output
        self.model = DeepSpeech2ForCTC.from_pretrained(source).eval()
        self.processor = DeepSpeech2Processor.from_pretrained(source)
        self.is_live = not self.model.config.bidirectional
        self.rate = self.processor.feature_extractor.sampling_rate
        rows = np.arange(min(number, len(data.index)))
        self.clips = [read_waveform(one.audio, self.rate, one.name) for one in data.read(rows).values()]
        self.seconds = sum(map(len, self.clips)) / self.rate
        decoder = None
        if has_decoder(source):
            decoder = CTCBeamSearchDecoder.from_pretrained(source, self.processor.tokenizer)
        export(self.model, self.processor, output, live=self.is_live, decoder=decoder)
        self.exported = ExportedModel(output, threads=1)


def print_files(case: Exported, split: str, data: SpeechData) -> None:
    for name, rates in sorted(measure_files(case.output, case.processor, {split: data}).items()):
        size = (case.output / "onnx" / name).stat().st_size / 1e6
        words = case.processor.tokenizer.word_boundaries == "spaces"
        rate = f"WER {rates[0].wer:.1%}" if words else f"CER {rates[0].cer:.1%}"
        print(f"  {name}: {size:.1f} MB, {rate} on {rates[0].utterances} of {split}")


def print_offline(case: Exported) -> None:
    session = case.exported.open_session("model")
    recognizer = pipeline("automatic-speech-recognition", case.source, decoder=None)
    recognition = Recognition(case.exported.tokenizer, case.exported.config)

    def run(clip: np.ndarray) -> None:
        (logits,) = session.run(["logits"], {"input_values": clip[None]})
        recognition.transcript([logits[0]])

    taken = in_turns({"pipeline": recognizer, "onnx": run}, case.clips)
    for name, total in taken.items():
        milliseconds, ratio = 1000 * total / case.seconds, total / taken["onnx"]
        print(
            f"  offline, {name}: {milliseconds:.2f} ms of processor time for a second of audio, {ratio:.2f} × (target ≥ 2.5)"
        )


def print_live(case: Exported) -> None:
    folded = case.model.fold_batch_norm()
    quantized = torch.ao.quantization.quantize_dynamic(folded, {nn.Linear, nn.GRU, nn.LSTM})
    streams = {"torch": torch_stream(folded, case.processor), "torch int8": torch_stream(quantized, case.processor)}
    taken = in_turns(streams | {"onnx": exported_stream(case.exported)}, case.clips)
    for name, total in taken.items():
        milliseconds, ratio = 1000 * total * PIECE_SECONDS / case.seconds, total / taken["onnx"]
        print(f"  live, {name}: {milliseconds:.2f} ms of processor time for a piece of 100 ms, {ratio:.2f} × (target ≥ 3)")


def print_starts(case: Exported, clip: Path) -> None:
    """From the start of the process to the text of a clip; targets without a language model: ≤ 0.5 s and ≤ 120 MiB."""
    soundfile.write(clip, case.clips[0], case.rate)
    decoders = ("off", "on") if has_decoder(case.source) else ("off",)
    for lm in decoders:
        print(f"  start to text, onnx, --lm {lm}:", first_text(clip, lm, "--engine", "onnx", "--model", str(case.output)))
    print("  start to text, torch, --lm off:", first_text(clip, "off", "--model", case.source))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--dataset", default="demo/speech")
    parser.add_argument("--split", help="(default: validation, of the model's language)")
    parser.add_argument("--clips", type=int, default=20, help="clips that are timed (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for source in arguments.models:
        language = DeepSpeech2Processor.from_pretrained(source).tokenizer.language
        split = arguments.split or f"{LANGUAGES.get(language, language)}/validation"
        data = SpeechData(arguments.dataset, [split], show_progress=False)
        with tempfile.TemporaryDirectory() as folder:
            case = Exported(source, Path(folder) / "exported", data, arguments.clips)
            print(f"\n{source}: {len(case.clips)} clips, {case.seconds:.0f} s, one core")
            print_files(case, split, data)
            print_offline(case)
            if case.is_live:
                print_live(case)
            print_starts(case, Path(folder) / "clip.wav")


if __name__ == "__main__":
    main()
