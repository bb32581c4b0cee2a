"""Alignment: the most probable path against all paths, in little memory, and times that a listener would agree with."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modeling_deepspeech2 import viterbi
from modeling_deepspeech2.transcription.alignment import _Script, align_logits
from modeling_deepspeech2.viterbi import ctc_viterbi


def log_probs(rng: np.random.Generator, frames: int, symbols: int) -> np.ndarray:
    logits = 3 * rng.standard_normal((frames, symbols))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def collapse(path: tuple[int, ...]) -> list[int]:
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != 0]


def spans_of(path: tuple[int, ...]) -> list[tuple[int, int]]:
    """First frame and the one after the last of each label, read off a path."""
    found, time = [], 0
    for symbol, frames in itertools.groupby(path):
        end = time + len(list(frames))
        if symbol != 0:
            found.append((time, end))
        time = end
    return found


def path_score(emissions: np.ndarray, path: tuple[int, ...], blank_costs: np.ndarray | None) -> float:
    """Its log-probability, less the costs of its blanks, which depend on how many labels came before."""
    total, labels = float(emissions[np.arange(len(path)), path].astype(np.float64).sum()), 0
    for before, symbol in zip([0, *path], path):
        labels += symbol not in (0, before)
        total -= blank_costs[labels] if symbol == 0 and blank_costs is not None else 0.0
    return total


def score(emissions: np.ndarray, labels: np.ndarray, spans: np.ndarray) -> float:
    path = np.zeros(len(emissions), int)
    for label, (start, end) in zip(labels, spans):
        path[start:end] = label
    return float(emissions[np.arange(len(path)), path].astype(np.float64).sum())


def plain_score(emissions: np.ndarray, labels: np.ndarray) -> float:
    """The whole table at once, state by state."""
    states = [0]
    for label in labels:
        states += [label, 0]
    scores = np.full(len(states), -np.inf)
    scores[:2] = emissions[0, states[:2]]
    for row in emissions[1:].astype(np.float64):
        before = scores.copy()
        for index, state in enumerate(states):
            origins = [before[index]] + ([before[index - 1]] if index else [])
            if index > 1 and state != 0 and state != states[index - 2]:
                origins.append(before[index - 2])
            scores[index] = max(origins) + row[state]
    return max(scores[-2:])


@given(seed=st.integers(0, 10**6), frames=st.integers(1, 7), symbols=st.integers(2, 4), num_labels=st.integers(1, 4))
@settings(max_examples=600)
def test_best_of_all_paths(seed, frames, symbols, num_labels):
    """Every path of up to 7 frames is tried: ours is the best that spells the labels, or there is none."""
    rng = np.random.default_rng(seed)
    emissions, labels = log_probs(rng, frames, symbols), rng.integers(1, symbols, num_labels)
    paths = [path for path in itertools.product(range(symbols), repeat=frames) if collapse(path) == labels.tolist()]
    if not paths:
        with pytest.raises(ValueError, match="too long"):
            ctc_viterbi(emissions, labels, 0)
        return
    for costs in (None, rng.uniform(0, 3, num_labels + 1)):
        best = max(paths, key=lambda path: path_score(emissions, path, costs))
        assert ctc_viterbi(emissions, labels, 0, costs).tolist() == [list(span) for span in spans_of(best)]


@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(2, 90),
    share=st.floats(0.05, 1.0),
    symbols=st.integers(2, 5),
    checkpoint=st.integers(1, 40),
)
@settings(max_examples=200)
def test_checkpoints_change_nothing(seed, frames, share, symbols, checkpoint):
    """Whatever the distance of the checkpoints, the path spells the labels and has the best path's score."""
    rng = np.random.default_rng(seed)
    emissions = log_probs(rng, frames, symbols)
    labels = rng.integers(1, symbols, max(1, int(share * frames / 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(viterbi, "CHECKPOINT_FRAMES", checkpoint)
        spans = ctc_viterbi(emissions, labels, 0)
    flat = spans.flatten().tolist()
    assert flat == sorted(flat) and (spans[:, 0] < spans[:, 1]).all() and flat[0] >= 0 and flat[-1] <= frames
    same = labels[1:] == labels[:-1]
    assert (spans[1:, 0] > spans[:-1, 1])[same].all()  # a blank between equal ones
    assert score(emissions, labels, spans) == pytest.approx(plain_score(emissions, labels), abs=1e-6)


def said(tokenizer, script: list[tuple[str, int]]) -> np.ndarray:
    """Logits that say each symbol ("" for the blank) for so many frames."""
    logits = []
    for symbol, frames in script:
        row = np.zeros(len(tokenizer), np.float32)
        row[tokenizer.pad_token_id if symbol == "" else tokenizer.convert_tokens_to_ids(symbol)] = 9.0
        logits += [row] * frames
    return np.stack(logits)


@pytest.fixture(scope="module")
def english():
    return AutoTokenizer.from_pretrained("tokenizer/english")


def test_lines_words_and_characters(english):
    """Words stand as written, with their times; each line has its own cost; the frames may come in pieces."""
    spelled = [("", 10), ("d", 2), ("o", 1), ("n", 1), ("'", 1), ("t", 1), ("", 3), ("|", 1), ("g", 2), ("o", 3), ("", 20)]
    logits = said(english, [*spelled, ("|", 1), ("h", 1), ("i", 2), ("", 5)])
    whole = align_logits(logits, "“Don't — go!”\n\n Hi. ", english, 0.02)
    assert [line.text for line in whole.lines] == ["“Don't — go!”", "Hi."]
    assert [word.text for word in whole.words] == ["“Don't —", "go!”", "Hi."]
    times = [(round(word.start, 2), round(word.end, 2)) for word in whole.words]
    assert times == [(0.20, 0.32), (0.40, 0.50), (0.92, 0.98)]
    assert "".join(character.text for character in whole.characters) == "don'tgohi"
    assert all(0.99 < word.confidence <= 1 for word in whole.words)
    per_frame = -torch.log_softmax(torch.tensor(logits[0]).double(), 0)[english.pad_token_id].item()
    assert whole.cost == pytest.approx(per_frame * len(logits), rel=1e-5)
    assert [line.cost for line in whole.lines] == pytest.approx([15 * per_frame, 3 * per_frame], rel=1e-5)
    assert align_logits(iter([logits[:7], logits[7:40], logits[40:]]), ["“Don't — go!”", "Hi."], english, 0.02) == whole


def test_mandarin_has_no_spaces():
    """Every ideograph is a word with the punctuation behind it; between words of letters stands a space."""
    tokenizer = AutoTokenizer.from_pretrained("tokenizer/mandarin")
    logits = said(tokenizer, [("", 4), ("你", 1), ("", 2), ("好", 2), ("", 3), ("世", 1), ("界", 1), ("", 6)])
    found = align_logits(logits, "你好，世界。", tokenizer, 0.04)
    assert [word.text for word in found.words] == ["你", "好，", "世", "界。"]
    assert [round(word.start, 2) for word in found.words] == [0.16, 0.28, 0.48, 0.52]
    per_frame = np.log(np.exp(9) + len(tokenizer) - 1) - 9
    assert found.cost == pytest.approx(len(logits) * per_frame, rel=1e-5)  # no frame is spent on what was not said


@pytest.mark.parametrize(
    "text", ["the 'quick' fox", "'tis o'clock dogs' tails", "A — b", "x\ny z", "a\u00a0b\u202fc\u3000d"]
)
@pytest.mark.parametrize("folder", ["english", "english_bigram"])
def test_labels_are_the_tokenizers(folder, text):
    """What is aligned is spelled as for training."""
    tokenizer = AutoTokenizer.from_pretrained(f"tokenizer/{folder}")
    assert _Script(text.splitlines(), tokenizer).symbols == tokenizer.tokenize(text.replace("\n", " "))


def test_bad_texts(english, caplog):
    """One sentence says what is wrong; a line that cannot be said is named and left out."""
    logits = said(english, [("", 3), ("a", 1), ("", 3)])
    with pytest.raises(ValueError, match="no character of the tokenizer's vocabulary"):
        align_logits(logits, "你好", english, 0.02)
    with pytest.raises(ValueError, match="need 10 frames, but the audio has 7"):
        align_logits(logits, "abcdefghij", english, 0.02)
    with pytest.raises(ValueError, match="need 1 frames, but the audio has 0"):
        align_logits(logits[:0], "a", english, 0.02)
    assert [line.text for line in align_logits(logits, "a\n你好", english, 0.02).lines] == ["a"]
    assert "你好" in caplog.text
