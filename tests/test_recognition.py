"""The single code path from logits to text: a recording is its utterances, each as the decoder finds it, put together."""

import itertools
import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2Config, DeepSpeech2CTCTokenizer, GreedyDecoder, UserError
from modeling_deepspeech2.recognition import Recognition


CONFIG = DeepSpeech2Config(vocab_size=29)
FRAME = CONFIG.inputs_to_logits_ratio / CONFIG.sampling_rate  # 0.02 s
PAUSE = 60  # frames; 0.8 s end an utterance


@pytest.fixture(scope="module")
def english():
    return AutoTokenizer.from_pretrained("tokenizer/english")


def spoken(tokenizer, text: str, certainty: float = 9.0, seed: int = 0) -> np.ndarray:
    """Logits that say a text, a symbol in every third frame."""
    labels = tokenizer(text).input_ids
    logits = np.random.default_rng(seed).normal(size=(3 * len(labels), len(tokenizer)))
    logits[:, tokenizer.pad_token_id] += certainty
    logits[np.arange(1, len(logits), 3), tokenizer.pad_token_id] -= certainty
    logits[np.arange(1, len(logits), 3), labels] += certainty
    return logits.astype(np.float32)


def silence(tokenizer, frames: int = PAUSE) -> np.ndarray:
    logits = np.zeros((frames, len(tokenizer)), np.float32)
    logits[:, tokenizer.pad_token_id] = 20
    return logits


@pytest.mark.parametrize("language", ["english", "mandarin"])
def test_a_recording_is_its_utterances(language):
    """Text, words, characters and scores put together; times count from the beginning of the recording."""
    tokenizer = AutoTokenizer.from_pretrained(f"tokenizer/{language}")
    config = DeepSpeech2Config(vocab_size=len(tokenizer))
    parts = ["turn it off", "now"] if language == "english" else ["今天下雨", "明天"]
    first, second = (spoken(tokenizer, part) for part in parts)
    pieces = [first, silence(tokenizer), second]
    for decoder in (None, CTCBeamSearchDecoder(tokenizer, beam_width=8)):
        recognition = Recognition(tokenizer, config, decoder)
        (found,) = recognition.transcript(pieces)
        (same,) = recognition.transcript(np.concatenate(pieces)[start : start + 7] for start in range(0, 999, 7))
        assert found == same
        one, other = recognition.utterances(pieces)
        assert [one.text, other.text] == parts
        assert found.text == (" " if language == "english" else "").join(parts)
        assert found.words == one.words + other.words and found.score == one.score + other.score
        assert "".join(span.text for span in found.characters) == found.text
        (alone,) = recognition.transcript([second])
        late = [(word.text, word.start + (len(first) + PAUSE) * FRAME) for word in alone.words]
        assert [(word.text, word.start) for word in other.words] == [(text, pytest.approx(start)) for text, start in late]


def test_n_best_of_a_recording(english):
    """The best pairs of the hypotheses of two utterances, by the sum of their scores."""
    decoder = CTCBeamSearchDecoder(english, beam_width=30)
    parts = [spoken(english, text, certainty=3.0, seed=seed) for seed, text in enumerate(("go on", "stop"))]
    recording = [parts[0], silence(english), parts[1]]
    lists = [Recognition(english, CONFIG, decoder, n_best=30)._n_best_lists([part, silence(english)]) for part in parts]
    lists = [found for one in lists for found in one]
    assert len(lists) == 2
    expected = sorted((-(one.score + other.score) for one, other in itertools.product(*lists)))[:5]
    found = Recognition(english, CONFIG, decoder, n_best=5).transcript(recording)
    assert len({one.text for one in found}) == 5
    assert [-one.score for one in found] == pytest.approx(expected, abs=0.05)


def test_clips_on_several_cores(english):
    """The same texts, in the same order, as one after the other."""
    clips = [spoken(english, text, 9.0, seed) for seed, text in enumerate(["one", "two three", "", "four"])]
    recognition = Recognition(english, CONFIG, CTCBeamSearchDecoder(english, beam_width=8))
    expected = [recognition.transcript([clip]) for clip in clips]
    assert recognition.transcripts([torch.from_numpy(clip) for clip in clips], num_processes=2) == expected
    assert [found[0].text for found in expected] == ["one", "two three", "", "four"]


def test_silence_around_a_word_is_left_out(english):
    """However long: neither text nor scores know of it, and the times are late by it."""
    word = spoken(english, "seven", 5.0)
    for decoder in (None, CTCBeamSearchDecoder(english, beam_width=8)):
        recognition = Recognition(english, CONFIG, decoder)
        (alone,) = recognition.transcript([silence(english, 40), word, silence(english, 40)])
        (around,) = recognition.transcript([silence(english, 3_000), word, silence(english, 3_000)])
        assert (around.text, around.score) == ("seven", pytest.approx(alone.score, abs=1e-5))
        assert around.words[0].start == pytest.approx(alone.words[0].start + 2_960 * FRAME)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"end_of_utterance": 0}, "are 0 and 30.0"),
        ({"longest_utterance": float("nan")}, "are 0.8 and nan"),
        ({"n_best": 0}, "n_best: found 0"),
        ({"hotwords": {"word": 1.0}}, "found 1 without a beam search"),
        ({"decoder": "other"}, "an alphabet of 4 symbols, but the model has 29"),
    ],
)
def test_bad_settings(english, settings, message):
    """One sentence before any audio is read."""
    if "decoder" in settings:
        settings = {"decoder": GreedyDecoder(type(english).from_texts(["ab"]))}
    with pytest.raises(UserError, match=message) as caught:
        Recognition(english, CONFIG, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("decoder", ["best path", "beam search"])
def test_logits_that_are_not_finite(english, value, decoder):
    """An error, and no empty text."""
    recognition = Recognition(english, CONFIG, CTCBeamSearchDecoder(english) if decoder == "beam search" else None)
    logits = spoken(english, "word")
    logits[4, 7] = value
    with pytest.raises(UserError, match="logits: found NaN or infinity in frame 4"):
        recognition.transcript([logits])


def test_a_decoder_of_as_many_other_symbols_is_refused(english, tmp_path):
    """It would spell every text with the wrong letters."""
    symbols = list(english.get_vocab())
    (tmp_path / "vocab.json").write_text(json.dumps(dict(zip(symbols, [0, 1, *range(len(symbols) - 1, 1, -1)]))))
    decoder = CTCBeamSearchDecoder(DeepSpeech2CTCTokenizer(str(tmp_path / "vocab.json")))
    with pytest.raises(UserError, match="for other symbols than the model's"):
        Recognition(english, CONFIG, decoder)
    Recognition(english, CONFIG, CTCBeamSearchDecoder(AutoTokenizer.from_pretrained("tokenizer/english")))
