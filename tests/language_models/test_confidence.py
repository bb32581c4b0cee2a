"""Confidences of words are probabilities after tuning, and everything that gives words gives the same ones."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2Config, DeepSpeech2Processor
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.decoding_deepspeech2 import GreedyDecoder
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.hypotheses import NO_CALIBRATION, Calibration, Hypothesis, Span
from modeling_deepspeech2.language_models.confidence import Confidences


def test_the_error_is_that_of_the_definition():
    """Two bins by hand: 0.9 of which half are right, 0.2 of which a quarter."""
    confidence = np.array([0.9, 0.9, 0.2, 0.2, 0.2, 0.2])
    words = Confidences(confidence, np.array([True, False, True, False, False, False]))
    assert words.error == pytest.approx((2 * 0.4 + 4 * 0.05) / 6)


def test_fit_finds_the_calibration_that_made_the_data():
    """Words that are right with the probability that a known calibration gives: its two numbers come back."""
    random, true = np.random.default_rng(0), Calibration(0.7, -0.8)
    raw = random.beta(5, 1, size=20_000)
    is_right = random.random(len(raw)) < np.array([true(p) for p in raw.tolist()])
    words = Confidences(raw, is_right)
    fitted = words.fit()
    assert fitted == pytest.approx(true, abs=0.06)
    assert words.error > 0.15 and words.calibrated(fitted).error < 0.01


@pytest.mark.parametrize("is_right", [[True] * 4, [False] * 4, [False, False, True, True]])
def test_nothing_is_fitted_where_nothing_can_be(is_right):
    """All right, all wrong, or the surer the more often wrong: the confidence stays what it was."""
    assert Confidences(np.array([0.9, 0.8, 0.4, 0.3]), np.array(is_right)).fit() == Calibration()


def test_calibration_keeps_the_order_and_the_range():
    calibration = Calibration(0.5, -1.0)
    found = [calibration(p) for p in (0.0, 1e-9, 0.2, 0.5, 0.9, 1.0)]
    assert found == sorted(found) and found[0] >= 0 and found[-1] <= 1
    assert [Calibration()(p) for p in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]


def test_right_words_are_the_aligned_ones():
    """A word too many does not make those behind it wrong; a wrong one does not count as right elsewhere."""
    words = [Span(text, 0.0, 0.0, 0.5) for text in ["turn", "the", "on", "light", "light"]]
    hypothesis = Hypothesis("", words, [], 0.0, 0.0, 0.0)
    found = Confidences.of([hypothesis], ["turn on the light"], "spaces")
    assert found.is_right.sum() == 3 and found.is_right[0]


def test_words_are_calibrated_and_characters_are_not(tiny_model_folder):
    processor = DeepSpeech2Processor.from_pretrained(tiny_model_folder)
    logits = 3 * torch.randn(60, len(processor.tokenizer), generator=torch.Generator().manual_seed(0))
    calibration = Calibration(0.5, -1.0)
    raw, new = (GreedyDecoder(processor.tokenizer, c).decode(logits, 0.02)[0] for c in (Calibration(), calibration))
    assert [word.confidence for word in new.words] == pytest.approx([calibration(word.confidence) for word in raw.words])
    assert new.characters == raw.characters


def test_tune_calibrates_both_decoders(tiny_model_folder, language_model_file, tmp_path):
    """The numbers are stored where the decoder and the configuration find them; all else stays as it was."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    before = json.loads((folder / "config.json").read_text())
    arguments = ["--model", folder, "--language_model", language_model_file, "--dataset", "demo/speech"]
    main(["tune", *map(str, arguments), "--split", "english/validation", "--max_utterances", "3", "--beam_width", "4"])
    table = json.loads((folder / "decoder_tuning.json").read_text())
    config, decoder = DeepSpeech2Config.from_pretrained(folder), CTCBeamSearchDecoder.from_pretrained(folder)
    assert list(config.word_confidence) == table["word_confidence"]["best path"]
    assert list(decoder.calibration) == table["word_confidence"]["beam search"]
    assert (folder / "word_confidence.png").stat().st_size > 5000
    after = json.loads((folder / "config.json").read_text())
    assert "custom_pipelines" in before and after == before | {"word_confidence": table["word_confidence"]["best path"]}


def test_the_pipeline_gives_calibrated_words(tiny_model_with_decoder, tmp_path, clips):
    """With the decoder, and without it, where the numbers are the model's."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_with_decoder, folder)
    config, decoder = DeepSpeech2Config.from_pretrained(folder), CTCBeamSearchDecoder.from_pretrained(folder)

    def words(calibration: Calibration, with_decoder: bool) -> list[float]:
        config.word_confidence, decoder.calibration = tuple(calibration), calibration
        config.save_pretrained(folder)
        decoder.save_pretrained(folder)
        recognizer = pipeline("automatic-speech-recognition", model=str(folder))
        if not with_decoder:
            recognizer.decoder = None
        return [chunk["confidence"] for chunk in recognizer(clips[0].waveform, return_timestamps="word")["chunks"]]

    calibration = Calibration(2.0, 0.25)
    for with_decoder in (True, False):
        raw = words(NO_CALIBRATION, with_decoder)
        assert raw and words(calibration, with_decoder) == pytest.approx([calibration(p) for p in raw])


@pytest.mark.parametrize("wrong", [(1.0,), (0.0, 1.0), (-1.0, 0.0), (1.0, math.nan), (math.inf, 0.0)], ids=str)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(UserError, match="word_confidence"):
        DeepSpeech2Config(word_confidence=wrong)
