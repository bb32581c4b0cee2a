"""Measures a model by the calls of the Open ASR Leaderboard: padded batches in bfloat16, best path, normalised text.

    python examples/leaderboard.py checkpoints/deepspeech2-english demo/speech english test

The leaderboard's own script, `transformers/run_eval.py`, makes the same calls; it needs a GPU and one more line, `import
modeling_deepspeech2`.
"""

import sys
import time

import jiwer
import numpy as np
import torch
from datasets import Audio, load_dataset
from transformers import AutoModelForCTC, AutoProcessor
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from modeling_deepspeech2 import read_audio


def recognize(model: torch.nn.Module, processor, waveforms: list[np.ndarray]) -> list[str]:
    """One batch of waveforms at 16 kHz."""
    inputs = processor(
        waveforms,
        sampling_rate=16_000,
        truncation=False,
        padding="longest",
        return_tensors="pt",
        return_attention_mask=True,
    ).to(model.device, dtype=model.dtype)
    with torch.no_grad():
        ids = model(**inputs).logits.argmax(-1)
    return processor.batch_decode(ids)


def main(name: str, dataset: str, configuration: str, split: str, batch_size: int = 16) -> None:
    model = AutoModelForCTC.from_pretrained(name, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    processor = AutoProcessor.from_pretrained(name)
    speech = load_dataset(dataset, configuration, split=split).cast_column("audio", Audio(decode=False))
    waveforms = [read_audio(row["bytes"] or row["path"], 16_000) for row in speech["audio"]]
    texts, start = [], time.perf_counter()
    for first in range(0, len(waveforms), batch_size):
        texts += recognize(model, processor, waveforms[first : first + batch_size])
    seconds = time.perf_counter() - start
    normalize = EnglishTextNormalizer({})
    rate = jiwer.wer([normalize(text) for text in speech["text"]], [normalize(text) for text in texts])
    spoken = sum(map(len, waveforms)) / 16_000
    print(f"WER {100 * rate:.2f} %, RTFx {spoken / seconds:.1f}: {len(texts)} utterances, {spoken:.0f} s of speech")


if __name__ == "__main__":
    main(*sys.argv[1:])
