"""Exported models in this package: the texts and times of torch, where there is no torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hub_server import HubServer

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2Stream
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.transcription import recordings
from modeling_deepspeech2.transcription.exported import ExportedModel


NEEDED = 'needs the packages of the export: pip install -e ".[onnx,onnxruntime]"'
pytest.importorskip("onnx", reason=NEEDED)
pytest.importorskip("onnxruntime", reason=NEEDED)

from modeling_deepspeech2.export.folder import export  # noqa: E402


REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[True, False], ids=["bidirectional", "live"])
def case(request, tmp_path_factory, make_tiny_model, processor, language_model_file):
    """Model, decoder, and what they become."""
    settings = {} if request.param else {"bidirectional": False, "lookahead": 4}
    model, folder = make_tiny_model(**settings), tmp_path_factory.mktemp("exported") / "tiny"
    decoder = CTCBeamSearchDecoder(processor.tokenizer, language_model_file, beam_width=8)
    export(model, processor, folder, live=not request.param, decoder=decoder)
    return model, decoder, ExportedModel(folder, threads=1)


def assert_same(found: list, expected: list) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert one.text == other.text
        times = [[(word.text, word.start, word.end) for word in item.words] for item in (one, other)]
        assert times[0] == times[1]
        assert one.score == pytest.approx(other.score, rel=1e-3)


@pytest.mark.parametrize("with_decoder", [True, False])
def test_recordings_have_the_utterances_of_torch(case, processor, clips, with_decoder, monkeypatch):
    model, decoder, exported = case
    for name in ("CHUNK_SECONDS", "CONTEXT_SECONDS"):  # several chunks in a batch
        monkeypatch.setattr(recordings, name, 1.0)
        monkeypatch.setattr(f"modeling_deepspeech2.transcription.exported.{name}", 1.0)
    pause = np.zeros(16_000, np.float32)
    waveform = np.concatenate([samples for clip in clips[:3] for samples in (clip.waveform, pause)])
    expected = list(recordings.transcribe(model, processor, waveform, decoder if with_decoder else None))
    pieces = np.array_split(waveform, 5)
    assert_same(list(exported.transcribe(pieces, exported.load_decoder() if with_decoder else None)), expected)


def test_streams_have_the_text_of_torch_at_every_moment(case, processor, clips):
    model, decoder, exported = case
    if model.config.bidirectional:
        with pytest.raises(UserError, match="--live"):
            DeepSpeech2Stream(exported)
        return
    hotwords = {"lamp": 3.0}
    streams = (
        DeepSpeech2Stream(model, processor, decoder, hotwords=hotwords),
        DeepSpeech2Stream(exported, decoder=exported.load_decoder(), hotwords=hotwords),
    )
    ended: list[list] = [[], []]
    for piece in np.array_split(clips[0].waveform, 9):
        for stream, utterances in zip(streams, ended):
            utterances += stream.feed(piece)
        assert streams[0].text == streams[1].text
    for stream, utterances in zip(streams, ended):
        utterances += stream.finish()
    assert_same(ended[1], ended[0])
    with pytest.raises(UserError, match="finished"):
        streams[1].feed(clips[0].waveform)


@pytest.mark.parametrize("content", [None, "{}", '{"vocab_size": 3}', "no JSON"])
def test_a_folder_that_is_no_exported_model_is_said_to_be_so(tmp_path, content):
    if content is not None:
        for name in ("config.json", "tokenizer_config.json", "vocab.json"):
            (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="found no exported model"):
        ExportedModel(tmp_path)


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers"):
    sys.modules[name] = None  # importing them fails
import deepspeech2_command
status = deepspeech2_command.main()
assert not {"torch", "transformers"} & {name for name, module in sys.modules.items() if module is not None}
sys.exit(status)
"""


def run_without_torch(*arguments, **options) -> str:
    """The standard output of the command."""
    options = {"env": os.environ | {"PYTHONPATH": str(REPOSITORY)}, "capture_output": True, "timeout": 120} | options
    result = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)], **options)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


@pytest.fixture(scope="module")
def clip(tmp_path_factory, clips) -> Path:
    file = tmp_path_factory.mktemp("clip") / "clip.wav"
    soundfile.write(file, clips[0].waveform, 16_000, subtype="PCM_16")
    return file


def test_the_command_runs_where_there_is_no_torch_by_the_name_on_the_hub(case, clip, tmp_path):
    """From the repository only what is used is downloaded, in one commit."""
    model, _, exported = case
    if model.config.bidirectional:
        pytest.skip("one process is enough")
    with HubServer() as hub:
        push = "import sys, huggingface_hub as hub; hub.create_repo(sys.argv[1]); "
        push += "hub.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])"
        environment = hub.environment(tmp_path / "uploader") | {"PYTHONPATH": str(REPOSITORY)}
        subprocess.run([sys.executable, "-c", push, "tester/tiny", exported.folder], env=environment, check=True)
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(REPOSITORY)}
        command = ["transcribe", clip, "--model", "tester/tiny", "--engine", "onnx", "--format", "json"]
        found = json.loads(run_without_torch(*command, env=environment))["utterances"]
        downloaded = {file.name for file in (tmp_path / "home").rglob("*.onnx")}
    expected = list(exported.transcribe([soundfile.read(clip, dtype="float32")[0]], exported.load_decoder()))
    assert [one["text"] for one in found] == [one.text for one in expected]
    assert found[0]["words"][0]["end"] > 0
    assert downloaded == {"live.onnx"}


def test_live_runs_where_there_is_no_torch(case, clip):
    """The command gives the text that a stream gives."""
    model, _, exported = case
    if model.config.bidirectional:
        pytest.skip("bidirectional models are no streams")
    stream = DeepSpeech2Stream(exported, decoder=exported.load_decoder())
    ended = stream.feed(soundfile.read(clip, dtype="float32")[0]) + stream.finish()
    printed = run_without_torch("live", "-", "--model", exported.folder, "--engine", "onnx", stdin=clip.open("rb"))
    assert printed.splitlines() == [one.text for one in ended]


def test_live_refuses_a_model_without_its_graph(case, capsys):
    model, _, exported = case
    if model.config.bidirectional:
        assert main(["live", "-", "--model", str(exported.folder), "--engine", "onnx"]) == 2
        assert "export a unidirectional model with --live" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["/no/such/folder", "no/such/place/anywhere"])
def test_a_model_that_is_not_there_is_one_sentence(name):
    with pytest.raises(UserError, match=f"--model: found no exported model in {name} .there is no such folder"):
        ExportedModel(name)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", "cut"], ids=repr)
def test_damaged_graphs_are_one_sentence(case, content, tmp_path):
    """A clone without Git LFS holds pointers in their place."""
    file = tmp_path / "model" / "onnx" / "model.onnx"
    shutil.copytree(case[2].folder, tmp_path / "model")
    file.write_bytes(file.read_bytes()[:10_000] if content == "cut" else content)
    with pytest.raises(UserError, match="model.onnx is damaged"):
        ExportedModel(tmp_path / "model").offline  # noqa: B018
