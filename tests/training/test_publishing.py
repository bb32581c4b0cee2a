"""Law 5 and publishing: what was saved is what comes back, through import and through trust_remote_code, with and without
this package installed, from a folder and from a Hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
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
from modeling_deepspeech2.training.publishing import publish


REPOSITORY = Path(__file__).parents[2]
LARGEST = 25e6  # bytes, what a folder takes on the Hub

# Run without this package: `-I` leaves the current folder and PYTHONPATH out, and the finder below hides an installation.
STRANGER = """
import sys
sys.modules["modeling_deepspeech2"] = None  # importing the package fails, as where it is not installed
import numpy as np, torch
from transformers import AutoModel, AutoModelForCTC, AutoProcessor, pipeline
name, waveform, output = sys.argv[1:]
waveform = np.load(waveform)
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
model = AutoModelForCTC.from_pretrained(name, trust_remote_code=True).eval()
inputs = processor(waveform, sampling_rate=16_000, return_tensors="pt")
base = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
recognizer = pipeline("automatic-speech-recognition", model=name, trust_remote_code=True)
assert type(recognizer).__name__ == "DeepSpeech2Pipeline", type(recognizer)
heard = recognizer({"array": np.repeat(waveform, 2), "sampling_rate": 32_000}, return_timestamps="word")
with torch.no_grad():
    torch.save({"logits": model(**inputs).logits, "hidden": base(**inputs).last_hidden_state, "heard": heard}, output)
