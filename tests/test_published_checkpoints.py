"""The checkpoints of this repository: they load as from the Hub, with the code of today, and hear what is said and when."""

import filecmp
import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline


REPOSITORY = Path(__file__).parent.parent
CHECKPOINTS = sorted((REPOSITORY / "checkpoints").iterdir())
LARGEST = 25 * 2**20  # bytes


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_folder_is_whole(folder):
    """Weights, code, tokenizer, decoder and card, in what a Hub repository may hold without Git LFS trouble."""
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer_config.json", "vocab.json"} <= names
    assert {"decoder_config.json", "language_model.safetensors", "README.md"} <= names
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= LARGEST
    modules = {value.split(".")[0] for value in json.loads((folder / "config.json").read_text())["auto_map"].values()}
    assert {f"{module}.py" for module in modules} <= names


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_its_code_is_that_of_the_package(folder):
    """Copies rot: a change of the package belongs into every folder."""
    package = REPOSITORY / "modeling_deepspeech2"
    copies = {copy.stem: copy for copy in folder.glob("*.py")}
    assert [name for name, copy in copies.items() if not filecmp.cmp(copy, package / copy.name, shallow=False)] == []
    imported = {name for copy in copies.values() for name in re.findall(r"^from \.(\w+) import", copy.read_text(), re.M)}
    assert imported and imported <= copies.keys()


@pytest.mark.parametrize("name", ["deepspeech2-english", "deepspeech2-english-live"])
def test_words_after_a_pause_begin_with_their_sound(name, clips):
    """A second of silence before a clip moves its words by a second, but for a few hundredths."""
    recognizer = pipeline("automatic-speech-recognition", str(REPOSITORY / "checkpoints" / name), trust_remote_code=True)
    noise = np.random.default_rng(0)
    for clip in clips[:4]:
        onset = np.flatnonzero(np.abs(clip.waveform) > 0.02 * np.abs(clip.waveform).max())[0] / 16_000
        silence = 1e-3 * noise.standard_normal(16_000)
        waveform = np.concatenate([silence, clip.waveform, silence]).astype(np.float32)
        found = recognizer(waveform, return_timestamps="word")["chunks"]
        assert found[0]["timestamp"][0] == pytest.approx(1 + onset, abs=0.25)
        assert all(start < end for start, end in (chunk["timestamp"] for chunk in found))
