"""Utterances in a stream of logits: the same whatever the pieces, and each what the decoder finds in it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modeling_deepspeech2.decoding_deepspeech2 import CTCBeamSearchDecoder, GreedyDecoder
from modeling_deepspeech2.utterances import UtteranceDecoder


FRAME = 0.02
PAUSE = 0.2  # seconds, ten frames

TOKENIZERS = {name: AutoTokenizer.from_pretrained(f"tokenizer/{name}") for name in ("english", "mandarin")}
DECODERS = {
    "greedy": GreedyDecoder(TOKENIZERS["english"]),
    "beam": CTCBeamSearchDecoder(TOKENIZERS["english"], beam_width=8),
    "greedy zh": GreedyDecoder(TOKENIZERS["mandarin"]),
}


def speech(tokenizer, seed: int, utterances: int) -> tuple[torch.Tensor, list[str]]:
    """Random words with pauses between them that end an utterance, or do not: logits, and the utterances' texts."""
    rng = np.random.default_rng(seed)
    symbols = [symbol for symbol in tokenizer.get_vocab() if symbol.isalpha()]
    ids, texts = [], []
    blank, delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
    ids += [blank] * rng.integers(0, 40)
    for _ in range(utterances):
        words = ["".join(rng.choice(symbols, rng.integers(1, 6))) for _ in range(rng.integers(1, 5))]
        for index, word in enumerate(words):
            for character in word:
                ids += [tokenizer.convert_tokens_to_ids(character)] * rng.integers(1, 3) + [blank] * rng.integers(1, 3)
            if index + 1 < len(words) and tokenizer.language != "zh":
                ids += [blank] * rng.integers(0, 4) + [delimiter] + [blank] * rng.integers(0, 3)
        texts.append(("" if tokenizer.language == "zh" else " ").join(words))
        ids += [blank] * rng.integers(10, 40)
    logits = torch.tensor(rng.standard_normal((len(ids), len(tokenizer))), dtype=torch.float32)
    logits[torch.arange(len(ids)), ids] += 12 if tokenizer.language != "zh" else 20
    return logits, texts


def pieces(logits: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    found, start = [], 0
    while start < len(logits):
        size = sizes[len(found) % len(sizes)]
        found.append(logits[start : start + size])
        start += size
    return found


def heard(decoder, logits: torch.Tensor, sizes: list[int], longest: float = 30.0) -> list:
    utterances = UtteranceDecoder(decoder, FRAME, PAUSE, longest)
    found = []
    for piece in pieces(logits, sizes):
        found += utterances.feed(piece)
    return found + utterances.finish()


@pytest.mark.parametrize("name", DECODERS)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 90), min_size=1, max_size=4))
@settings(max_examples=25)
def test_pieces_do_not_matter(name, seed, sizes):
    """The utterances said are those found, frame for frame and score for score, in pieces of any size."""
    logits, texts = speech(DECODERS[name].tokenizer, seed, 4)
    whole = heard(DECODERS[name], logits, [len(logits)])
    assert [utterance.text for utterance in whole] == texts
    assert heard(DECODERS[name], logits, sizes) == whole


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("seed", range(5))
def test_utterance_is_what_the_decoder_finds(name, seed):
    """Without a pause, an utterance is the decoder's own result for all frames: text, times and scores."""
    logits, _ = speech(DECODERS[name].tokenizer, seed, 1)
    utterances = UtteranceDecoder(DECODERS[name], FRAME, end_of_utterance=5.0)
    assert utterances.feed(logits[:30]) + utterances.feed(logits[30:]) == []
    assert utterances.finish() == DECODERS[name].decode(logits, FRAME)


