"""Programs of the ecosystem run a model unchanged, and the cards are what the Hub expects: see `docs/clients.md`."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import DatasetCard, ModelCard, SpaceCard
from packaging.requirements import Requirement
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from modeling_deepspeech2.training.metrics import ErrorRates


REPOSITORY = Path(__file__).parent.parent
CHECKPOINTS = sorted((REPOSITORY / "checkpoints").iterdir())


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_evaluator(tiny_model_with_decoder, clips, encoded_clips):
    """`evaluate.evaluator` measures the pipeline's own text, decoder included."""
    recognizer = pipeline("automatic-speech-recognition", tiny_model_with_decoder)
    rows = [{"audio": {"bytes": content, "path": name}} for name, content in encoded_clips[:4]]
    speech = Dataset.from_list([row | {"text": clip.text} for row, clip in zip(rows, clips)])
    found = example("evaluate_pipeline").measure(recognizer, speech)
    texts = [recognizer(clip.waveform)["text"] for clip in clips[:4]]
    expected = ErrorRates().compute(predictions=texts, references=[clip.text for clip in clips[:4]])
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_leaderboard(tiny_model_folder, clips):
    """Its calls, in float32 and in bfloat16: each utterance of a padded batch as it is alone."""
    recognize = example("leaderboard").recognize
    processor = AutoProcessor.from_pretrained(tiny_model_folder)
    waveforms = [clip.waveform.astype(np.float64) for clip in clips[:3]]
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCTC.from_pretrained(tiny_model_folder, dtype=dtype, attn_implementation="sdpa")
        assert not model.can_generate()  # else the script would pass arguments of a language model
        texts = recognize(model, processor, waveforms)
        assert len(set(texts)) == 3
        if dtype == torch.float32:
            best_path = pipeline("automatic-speech-recognition", tiny_model_folder, decoder=None)
            assert texts == [best_path(waveform)["text"] for waveform in waveforms]


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_cards_of_models(folder):
    """Parsed by huggingface_hub itself: what the Hub lists, filters and shows."""
    data = ModelCard.load(folder / "README.md").data  # raises where the results are not a model-index
    assert data.pipeline_tag == "automatic-speech-recognition" and data.library_name == "transformers"
    assert data.language in ("en", "zh") and data.license and data.model_name == folder.name
    assert set(data.metrics) == {"wer", "cer"} and {"deepspeech2", "ctc"} <= set(data.tags)
    assert {result.metric_type for result in data.eval_results} <= {"wer", "cer"} and data.eval_results
    assert all(0 < result.metric_value < 100 for result in data.eval_results)


def test_card_of_the_bundled_speech():
    data = DatasetCard.load(REPOSITORY / "demo" / "speech" / "README.md").data
    assert data.license == "cc0-1.0" and data.language == ["en", "zh"]
    assert data.task_categories == ["automatic-speech-recognition"] and data.size_categories


def test_space_of_the_page(tmp_path):
    """The folder that a Space is made of: front matter that the Hub reads, and the requirements of pyproject.toml."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "make_space.py"), "page", str(tmp_path / "space")]
    subprocess.run(command, check=True)
    data = SpaceCard.load(tmp_path / "space" / "README.md").data
    assert data.sdk == "gradio" and (tmp_path / "space" / data.app_file).is_file()
    lines = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert {"torch", "transformers", "matplotlib"} <= {Requirement(line).name for line in lines}