"""


@pytest.fixture
def waveform(clips) -> np.ndarray:
    return clips[0][1]


def logits(model, processor, waveform: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**processor(waveform, sampling_rate=16_000, return_tensors="pt")).logits


def as_stranger(name: str, waveform: np.ndarray, folder, environment: dict) -> dict:
    np.save(folder / "waveform.npy", waveform)
    command = [sys.executable, "-I", "-c", STRANGER, name, str(folder / "waveform.npy"), str(folder / "output.pt")]
    subprocess.run(command, check=True, env=environment, timeout=300, cwd=folder)
    return torch.load(folder / "output.pt")


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


def test_folder_runs_without_this_package(tiny_model_folder, waveform, tmp_path):
    expected = logits(
        DeepSpeech2ForCTC.from_pretrained(tiny_model_folder),
        DeepSpeech2Processor.from_pretrained(tiny_model_folder),
        waveform,
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    found = as_stranger(str(tiny_model_folder), waveform, tmp_path, environment)
    assert torch.equal(found["logits"], expected)
    assert found["heard"]["text"]


def test_with_the_package_the_pipeline_is_ours_by_either_line(tiny_model_folder, waveform):
    ours = pipeline("automatic-speech-recognition", model=str(tiny_model_folder))
    trusting = pipeline("automatic-speech-recognition", model=str(tiny_model_folder), trust_remote_code=True)
    stock = pipeline(
        "automatic-speech-recognition", model=str(tiny_model_folder), pipeline_class=AutomaticSpeechRecognitionPipeline
    )
    assert type(ours) is DeepSpeech2Pipeline
    assert type(stock) is AutomaticSpeechRecognitionPipeline
    assert ours(waveform)["text"] == trusting(waveform)["text"] == stock(waveform)["text"] != ""


def test_pushed_model_is_downloaded_and_run_elsewhere(tiny_model_folder, waveform, tmp_path):
    """Model, processor, code and card on a Hub; a fresh process with an empty cache and without this package uses them."""
    expected = logits(
        DeepSpeech2ForCTC.from_pretrained(tiny_model_folder),
        DeepSpeech2Processor.from_pretrained(tiny_model_folder),
        waveform,
    )
    push = (
        "import sys; from pathlib import Path; from modeling_deepspeech2.training.publishing import push_repository;"
        "print(push_repository(Path(sys.argv[1]), 'tester/tiny', []))"
    )
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "publisher")
        subprocess.run([sys.executable, "-c", push, str(tiny_model_folder)], check=True, env=environment, timeout=300)
        files = hub.files("tester/tiny")
        assert {"config.json", "model.safetensors", "modeling_deepspeech2.py", "pipeline_deepspeech2.py"} <= set(files)
        assert "AutoModelForCTC" in json.loads(files["config.json"])["auto_map"]
        found = as_stranger("tester/tiny", waveform, tmp_path, hub.environment(tmp_path / "user"))
    assert torch.equal(found["logits"], expected)
    assert found["heard"]["chunks"]


OWNER = """
import sys
import modeling_deepspeech2
import numpy as np, torch
from transformers import pipeline
name, waveform, output = sys.argv[1:]
"""
ANYONE = """
import sys
sys.modules["modeling_deepspeech2"] = None
import numpy as np, torch
from transformers import pipeline
name, waveform, output = sys.argv[1:]
"""
# {package imported, remote code} × {with the language model of the repository, without}: one line each.
FOUR_WAYS = [
    (OWNER, 'recognizer = pipeline("automatic-speech-recognition", model=name)', True),
    (OWNER, 'recognizer = pipeline("automatic-speech-recognition", model=name, decoder=None)', False),
    (ANYONE, 'recognizer = pipeline("automatic-speech-recognition", model=name, trust_remote_code=True)', True),
    (
        ANYONE,
        'recognizer = pipeline("automatic-speech-recognition", model=name, trust_remote_code=True, decoder=None)',
        False,
    ),
]
HEAR = """
assert (recognizer.decoder is not None) == WITH
torch.save(recognizer(np.load(waveform), return_timestamps="word"), output)
"""


def test_decoder_is_found_on_the_hub(tiny_model_with_decoder, waveform, tmp_path):
    """The language model travels with the model: fresh processes with empty caches use it or leave it, four ways."""
    push = (
        "import sys; from pathlib import Path; from modeling_deepspeech2.training.publishing import push_repository;"
        "push_repository(Path(sys.argv[1]), 'tester/with_lm', [])"
    )
    np.save(tmp_path / "waveform.npy", waveform)
    expected = {
        True: pipeline("automatic-speech-recognition", model=tiny_model_with_decoder),
        False: pipeline("automatic-speech-recognition", model=tiny_model_with_decoder, decoder=None),
    }
    expected = {kind: found(waveform, return_timestamps="word") for kind, found in expected.items()}
    assert expected[True]["text"] != expected[False]["text"]
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "publisher")
        subprocess.run(
            [sys.executable, "-c", push, str(tiny_model_with_decoder)], check=True, env=environment, timeout=300
        )  # fmt: skip
        assert {"decoder_config.json", "language_model.safetensors", "ngram.py"} <= set(hub.files("tester/with_lm"))
        for number, (preamble, line, uses_decoder) in enumerate(FOUR_WAYS):
            code = preamble + line + HEAR.replace("WITH", str(uses_decoder))
            flags = ["-I"] if preamble is ANYONE else []
            output = tmp_path / f"{number}.pt"
            arguments = ["tester/with_lm", str(tmp_path / "waveform.npy"), str(output)]
            environment = hub.environment(tmp_path / f"user{number}")
            subprocess.run([sys.executable, *flags, "-c", code, *arguments], check=True, env=environment, timeout=300)
            assert torch.load(output) == expected[uses_decoder]


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
    as_stranger(str(tmp_path / "released"), waveform, tmp_path, os.environ | {"HF_HOME": str(tmp_path / "home")})


CHECKPOINTS = sorted((REPOSITORY / "checkpoints").iterdir())


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_published_checkpoint_runs_without_this_package(folder, waveform, tmp_path):
    """The folder that publishing makes of a checkpoint: what the checkpoint holds, and the closure of the remote code."""
    published = tmp_path / "published"
    publish(folder, published)
    names = {file.name for file in folder.iterdir()} | {module.name for module in remote_code.modules()}
    assert {file.name for file in published.iterdir()} == names
    assert sum(file.stat().st_size for file in published.iterdir()) <= LARGEST
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    heard = as_stranger(str(published), waveform, tmp_path, environment)["heard"]
    assert heard["text"] and all("confidence" in chunk for chunk in heard["chunks"])  # by the decoder beside the model


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
