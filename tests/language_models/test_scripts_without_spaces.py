"""Japanese, Thai and Burmese from text to tokenizer, language model, decoder and words in time."""

import numpy as np
import pytest

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2CTCTokenizer
from modeling_deepspeech2.decoding_deepspeech2 import GreedyDecoder
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.language_models.estimation import build
from modeling_deepspeech2.ngram import LanguageModelError
from modeling_deepspeech2.transcription.alignment import align_logits
from modeling_deepspeech2.utterances import UtteranceDecoder


LINES = {
    "ja": ["今日はいい天気ですね。", "明日は学校へ行きます。", "佐々木さんは、二〇〇八年に来ました。"],
    "th": ["สวัสดี ครับ น้ำใจ", "วันนี้ไปทำงาน", "ไป กินข้าว กัน"],
    "my": ["မင်္ဂလာပါ။", "သတ္တဝါ များ။", "မြန်မာ ဘာသာ။"],
}
FRAME = 0.02  # seconds


def said(tokenizer, text: str, doubt: tuple[str, str] | None = None) -> np.ndarray:
    """Logits that say each symbol for two frames and then a blank; of a doubtful pair the wrong one slightly better."""
    ids = tokenizer(text).input_ids
    logits = np.zeros((3 * len(ids), len(tokenizer)), np.float32)
    logits[:, tokenizer.pad_token_id] = 2
    for place, symbol in enumerate(ids):
        logits[3 * place : 3 * place + 2, symbol] = 12
        if doubt and symbol == tokenizer.convert_tokens_to_ids(doubt[0]):
            logits[3 * place : 3 * place + 2, tokenizer.convert_tokens_to_ids(doubt[1])] = 12.3
    logits[2::3, tokenizer.pad_token_id] = 12
    return logits


@pytest.fixture(scope="module", params=LINES)
def toy(request, tmp_path_factory):
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(LINES[request.param], language=request.param)
    file = tmp_path_factory.mktemp(request.param) / "lm.safetensors"
    model, report = build(LINES[request.param], tokenizer, tokenizer.language_model_unit, order=3, held_out=0)
    model.save(file)
    assert "characters" in report
    return tokenizer, file


def test_from_text_to_words_in_time(toy):
    """The words are characters as a reader sees them, each in its own time, with the beam search and without."""
    tokenizer, file = toy
    decoder = CTCBeamSearchDecoder(tokenizer, file, beam_width=20)
    for line in LINES[tokenizer.language]:
        logits = said(tokenizer, line)
        for found in (decoder.decode(logits, FRAME)[0], GreedyDecoder(tokenizer).decode(logits, FRAME)[0]):
            assert found.text == tokenizer.normalize(line) == "".join(word.text for word in found.words)
            assert " " not in found.text
            times = [time for word in found.words for time in (word.start, word.end)]
            assert times == sorted(times) and times[0] == 0
            assert len(found.words[0].text) == 1 or tokenizer.language != "ja"
            lengths = [round((word.end - word.start) / FRAME) for word in found.words]
            assert lengths == [3 * len(word.text) - 1 for word in found.words]


def test_the_language_model_decides(toy):
    """A doubtful character is the one that the language model expects."""
    tokenizer, file = toy
    right, wrong = {"ja": ("気", "校"), "th": ("ด", "ก"), "my": ("ါ", "ာ")}[tokenizer.language]
    line = LINES[tokenizer.language][0]
    logits = said(tokenizer, line, (right, wrong))
    assert GreedyDecoder(tokenizer).decode(logits, FRAME)[0].text != tokenizer.normalize(line)
    decoder = CTCBeamSearchDecoder(tokenizer, file, alpha=2.0, beta=0.0, beam_width=20)
    assert decoder.decode(logits, FRAME)[0].text == tokenizer.normalize(line)


def test_alignment_shows_the_text_as_written(toy):
    tokenizer, _ = toy
    line = LINES[tokenizer.language][0]
    found = align_logits(said(tokenizer, line), line, tokenizer, FRAME)
    assert "".join(word.text for word in found.words).replace(" ", "") == line.replace(" ", "")
    assert [word.start for word in found.words] == sorted(word.start for word in found.words)


def test_utterances_of_a_stream(toy):
    """Two utterances are joined as the language writes them; what is stable never changes."""
    tokenizer, file = toy
    first, second = LINES[tokenizer.language][:2]
    pause = np.zeros((60, len(tokenizer)), np.float32)
    pause[:, tokenizer.pad_token_id] = 12
    logits = np.concatenate([said(tokenizer, first), pause, said(tokenizer, second)])
    live = UtteranceDecoder(CTCBeamSearchDecoder(tokenizer, file, beam_width=20), FRAME)
    ended, stable = [], ""
    for frame in logits:
        new = live.feed(frame[None])
        ended += new
        stable = "" if new else stable
        assert live.text.stable.startswith(stable)
        stable = live.text.stable
    ended += live.finish()
    assert [one.text for one in ended] == [tokenizer.normalize(first), tokenizer.normalize(second)]
    assert live.between == {"ja": "", "th": " ", "my": " "}[tokenizer.language]


def test_hot_words_match_within_a_text_without_spaces():
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(["東京都京橋"], language="ja")
    logits = said(tokenizer, "東京都", ("都", "橋"))
    decoder = CTCBeamSearchDecoder(tokenizer, beam_width=20)
    assert "京都" not in decoder.decode(logits, FRAME)[0].text
    assert "京都" in decoder.decode(logits, FRAME, hotwords={"京都": 4.0})[0].text


def test_words_where_there_are_none(toy, arpa_of_words):
    """Neither built nor decoded with: one sentence."""
    tokenizer, _ = toy
    with pytest.raises(UserError, match="decoded by character"):
        build(LINES[tokenizer.language], tokenizer, "word")
    with pytest.raises(LanguageModelError, match="no spaces between words"):
        CTCBeamSearchDecoder(tokenizer, arpa_of_words)


@pytest.fixture(scope="module")
def arpa_of_words(tmp_path_factory):
    file = tmp_path_factory.mktemp("arpa") / "words.safetensors"
    build(["a b", "b a"], DeepSpeech2CTCTokenizer.from_texts(["a b"], language="en"), "word", 2, held_out=0)[0].save(file)
    return file
