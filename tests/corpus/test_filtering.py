"""The filter's features are exact, its sample is wrong where it says so, and it keeps its precision on what it never saw."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_deepspeech2.corpus.filtering import FEATURES, _score, choose_threshold, corrupt, score, train_filter


def plain_cost(log_probs: torch.Tensor, labels: list[int], blank: int) -> float:
    """-log of the sum over every path that collapses to the labels."""
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol != blank] == labels:
            total += float(log_probs[range(len(path)), path].sum().exp())
    return -float(np.log(total))


class ThreeSymbols:
    """A tokenizer of blank, a and b."""

    pad_token_id, word_boundaries = 0, "spaces"

    def __call__(self, text):
        return {"input_ids": [" ab".index(character) for character in text]}

    def normalize(self, text):
        return text


@pytest.mark.parametrize("text", ["a", "ab", "aa", "bab"])
def test_the_cost_is_that_of_all_paths(text):
    log_probs = torch.randn(6, 3, dtype=torch.float64, generator=torch.manual_seed(0)).log_softmax(-1)
    found = _score(log_probs, text, ThreeSymbols())
    labels = [" ab".index(character) for character in text]
    assert found.cost == pytest.approx(plain_cost(log_probs, labels, 0), rel=1e-9)
    assert (found.frames, found.characters) == (6, len(text))


def test_words_of_chinese_are_its_characters():
    """A sentence without spaces is not one word, which would teach the filter nothing."""
    tokenizer = ThreeSymbols()
    tokenizer.word_boundaries, tokenizer.normalize = "characters", lambda text: "今天好 ok"
    found = _score(torch.zeros(3, 3, dtype=torch.float64).log_softmax(-1), "a", tokenizer)
    assert found.words == 4


def test_costs_do_not_depend_on_the_batch(make_tiny_model, processor, clips):
    """Batches of many lengths give what each clip gives alone; and what does not fit costs infinity, and is no error."""
    model = make_tiny_model().fold_batch_norm()
    waveforms = [clip.waveform for clip in clips]
    texts = [[clip.text, "x " * 2_000] for clip in clips]
    together = score(waveforms, texts, model, processor)
    for waveform, text, found in zip(waveforms, texts, together):
        [alone] = score([waveform], [text], model, processor)
        assert alone[0].cost == pytest.approx(found[0].cost, rel=1e-5)
        assert found[1].cost == float("inf")
        assert found[0].words == len(text[0].split())
        assert found[0].features() == [
            found[0].cost,
            found[0].cost / found[0].frames,
            found[0].cost / found[0].characters,
            found[0].frames / found[0].characters,
            found[0].words,
            found[0].characters,
        ]


@given(st.lists(st.text("ab ", min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=5), st.integers(0, 99))
def test_a_corrupted_transcript_is_another_one(texts, seed):
    """Another one's, or the beginning of its own; none only where no other words are to be had."""
    for number, text in enumerate(texts):
        wrong = corrupt(texts, number, random.Random(seed))
        said, others = text.split(), [other.split() for other in texts[:number] + texts[number + 1 :]]
        if wrong is None:
            assert said in others or len("".join(said)) == 1
        else:
            assert wrong.split() != said
            assert wrong.split() in others or " ".join(said).startswith(wrong)


def sample(seed: int, size: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Costs a character of 0.2 to 1.5 when right, and of 1 to 5 when wrong: they overlap."""
    draw = np.random.default_rng(seed)
    found = []
    for low, high in ((0.2, 1.5), (1.0, 5.0)):
        characters, frames = draw.integers(20, 120, size), draw.integers(100, 500, size)
        cost = characters * draw.uniform(low, high, size)
        columns = [cost, cost / frames, cost / characters, frames / characters, characters / 5, characters]
        found.append(np.stack(columns, axis=1))
    return found[0], found[1]


@pytest.mark.parametrize("precision", [0.9, 0.97])
def test_the_precision_asked_for_holds_on_new_segments(precision):
    """The threshold is chosen on one sample, and held to on another."""
    transcript_filter = train_filter(*sample(0), precision, all_are_right=True)
    right, wrong = sample(1, size=4_000)
    kept = [(transcript_filter.probabilities(features) >= transcript_filter.threshold).sum() for features in (right, wrong)]
    assert kept[0] / sum(kept) >= precision - 0.03
    assert kept[0] / 4_000 >= 0.6
    assert transcript_filter.precision >= precision


def test_a_filter_learns_from_a_sample_that_holds_wrong_ones():
    """Without known transcripts: 30 % of what counts as right is wrong, and the half read with most ease is taken."""
    right, wrong = sample(2)
    mixed = right.copy()
    mixed[:120] = sample(3)[1][:120]
    transcript_filter = train_filter(mixed, wrong, 0.95)
    fresh_right, fresh_wrong = sample(4)
    assert (transcript_filter.probabilities(fresh_wrong) < transcript_filter.threshold).mean() >= 0.9
    assert (transcript_filter.probabilities(fresh_right) >= transcript_filter.threshold).mean() >= 0.6


def test_what_does_not_fit_is_never_kept():
    transcript_filter = train_filter(*sample(0), 0.9)
    assert transcript_filter.probabilities(np.full((1, len(FEATURES)), np.inf)).tolist() == [0.0]


def test_too_little_and_too_much_to_ask():
    right, wrong = sample(0)
    with pytest.raises(ValueError, match="at least 50 segments"):
        train_filter(right[:60], wrong[:60], 0.9)
    with pytest.raises(ValueError, match="No threshold keeps 100.0% right"):
        choose_threshold(np.array([0.9, 0.8]), np.array([0, 1]), 1.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=40), st.floats(0.1, 1))
def test_the_threshold_is_the_lowest_that_will_do(pairs, precision):
    judged, labels = (np.array(column) for column in zip(*pairs))
    reached = {threshold: labels[judged >= threshold].mean() for threshold in judged}
    reachable = [threshold for threshold, share in reached.items() if share >= precision]
    if len(set(judged.tolist())) < len(judged) or not labels.any():
        return  # with ties the order among them counts
    if not reachable:
        with pytest.raises(ValueError):
            choose_threshold(judged, labels, precision)
    else:
        assert choose_threshold(judged, labels, precision)[0] == min(reachable)
