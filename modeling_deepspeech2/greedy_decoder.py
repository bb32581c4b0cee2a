"""Decodes the best path: the most probable symbol of every frame, with repeats joined and blanks dropped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .hypotheses import NO_CALIBRATION, Calibration, Hypothesis, check_n_best, log_softmax, spell


if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class BestPath:
    """The frames of an utterance so far."""

    log_probs: list[np.ndarray] = field(default_factory=list)
    symbols: list[np.ndarray] = field(default_factory=list)  # the best one of each frame


class GreedyDecoder:
    """Takes the best path.

    Args:
        tokenizer: of the acoustic model.
        calibration: of the confidences of words, `word_confidence` of the model's configuration.
    """

    def __init__(self, tokenizer: Any, calibration: Calibration = NO_CALIBRATION):
        self.tokenizer, self.calibration = tokenizer, calibration

    def decode(
        self,
        logits: Tensor | np.ndarray,
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
    ) -> list[Hypothesis]:
        """One hypothesis; its acoustic score is that of the path alone.

        Args:
            logits: shape (frames, vocab_size).
            seconds_per_frame: of the logits, see [`DeepSpeech2Config.inputs_to_logits_ratio`].
            n_best: ignored, as there is only one path.
            hotwords: must be empty, as they need a search.

        Raises:
            ValueError: logits of another shape or not finite, or hot words.
        """
        return self.hypotheses(self.step(self.start(hotwords), logits), seconds_per_frame, n_best)

    def decode_batch(
        self,
        logits: list[Tensor | np.ndarray],
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
        num_processes: int | None = None,
    ) -> list[list[Hypothesis]]:
        """`decode` for each utterance of a list, in this process, because starting others would take longer."""
        return [self.decode(one, seconds_per_frame, n_best, hotwords) for one in logits]

    def start(self, hotwords: dict[str, float] | None = None) -> BestPath:
        """The state before the first frame."""
        if hotwords:
            raise UserError(
                f"hotwords: found {len(hotwords)} without a beam search, which alone can prefer them: use a "
                "CTCBeamSearchDecoder, with or without a language model."
            )
        return BestPath()

    def step(self, state: BestPath, logits: Tensor | np.ndarray) -> BestPath:
        """Advances by the frames of `logits`, shape (frames, vocab_size), any number of them."""
        log_probs = log_softmax(logits)
        state.log_probs.append(log_probs)
        state.symbols.append(log_probs.argmax(1))
        return state

    def hypotheses(
        self, state: BestPath, seconds_per_frame: float, n_best: int = 1, is_final: bool = True
    ) -> list[Hypothesis]:
        """The path so far; it is final at any time."""
        check_n_best(n_best)
        log_probs = np.concatenate(state.log_probs or [np.zeros((0, len(self.tokenizer)))])
        runs = self._runs(state)
        labels, frames = [run[0] for run in runs], [run[1] for run in runs]
        score = float(log_probs.max(1, initial=-np.inf).sum())
        return [Hypothesis(*spell(self, labels, frames, log_probs, seconds_per_frame), score, 0.0, score)]

    def best_labels(self, state: BestPath, is_final: bool = False) -> list[int]:
        """The labels of the path."""
        return [label for label, _ in self._runs(state)]

    def stable_labels(self, state: BestPath) -> list[int]:
        """All labels, because a best path only grows."""
        return self.best_labels(state)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes nothing: the best path is the default for a folder without a decoder."""

    def _runs(self, state: BestPath) -> list[tuple[int, list[int]]]:
        """Labels, with the first frame of each and the one after its last."""
        best = np.concatenate([np.zeros(0, np.int64), *state.symbols])
        edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1)).tolist()
        runs = [(int(best[start]), [start, end]) for start, end in zip(edges, edges[1:])]
        blank = self.tokenizer.pad_token_id  # which takes transformers longer than all the rest
        return [run for run in runs if run[0] != blank]
