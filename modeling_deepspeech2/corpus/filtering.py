"""Keeps the segments whose transcript is right (section 5 of the paper).

A linear classifier on the CTC costs of a segment under a trained model compares the speech with its transcript. Its training
sample labels itself: segments that the model recognises easily, and the same segments with a transcript that was swapped,
shifted or truncated.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import ctc_loss

from ..errors import UserError
from ..script import split_words


try:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError as error:
    raise ImportError("Filtering segments needs scikit-learn: pip install scikit-learn") from error

# What the classifier looks at, as in the paper.
FEATURES = ("cost", "cost_per_frame", "cost_per_character", "frames_per_character", "words", "characters")
CORRUPTIONS = ("swapped", "shifted", "truncated")
TRUNCATED_SHARE = (0.2, 0.6)  # of the words, or of the characters where there are no words
EASY_SHARE = 0.5  # of the segments, by their cost per character, count as right
FEWEST_SEGMENTS = 50  # that a classifier can be trained on
FOLDS = 5
BATCH = 8


@dataclass
class Scores:
    """CTC cost of a transcript, -log p(transcript | segment) with natural logarithms, and what it is measured by.

    `cost` is infinite where the transcript does not fit.
    """

    cost: float
    frames: int
    characters: int
    words: int

    def features(self) -> list[float]:
        characters = max(self.characters, 1)
        return [
            self.cost,
            self.cost / max(self.frames, 1),
            self.cost / characters,
            self.frames / characters,
            float(self.words),
            float(self.characters),
        ]


@torch.inference_mode()
def score(waveforms: list[np.ndarray], texts: list[list[str]], model: Any, processor: Any) -> list[list[Scores]]:
    """Costs of several transcripts for each of several segments.

    Args:
        waveforms: each of shape (samples,).
        texts: for each waveform its transcripts.
    """
    found: list[list[Scores]] = [[] for _ in waveforms]
    order = sorted(range(len(waveforms)), key=lambda number: len(waveforms[number]))
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        inputs = processor.feature_extractor([waveforms[number] for number in some], return_tensors="pt").to(model.device)
        logits = model(inputs.input_features, inputs.attention_mask).logits
        lengths = model.output_lengths(inputs.attention_mask.sum(1)).tolist()
        for number, own, length in zip(some, logits, lengths):
            log_probs = own[:length].double().cpu().log_softmax(-1)
            found[number] = [_score(log_probs, text, processor.tokenizer) for text in texts[number]]
    return found


def _score(log_probs: torch.Tensor, text: str, tokenizer: Any) -> Scores:
    labels = tokenizer(text)["input_ids"]
    words = len(split_words(tokenizer.normalize(text), tokenizer.word_boundaries))
    cost = ctc_loss(
        log_probs[:, None],
        torch.tensor([labels], dtype=torch.long).reshape(1, -1),
        torch.tensor([len(log_probs)]),
        torch.tensor([len(labels)]),
        blank=tokenizer.pad_token_id,
        reduction="sum",
    )
    return Scores(float(cost), len(log_probs), len(labels), words)


def corrupt(texts: list[str], number: int, draw: random.Random) -> str | None:
    """A wrong transcript for segment `number`: another one's, the next one's, or its own without the end.

    None where there is no such thing, because it would be the same.
    """
    kind = draw.choice(CORRUPTIONS) if len(texts) > 1 else "truncated"
    if kind == "swapped":
        wrong = texts[draw.choice([other for other in range(len(texts)) if other != number])]
    elif kind == "shifted":
        wrong = texts[(number + 1) % len(texts)]
    else:
        words = texts[number].split()
        pieces, joint = (words, " ") if len(words) > 1 else (list("".join(words)), "")
        kept = round(len(pieces) * (1 - draw.uniform(*TRUNCATED_SHARE)))
        wrong = joint.join(pieces[: min(max(kept, 1), len(pieces) - 1)])
    return wrong if wrong.strip() and wrong.split() != texts[number].split() else None


@dataclass
class TranscriptFilter:
    """A linear classifier: the probability that a transcript is right is 1 / (1 + exp(−weights · features − bias)).

    Args:
        weights, bias: for the features as they are.
        threshold: probability from which on a segment is kept.
        precision, recall: of the sample at this threshold, each fold judged by a classifier of the others; half of the
            sample is wrong.
        sample: segments in the sample, the wrong ones included.
    """

    weights: list[float]
    bias: float
    threshold: float
    precision: float
    recall: float
    sample: int

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(segments, features) -> (segments,); 0 where the cost is infinite."""
        usable = np.isfinite(features).all(1)
        activation = np.where(usable[:, None], features, 0.0) @ np.array(self.weights) + self.bias
        return np.where(usable, 1 / (1 + np.exp(-np.clip(activation, -500, 500))), 0.0)

    def save(self, file: Path) -> None:
        weights = dict(zip(FEATURES, self.weights))
        file.write_text(json.dumps(vars(self) | {"weights": weights}, indent=1))


def train_filter(right: np.ndarray, wrong: np.ndarray, precision: float, all_are_right: bool = False) -> TranscriptFilter:
    """Trains a classifier on segments and their corrupted twins.

    Args:
        right, wrong: features of the same segments with their own and with a corrupted transcript, shape (segments,
            features).
        precision: share of right transcripts among those that are kept.
        all_are_right: whether the segments are known to be right; otherwise those that the model reads with ease are
            taken for it.

    Raises:
        UserError: too few segments, or no threshold that reaches the precision.
    """
    usable = np.isfinite(right).all(1) & np.isfinite(wrong).all(1)
    right, wrong = right[usable], wrong[usable]
    if not all_are_right and len(right):
        costs = right[:, FEATURES.index("cost_per_character")]
        easy = costs <= np.quantile(costs, EASY_SHARE)
        right, wrong = right[easy], wrong[easy]
    if len(right) < FEWEST_SEGMENTS:
        raise UserError(
            f"A filter needs at least {FEWEST_SEGMENTS} segments that count as right, but found {len(right)}: give more "
            f"speech, or a data set of known transcripts."
        )
    features = np.concatenate([right, wrong])
    labels = np.repeat([1, 0], len(right))
    groups = np.tile(np.arange(len(right)), 2)  # a segment and its twin are judged by a classifier that knows neither
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    folds = GroupKFold(FOLDS)
    judged = cross_val_predict(classifier, features, labels, groups=groups, cv=folds, method="predict_proba")[:, 1]
    threshold, reached, recall = choose_threshold(judged, labels, precision)
    scaler, line = classifier.fit(features, labels)
    weights = line.coef_[0] / scaler.scale_
    bias = float(line.intercept_[0] - weights @ scaler.mean_)
    return TranscriptFilter(weights.tolist(), bias, threshold, reached, recall, len(labels))


def choose_threshold(judged: np.ndarray, labels: np.ndarray, precision: float) -> tuple[float, float, float]:
    """The lowest probability from which on at least so large a share of the segments is right.

    Returns:
        threshold, precision and recall there.

    Raises:
        UserError: there is none.
    """
    order = np.argsort(-judged, kind="stable")
    right = np.cumsum(labels[order])
    reached = right / np.arange(1, len(right) + 1)
    good = np.flatnonzero(reached >= precision)
    if not len(good):
        raise UserError(
            f"No threshold keeps {precision:.1%} right transcripts; the best reaches {reached.max():.1%}: ask for less, or "
            f"align with a better model."
        )
    last = good[-1]
    return float(judged[order[last]]), float(reached[last]), float(right[last] / labels.sum())
