"""The first letter of a word comes behind the pause before it; the text and the search know nothing of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modeling_deepspeech2 import DeepSpeech2Config, GreedyDecoder, Hypothesis
from modeling_deepspeech2.first_letters import PAUSE_SECONDS, behind_pauses, words_without_pause
from modeling_deepspeech2.recognition import Recognition


CONFIG = DeepSpeech2Config(conv_strides=[[2, 3], [2, 1]], vocab_size=29)
FRAME = CONFIG.inputs_to_logits_ratio / CONFIG.sampling_rate  # seconds, 0.03
PAUSE = round(PAUSE_SECONDS / FRAME)  # frames


@pytest.fixture(scope="module")
def english():
    return AutoTokenizer.from_pretrained("tokenizer/english")


def logits_of(tokenizer, symbols: str) -> torch.Tensor:
    """A frame for each character: "_" is the blank, " " the space. No two frames are alike."""
    names = {"_": tokenizer.pad_token, " ": tokenizer.word_delimiter_token}
    ids = tokenizer.convert_tokens_to_ids([names.get(symbol, symbol) for symbol in symbols])
    logits = torch.rand(len(ids), len(tokenizer), generator=torch.Generator().manual_seed(0))
    logits[torch.arange(len(ids)), torch.tensor(ids, dtype=torch.long)] += 9
    return logits


def recognized(tokenizer, symbols: str, config: DeepSpeech2Config = CONFIG, size: int = 1000) -> list[Hypothesis]:
    """The utterances of logits that come in pieces of so many frames."""
    logits = logits_of(tokenizer, symbols)
    return list(Recognition(tokenizer, config).utterances(logits.split(size) if len(logits) else []))


def drawn(utterances: list[Hypothesis], frames: int) -> str:
    """Characters at their frames, as `logits_of` takes them."""
    symbols = ["_"] * frames
    for one in utterances:
        for span in one.characters:
            start, end = round(span.start / FRAME), round(span.end / FRAME)
            symbols[start:end] = span.text * (end - start)
    return "".join(symbols)


LONG, SHORT = "_" * (PAUSE + 5), "_" * PAUSE


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (f"so tt{LONG}urn", f"so {LONG}tturn"),
        (f"_o{LONG}on", f"_{LONG}oon"),  # from the beginning
        (f"so {SHORT}turn", f"so {SHORT}turn"),
        (f"so t{SHORT}urn", f"so t{SHORT}urn"),  # too short for a pause
        (f"so tu{LONG}rned", f"so {LONG}turned"),
        (f"so turne{LONG}d", f"so turned{LONG}"),
        (f"go a{LONG} dog", f"go {LONG}a dog"),
        (f"go a {LONG}dog", f"go a {LONG}dog"),
        (f"so t{LONG}", f"so t{LONG}"),  # nothing comes
    ],
)
def test_a_first_letter_crosses_the_pause(english, written, expected):
    """In the times of characters and words alone."""
    (found,) = recognized(english, written)
    assert drawn([found], len(written)) == expected
    assert found.text == GreedyDecoder(english).decode(logits_of(english, written), FRAME)[0].text
    for word in found.words:
        own = [span for span in found.characters if word.start <= span.start and span.end <= word.end]
        assert "".join(span.text for span in own) == word.text


@given(st.text("ab ", max_size=12), st.lists(st.integers(0, 40), min_size=12, max_size=12), st.integers(2, 30))
def test_words_are_whole_and_in_order(text, gaps, pause):
    """Whatever the pauses: nothing gets longer or changes places, and a word of two pieces has none between them."""
    ends = np.cumsum(np.array(gaps[: len(text)], int) + 1)
    times = np.stack([ends - 1, ends], axis=1)
    found = behind_pauses(times, words_without_pause([symbol == " " for symbol in text]), pause)
    assert (found[:, 1] - found[:, 0] == 1).all()
    assert (found[1:, 0] >= found[:-1, 1]).all()
    for first, end in words_without_pause([symbol == " " for symbol in text]):
        pauses = np.sum(times[first + 1 : end, 0] - times[first : end - 1, 1] > pause)
        assert np.sum(found[first + 1 : end, 0] - found[first : end - 1, 1] > pause) == max(0, pauses - 1)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_no_utterance_ends_within_a_word(english, size):
    """What it is there for: an utterance of its own began with "urn". The letter is the next utterance's."""
    written = f"so t{'_' * 40}urn {'_' * 40}it"
    found = recognized(english, written, size=size)
    assert [one.text for one in found] == ["so", "turn", "it"]
    assert [round(one.words[0].start / FRAME) for one in found] == [0, 43, 88]
    one_way = DeepSpeech2Config(bidirectional=False, conv_strides=[[2, 3], [2, 1]], vocab_size=29)
    assert [one.text for one in recognized(english, written, one_way)] == ["so t", "urn", "it"]


def test_a_letter_waits_for_half_a_minute(english):
    """Memory is bounded: a longer pause ends the utterance behind the letter."""
    texts = [one.text for one in recognized(english, f"so t{'_' * 1100}urn")]
    assert texts == ["so t", "urn"]


def test_the_pause_does_not_count_for_the_longest_utterance(english):
    """A sentence that begins before a long pause by its first letter is not cut sooner than another."""
    words = "as it is " * 60
    written = f"a{'_' * 900}s it is {words}"
    assert [one.text for one in recognized(english, written)][0].count("as it is") >= 50
