"""`deepspeech2 export`, as people type it."""

import json
import re
from pathlib import Path

import pyarrow.parquet
import pytest
from hub_server import TOKEN, HubServer

from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.training.publishing import save_repository


REPOSITORY = Path(__file__).parents[2]


pytest.importorskip("onnx", reason='needs the packages of the export: pip install -e ".[onnx]"')
pytest.importorskip("onnxruntime", reason='needs the packages of the export: pip install -e ".[onnxruntime]"')


# What stands in config.json of folders that hold no model to export.
OTHER_CONFIGURATIONS = {"bert": {"model_type": "bert"}, "exported": {"model_type": "wav2vec2", "deepspeech2": {}}}


@pytest.fixture(scope="module")
def live_folder(tmp_path_factory, make_tiny_model, processor):
    folder = tmp_path_factory.mktemp("live")
    save_repository(folder, make_tiny_model(bidirectional=False), processor)
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Six utterances as a data set."""
    folder = tmp_path_factory.mktemp("speech")
    table = pyarrow.parquet.read_table(next((REPOSITORY / "demo" / "speech" / "english").glob("test-*.parquet")))
    pyarrow.parquet.write_table(table.slice(0, 6), folder / "test-00000-of-00001.parquet")
    return folder


def test_a_model_becomes_a_folder_with_the_error_rates_of_its_files(capsys, tmp_path, live_folder, speech):
    output = tmp_path / "new" / "tiny-onnx"
    arguments = ["export", live_folder, output, "--live", "--dataset", speech, "--split", "test"]
    assert main([str(argument) for argument in arguments]) == 0
    assert str(output) in capsys.readouterr().out
    card = (output / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `onnx/(\S+)` \|.* MB \| (\S+) \| (\S+) \|$", card, re.MULTILINE)
    assert len(rows) == len(list((output / "onnx").iterdir()))
    measured = {name: (wer, cer) for name, wer, cer in rows if wer != "–"}
    assert set(measured) == {f"model{kind}.onnx" for kind in ("", "_fp16", "_quantized", "_unit_variance")}
    assert all(rate.endswith("%") for rates in measured.values() for rate in rates)
    assert "6 utterances of test" in card


def test_a_decoder_beside_the_model_comes_along(tmp_path, tiny_model_with_decoder):
    assert main(["export", str(tiny_model_with_decoder), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "language_model.safetensors").is_file()


def test_the_folder_goes_to_a_repository_of_its_own(tmp_path, tiny_model_folder, monkeypatch):
    """All that was exported, with its graphs, and nothing else."""
    output = tmp_path / "out"
    with HubServer() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert main(["export", str(tiny_model_folder), str(output), "--push_to_hub", "tester/tiny-onnx"]) == 0
        files = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}
        assert hub.files("tester/tiny-onnx") == files and "onnx/model.onnx" in files
    assert '"tester/tiny-onnx"' in (output / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("/no/such/folder", [], "--model: found no Deep Speech 2 model in /no/such/folder"),
        ("empty", [], "--model: found no Deep Speech 2 model in .*other"),
        ("bert", [], "model_type: found 'bert', expected 'deepspeech2'"),
        ("exported", [], "it was exported: .* --engine onnx"),
        ("bidirectional", ["--live"], "bidirectional model"),
        ("bidirectional", ["--split", "test"], "--split: found splits without --dataset"),
        ("bidirectional", ["--dataset", "nowhere/at/all/x", "--split", "test"], "nowhere/at/all/x"),
        ("bidirectional", ["--push_to_hub", "no name"], "hub_model_id: found 'no name', expected USER/NAME"),
        ("taken", [], "OUTPUT: .* is there already"),
        ("file", [], "OUTPUT: .* cannot be made a folder"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(capsys, tmp_path, tiny_model_folder, model, options, reason):
    output, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    if model in OTHER_CONFIGURATIONS:
        (other / "config.json").write_text(json.dumps(OTHER_CONFIGURATIONS[model]))
    if model == "taken":
        output.mkdir()
        (output / "mine.txt").write_text("mine")
    if model == "file":
        output.write_text("mine")
        output = output / "under"
    folders = dict.fromkeys(("empty", *OTHER_CONFIGURATIONS), other) | {"/no/such/folder": model}
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(folders.get(model, tiny_model_folder)), str(output), *options]) == 2
    error = capsys.readouterr().err
    assert re.search(reason, error) and len(error.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
