"""From logits to text: the best path, or a beam search with an n-gram language model (section 3.8 of the paper).

In come the logits of an utterance, shape (frames, vocab_size); out come hypotheses with scores, and their words and
characters with times in seconds and confidences. Nothing here reads audio.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Span:
    """A word or a character in time."""

    text: str
    start: float  # seconds
    end: float
    confidence: float  # geometric mean of the posteriors of its frames, in [0, 1]


@dataclass
class Hypothesis:
    """A transcript; scores are natural logarithms."""

    text: str
    words: list[Span]
    characters: list[Span]  # symbols of the alphabet, so with bigrams pairs; together they are the text, spaces included
    acoustic_score: float  # log p_ctc
    lm_score: float  # log p_lm, not weighted; 0 without a language model
    score: float  # Q = log p_ctc + alpha * log p_lm + beta * length, and the bonus of hot words


def log_softmax(logits: Tensor | np.ndarray) -> np.ndarray:
    """Logits, shape (frames, vocab_size) -> log-probabilities in float64.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    logits = torch.as_tensor(logits)
    if logits.ndim != 2:
        raise ValueError(f"logits: found shape {tuple(logits.shape)}, expected (frames, vocab_size) of one utterance.")
    log_probs = torch.log_softmax(logits.detach().cpu().double(), dim=-1).numpy()
    if np.isnan(log_probs).any():
        raise ValueError("logits: found NaN, or +inf, expected finite numbers.")
    return log_probs