@pytest.mark.parametrize("name", DECODERS)
@given(seed=st.integers(0, 10**6), certainty=st.floats(0.5, 6.0))
@settings(max_examples=25)
def test_stable_text_only_grows(name, seed, certainty):
    """However unsure the model: what was stable is what the utterance begins with in the end, and ends with a whole word."""
    decoder = DECODERS[name]
    logits = speech(decoder.tokenizer, seed, 1)[0] * certainty / 12
    utterances = UtteranceDecoder(decoder, FRAME, end_of_utterance=5.0)
    before, grown = "", []
    for piece in pieces(logits, [5]):
        utterances.feed(piece)
        stable, _ = utterances.text
        assert stable.startswith(before)
        grown.append(stable)
        before = stable
    text = "".join(utterance.text for utterance in utterances.finish())
    assert text.startswith(before)
    if decoder.tokenizer.language != "zh":
        assert all((text + " ").startswith(stable + " ") for stable in grown if stable)


@pytest.mark.parametrize("seed", range(20))
def test_stable_text_only_grows_where_speech_is_cut(seed, tmp_path):
    """With a language model, too, which may prefer other words as soon as an utterance ends."""
    vocabulary = "a as sat at i it hi bit bat vat".split()  # noqa: SIM905
    words = "".join(f"{-1 - index / 5:.1f}\t{word}\n" for index, word in enumerate(vocabulary))
    (tmp_path / "lm.arpa").write_text(
        f"\\data\\\nngram 1={3 + words.count(chr(10))}\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-1\t</s>\n{words}\n\\end\\\n"
    )
    decoder = CTCBeamSearchDecoder(TOKENIZERS["english"], tmp_path / "lm.arpa", 2.0, 1.0, beam_width=8)
    logits = speech(decoder.tokenizer, seed, 8)[0] / 4
    utterances, heard, before = UtteranceDecoder(decoder, FRAME, 1.0, longest_utterance=2.0), "", ""
    for piece in pieces(logits, [3]):
        heard += "".join(utterance.text + "|" for utterance in utterances.feed(piece))
        stable = heard + utterances.text.stable
        assert stable.replace("|", " ").startswith(before.replace("|", " "))
        before = stable
    assert heard.count("|") >= 2


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_long_speech_is_cut_between_words(name):
    """Speech without a pause is cut at a word's end, so that no symbol is lost, and memory is bounded."""
    tokenizer = TOKENIZERS["english"]
    logits, texts = speech(tokenizer, 1, 30)
    utterances = UtteranceDecoder(DECODERS[name], FRAME, end_of_utterance=1.5, longest_utterance=2.0)
    found, held = [], []
    for piece in pieces(logits, [7]):
        found += utterances.feed(piece)
        held.append(utterances.length)
        assert sum(map(len, utterances.state.log_probs if utterances.state else [])) <= utterances.length
    found += utterances.finish()
    assert max(held) <= 2.0 / FRAME and len(found) > 10
    assert "".join(utterance.text for utterance in found).replace(" ", "") == "".join(texts).replace(" ", "")
    starts = [word.start for utterance in found for word in utterance.words]
    assert starts == sorted(starts)


def test_silence_is_not_kept():
    """Hours of silence take no memory, and the times after it are right."""
    tokenizer = TOKENIZERS["english"]
    silence = torch.zeros(5_000, len(tokenizer))
    silence[:, tokenizer.pad_token_id] = 9
    utterances = UtteranceDecoder(DECODERS["greedy"], FRAME, PAUSE)
    for _ in range(3):
        assert utterances.feed(silence) == [] and str(utterances.text) == ""
        assert len(utterances.unsearched) <= 10
    word = silence[:50].clone()
    word[5, tokenizer.convert_tokens_to_ids("a")] = 20
    (found,) = utterances.feed(word)
    assert (found.text, round(found.words[0].start, 6)) == ("a", round(15_005 * FRAME, 6))


def test_bad_settings():
    with pytest.raises(ValueError, match="are 0 and 30.0"):
        UtteranceDecoder(DECODERS["greedy"], FRAME, end_of_utterance=0)
    with pytest.raises(ValueError, match="are 3 and 2"):
        UtteranceDecoder(DECODERS["greedy"], FRAME, end_of_utterance=3, longest_utterance=2)
    with pytest.raises(ValueError, match="beam search"):
        UtteranceDecoder(DECODERS["greedy"], FRAME, hotwords={"one": 2.0})
