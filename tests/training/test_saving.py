"""Every standard way of saving gives a folder or repository that opens by every standard way, decoder included.

One process with this package writes and pushes; one with it and one without it (`trust_remote_code`) read all that was
written, with empty caches. What is read must have the logits, bit for bit, and the texts of what was written.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import TOKEN, HubServer
from transformers import pipeline

from modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Processor, remote_code
from modeling_deepspeech2.training.publishing import publish


TASK = "automatic-speech-recognition"
KINDS = ["parts", "pipeline", "trainer"]  # what each writer leaves in folders and on the Hub
FOLDERS = [*KINDS, *(f"stranger_{kind}" for kind in KINDS), "published"]
REPOSITORIES = [
    *KINDS, "while_saving", "pipeline_while_saving", "private", *(f"stranger_{kind}" for kind in KINDS), "stranger_private",
    "uploaded", "private_published", "copied",
]  # fmt: skip

WRITER = """
import sys
from pathlib import Path
from transformers import AutoModelForCTC, AutoProcessor, Trainer, TrainingArguments, pipeline
source, output = sys.argv[1], Path(sys.argv[2])
TRUST = {"trust_remote_code": True} if trust else {}
prefix = "stranger_" if trust else ""
model, processor = (auto.from_pretrained(source, **TRUST) for auto in (AutoModelForCTC, AutoProcessor))
recognizer = pipeline("automatic-speech-recognition", model=source, **TRUST)
decoder = recognizer.decoder
for part in (model, processor, decoder):
    part.save_pretrained(output / f"{prefix}parts")
    part.push_to_hub(f"tester/{prefix}parts")
    part.push_to_hub(f"tester/{prefix}private", private=True)
recognizer.save_pretrained(output / f"{prefix}pipeline")
recognizer.push_to_hub(f"tester/{prefix}pipeline")
name = f"{prefix}trainer"
settings = TrainingArguments(
    str(output / name), push_to_hub=True, hub_model_id=f"tester/{name}", report_to="none", use_cpu=True
)
trainer = Trainer(model, settings, processing_class=processor)
trainer.save_model()
trainer.push_to_hub()
decoder.save_pretrained(output / f"{prefix}trainer")
decoder.push_to_hub(f"tester/{prefix}trainer")
"""
# Pushes while saving, the command-line tools, and this package's own publishing, of a folder and of a repository.
TOOLS = """
import subprocess
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.training.publishing import push_repository
for part in (model, processor):
    part.save_pretrained(str(output / "while_saving"), push_to_hub=True, repo_id="tester/while_saving")
decoder.push_to_hub("tester/while_saving")
name = "pipeline_while_saving"
recognizer.save_pretrained(output / name, push_to_hub=True, repo_id=f"tester/{name}")
push_repository(Path(source), "tester/private_published", private=True)
subprocess.run(["hf", "upload", "tester/uploaded", str(output / "parts"), "."], check=True, stdout=subprocess.DEVNULL)
assert main(["publish", "--model", "tester/parts", "--hub_model_id", "tester/copied"]) == 0
"""

READER = """
import hashlib, json, sys
import numpy as np, torch
from huggingface_hub import model_info
from transformers import AutoModelForCTC, AutoProcessor, pipeline
names, waveform, cache, output = json.loads(sys.argv[1]), np.load(sys.argv[2]), sys.argv[3], sys.argv[4]
TRUST = {"trust_remote_code": True} if trust else {}
TASK = "automatic-speech-recognition"

def read(name):
    # A private repository: its token and another cache must reach the decoder, too.
    hub, model_kwargs = {}, {}
    if "private" in name:
        hub, model_kwargs = {"token": "hf_dummy"}, {"cache_dir": cache}
        hub["revision"] = model_info(name, **hub).sha
    recognizer = pipeline(TASK, name, **TRUST, **hub, model_kwargs=model_kwargs)
    assert type(recognizer).__name__ == "DeepSpeech2Pipeline", type(recognizer)
    found = {"decoder": recognizer(waveform)["text"]}
    if name == "tester/private":
        offline = pipeline(TASK, name, local_files_only=True, **TRUST, **hub, model_kwargs=model_kwargs)
        assert offline(waveform)["text"] == found["decoder"]
    decoder, recognizer.decoder = recognizer.decoder, None
    found["best path"] = recognizer(waveform)["text"]
    recognizer.decoder = decoder
    model = AutoModelForCTC.from_pretrained(name, **TRUST, **hub, **model_kwargs)
    processor = AutoProcessor.from_pretrained(name, **TRUST, **hub, **model_kwargs)
    inputs = processor(waveform, sampling_rate=16_000, return_tensors="pt")
    ids = model.generate(**inputs)
    assert processor.batch_decode(ids, skip_special_tokens=True) == [found["best path"]]
    found["logits"] = hashlib.sha256(model(**inputs).logits.detach().numpy().tobytes()).hexdigest()
    return found, recognizer

