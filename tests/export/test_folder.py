"""The exported folder: what stands in it, and what is refused before anything is written."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import open_session
from tokenizers import Tokenizer

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2CTCTokenizer, DeepSpeech2Processor, GreedyDecoder
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.export.folder import export


REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def live_model(make_tiny_model):
    return make_tiny_model(bidirectional=False, lookahead=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, live_model, processor, language_model_file):
    output = tmp_path_factory.mktemp("export") / "tiny-onnx"
    decoder = CTCBeamSearchDecoder(processor.tokenizer, language_model_file)
    export(live_model, processor, output, live=True, decoder=decoder, source="runs/tiny")
    return output


def read(folder, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_the_folder_holds_what_each_program_looks_for(folder):
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "config.json", "decoder_config.json", "language_model.safetensors", "onnx", "preprocessor_config.json",
        "tokenizer.json", "tokenizer_config.json", "tokens.txt", "vocab.json",
    }  # fmt: skip
    kinds = ["", "_fp16", "_quantized"]
    names = [f"{graph}{kind}.onnx" for graph in ("model", "live") for kind in kinds]
    assert {file.name for file in (folder / "onnx").iterdir()} == {*names, "model_unit_variance.onnx"}
    for name in names:
        model = onnx.load(folder / "onnx" / name)
        onnx.checker.check_model(model, full_check=True)
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 17)}
    sizes = [(folder / "onnx" / f"model{kind}.onnx").stat().st_size for kind in kinds]
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]


def test_the_configuration_says_how_long_a_frame_is(folder, live_model):
    config = read(folder, "config.json")
    assert np.prod(config["conv_stride"]) == live_model.config.inputs_to_logits_ratio
    assert config["model_type"] == "wav2vec2" and config["vocab_size"] == live_model.config.vocab_size
    session = open_session(folder / "onnx" / "live.onnx")
    states = {one.name: one.shape for one in session.get_inputs()[2:]}
    start = config["deepspeech2"]["live_states"]
    assert list(start) == list(states)
    assert all(isinstance(size, str) or size == own for name in start for size, own in zip(states[name], start[name]))


@pytest.mark.parametrize(
    "texts", [["who's there", "it's john's n't", "office"], ["开灯 office 二〇〇八"], ["ŝi diris ĉu", "añb"]]
)
@pytest.mark.parametrize("label_unit", ["character", "bigram"])
def test_the_tokenizer_spells_any_path_as_the_decoder_does(tmp_path, live_model, processor, texts, label_unit):
    """Repeats, blanks between them, delimiters at the ends and in a row, and what looks like English contractions."""
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(texts, label_unit=label_unit)
    live_model.config.vocab_size, before = len(tokenizer), live_model.config.vocab_size
    try:
        export(live_model, DeepSpeech2Processor(processor.feature_extractor, tokenizer), tmp_path / "out")
    finally:
        live_model.config.vocab_size = before
    spelled, decoder = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")), GreedyDecoder(tokenizer)
    random = np.random.default_rng(0)
    for _ in range(50):
        labels = random.choice([0, 0, 1, *range(len(tokenizer))], size=30)
        logits = 20.0 * np.eye(len(tokenizer), dtype=np.float32)[labels]
        assert spelled.decode(labels.tolist(), skip_special_tokens=True) == decoder.decode(logits, 1.0)[0].text


def test_the_card_names_every_file_with_its_size(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    for file in (folder / "onnx").iterdir():
        size = f"{file.stat().st_size / 1e6:.1f} MB"
        assert re.search(rf"^\| `onnx/{re.escape(file.name)}` .*\| {size} \|", card, re.MULTILINE)
    assert "runs/tiny" in card and card.startswith("---\nlanguage: en\n")


def test_the_python_of_the_card_runs(folder, clips, live_model, monkeypatch):
    """Both examples, as they stand there: a text, and live the same logits."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    examples = [code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "onnxruntime" in code]
    monkeypatch.chdir(folder)
    printed: list[str] = []
    names = {"samples": clips[0].waveform, "print": printed.append}
    exec(examples[0], names)
    assert len(printed[0]) > 20
    pieces = np.array_split(clips[0].waveform, 5)
    names |= {"pieces": [(piece, index == 4) for index, piece in enumerate(pieces)], "seen": []}
    exec(examples[1].replace("    states =", "    seen.append(logits[0])\n    states ="), names)
    live = np.concatenate(names["seen"])
    (whole,) = open_session(folder / "onnx" / "model.onnx").run(None, {"input_values": clips[0].waveform[None]})
    np.testing.assert_allclose(live, whole[0], atol=1e-4)


def test_what_other_programs_would_spell_otherwise_is_refused(tmp_path, live_model, processor):
    vocabulary = tmp_path / "vocab.json"
    symbols = ["<pad>", "|", "a", "b\u3000c"]
    vocabulary.write_text(json.dumps({symbol: number for number, symbol in enumerate(symbols)}))
    tokenizer = DeepSpeech2CTCTokenizer(str(vocabulary))
    with pytest.raises(UserError, match="vocab.json: found the symbol"):
        export(live_model, DeepSpeech2Processor(processor.feature_extractor, tokenizer), tmp_path / "out")
    processor_with_underscores = DeepSpeech2Processor(
        processor.feature_extractor,
        DeepSpeech2CTCTokenizer(str(REPOSITORY / "tokenizer" / "english" / "vocab.json"), replace_word_delimiter_char="_"),
    )
    with pytest.raises(UserError, match="replace_word_delimiter_char"):
        export(live_model, processor_with_underscores, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_nothing_half_written_remains(
    tmp_path, live_model, make_tiny_model, processor, monkeypatch
):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="OUTPUT: .*taken is there already"):
        export(live_model, processor, taken)
    with pytest.raises(UserError, match="bidirectional"):
        export(make_tiny_model(), processor, tmp_path / "out", live=True)
    monkeypatch.setattr("modeling_deepspeech2.export.folder.write_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(live_model, processor, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]
    assert [file.name for file in taken.iterdir()] == ["thesis.txt"]


def test_a_model_whose_blank_is_not_0_has_no_files_for_sherpa(tmp_path, live_model, processor, monkeypatch):
    monkeypatch.setattr(live_model.config, "pad_token_id", 3)
    export(live_model, processor, tmp_path / "out")
    assert not (tmp_path / "out" / "tokens.txt").exists()
    assert "sherpa" not in (tmp_path / "out" / "README.md").read_text()
