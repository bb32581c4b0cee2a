"""Law 5 and publishing: what was saved is what comes back; what is published is the model, its code, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoFeatureExtractor,
    AutomaticSpeechRecognitionPipeline,
    AutoModel,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

from modeling_deepspeech2 import (
    CTCBeamSearchDecoder,
    DeepSpeech2ForCTC,
    DeepSpeech2Pipeline,
    DeepSpeech2Processor,
    remote_code,
)
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.training.publishing import open_repository, publish


REPOSITORY = Path(__file__).parents[2]
CHECKPOINTS = sorted((REPOSITORY / "checkpoints").iterdir())
LARGEST = 50e6  # bytes, what a folder takes on the Hub

# Run without this package: `-I` leaves the current folder and PYTHONPATH out, and None hides an installation.
STRANGER = """
import sys
sys.modules["modeling_deepspeech2"] = None
import json
import numpy as np
from transformers import pipeline
waveform, output, *names = sys.argv[1:]
waveform = {"array": np.repeat(np.load(waveform), 2), "sampling_rate": 32_000}
found = {}
for name in names:
    recognizer = pipeline("automatic-speech-recognition", model=name, trust_remote_code=True)
    assert type(recognizer).__name__ == "DeepSpeech2Pipeline", type(recognizer)
    found[name] = recognizer(dict(waveform), return_timestamps="word")
json.dump(found, open(output, "w"))
"""


@pytest.fixture
def waveform(clips) -> np.ndarray:
    return clips[0][1]


def logits(model, processor, waveform: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**processor(waveform, sampling_rate=16_000, return_tensors="pt")).logits


def test_saved_and_loaded_logits_are_bit_identical(tiny_model_folder, waveform, tmp_path):
    model, processor = (
        DeepSpeech2ForCTC.from_pretrained(tiny_model_folder),
        DeepSpeech2Processor.from_pretrained(tiny_model_folder),
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForCTC.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert torch.equal(logits(model, processor, waveform), logits(*again, waveform))
    assert type(AutoModel.from_pretrained(tmp_path)).__name__ == "DeepSpeech2Model"
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == model.config.vocab_size
    assert AutoFeatureExtractor.from_pretrained(tmp_path).mean == processor.feature_extractor.mean


def test_with_the_package_the_pipeline_is_ours_by_either_line(tiny_model_folder, waveform):
    ours = pipeline("automatic-speech-recognition", model=str(tiny_model_folder))
    trusting = pipeline("automatic-speech-recognition", model=str(tiny_model_folder), trust_remote_code=True)
    stock = pipeline(
        "automatic-speech-recognition", model=str(tiny_model_folder), pipeline_class=AutomaticSpeechRecognitionPipeline
    )
    assert type(ours) is DeepSpeech2Pipeline
    assert type(stock) is AutomaticSpeechRecognitionPipeline
    assert ours(waveform)["text"] == trusting(waveform)["text"] == stock(waveform)["text"] != ""


def test_released_folder_is_small_and_hears_the_same(tiny_model_with_decoder, waveform, tmp_path):
    """Half precision is that of the file: computing stays in float32, BatchNorm untouched; the decoder comes along."""
    (tmp_path / "run").mkdir()
    for file in Path(tiny_model_with_decoder).iterdir():
        shutil.copyfile(file, tmp_path / "run" / file.name)
    (tmp_path / "run" / "README.md").write_text("a card")
    run, released = str(tmp_path / "run"), str(tmp_path / "released")
    assert main(["publish", "--model", run, "--dtype", "float16", "--output", released]) == 0
    old, new = (DeepSpeech2ForCTC.from_pretrained(tmp_path / name) for name in ("run", "released"))
    assert {weight.dtype for weight in new.state_dict().values()} == {torch.float32}
    for name, weight in new.state_dict().items():
        expected = old.state_dict()[name]
        assert torch.equal(weight, expected if ".norm." in name else expected.half().float())
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("run", "released")]
    assert sizes[1] < 0.7 * sizes[0]
    assert (tmp_path / "released" / "README.md").read_text() == "a card"
    texts = [pipeline("automatic-speech-recognition", str(tmp_path / name))(waveform) for name in ("run", "released")]
    assert texts[0] == texts[1]


def test_published_checkpoints_run_without_this_package(waveform, tmp_path):
    """The folders that publishing makes of the checkpoints: what a checkpoint holds, and the closure of the code."""
    published = {folder.name: tmp_path / folder.name for folder in CHECKPOINTS}
    for folder in CHECKPOINTS:
        publish(folder, published[folder.name])
        names = {file.name for file in folder.iterdir()} | {module.name for module in remote_code.modules()}
        assert {file.name for file in published[folder.name].iterdir()} == names
        assert sum(file.stat().st_size for file in published[folder.name].iterdir()) <= LARGEST
    np.save(tmp_path / "waveform.npy", waveform)
    arguments = [tmp_path / "waveform.npy", tmp_path / "found.json", *published.values()]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", STRANGER, *map(str, arguments)]
    subprocess.run(command, check=True, env=environment, timeout=300, cwd=tmp_path)
    for name, found in json.loads((tmp_path / "found.json").read_text()).items():
        assert found["text"] and all("confidence" in chunk for chunk in found["chunks"]), name  # the decoder was found


STRAY = [".env", "notes.txt", "train-0.parquet", "transcripts.json", "history.json", "checkpoints/step_1/model.safetensors"]


def test_publishing_takes_the_model_and_nothing_else(tiny_model_with_decoder, tmp_path):
    """Whatever else lies in the folder stays there."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_model_with_decoder, folder)
    for name in STRAY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("STRAY CONTENT")
    (folder / "clip.ogg").write_bytes(b"sound")
    (folder / "README.md").write_text("---\nwidget:\n- src: clip.ogg\n- src: checkpoints/x.ogg\n- text: a\n---\na card")
    publish(folder, tmp_path / "published")
    expected = {file.name for file in tiny_model_with_decoder.iterdir()} | {"README.md", "clip.ogg"}
    assert {file.name for file in (tmp_path / "published").rglob("*")} == expected
    assert not any(b"STRAY CONTENT" in file.read_bytes() for file in (tmp_path / "published").iterdir())


