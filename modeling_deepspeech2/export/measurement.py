"""Measures the error rates of exported graphs in onnxruntime: best path, one utterance at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import AudioError, read_waveform
from ..data.sources import SpeechData
from ..errors import UserError
from ..training.metrics import ErrorRates
from .card import Rates


AT_A_TIME = 200  # utterances held in memory


def measure_files(folder: Path, processor: Any, splits: dict[str, SpeechData]) -> dict[str, list[Rates]]:
    """The error rates of every offline graph in `folder`, by the name of its file, on each split.

    Raises:
        UserError: onnxruntime is not installed, or a split holds no utterance that can be used.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("--split: error rates need the package onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    files = sorted((folder / "onnx").glob("model*.onnx"))
    sessions = {file.name: onnxruntime.InferenceSession(file, options) for file in files}
    rates: dict[str, list[Rates]] = {name: [] for name in sessions}
    for split, data in splits.items():
        texts: dict[str, list[str]] = {name: [] for name in sessions}
        references = []
        for waveform, reference in _utterances(data, processor):
            references.append(reference)
            for name, session in sessions.items():
                samples = unit_variance(waveform) if "unit_variance" in name else waveform
                (logits,) = session.run(["logits"], {"input_values": samples[None]})
                texts[name].append(processor.tokenizer.decode(logits[0].argmax(-1)))
        if not references:
            raise UserError(f"--split: found no utterance in {split} that can be used, expected speech with transcripts.")
        for name, predictions in texts.items():
            found = ErrorRates(processor.tokenizer.word_boundaries).compute(predictions=predictions, references=references)
            rates[name].append(Rates(split, len(references), found["wer"], found["cer"]))
    return rates


def _utterances(data: SpeechData, processor: Any) -> Iterator[tuple[np.ndarray, str]]:
    rate, count = processor.feature_extractor.sampling_rate, len(data.index)
    for numbers in np.split(np.arange(count), range(AT_A_TIME, count, AT_A_TIME)):
        for _, utterance in sorted(data.read(numbers).items()):
            reference = processor.tokenizer.normalize(utterance.text or "")
            try:
                waveform = read_waveform(utterance.audio, rate, utterance.name)
            except (AudioError, OSError) as error:
                print(f"Not measured: {error}")
                continue
            if reference:
                yield waveform, reference


def unit_variance(waveform: np.ndarray) -> np.ndarray:
    """What programs for such graphs do."""
    return ((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-5)).astype(np.float32)
