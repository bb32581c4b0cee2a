"""Loading checks that every weight came, fits and is finite: else one sentence, not a random or empty transcript."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCTC, BertConfig, BertModel, pipeline

from modeling_deepspeech2 import DeepSpeech2ForCTC, DeepSpeech2Model
from modeling_deepspeech2.errors import UserError


WEIGHTS = "model.safetensors"


def without(key):
    return lambda weights: weights.pop(key)


def filled(key, value):
    return lambda weights: weights[key].view(-1)[3:4].fill_(value)


@pytest.mark.parametrize(
    "change, message",
    [
        (without("ctc_head.weight"), "ctc_head.weight is missing"),
        (without("deepspeech2.layers.1.rnn.norm.running_var"), "running_var is missing"),
        (lambda weights: weights.clear() or weights.update(a=torch.ones(2)), "and [0-9]+ more are missing"),
        (filled("ctc_head.bias", torch.nan), "not finite numbers: ctc_head.bias is broken"),
        (filled("deepspeech2.convolutions.0.norm.running_mean", torch.inf), "running_mean is broken"),
        (lambda weights: weights.update({"ctc_head.bias": torch.zeros(31)}), r"has the shape \(31,\), expected \(29,\)"),
    ],
)
def test_weights_that_do_not_fit(tiny_model_folder, tmp_path, change, message):
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / WEIGHTS)
    change(weights)
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message) as caught:
        AutoModelForCTC.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "foreign", "truncated"])
def test_a_damaged_file(tiny_model_folder, tmp_path, content):
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match="damaged or cut short") as caught:
        DeepSpeech2ForCTC.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_models_file(tiny_model_folder, tmp_path):
    bert = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(bert).save_pretrained(tmp_path)
    shutil.copyfile(tiny_model_folder / "config.json", tmp_path / "config.json")
    with pytest.raises(UserError, match="not those of a DeepSpeech2ForCTC"):
        DeepSpeech2ForCTC.from_pretrained(tmp_path)


def test_fine_tuning_with_another_alphabet_is_still_possible(tiny_model_folder):
    """The standard way: `ignore_mismatched_sizes=True` starts the output layer afresh and keeps the rest."""
    model = DeepSpeech2ForCTC.from_pretrained(tiny_model_folder, vocab_size=31, ignore_mismatched_sizes=True)
    old = DeepSpeech2ForCTC.from_pretrained(tiny_model_folder)
    assert model.ctc_head.weight.shape[0] == 31
    assert torch.equal(model.deepspeech2.fully_connected.linear.weight, old.deepspeech2.fully_connected.linear.weight)
    assert isinstance(DeepSpeech2Model.from_pretrained(tiny_model_folder), DeepSpeech2Model)  # the head is left out


def test_a_token_is_neither_shown_nor_pickled(tiny_model_folder, tmp_path):
    """The decoder's download needs it; logs, errors and saved objects do not."""
    model = DeepSpeech2ForCTC.from_pretrained(tiny_model_folder, token="hf_secret", revision="main")
    assert model.hub_access == {"token": "hf_secret", "revision": "main"}
    torch.save(model, tmp_path / "model.pt")
    model.save_pretrained(tmp_path / "saved")
    assert "hf_secret" not in repr(model.hub_access) + repr(model) + json.dumps(model.config.to_dict(), default=str)
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"hf_secret" not in file.read_bytes()


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is missing: expected vocab.json"),
        ("", "vocab.json is damaged"),
        ('{"<pad>": 0, "|"', "vocab.json is damaged"),
        ("{}", "each with an id of its own"),
        ('["a", "b"]', "each with an id of its own"),
        ('{"<pad>": 0, "|": 1, "a": 1}', "each with an id of its own"),
        ('{"<pad>": 0, "|": 1, "a": 2}', "an alphabet of 3 symbols, but the model of 29"),
    ],
)
def test_a_damaged_vocabulary(tiny_model_folder, tmp_path, content, message):
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "vocab.json").unlink()
    if content is not None:
        (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        pipeline("automatic-speech-recognition", str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"deviation": [1.0] * 160 + [0.0]}, "deviation of the features must be positive"),
        ({"mean": [float("nan")] * 161}, "mean of the features must be finite"),
        ({"mean": [0.0] * 3}, "mean needs 161 numbers"),
        ({"hop_length": 0}, "hop_length must be at least 1"),
        ({"hop_length": 80}, "has hop_length 80, but the model hop_length 160"),
        ({"sampling_rate": 8000}, "has sampling_rate 8000, but the model sampling_rate 16000"),
    ],
    ids=str,
)
def test_a_feature_extractor_that_does_not_fit(tiny_model_folder, tmp_path, change, message):
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "processor_config.json").read_text())
    content["feature_extractor"].update(change)
    (tmp_path / "processor_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        pipeline("automatic-speech-recognition", str(tmp_path))
