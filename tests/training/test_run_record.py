"""The record of a run names what made the model, and nothing of the machine's paths and people."""

import getpass
import socket
from pathlib import Path

import pytest

from modeling_deepspeech2.training import run_record
from modeling_deepspeech2.training.hardware import processor_name
from modeling_deepspeech2.training.run_record import commit, portable, versions


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{here}/runs/english", "runs/english"),
        ("/home/somebody/data/speech-en", "data/speech-en"),
        ("--dataset=/home/somebody/data/speech-en --train a/train", "--dataset=data/speech-en --train a/train"),
        ("'/mnt/disk/clean speech::train*0.5'", "'disk/clean speech::train*0.5'"),
        ("/data", "data"),
        ("~/speech/english", "speech/english"),
        ("../shared/data/speech-en", "../shared/data/speech-en"),
        ("openslr/librispeech_asr https://hub.example/me/model", "openslr/librispeech_asr https://hub.example/me/model"),
        ("about ~20 hours, train / test, ~ or null", "about ~20 hours, train / test, ~ or null"),
        ("the model `/home/somebody/runs/first`", "the model `runs/first`"),
        ("file:///home/somebody/speech", "speech"),
        ("--dataset=file://server/home/somebody/speech/a.parquet", "--dataset=speech/a.parquet"),
        ("parquet::file:/home/somebody/a/b", "parquet::a/b"),
        ("~somebody/speech and /home/somebody/x", "speech and x"),
        (r"C:\Users\somebody\speech", "speech"),
        ("/Users/somebody/deep/speech/train", "speech/train"),
        ("hf://datasets/me/speech s3://bucket/me", "hf://datasets/me/speech s3://bucket/me"),
    ],
)
def test_paths_of_this_machine_are_shortened(text, expected):
    full = text.format(here=Path.cwd())
    assert portable({full: [full]}) == {expected: [expected]}


def test_users_and_hosts_are_not_named(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-17")
    assert portable("../somebody/speech on gpu-17, somebody-else") == "../…/speech on …, somebody-else"


def test_the_fields_of_a_record_stay_whatever_the_user_is_called(monkeypatch):
    """The card reads them by their names."""
    monkeypatch.setattr(getpass, "getuser", lambda: "data")
    assert portable({"data": {"test of data": "data"}}) == {"data": {"test of …": "…"}}


def test_versions_commit_and_processor(monkeypatch, tmp_path):
    assert set(versions()) == {"python", "torch", "transformers", "datasets", "accelerate", "modeling_deepspeech2"}
    assert processor_name()
    found = commit()
    assert found is None or (len(found["id"]) == 40 and isinstance(found["dirty"], bool))
    monkeypatch.setattr(run_record, "_REPOSITORY", tmp_path)
    assert commit() is None