def viterbi(log_probs: np.ndarray, labels: list[int], blank: int) -> list[tuple[int, int]]:
    """First frame and the one after the last of each label, on the most probable path that gives these labels.

    Args:
        log_probs: shape (frames, vocab_size).

    Raises:
        ValueError: fewer frames than the labels need.
    """
    if not labels:
        return []
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    needed = len(labels) + sum(one == two for one, two in zip(labels, labels[1:]))
    if len(log_probs) < needed:
        raise ValueError(f"{len(labels)} labels need {needed} frames, but there are {len(log_probs)}.")
    may_skip = np.zeros(len(states), bool)  # from a label to the next, past the blank, unless the two are the same
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    # Two states before the first, which nothing reaches, so that every state has predecessors.
    scores = np.full(len(states) + 2, -np.inf)
    scores[2:4] = log_probs[0, states[:2]]
    came_from = np.zeros((len(log_probs), len(states)), np.int8)
    emissions = log_probs[:, states]
    for frame in range(1, len(log_probs)):
        best, back = scores[2:].copy(), came_from[frame]
        step = scores[1:-1] > best
        best[step], back[step] = scores[1:-1][step], 1
        step = may_skip & (scores[:-2] > best)
        best[step], back[step] = scores[:-2][step], 2
        scores[2:] = best + emissions[frame]
    state = len(states) - 1 if scores[-1] >= scores[-2] else len(states) - 2
    spans = np.full((len(labels), 2), -1)
    for frame in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            spans[state // 2, 0] = frame
            spans[state // 2, 1] = max(spans[state // 2, 1], frame + 1)
        state -= came_from[frame, state]
    return [(int(start), int(end)) for start, end in spans]


def spell(
    tokenizer: Any, labels: list[int], frames: list[tuple[int, int]], log_probs: np.ndarray, seconds_per_frame: float
) -> tuple[str, list[Span], list[Span]]:
    """Labels and their frames -> text, words and characters in seconds."""
    delimiter = tokenizer.word_delimiter_token_id
    space = tokenizer.replace_word_delimiter_char
    characters: list[Span] = []
    for label, (start, end) in zip(labels, frames):
        if label == delimiter and (not characters or characters[-1].text == space):
            continue
        text = space if label == delimiter else tokenizer.convert_ids_to_tokens(int(label))
        confidence = float(np.exp(log_probs[start:end, label].mean()))
        characters.append(Span(text, start * seconds_per_frame, end * seconds_per_frame, min(1.0, confidence)))
    if characters and characters[-1].text == space:
        characters.pop()
    # The tokenizer knows what a word is; here it counts characters instead of frames.
    offsets = [{"char": c.text, "start_offset": i, "end_offset": i + 1} for i, c in enumerate(characters)]
    words = []
    for word in tokenizer._get_word_offsets(offsets, space):
        spans = characters[word["start_offset"] : word["end_offset"]]
        confidence = float(np.exp(np.mean([np.log(max(span.confidence, 1e-300)) for span in spans])))
        words.append(Span(word["word"], spans[0].start, spans[-1].end, min(1.0, confidence)))
    return "".join(character.text for character in characters), words, characters


class GreedyDecoder:
    """The best path: the best symbol of every frame, repeats joined, blanks dropped."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def decode(self, logits: Tensor | np.ndarray, seconds_per_frame: float) -> list[Hypothesis]:
        """One hypothesis; its acoustic score is that of the path alone.

        Args:
            logits: shape (frames, vocab_size).
            seconds_per_frame: of the logits, see [`DeepSpeech2Config.inputs_to_logits_ratio`].
        """
        log_probs = log_softmax(logits)
        best = log_probs.argmax(1)
        edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1))
        runs = [(int(best[start]), (int(start), int(end))) for start, end in zip(edges, edges[1:])]
        runs = [(label, frames) for label, frames in runs if label != self.tokenizer.pad_token_id]
        labels, frames = [run[0] for run in runs], [run[1] for run in runs]
        score = float(log_probs.max(1).sum())
        return [Hypothesis(*spell(self.tokenizer, labels, frames, log_probs, seconds_per_frame), score, 0.0, score)]

    def decode_batch(self, logits: list, seconds_per_frame: float) -> list[list[Hypothesis]]:
        """`decode` for each utterance of a list."""
        return [self.decode(one, seconds_per_frame) for one in logits]


@dataclass
class Beam:
    """The state of a search: what is known of one utterance so far. Opaque; [`CTCBeamSearchDecoder`] moves it on."""

    frames: int = 0
    log_probs: list[np.ndarray] = field(default_factory=list)


class CTCBeamSearchDecoder:
    """Prefix beam search over labellings y for the best Q(y) = log p_ctc(y) + alpha * log p_lm(y) + beta * length(y)."""

    def __init__(
        self,
        tokenizer: Any,
        language_model: str | Path | None = None,
        alpha: float = 0.5,
        beta: float = 1.5,
        beam_width: int = 100,
        cutoff_probability: float = 0.99,
        cutoff_top_n: int = 40,
    ):
        self.tokenizer = tokenizer

    def decode(
        self,
        logits: Tensor | np.ndarray,
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
    ) -> list[Hypothesis]:
        """The best hypotheses of one utterance, best first."""
        beam = self.step(self.start(hotwords), logits)
        return self.hypotheses(beam, seconds_per_frame, n_best)

    def decode_batch(
        self,
        logits: list,
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
        num_processes: int | None = None,
    ) -> list[list[Hypothesis]]:
        """`decode` for each utterance of a list, on several cores."""
        raise NotImplementedError

    # A live stream: the search goes on piece by piece, and gives what `decode` gives for all frames at once.

    def start(self, hotwords: dict[str, float] | None = None) -> Beam:
        """The state before the first frame."""
        raise NotImplementedError

    def step(self, beam: Beam, logits: Tensor | np.ndarray) -> Beam:
        """Goes on by the frames of `logits`, shape (frames, vocab_size), any number of them; changes and returns `beam`."""
        raise NotImplementedError

    def hypotheses(self, beam: Beam, seconds_per_frame: float, n_best: int = 1, is_final: bool = True) -> list[Hypothesis]:
        """The best hypotheses so far, best first; `is_final`: score the last word and the end of the sentence, too."""
        raise NotImplementedError

    def stable_labels(self, beam: Beam) -> list[int]:
        """The labels that all hypotheses in the beam begin with: no further frame will change them."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `decoder_config.json` and the language model, if there is one, into a model's folder."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, folder: str | Path, tokenizer: Any = None, **settings: Any) -> "CTCBeamSearchDecoder":
        """Reads what `save_pretrained` wrote, from a folder or from a model repository on the Hub."""
        raise NotImplementedError
