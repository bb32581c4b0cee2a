"""Programs of the ecosystem run a model unchanged, and the cards are what the Hub expects: see `docs/clients.md`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import accelerate
import jiwer
import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import DatasetCard, ModelCard, SpaceCard
from packaging.requirements import Requirement
from transformers import AutoConfig, AutoModelForCTC, AutoProcessor, pipeline

from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.training.metrics import ErrorRates


REPOSITORY = Path(__file__).parent.parent
# What a stranger's programs do with a model: the evaluator, adapters, and the stock pipeline around an object.
BY_REMOTE_CODE = """
import sys
sys.modules["modeling_deepspeech2"] = None
import json
import evaluate, jiwer, peft, torch, transformers
from datasets import Audio, Features, Dataset, Value, load_from_disk
from transformers import AutoModelForCTC, AutoProcessor, pipeline
transformers.TFPreTrainedModel = ()  # evaluate 0.4.6 asks for it
name, speech, output = sys.argv[1:]
TASK = "automatic-speech-recognition"

class Rate(evaluate.Metric):
    def _info(self):
        features = Features({"predictions": Value("string"), "references": Value("string")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"wer": jiwer.wer(list(references), list(predictions))}

speech = load_from_disk(speech).cast_column("audio", Audio(decode=False))
recognizer = pipeline(TASK, name, trust_remote_code=True)
columns = {"input_column": "audio", "label_column": "text"}
found = {"wer": evaluate.evaluator(TASK).compute(recognizer, speech, metric=Rate(), **columns)["wer"]}

model, processor = (auto.from_pretrained(name, trust_remote_code=True) for auto in (AutoModelForCTC, AutoProcessor))
parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
found["pipeline of an object"] = type(pipeline(TASK, model=model, **parts)).__name__
found["the same with a name"] = type(type(recognizer)(model=model, **parts)).__name__

waveform = recognizer._waveform(speech[0]["audio"])["raw"]
inputs = processor(waveform, sampling_rate=16_000, return_tensors="pt")
settings = peft.LoraConfig(r=4, target_modules=["conv", "linear", "ctc_head"], modules_to_save=["norm"])
adapted = peft.get_peft_model(model, settings)
for weight in adapted.parameters():
    if weight.requires_grad:
        weight.data += 0.01
adapted.eval().save_pretrained(output)
base = AutoModelForCTC.from_pretrained(name, trust_remote_code=True)
again = peft.PeftModel.from_pretrained(base, output).eval()
found["adapter"] = torch.equal(adapted(**inputs).logits, again(**inputs).logits)
merged = again.merge_and_unload()(**inputs).logits
found["merged"] = torch.allclose(merged, adapted(**inputs).logits, atol=1e-4)
print(json.dumps(found))
"""
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


def test_programs_of_a_stranger(tiny_model_with_decoder, clips, encoded_clips, tmp_path):
    """By `trust_remote_code` alone; what transformers makes of a model object is its own class, as the documents say."""
    pytest.importorskip("peft")
    rows = [{"audio": {"bytes": content, "path": name}} for name, content in encoded_clips[:3]]
    Dataset.from_list([row | {"text": clip.text} for row, clip in zip(rows, clips)]).save_to_disk(tmp_path / "speech")
    command = [
        sys.executable,
        "-I",
        "-c",
        BY_REMOTE_CODE,
        tiny_model_with_decoder,
        tmp_path / "speech",
        tmp_path / "adapter",
    ]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, timeout=300)
    recognizer = pipeline("automatic-speech-recognition", tiny_model_with_decoder)
    texts = [recognizer(clip.waveform)["text"] for clip in clips[:3]]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "wer": jiwer.wer([clip.text for clip in clips[:3]], texts),
        "pipeline of an object": "AutomaticSpeechRecognitionPipeline",
        "the same with a name": "DeepSpeech2Pipeline",
        "adapter": True,
        "merged": True,
    }


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


def test_accelerate_places_a_model(tiny_model_folder, clips, processor, tmp_path):
    """Placed by itself, offloaded to memory or disk, or loaded from shards into an empty model: the same logits."""
    load, shards = AutoModelForCTC.from_pretrained, tmp_path / "shards"
    model = load(tiny_model_folder)
    model.save_pretrained(shards, max_shard_size="50KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    with accelerate.init_empty_weights():
        shell = AutoModelForCTC.from_config(model.config).eval()
    found = {
        "device_map": load(tiny_model_folder, device_map="auto"),
        "memory": accelerate.cpu_offload(load(tiny_model_folder), execution_device="cpu"),
        "disk": accelerate.disk_offload(load(tiny_model_folder), tmp_path / "disk", execution_device="cpu"),
        "shards": accelerate.load_checkpoint_and_dispatch(shell, shards, device_map={"": "cpu"}),
    }
    inputs = processor(clips[0].waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
        for way, placed in found.items():
            assert (placed(**inputs).logits - expected).abs().max() < 1e-4, way


def test_a_model_without_embeddings_says_so(tiny_model_folder):
    with pytest.raises(UserError, match="vocab_size=len"):
        AutoModelForCTC.from_pretrained(tiny_model_folder).resize_token_embeddings(40)


def test_arguments_of_other_pipelines_are_named(tiny_model_folder, clips, caplog):
    """They change nothing, and a misspelt name is not lost in silence."""
    recognizer = pipeline("automatic-speech-recognition", tiny_model_folder)
    expected = recognizer(clips[0].waveform)
    assert not caplog.messages
    assert recognizer(clips[0].waveform, hotword={"a": 1.0}, generate_kwargs={"num_beams": 5}) == expected
    assert "Ignored: num_beams, hotword;" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_new_model_in_half_precision(tiny_model_folder, dtype):
    """As scripts that train from scratch make it: the recurrent weights are orthogonal, as in single precision."""
    model = AutoModelForCTC.from_config(AutoConfig.from_pretrained(tiny_model_folder), dtype=dtype)
    weight = model.deepspeech2.layers[0].rnn.weight_hh
    gate = weight[0, : weight.shape[2]].float()
    assert weight.dtype == dtype
    torch.testing.assert_close(gate @ gate.T, torch.eye(len(gate)), atol=0.02, rtol=0)


def test_adapters_are_merged_before_batch_norm_is_folded(tiny_model_folder):
    """Long recordings and streams fold BatchNorm: with adapters they say what to do, instead of a KeyError."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        AutoModelForCTC.from_pretrained(tiny_model_folder), peft.LoraConfig(r=2, target_modules=["conv", "linear"])
    )
    with pytest.raises(UserError, match="merge_and_unload"):
        model.fold_batch_norm()
    assert model.merge_and_unload().fold_batch_norm().deepspeech2.layers[0].is_folded


