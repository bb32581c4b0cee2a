"""Measures a checkpoint on the test splits of its recipe, clip by clip on one core, and prints a table for RESULTS.md.

    python -m benchmarks.results checkpoints/deepspeech2-english recipes/english.yaml
    python -m benchmarks.results checkpoints/deepspeech2-english recipes/english.yaml --sphinx   # pip install pocketsphinx
    python -m benchmarks.results checkpoints/deepspeech2-english recipes/english.yaml --splits fsdd/test --silence -55
    python -m benchmarks.results checkpoints/deepspeech2-english recipes/english.yaml --write    # README, RESULTS, cards

With the best path, with the language model if the checkpoint has a decoder, and with pocketsphinx and its own English model
on the same clips. Transcripts are compared as the checkpoint's tokenizer writes them. The real-time factor is seconds of
computing for each second of audio, from samples to text; less is faster. The calibration error says how far the confidences
of words are from the share of words that are right.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from benchmarks import documents
from benchmarks.recordings import background
from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.decoding_deepspeech2 import has_decoder
from modeling_deepspeech2.hypotheses import Hypothesis
from modeling_deepspeech2.language_models.confidence import Confidences
from modeling_deepspeech2.recognition import Recognition
from modeling_deepspeech2.training.metrics import ErrorRates
from modeling_deepspeech2.transcription.recordings import recording_logits


Recogniser = Callable[[np.ndarray], Hypothesis]
AT_A_TIME = 200  # clips held in memory
SILENCE_SECONDS = 0.5


def ours(
    model: DeepSpeech2ForCTC, processor: DeepSpeech2Processor, decoder: CTCBeamSearchDecoder | None = None
) -> Recogniser:
    recognition = Recognition(processor.tokenizer, model.config, decoder)

    @torch.inference_mode()
    def transcribe(waveform: np.ndarray) -> Hypothesis:
        return recognition.transcript(recording_logits(model, processor.feature_extractor, waveform))[0]

    return transcribe


def sphinx() -> Recogniser:
    from pocketsphinx import Decoder

    def transcribe(waveform: np.ndarray) -> Hypothesis:
        decoder = Decoder(loglevel="FATAL")  # a new one, as it goes on with the mean of the features of earlier clips
        decoder.start_utt()
        decoder.process_raw((waveform.clip(-1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        return Hypothesis(decoder.hyp().hypstr if decoder.hyp() else "", [], [], 0.0, 0.0, 0.0)

    return transcribe


def measure(
    data: SpeechData,
    split: str,
    recognisers: dict[str, Recogniser],
    processor: DeepSpeech2Processor,
    silence: str | None = None,
) -> dict[str, Any]:
    """Clips, hours and the figures of each recogniser.

    Args:
        silence: half a second of it stands before and after each clip, see `background`.
    """
    rate, write = processor.feature_extractor.sampling_rate, processor.tokenizer.normalize
    references, audio_seconds = [], 0.0
    found: dict[str, list[Hypothesis]] = {name: [] for name in recognisers}
    taken = dict.fromkeys(recognisers, 0.0)
    with tqdm(desc=split, total=len(data.index), unit=" clips", leave=False) as bar:
        for numbers in np.split(np.arange(len(data.index)), range(AT_A_TIME, len(data.index), AT_A_TIME)):
            for _, utterance in sorted(data.read(numbers).items()):
                waveform = read_waveform(utterance.audio, rate, utterance.name)
                if silence is not None:
                    pause = background(silence, SILENCE_SECONDS, np.random.default_rng(len(references)))
                    waveform = np.concatenate([pause, waveform, pause])
                references.append(write(utterance.text))
                audio_seconds += len(waveform) / rate
                for name, recognise in recognisers.items():
                    start = time.perf_counter()
                    found[name].append(recognise(waveform))
                    taken[name] += time.perf_counter() - start
                bar.update()
    decoders = {}
    words = processor.tokenizer.word_boundaries
    for name in recognisers:
        texts = [write(one.text) for one in found[name]]
        rates = ErrorRates(words).compute(predictions=texts, references=references)
        decoders[name] = {rate: round(float(rates[rate]), 6) for rate in ("wer", "cer")}
        decoders[name]["real_time_factor"] = round(taken[name] / audio_seconds, 4)
        if any(one.words for one in found[name]):
            decoders[name]["calibration_error"] = round(Confidences.of(found[name], references, words).error, 4)
    best_path = decoders[documents.BEST_PATH]
    facts = {"clips": len(references), "hours": round(audio_seconds / 3600, 4)}
    return {"wer": best_path["wer"], "cer": best_path["cer"], **facts, "decoders": decoders}


def around(silence: str) -> str:
    """What a table calls it."""
    return silence if silence in ("digital silence", "tone") else f"{silence} dBFS noise".replace("-", "−")


def write(folder: Path, measured: dict[str, Any]) -> None:
    """Merges the measurements into the checkpoint's file, and updates the documents."""
    file = folder / "results.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for split, figures in measured.items():
        kept = before.get(split, {}).get("decoders", {})
        if documents.SPHINX in kept and documents.SPHINX not in figures["decoders"]:  # of the same clips
            figures["decoders"][documents.SPHINX] = kept[documents.SPHINX]
    file.write_text(json.dumps(before | measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    documents.fill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, or a name on the Hub")
    parser.add_argument("recipe", help="whose test splits are measured")
    parser.add_argument("--splits", nargs="+", help="only these of them")
    parser.add_argument("--sphinx", action="store_true", help="pocketsphinx side by side")
    parser.add_argument(
        "--silence", help="half a second before and after each clip: 'digital silence', 'tone', or dBFS of noise, e.g. -60"
    )
    parser.add_argument(
        "--write", action="store_true", help="into the checkpoint's results.json, and from it into documents"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with open(arguments.recipe, encoding="utf-8") as file:
        recipe = yaml.safe_load(file)
    model = DeepSpeech2ForCTC.from_pretrained(arguments.model).eval()
    processor = DeepSpeech2Processor.from_pretrained(arguments.model)
    size = sum(parameter.numel() for parameter in model.parameters())
    model = model.fold_batch_norm()
    recognisers = {documents.BEST_PATH: ours(model, processor)}
    if has_decoder(arguments.model):
        decoder = CTCBeamSearchDecoder.from_pretrained(arguments.model, processor.tokenizer)
        name = f"language model, α {decoder.alpha:g}, β {decoder.beta:g}" if decoder.model else "beam search"
        recognisers[name] = ours(model, processor, decoder)
    if arguments.sphinx:
        recognisers[documents.SPHINX] = sphinx()
    print(f"{arguments.model}: {size:,} parameters\n")
    print("\n".join(documents.HEAD))
    measured = {}
    for split in arguments.splits or recipe["test"]:
        data = SpeechData(recipe["dataset"], [split])
        title = split
        if arguments.silence is not None:
            title += f", {SILENCE_SECONDS:g} s of {around(arguments.silence)} around"
        measured[title] = measure(data, split, recognisers, processor, arguments.silence)
        for name in recognisers:
            print(documents.row(title, measured[title], name), flush=True)
    if arguments.write:
        write(Path(arguments.model), measured)


if __name__ == "__main__":
    main()
