"""The first letter of a word comes behind the pause before it; nothing else changes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modeling_deepspeech2 import DeepSpeech2Config
from modeling_deepspeech2.decoding_deepspeech2 import GreedyDecoder
from modeling_deepspeech2.first_letters import PAUSE_SECONDS, first_letters_after_pauses
from modeling_deepspeech2.transcription.utterances import UtteranceDecoder


CONFIG = DeepSpeech2Config(conv_strides=[[2, 3], [2, 1]])
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


def moved(tokenizer, logits: torch.Tensor, cuts: list[int] = ()) -> torch.Tensor:
    pieces = np.split(logits.numpy(), sorted(cuts))
    found = list(first_letters_after_pauses(map(torch.from_numpy, pieces), tokenizer, CONFIG))
    return torch.cat([torch.zeros(0, logits.shape[1]), *found])


def symbols_of(tokenizer, logits: torch.Tensor) -> str:
    names = {tokenizer.pad_token: "_", tokenizer.word_delimiter_token: " "}
    return "".join(names.get(name, name) for name in tokenizer.convert_ids_to_tokens(logits.argmax(1).tolist()))


LONG, SHORT = "_" * (PAUSE + 5), "_" * PAUSE


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (f"so tt{LONG}urn", f"so {LONG[1:]}tt_urn"),  # behind the pause, and a blank between, for the next may be the same
        (f"_o{LONG}on", f"_{LONG[1:]}o_on"),  # from the beginning
        (f"so {SHORT}turn", f"so {SHORT}turn"),
        (f"so t{SHORT}urn", f"so t{SHORT}urn"),  # too short for a pause
        (f"so tu{LONG}rn", f"so tu{LONG}rn"),  # more than a letter was said
        (f"so{LONG}ne", f"so{LONG}ne"),
        (f"go a{LONG} dog", f"go {LONG[1:]}a_ dog"),
        (f"so t{'_' * 1001}urn", f"so t{'_' * 1001}urn"),  # half a minute: memory is bounded
        (f"so t{LONG}", f"so t{LONG}"),  # nothing comes
    ],
)
def test_a_first_letter_crosses_the_pause(english, written, expected):
    assert symbols_of(english, moved(english, logits_of(english, written))) == expected


@given(st.text("ab _", max_size=30), st.data())
def test_frames_change_places_whatever_the_pieces(english, pattern, data):
    """No frame is lost or changed, the best path keeps its text, and pieces make no difference."""
    written = pattern.replace("_", "_" * (PAUSE // 2))
    logits = logits_of(english, written)
    found = moved(english, logits)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, logits.tolist()))
    cuts = data.draw(st.lists(st.integers(0, len(logits)), max_size=5))
    assert torch.equal(moved(english, logits, cuts), found)
    decoder = GreedyDecoder(english)
    assert decoder.decode(found, FRAME)[0].text == decoder.decode(logits, FRAME)[0].text


def test_a_pause_no_longer_ends_an_utterance_within_a_word(english):
    """What it is there for: an utterance of its own began with "urn"."""
    logits = logits_of(english, f"so t{'_' * 40}urn ")
    texts = []
    for heard in (logits, moved(english, logits)):
        utterances = UtteranceDecoder(GreedyDecoder(english), FRAME)
        texts.append([one.text for one in [*utterances.feed(heard), *utterances.finish()]])
    assert texts == [["so t", "urn"], ["so", "turn"]]


def test_a_network_that_reads_one_way_needs_none_of_it(english):
    logits = logits_of(english, f"so t{LONG}urn")
    (same,) = first_letters_after_pauses([logits], english, DeepSpeech2Config(bidirectional=False))
    assert same is logits