def test_times_are_no_ignored_argument(tiny_model_folder, clips, caplog):
    """Asking for times logs nothing, and False, which programs for other models pass, is no times."""
    recognizer = pipeline("automatic-speech-recognition", tiny_model_folder, return_timestamps="word")
    timed = recognizer(clips[0].waveform)
    assert timed["chunks"] and recognizer(clips[0].waveform, return_timestamps="word") == timed
    assert recognizer(clips[0].waveform, return_timestamps=False) == {"text": timed["text"]}
    assert "Ignored" not in caplog.text
    with pytest.raises(ValueError, match="word level timestamps"):
        recognizer(clips[0].waveform, return_timestamps=True)


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_cards_of_models(folder):
    """Parsed by huggingface_hub itself: what the Hub lists, filters and shows."""
    data = ModelCard.load(folder / "README.md").data  # raises where the results are not a model-index
    assert data.pipeline_tag == "automatic-speech-recognition" and data.library_name == "transformers"
    assert data.language in ("en", "zh") and data.license and data.model_name == folder.name
    assert set(data.metrics) == {"wer", "cer"} and {"deepspeech2", "ctc"} <= set(data.tags)
    assert {result.metric_type for result in data.eval_results} <= {"wer", "cer"} and data.eval_results
    assert all(0 < result.metric_value < 100 for result in data.eval_results)
    recognizer = pipeline("automatic-speech-recognition", folder) if data.get("widget") else None
    for example in data.get("widget") or []:  # what the page of the model shows is what the model says
        assert recognizer(str(folder / example["src"]))["text"] == example["output"]["text"]


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


def test_static_space():
    """`web/README.md` is built into the page without a server, and is the card of its Space."""
    data = SpaceCard.load(REPOSITORY / "web" / "README.md").data
    assert data.sdk == "static" and data.license == "apache-2.0"
    assert (REPOSITORY / "web" / "src" / data.app_file).is_file()