@pytest.mark.parametrize("text", ["token: hf_" + "aB3" * 12, "the word my-own-token stands here"])
def test_a_token_is_not_published(tiny_model_folder, tmp_path, monkeypatch, text):
    monkeypatch.setenv("HF_TOKEN", "my-own-token")
    shutil.copytree(tiny_model_folder, tmp_path / "run")
    (tmp_path / "run" / "README.md").write_text(text)
    with pytest.raises(UserError, match="README.md holds an access token") as caught:
        publish(tmp_path / "run", tmp_path / "published")
    assert "aB3" not in str(caught.value) and "my-own" not in str(caught.value) and not (tmp_path / "published").exists()


def test_a_name_that_the_hub_does_not_take(tmp_path):
    """Found before anything is uploaded, and before a training if it asks."""
    for name in ("a/b/c", "me/my model", "-me/x"):
        with pytest.raises(UserError, match="hub_model_id: found"):
            open_repository(name)


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_language_model_of_a_checkpoint_without_weight_changes_nothing(folder, clips):
    """A trained model's own logits: alpha = beta = 0 is the beam search without a language model."""
    model, processor = DeepSpeech2ForCTC.from_pretrained(folder).eval(), DeepSpeech2Processor.from_pretrained(folder)
    decoder = CTCBeamSearchDecoder.from_pretrained(folder, processor.tokenizer, alpha=0, beta=0)
    plain = CTCBeamSearchDecoder(processor.tokenizer, None, 0, 0, beam_width=decoder.beam_width)
    for clip in clips:
        with torch.inference_mode():
            logits = model(**processor(clip.waveform, sampling_rate=16_000, return_tensors="pt")).logits[0]
        (found,), (expected,) = decoder.decode(logits, 0.03), plain.decode(logits, 0.03)
        assert found.text == expected.text and found.score == pytest.approx(expected.score, abs=1e-6)


@pytest.mark.parametrize("card", [b"---\ntitle: a: b\n---\n", "größe".encode("latin-1"), b"---\n- a\n---\n"], ids=repr)
def test_a_card_that_cannot_be_read_is_one_sentence(card, tmp_path):
    """People edit it before they publish."""
    (tmp_path / "README.md").write_bytes(card)
    with pytest.raises(UserError, match="README.md cannot be read: its head must be YAML in UTF-8"):
        publish(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