found = {}
for name in names:
    found[name], recognizer = read(name)
again = sys.argv[4] + "_saved"
recognizer.save_pretrained(again)  # what was read can be saved again, with all its code
found["again"] = read(again)[0]
without = pipeline(TASK, names[0], decoder=None, **TRUST)
assert pipeline(model=names[0], **TRUST).decoder is not None  # the task is known from the configuration
assert without.decoder is None and without(waveform)["text"] == found["again"]["best path"]
json.dump(found, open(output, "w"))
"""
BY_PACKAGE = "import modeling_deepspeech2\ntrust = False\n"
# As where the package is not installed: `-I` leaves the current folder and PYTHONPATH out, None hides an installation.
BY_REMOTE_CODE = "import sys\nsys.modules['modeling_deepspeech2'] = None\ntrust = True\n"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def written(hub, tiny_model_with_decoder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    environment = hub.environment(folder / "home") | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for flags, code in (([], BY_PACKAGE + WRITER + TOOLS), (["-I"], BY_REMOTE_CODE + WRITER)):
        command = [sys.executable, *flags, "-c", code, str(tiny_model_with_decoder), str(folder)]
        subprocess.run(command, check=True, env=environment, timeout=900, cwd=folder)
    publish(tiny_model_with_decoder, folder / "published")
    return folder


@pytest.fixture(scope="module")
def expected(tiny_model_with_decoder, clips) -> dict[str, str]:
    waveform = clips[0].waveform
    with_decoder, without = pipeline(TASK, tiny_model_with_decoder), pipeline(TASK, tiny_model_with_decoder, decoder=None)
    texts = {"decoder": with_decoder(waveform)["text"], "best path": without(waveform)["text"]}
    assert texts["decoder"] != texts["best path"] != ""
    return texts


@pytest.mark.parametrize("code", [BY_PACKAGE, BY_REMOTE_CODE], ids=["package", "remote_code"])
def test_whatever_was_written_can_be_read(hub, written, expected, clips, tmp_path, code):
    np.save(tmp_path / "waveform.npy", clips[0].waveform)
    names = [str(written / name) for name in FOLDERS] + [f"tester/{name}" for name in REPOSITORIES]
    environment = {name: value for name, value in hub.environment(tmp_path / "home").items() if name != "HF_TOKEN"}
    flags = ["-I"] if code is BY_REMOTE_CODE else []
    arguments = [json.dumps(names), tmp_path / "waveform.npy", tmp_path / "cache", tmp_path / "found.json"]
    command = [sys.executable, *flags, "-c", code + READER, *map(str, arguments)]
    before = len(hub.requests)
    subprocess.run(command, check=True, env=environment, timeout=900, cwd=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {*names, "again"}
    logits = {cell.pop("logits") for cell in found.values()}
    assert len(logits) == 1 and all(cell == expected for cell in found.values())
    commit = hub.repos["model", "tester/private"].sha  # `revision` has reached the decoder, too
    for file in ("config.json", "decoder_config.json", "language_model.safetensors"):
        assert f"HEAD /tester/private/resolve/{commit}/{file} 200" in hub.requests[before:]


def test_what_travels_is_the_model_and_the_closure_of_its_code(hub, written):
    """No other file: a folder of its own, its card, and every module that stands flat in the package."""
    code = {module.name for module in remote_code.modules()}
    model = {"config.json", "model.safetensors", "processor_config.json", "tokenizer_config.json", "vocab.json"}
    decoder = {"decoder_config.json", "language_model.safetensors"}
    assert {file.name for file in (written / "parts").iterdir()} == code | model | decoder
    assert {file.name for file in (written / "published").iterdir()} == code | model | decoder
    assert set(hub.files("tester/private_published")) == code | model | decoder
    assert hub.repos["model", "tester/private_published"].private and not hub.repos["model", "tester/parts"].private
    assert set(hub.files("tester/parts")) == code | model | decoder | {"README.md"}
    for name in REPOSITORIES:
        assert not any(TOKEN.encode() in content for content in hub.files(f"tester/{name}").values())


def test_a_tokenizer_by_itself_comes_without_code(processor, tmp_path):
    """A folder that holds no model is not filled with modules; a push is, so that it opens anywhere."""
    processor.tokenizer.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))


def test_task_is_known_from_the_folder(tiny_model_with_decoder, expected, clips):
    """`pipeline(model=folder)` without a task."""
    assert pipeline(model=str(tiny_model_with_decoder))(clips[0].waveform)["text"] == expected["decoder"]


def test_pipeline_of_an_object_finds_its_decoder(tiny_model_with_decoder, expected, clips):
    model = DeepSpeech2ForCTC.from_pretrained(tiny_model_with_decoder)
    processor = DeepSpeech2Processor.from_pretrained(tiny_model_with_decoder)
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    assert pipeline(TASK, model=model, **parts)(clips[0].waveform)["text"] == expected["decoder"]
