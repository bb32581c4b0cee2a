"""The checkpoints of this repository are whole, and their words stand where they are said."""

from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

import modeling_deepspeech2  # noqa: F401  registers the pipeline


REPOSITORY = Path(__file__).parents[2]
CHECKPOINTS = sorted((REPOSITORY / "checkpoints").iterdir())


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_folder_is_whole_and_without_code(folder):
    """Weights, tokenizer, decoder and card; publishing adds the code."""
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer_config.json", "vocab.json"} <= names
    assert {"decoder_config.json", "language_model.safetensors", "README.md"} <= names
    assert not any(name.endswith(".py") for name in names)


@pytest.mark.parametrize("name", ["deepspeech2-english", "deepspeech2-english-live"])
def test_words_after_a_pause_begin_with_their_sound(name, clips):
    """A second of silence before a clip moves its words by a second, but for a few hundredths."""
    recognizer = pipeline("automatic-speech-recognition", str(REPOSITORY / "checkpoints" / name))
    noise = np.random.default_rng(0)
    for clip in clips[:4]:
        onset = np.flatnonzero(np.abs(clip.waveform) > 0.02 * np.abs(clip.waveform).max())[0] / 16_000
        silence = 1e-3 * noise.standard_normal(16_000)
        waveform = np.concatenate([silence, clip.waveform, silence]).astype(np.float32)
        found = recognizer(waveform, return_timestamps="word")["chunks"]
        assert found[0]["timestamp"][0] == pytest.approx(1 + onset, abs=0.25)
        assert all(start < end for start, end in (chunk["timestamp"] for chunk in found))
