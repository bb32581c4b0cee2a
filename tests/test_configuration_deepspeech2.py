"""The configuration: foreign names are kept, misspelled ones refused, and every field describes itself."""

import dataclasses
import json

import pytest
from transformers import AutoConfig

from modeling_deepspeech2 import DeepSpeech2Config
from modeling_deepspeech2.errors import UserError


# What `run_speech_recognition_ctc.py` of transformers writes into every configuration.
FOREIGN = {
    "feat_proj_dropout": 0.0,
    "attention_dropout": 0.0,
    "final_dropout": 0.0,
    "mask_time_prob": 0.05,
    "mask_time_length": 10,
    "mask_feature_prob": 0.0,
    "mask_feature_length": 10,
    "gradient_checkpointing": True,
    "layerdrop": 0.0,
    "activation_dropout": 0.1,
    "add_adapter": False,
}


def test_foreign_fields_are_kept_and_reported_once(tmp_path, caplog):
    """Scripts for other models write fields of theirs, which must not make a saved model unreadable."""
    config = DeepSpeech2Config(hidden_size=12)
    config.update(FOREIGN)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in FOREIGN} == FOREIGN
    AutoConfig.from_pretrained(tmp_path)
    assert sum("mask_time_prob" in record.getMessage() for record in caplog.records) == 1
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["layerdrop"] == 0.0


@pytest.mark.parametrize("name, meant", [("hidden_sise", "hidden_size"), ("bidirectonal", "bidirectional")])
def test_a_misspelled_field_is_an_error(name, meant):
    with pytest.raises(UserError, match=f"no field '{name}'; did you mean '{meant}'"):
        DeepSpeech2Config(**{name: 3})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rnn_type": "gro"}, "rnn_type.*gro"),
        ({"hidden_size": "big"}, "hidden_size.*big"),
        ({"hidden_size": -1}, "hidden_size must be at least 1"),
        ({"pad_token_id": 29}, "pad_token_id.*is 29"),
        ({"pad_token_id": None}, "pad_token_id.*is None"),
        ({"activation_clip": float("nan")}, "activation_clip.*nan"),
        ({"conv_channels": [0, 3]}, "conv_channels"),
    ],
    ids=str,
)
def test_a_damaged_file_is_one_sentence(tmp_path, settings, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deepspeech2"} | settings))
    with pytest.raises(UserError, match=message) as caught:
        AutoConfig.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_field_has_its_help_text():
    """`run_ctc.py --help` shows it; with `python -OO`, too, as it stands in no docstring."""
    own = DeepSpeech2Config.own_fields()
    fields = {field.name: field for field in dataclasses.fields(DeepSpeech2Config)}
    assert len(own) == 23 and all(fields[name].metadata["help"].endswith(".") for name in own)
