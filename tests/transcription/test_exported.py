"""Exported models in this package: the texts and times of torch, where there is no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2Stream
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.transcription import recordings
from modeling_deepspeech2.transcription.exported import ExportedModel, ExportedStream


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
    monkeypatch.setattr(recordings, "CHUNK_SECONDS", 2.0)
    monkeypatch.setattr("modeling_deepspeech2.transcription.exported.CHUNK_SECONDS", 2.0)
    pause = np.zeros(16_000, np.float32)
    waveform = np.concatenate([samples for clip in clips[:3] for samples in (clip.waveform, pause)])
    expected = list(recordings.transcribe(model, processor, waveform, decoder if with_decoder else None))
    pieces = np.array_split(waveform, 5)
    assert_same(list(exported.transcribe(pieces, exported.load_decoder() if with_decoder else None)), expected)


def test_streams_have_the_text_of_torch_at_every_moment(case, processor, clips):
    model, decoder, exported = case
    if model.config.bidirectional:
        with pytest.raises(UserError, match="--live"):
            ExportedStream(exported)
        return
    hotwords = {"lamp": 3.0}
    streams = (
        DeepSpeech2Stream(model, processor, decoder, hotwords=hotwords),
        ExportedStream(exported, exported.load_decoder(), hotwords=hotwords),
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


def test_the_command_runs_where_there_is_no_torch(case, clips, tmp_path):
    model, _, exported = case
    if model.config.bidirectional:
        pytest.skip("one process is enough")
    soundfile.write(tmp_path / "clip.wav", clips[0].waveform, 16_000, subtype="FLOAT")
    command = [sys.executable, "-c", WITHOUT_TORCH, "transcribe", tmp_path / "clip.wav", "--model", exported.folder]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [*command, "--engine", "onnx", "--format", "json"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["utterances"]
    expected = list(exported.transcribe([clips[0].waveform], exported.load_decoder()))
    assert [one["text"] for one in found] == [one.text for one in expected]
    assert found[0]["words"][0]["end"] > 0
