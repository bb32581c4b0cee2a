"""Tuning finds the best pair of what it tried, says what it tried it on, and leaves a decoder that is used."""

import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
from accelerate import Accelerator
from transformers import AutoTokenizer, pipeline

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2Config, DeepSpeech2ForCTC, DeepSpeech2Processor
from modeling_deepspeech2.audio import read_waveform
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.data.sources import SpeechData
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.language_models import tuning
from modeling_deepspeech2.language_models.estimation import build
from modeling_deepspeech2.language_models.tuning import finer, first_round, tune
from modeling_deepspeech2.recognition import Recognition
from modeling_deepspeech2.training.evaluation import evaluate


@pytest.fixture(scope="module")
def english():
    return AutoTokenizer.from_pretrained("tokenizer/english")


def noisy_logits(tokenizer, text: str, seed: int) -> np.ndarray:
    """A text as a recogniser that mixes up letters would hear it."""
    random = np.random.default_rng(seed)
    labels = tokenizer(text).input_ids
    logits = random.normal(size=(3 * len(labels), len(tokenizer))) * 1.5
    logits[:, tokenizer.pad_token_id] += 5
    logits[np.arange(1, len(logits), 3), tokenizer.pad_token_id] -= 8
    logits[np.arange(1, len(logits), 3), labels] += 3
    return logits


def test_tuning_finds_the_language_model_of_use(english, tmp_path):
    """The best pair is the lowest rate tried, beats no language model, and its rate is what the decoder then gives."""
    texts = ["turn on the lamp in the kitchen", "turn off the radio", "open the window in the living room"] * 3
    build(texts, english, "word", order=3, held_out=0)[0].save(tmp_path / "lm.safetensors")
    decoder = CTCBeamSearchDecoder(english, tmp_path / "lm.safetensors", beam_width=10)
    logits = [noisy_logits(english, text, seed) for seed, text in enumerate(texts)]
    recognition = Recognition(english, DeepSpeech2Config(vocab_size=len(english)), decoder)
    tuning = tune(recognition, logits, texts, num_processes=2)
    assert tuning.rates[tuning.best] == min(tuning.rates.values()) < tuning.rates[0.0, 0.0]
    assert set(first_round(2.0, 3.0)) <= set(tuning.rates) and len(tuning.rates) > 36
    assert (decoder.alpha, decoder.beta) == tuning.best
    found = [one[0].text for one in decoder.decode_batch(logits, 1.0)]
    errors = sum(a != b for hypothesis, text in zip(found, texts) for a, b in zip(hypothesis.split(), text.split()))
    assert (errors > 0) == (tuning.rates[tuning.best] > 0)
    plain = CTCBeamSearchDecoder(english, beam_width=10)
    assert [one[0].text for one in plain.decode_batch(logits, 1.0)] != found


def test_finer_grid_stays_in_range():
    assert finer((0.0, 1.0), 0.2, 0.3) == [(0.0, 0.7), (0.0, 1.3), (0.2, 0.7), (0.2, 1.0), (0.2, 1.3)]


def test_the_command(tiny_model_folder, language_model_file, tmp_path, capsys):
    """From a model and a split to a decoder in the model's folder, the table with its split, and the picture."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    arguments = ["--model", str(folder), "--language_model", str(language_model_file), "--dataset", "demo/speech"]
    main(["tune", *arguments, "--split", "english/validation", "--max_utterances", "3", "--beam_width", "4"])
    printed = capsys.readouterr().out
    assert "english/validation of demo/speech: 3 utterances" in printed and "best: alpha" in printed
    table = json.loads((folder / "decoder_tuning.json").read_text())
    assert table["splits"] == ["english/validation"] and table["utterances"] == 3
    best = min(table["rates"], key=lambda row: (row["rate"], row["alpha"], row["beta"]))
    decoder = CTCBeamSearchDecoder.from_pretrained(folder)
    assert (decoder.alpha, decoder.beta, decoder.beam_width) == (best["alpha"], best["beta"], 4)
    assert (folder / "decoder_tuning.png").stat().st_size > 5000


def test_evaluation_with_a_decoder(tiny_model_with_decoder):
    """`run_ctc.py --eval_only` hears with a decoder what the pipeline hears."""
    model = DeepSpeech2ForCTC.from_pretrained(tiny_model_with_decoder)
    processor = DeepSpeech2Processor.from_pretrained(tiny_model_with_decoder)
    data = SpeechData("demo/speech", ["english/validation"], show_progress=False)
    data.index = data.index.select(np.arange(len(data.index)) < 6)
    decoder = CTCBeamSearchDecoder.from_pretrained(tiny_model_with_decoder, processor.tokenizer)
    found = evaluate(model, processor, data, Accelerator(), batch_size=4, decoder=decoder)
    recognizer = pipeline("automatic-speech-recognition", model=tiny_model_with_decoder)
    heard = {
        one.name: recognizer(read_waveform(one.audio, 16_000, one.name))["text"] for one in data.read(np.arange(6)).values()
    }
    assert dict(zip(found.names, found.predictions)) == heard
    assert found.predictions != evaluate(model, processor, data, Accelerator(), batch_size=4).predictions


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"--split": "english/test"}, "found the test split english/test"),
        ({"--split": "english/nothing"}, "Cannot open split 'english/nothing'"),
        ({"--language_model": "no/such.arpa"}, "There is no language model no/such.arpa"),
        ({"--model": "some/model"}, "--output: needed"),
        ({"--max_alpha": "0"}, "must be above 0"),
        ({"--beam_width": "0"}, "beam_width: found 0"),
    ],
    ids=str,
)
def test_bad_arguments(tiny_model_folder, language_model_file, changes, message, capsys):
    """One sentence before any audio is read."""
    arguments = {
        "--model": str(tiny_model_folder),
        "--language_model": str(language_model_file),
        "--dataset": "demo/speech",
        "--split": "english/validation",
    }
    assert main(["tune", *(part for pair in (arguments | changes).items() for part in pair)]) == 2
    assert message in capsys.readouterr().err


def killed(task: tuple) -> str:
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does when the memory is full
    return ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers do not inherit the test")
def test_a_killed_worker_is_one_sentence(processor, make_tiny_model, monkeypatch):
    """It was a hang for ever."""
    monkeypatch.setattr(tuning, "_transcribe", killed)
    decoder = CTCBeamSearchDecoder(processor.tokenizer, beam_width=2)
    recognition = Recognition(processor.tokenizer, make_tiny_model().config, decoder)
    logits = [np.zeros((5, len(processor.tokenizer)), np.float32)] * 8
    with pytest.raises(UserError, match="One of the processes that tune was killed.*use fewer"):
        tuning.tune(recognition, logits, ["a"] * 8, num_processes=2)
