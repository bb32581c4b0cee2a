"""An aligned recording is cut at pauses, near the length asked for, and nothing of it or its transcript is lost."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_deepspeech2.corpus.segments import CuttingSettings, Segment, cut
from modeling_deepspeech2.corpus.transcripts import Line
from modeling_deepspeech2.decoding_deepspeech2 import Span
from modeling_deepspeech2.transcription.alignment import AlignedLine


RATE = 1_000


def aligned(lines: list[list[tuple[str, float, float]]]) -> list[AlignedLine]:
    """Lines of (written word, start, end)."""
    return [
        AlignedLine(" ".join(word for word, _, _ in line), line[0][1], line[-1][2], words, [], 0.0)
        for line in lines
        for words in [[Span(*word, 1.0) for word in line]]
    ]


def recording(lines: list[list[tuple[str, float, float]]], seconds: float) -> np.ndarray:
    """Loud where there are words, else very soft."""
    waveform = 1e-4 * np.sin(np.arange(round(seconds * RATE)))
    for _, start, end in itertools.chain(*lines):
        waveform[round(start * RATE) : round(end * RATE)] *= 3_000
    return waveform.astype(np.float32)


def segments_of(lines, length: float, speakers=None, **settings) -> list[Segment]:
    own = [Line(line.text, speaker) for line, speaker in zip(aligned(lines), speakers or [None] * len(lines))]
    return cut(aligned(lines), own, recording(lines, length), RATE, CuttingSettings(**settings))


def spoken(count: int, pauses: dict[int, float], start: float = 0.0) -> list[tuple[str, float, float]]:
    """Words of 0.3 s, 0.1 s apart but for the pauses after some of them."""
    words = []
    for number in range(count):
        words.append((f"w{number}", start, start + 0.3))
        start += 0.3 + pauses.get(number, 0.1)
    return words


def test_cuts_are_made_at_the_long_pauses():
    """After words 17, 34 and 51 there are pauses, the rest is fluent speech: three cuts, each inside its pause."""
    pauses = {16: 0.5, 33: 0.8, 50: 0.5}
    words = spoken(68, pauses)
    found = segments_of([words], words[-1][2])
    assert [segment.text.split()[0] for segment in found] == ["w0", "w17", "w34", "w51"]
    for segment, place in zip(found, pauses):
        assert words[place][2] <= segment.end <= words[place + 1][1]


def test_a_long_pause_is_preferred_to_an_exact_length():
    words = spoken(34, {13: 1.5, 16: 0.31})
    assert segments_of([words], words[-1][2])[0].text.endswith("w13")


def test_no_cut_beside_a_word_that_was_found_in_silence():
    """It was said on the other side of the pause, perhaps: then another pause, though a shorter one, is better."""
    words = spoken(34, {13: 0.5, 16: 0.6, 17: 1.0})
    heard = words[:17] + words[18:]
    own = aligned([words])
    found = cut(own, [Line(own[0].text)], recording([heard], words[-1][2]), RATE, CuttingSettings())
    assert found[0].text.endswith("w13")


def test_speech_without_a_pause_stays_whole():
    """It is too long, and for the caller to reject; a cut inside a word would be worse."""
    words = spoken(100, {})
    [segment] = segments_of([words], words[-1][2])
    assert segment.end - segment.start > 15


def test_every_change_of_speakers_is_a_cut():
    one, two, three = spoken(3, {}), spoken(3, {}, start=1.3), spoken(3, {}, start=2.6)
    found = segments_of([one, two, three], 3.8, ["A", "B", "B"])
    assert [(segment.speaker, segment.text) for segment in found] == [("A", "w0 w1 w2"), ("B", "w0 w1 w2 w0 w1 w2")]


def test_silence_is_trimmed_and_speech_without_transcript_is_not():
    """What is said but not written must stay in the segment: else the filter could not see that something is missing."""
    words = spoken(5, {}, start=3.0)
    [segment] = segments_of([words], 9.0)
    assert segment.start == pytest.approx(2.5, abs=0.01) and segment.end == pytest.approx(words[-1][2] + 0.5, abs=0.01)
    waveform = recording([[*words, ("unwritten", 6.5, 7.5)]], 9.0)
    [segment] = cut(aligned([words]), [Line("w0 w1 w2 w3 w4")], waveform, RATE, CuttingSettings())
    assert segment.end == 9.0


def test_a_noisy_pause_is_trimmed_too():
    """Noise of -45 dBFS around words of -23: what is not a word is no louder in the pauses than elsewhere."""
    words = spoken(5, {}, start=3.0)
    waveform = recording([words], 9.0) / 3 + 0.0056 * np.random.default_rng(0).standard_normal(9 * RATE)
    [segment] = cut(aligned([words]), [Line("w0 w1 w2 w3 w4")], waveform.astype(np.float32), RATE, CuttingSettings())
    assert segment.start == pytest.approx(2.5, abs=0.01) and segment.end == pytest.approx(words[-1][2] + 0.5, abs=0.01)


def test_the_transcript_is_as_it_was_written():
    """Spaces, punctuation and ideographs, between the first and the last word of the segment."""
    line = "– Well , yes – it is 对，我们 agree ."
    words = [("– Well ,", 0.5, 1.0), ("yes –", 1.1, 1.3), ("it", 4.5, 4.7), ("is", 4.8, 5.0)]
    words += [("对，", 5.0, 5.2), ("我", 5.2, 5.3), ("们", 5.3, 5.4), ("agree .", 5.5, 6.0)]
    own = [AlignedLine(line, 0.5, 6.0, [Span(*word, 1.0) for word in words], [], 0.0)]
    found = cut(own, [Line(line)], recording([words], 6.5), RATE, CuttingSettings(seconds=2.5))
    assert [segment.text for segment in found] == ["– Well , yes –", "it is 对，我们 agree ."]


@given(st.data())
def test_nothing_is_lost_or_said_twice(data):
    """Whatever the pauses, lines and speakers: the words in order, no overlap, every word inside its segment."""
    count = data.draw(st.integers(1, 60))
    pauses = dict(enumerate(data.draw(st.lists(st.floats(0.02, 2.0), min_size=count, max_size=count))))
    words = spoken(count, pauses, start=data.draw(st.floats(0, 3)))
    breaks = sorted(data.draw(st.sets(st.integers(1, max(count - 1, 1)), max_size=3)) & set(range(1, count)))
    lines = [words[first:last] for first, last in zip([0, *breaks], [*breaks, count])]
    speakers = [data.draw(st.sampled_from("AB")) for _ in lines]
    length = words[-1][2] + data.draw(st.floats(0, 3))
    found = segments_of(lines, length, speakers)
    assert " ".join(segment.text for segment in found).split() == [word for word, _, _ in words]
    assert all(before.end <= after.start + 1e-9 for before, after in zip(found, found[1:]))
    assert found[0].start >= 0 and found[-1].end <= length + 1e-3
    remaining = iter(words)
    for segment in found:
        for _ in segment.text.split():
            _, start, end = next(remaining)
            assert segment.start <= start + 1 / RATE and end <= segment.end + 1 / RATE


def best_cost_of_all(words, settings: CuttingSettings) -> float:
    """Every way to cut, tried one by one."""
    allowed = [i + 1 for i in range(len(words) - 1) if words[i + 1][1] - words[i][2] >= settings.pause]
    costs = []
    for size in range(len(allowed) + 1):
        for cuts in itertools.combinations(allowed, size):
            costs.append(cost_of(words, [*cuts, len(words)], settings))
    return min(costs)


def cost_of(words, ends: list[int], settings: CuttingSettings) -> float:
    cost = sum(settings.pause / (words[end][1] - words[end - 1][2]) for end in ends[:-1])
    for first, last in zip([0, *ends], ends):
        length = words[last - 1][2] - words[first][1]
        cost += ((length - settings.seconds) / settings.seconds) ** 2 + 1e6 * (length > settings.max_seconds)
    return cost


@given(st.lists(st.floats(0.1, 1.5), min_size=1, max_size=9))
def test_the_cuts_are_the_best_of_all(pauses):
    words = spoken(len(pauses) + 1, dict(enumerate(pauses)))
    settings = CuttingSettings(seconds=1.5, max_seconds=4.0)
    found = segments_of([words], words[-1][2], seconds=1.5, max_seconds=4.0)
    ends = np.cumsum([len(segment.text.split()) for segment in found]).tolist()
    assert cost_of(words, ends, settings) == pytest.approx(best_cost_of_all(words, settings), rel=1e-6)
