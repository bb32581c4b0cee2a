"""What a decoder returns, and the protocol that all decoders share.

A hypothesis is a text with times for its words and characters. Decoders differ in how they find labels; all of them turn
labels and frames into words by `spell`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from .errors import UserError


if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Span:
    """A word or a character in time."""

    text: str
    start: float  # seconds
    end: float
    confidence: float  # a character's: geometric mean of the posteriors of its frames; a word's: see [`Calibration`]


@dataclass
class Hypothesis:
    """A transcript; scores are natural logarithms."""

    text: str
    words: list[Span]
    characters: list[Span]  # symbols of the alphabet, so with bigrams pairs; together they are the text, spaces included
    acoustic_score: float  # log p_ctc
    lm_score: float  # log p_lm, not weighted; 0 without a language model
    score: float  # Q = log p_ctc + alpha * log p_lm + beta * length, and the bonus of hot words


class Calibration(NamedTuple):
    """From the geometric mean p of a word's posteriors to the probability that the word is right (Platt, 1999).

    logit(confidence) = scale · logit(p) + offset, fitted by `deepspeech2 tune`; without it the confidence is p, which is
    far too sure of itself: CTC networks give posteriors near 1 to wrong letters, too.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, p: float) -> float:
        if self == NO_CALIBRATION:
            return p
        p = min(max(p, 1e-6), 1 - 1e-6)
        return 1 / (1 + math.exp(-self.scale * math.log(p / (1 - p)) - self.offset))


NO_CALIBRATION = Calibration()


class Decoder(Protocol):
    """Turns logits into hypotheses: the whole utterance at once, or piece by piece with the same result."""

    tokenizer: Any
    calibration: Calibration  # of the confidences of words

    def decode(
        self,
        logits: Tensor | np.ndarray,
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
    ) -> list[Hypothesis]:
        """The best hypotheses of one utterance, best first; logits of shape (frames, vocab_size)."""

    def decode_batch(
        self,
        logits: list[Tensor | np.ndarray],
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
        num_processes: int | None = None,
    ) -> list[list[Hypothesis]]:
        """`decode` for each utterance of a list."""

    def start(self, hotwords: dict[str, float] | None = None) -> Any:
        """The state before the first frame."""

    def step(self, state: Any, logits: Tensor | np.ndarray) -> Any:
        """Advances by any number of frames; changes the state and returns it."""

    def hypotheses(self, state: Any, seconds_per_frame: float, n_best: int = 1, is_final: bool = True) -> list[Hypothesis]:
        """The best hypotheses of the frames so far, best first."""

    def best_labels(self, state: Any, is_final: bool = False) -> list[int]:
        """The labels of the best hypothesis."""

    def stable_labels(self, state: Any) -> list[int]:
        """The labels that no further frame will change."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the settings into the folder of a model."""


def as_array(logits: Tensor | np.ndarray) -> np.ndarray:
    """Logits of one utterance, shape (frames, vocab_size), as an array in float32, or float64 if they are.

    Raises:
        UserError: another shape, or values that are not finite.
    """
    if hasattr(logits, "detach"):  # a tensor; NumPy knows no bfloat16
        is_double = logits.dtype.is_floating_point and logits.element_size() == 8
        logits = (logits if is_double else logits.float()).detach().cpu().numpy()
    logits = np.asarray(logits)
    logits = logits.astype(np.promote_types(logits.dtype, np.float32), copy=False)
    if logits.ndim != 2:
        raise UserError(f"logits: found shape {logits.shape}, expected (frames, vocab_size) of one utterance.")
    if not np.isfinite(logits).all():
        frame = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise UserError(
            f"logits: found NaN or infinity in frame {frame}, expected finite numbers: the audio or the model's weights are "
            "out of all range."
        )
    return logits


def log_softmax(logits: Tensor | np.ndarray) -> np.ndarray:
    """Logits, shape (frames, vocab_size) -> log-probabilities; raises as `as_array` does."""
    logits = as_array(logits)
    # In NumPy, because torch's threads do not survive the fork of `decode_batch`.
    centred = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(centred).sum(axis=1, keepdims=True, dtype=np.float64)  # little beside 1 counts where a symbol is certain
    return centred - np.log(total).astype(centred.dtype)


def spell(
    decoder: Decoder, labels: list[int], frames: list[list[int]], log_probs: np.ndarray, seconds_per_frame: float
) -> tuple[str, list[Span], list[Span]]:
    """Labels and their frames -> text, words and characters in seconds."""
    tokenizer = decoder.tokenizer
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
    return "".join(character.text for character in characters), words_of(decoder, characters), characters


def words_of(decoder: Decoder, characters: list[Span]) -> list[Span]:
    """Characters in time, spaces included -> words in time."""
    # The tokenizer knows what a word is; here it counts characters instead of frames.
    tokenizer = decoder.tokenizer
    offsets = [{"char": c.text, "start_offset": i, "end_offset": i + 1} for i, c in enumerate(characters)]
    words = []
    for word in tokenizer._get_word_offsets(offsets, tokenizer.replace_word_delimiter_char):
        spans = characters[word["start_offset"] : word["end_offset"]]
        mean = float(np.exp(np.mean([np.log(max(span.confidence, 1e-300)) for span in spans])))
        words.append(Span(word["word"], spans[0].start, spans[-1].end, decoder.calibration(min(1.0, mean))))
    return words


def check_alphabet(decoder: Decoder | None, vocab_size: int, tokenizer: Any = None) -> None:
    """Raises UserError if model and decoder have different symbols; called before any audio is read.

    Args:
        tokenizer: of the model, where it is known: as many symbols may still be others.
    """
    if decoder is not None and vocab_size != len(decoder.tokenizer):
        raise UserError(
            f"The decoder was made for an alphabet of {len(decoder.tokenizer)} symbols, but the model has {vocab_size}: "
            "make it with the tokenizer of the model."
        )
    if decoder is None or tokenizer is None or decoder.tokenizer is tokenizer:
        return
    own, expected = (getattr(one, "encoder", None) for one in (decoder.tokenizer, tokenizer))
    if own and expected and own != expected:
        raise UserError("The decoder was made for other symbols than the model's: make it with the tokenizer of the model.")


def check_n_best(n_best: int) -> None:
    """Raises UserError for an impossible number of hypotheses."""
    if n_best < 1 or n_best % 1:
        raise UserError(f"n_best: found {n_best}, expected an integer of at least 1.")
