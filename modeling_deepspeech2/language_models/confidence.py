"""Fits the confidences of words on the split that `deepspeech2 tune` uses, and shows how far they can be relied on.

A word is right if it is aligned with the same word of the reference. Confidences are reliable if, of the words with a
confidence of about 0.8, 80 % are right; the expected calibration error (Naeini et al., 2015) measures the difference.
"""

from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from ..hypotheses import NO_CALIBRATION, Calibration, Hypothesis
from ..recognition import Recognition
from ..script import split_words


RELIABILITY = "word_confidence.png"
BINS = 10  # of confidences, equally wide


@dataclass
class Confidences:
    """The confidence of each word of some transcripts, and whether the word is right."""

    confidence: np.ndarray
    is_right: np.ndarray

    @classmethod
    def of(cls, hypotheses: list[Hypothesis], references: list[str], word_boundaries: str) -> "Confidences":
        """The words of one hypothesis for each reference; `word_boundaries` is that of the tokenizer."""
        confidence: list[float] = []
        is_right: list[bool] = []
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            if hypothesis.words:
                confidence += [word.confidence for word in hypothesis.words]
                is_right += _right_words([word.text for word in hypothesis.words], split_words(reference, word_boundaries))
        return cls(np.array(confidence), np.array(is_right, bool))

    def fit(self) -> Calibration:
        """The most likely calibration of these words; their confidences must be the uncalibrated ones."""
        if len(set(self.is_right.tolist())) < 2:  # all right, or all wrong: no slope can be fitted
            return NO_CALIBRATION
        p = self.confidence.clip(1e-6, 1 - 1e-6)
        logits = np.log(p / (1 - p))[:, None]
        fitted = LogisticRegression(C=1e6).fit(logits, self.is_right)
        scale, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        return Calibration(round(scale, 4), round(offset, 4)) if scale > 0 else NO_CALIBRATION

    def calibrated(self, calibration: Calibration) -> "Confidences":
        """The same words with calibrated confidences."""
        return Confidences(np.array([calibration(p) for p in self.confidence.tolist()]), self.is_right)

    @property
    def curve(self) -> list[tuple[float, float, int]]:
        """For each bin that is not empty: mean confidence, share of right words, number of words."""
        bins = (self.confidence * BINS).astype(int).clip(max=BINS - 1)
        found = [bins == one for one in range(BINS)]
        return [(float(self.confidence[m].mean()), float(self.is_right[m].mean()), int(m.sum())) for m in found if m.any()]

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]; 0 for no words."""
        return sum(number * abs(mean - right) for mean, right, number in self.curve) / max(1, len(self.confidence))


def _right_words(words: list[str], reference: list[str]) -> list[bool]:
    is_right = [False] * len(words)
    if reference:
        (alignment,) = jiwer.process_words(" ".join(reference), " ".join(words)).alignments
        for part in alignment:
            if part.type == "equal":
                is_right[part.hyp_start_idx : part.hyp_end_idx] = [True] * (part.hyp_end_idx - part.hyp_start_idx)
    return is_right


def measure(recognition: Recognition, logits: list[np.ndarray], references: list[str]) -> Confidences:
    """The words that a recognition finds in logits, shape (frames, vocab_size) each."""
    found = [one[0] for one in recognition.transcripts(logits)]
    return Confidences.of(found, references, recognition.tokenizer.word_boundaries)


def calibrate(recognition: Recognition, logits: list[np.ndarray], references: list[str]) -> dict[str, Confidences]:
    """Fits the decoder's calibration and that of the best path, and sets both; returns the calibrated words of each.

    Args:
        recognition: with a decoder; its configuration and its decoder are changed.
        logits: of each utterance, shape (frames, vocab_size).
    """
    recognition.config.word_confidence, recognition.decoder.calibration = tuple(NO_CALIBRATION), NO_CALIBRATION
    best_path, searched = (measure(one, logits, references) for one in (recognition.with_best_path(), recognition))
    of_path, of_search = best_path.fit(), searched.fit()
    recognition.config.word_confidence, recognition.decoder.calibration = tuple(of_path), of_search
    return {"best path": best_path.calibrated(of_path), "beam search": searched.calibrated(of_search)}


def draw_reliability(measured: dict[str, Confidences], title: str, file: Path) -> None:
    """Share of right words over confidence; dots as large as the share of words that they stand for."""
    figure = Figure(figsize=(5, 4.5))
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], "--", color="grey", lw=1, label="reliable")
    for name, words in measured.items():
        if words.curve:
            confidence, right, number = (np.array(column) for column in zip(*words.curve))
            (line,) = axis.plot(confidence, right, lw=1, label=f"{name}, expected error {words.error:.3f}")
            axis.scatter(confidence, right, 300 * number / number.sum(), color=line.get_color())
    axis.set(xlabel="confidence of a word", ylabel="share of words that are right", title=title, xlim=(0, 1), ylim=(0, 1))
    axis.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
