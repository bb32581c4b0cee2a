"""Subtitles: nothing lost, nothing too long, nothing at the same time, in the formats that players read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_deepspeech2.decoding_deepspeech2 import Span
from modeling_deepspeech2.transcription.subtitles import LONGEST_CUE, join_words, make_cues, srt, vtt


def spans(*words: tuple[str, float, float]) -> list[Span]:
    return [Span(text, start, end, 1.0) for text, start, end in words]


@st.composite
def utterances(draw):
    """Words in order of time, English or Mandarin."""
    letters = draw(st.sampled_from(["abcdefgh", "你好世界中文"]))
    time, found = 0.0, []
    for _ in range(draw(st.integers(1, 5))):
        words = []
        for _ in range(draw(st.integers(1, 40))):
            start = time + draw(st.sampled_from([0.0, 0.04, 0.2, 1.5]))
            time = start + draw(st.sampled_from([0.04, 0.3, 1.2]))
            longest = 12 if letters[0] == "a" else 1
            words.append(Span(draw(st.text(letters, min_size=1, max_size=longest)), start, time, 1.0))
        found.append(words)
    return found


@given(utterances())
def test_nothing_is_lost_and_all_can_be_read(given_utterances):
    cues = list(make_cues(given_utterances))
    said = "".join(word.text for words in given_utterances for word in words)
    assert "".join("".join(cue.lines) for cue in cues).replace(" ", "") == said
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(len(line) <= (42 if line.isascii() else 16) for line in cue.lines)
        assert cue.start < cue.end <= cue.start + LONGEST_CUE + 1e-6
    for one, other in zip(cues, cues[1:]):
        assert one.end <= other.start


def test_lines_are_balanced():
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "again"]
    (cue,) = make_cues([spans(*((word, 0.3 * i, 0.3 * i + 0.2) for i, word in enumerate(words)))])
    assert cue.lines == ["the quick brown fox jumps", "over the lazy dog again"]


def test_a_pause_and_a_new_line_begin_a_cue():
    one = spans(("so", 0.0, 0.2), ("well", 0.3, 0.5), ("yes", 3.0, 3.2))
    cues = list(make_cues([one, spans(("no", 3.3, 3.4))]))
    assert [cue.lines for cue in cues] == [["so well"], ["yes"], ["no"]]
    assert [(cue.start, cue.end) for cue in cues] == [(0.0, 1.0), (3.0, 3.3), (3.3, 4.3)]


@pytest.mark.parametrize(
    "words, text",
    [
        (["don't", "go"], "don't go"),
        (["你", "好，", "世", "界"], "你好，世界"),
        (["用", "hello", "world", "吧"], "用hello world吧"),
        (["ส", "วั", "ส", "ดี"], "สวัสดี"),
        (["မြ", "န်", "မ", "ာ။", "ဘ", "ာ"], "မြန်မာ။ဘာ"),
        (["한국어", "좋아"], "한국어 좋아"),
    ],
)
def test_words_are_joined_as_their_script_does(words, text):
    assert join_words(words) == text


def test_formats():
    """As the two formats are specified: numbers and commas in SRT, points and escaped text in WebVTT."""
    cues = list(make_cues([spans(("<b>&", 3661.5, 3663.0)), spans(("two", 3664.25, 3666.0))]))
    assert "".join(srt(cues)) == ("1\n01:01:01,500 --> 01:01:03,000\n<b>&\n\n2\n01:01:04,250 --> 01:01:06,000\ntwo\n\n")
    text = "".join(vtt(cues))
    assert text.startswith("WEBVTT\n\n01:01:01.500 --> 01:01:03.000\n&lt;b&gt;&amp;\n\n")
    assert len(re.findall(r"^\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}$", text, re.M)) == 2
