"""Forced alignment: finds the exact most probable CTC path that spells known labels (Viterbi).

Memory is linear in the length of the recording. The forward pass keeps its state only at checkpoints; between two of them
the path is computed again backwards, within the window of labels that it can pass through.
"""

import numpy as np

from .errors import UserError


CHECKPOINT_FRAMES = 1024


def ctc_viterbi(emissions: np.ndarray, labels: np.ndarray, blank: int, blank_costs: np.ndarray | None = None) -> np.ndarray:
    """First frame and the one after the last of each label on the most probable path.

    Args:
        emissions: log-probabilities, shape (frames, symbols).
        labels: columns of `emissions`, shape (labels,); one at least.
        blank: the blank's column.
        blank_costs: what a frame of blank costs more before each label and behind the last, shape (labels + 1,): a prior
            for where pauses are; None: nothing.

    Returns:
        shape (labels, 2).

    Raises:
        UserError: fewer frames than the labels need.
    """
    labels = np.asarray(labels, dtype=np.intp)
    num_frames, num_labels = len(emissions), len(labels)
    repeats = np.flatnonzero(labels[1:] == labels[:-1]) + 1  # a blank must stand before these
    if num_frames < num_labels + len(repeats):
        raise UserError(
            f"text: found {num_labels} labels, which need {num_labels + len(repeats)} frames, but the audio has "
            f"{num_frames}: the text is too long for it."
        )
    blank_costs = np.zeros(num_labels + 1) if blank_costs is None else blank_costs
    search = _Trellis(emissions, labels, blank, blank_costs, repeats)
    starts = list(range(0, num_frames, CHECKPOINT_FRAMES))
    states = [search.start()]
    for first, end in zip(starts, starts[1:]):
        states.append(search.forward(states[-1], first, end))

    spans = np.full((num_labels, 2), -1)
    label, on_label = num_labels, False  # the state after the last frame: the last blank, or the last label
    for first in reversed(starts):
        label, on_label = search.backward(
            states.pop(), first, min(first + CHECKPOINT_FRAMES, num_frames), label, on_label, spans
        )
    return spans


class _Trellis:
    """Scores of the best partial paths: on label i, and on the blank before label i (the last one stands behind all)."""

    def __init__(self, emissions: np.ndarray, labels: np.ndarray, blank: int, blank_costs: np.ndarray, repeats: np.ndarray):
        self.emissions, self.labels, self.blank, self.blank_costs = emissions, labels, blank, blank_costs
        self.not_after = np.zeros(
            len(labels)
        )  # added to the step from the label before: none past the first, none to a repeat
        self.not_after[0] = -np.inf
        self.not_after[repeats] = -np.inf

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Before the first frame: as if on the first blank."""
        on_label, on_blank = np.full(len(self.labels), -np.inf), np.full(len(self.labels) + 1, -np.inf)
        on_blank[0] = 0.0
        return on_label, on_blank

    def forward(self, state: tuple[np.ndarray, np.ndarray], first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The state after frames `first` to `end` - 1, without a way back."""
        on_label, on_blank = state[0].copy(), state[1].copy()
        num_frames, num_labels = len(self.emissions), len(self.labels)
        best, from_label, own = np.empty(num_labels), np.empty(num_labels), np.empty(num_labels)
        for frame in range(first, end):
            row = self.emissions[frame].astype(np.float64)
            # Labels that can have been reached, and from which the end can still be: others are as they were, and wrong.
            low, high = max(0, num_labels - num_frames + frame), min(num_labels, frame + 1)
            label, blank = on_label[low:high], on_blank[low : high + 1]
            size = high - low
            top, shifted = best[:size], from_label[:size]
            np.maximum(label, blank[:-1], out=top)
            shifted[0] = on_label[low - 1] if low else -np.inf
            shifted[1:] = label[:-1]
            shifted += self.not_after[low:high]
            np.maximum(top, shifted, out=top)
            np.maximum(blank[1:], label, out=blank[1:])
            blank += row[self.blank] - self.blank_costs[low : high + 1]
            np.take(row, self.labels[low:high], out=own[:size], mode="clip")
            np.add(top, own[:size], out=label)
        return on_label, on_blank

    def backward(
        self,
        state: tuple[np.ndarray, np.ndarray],
        first: int,
        end: int,
        label: int,
        on_label: bool,
        spans: np.ndarray,
    ) -> tuple[int, bool]:
        """The best way to a state after frame `end` - 1 from that before frame `first`, which it returns.

        Args:
            state: the scores before frame `first`.
            label, on_label: the state to be reached: that label, or the blank before it.
            spans: takes the frames of the labels on the way.
        """
        # One frame moves a path by one label at most, so that only a window of the labels matters (one more at the very end,
        # where the path may stop on the last label instead).
        low, high = max(0, label - (end - first) - 1), min(label + 1, len(self.labels))
        labels, not_after = self.labels[low:high], self.not_after[low:high].copy()
        scores, blanks = state[0][low:high], state[1][low : high + 1]
        blank_costs = self.blank_costs[low : high + 1]
        to_label = np.empty((end - first, high - low), np.int8)  # from: 0 itself, 1 the blank before, 2 the label before
        to_blank = np.empty((end - first, high - low + 1), bool)  # from: itself, or the label before
        for index, frame in enumerate(range(first, end)):
            row = self.emissions[frame].astype(np.float64)
            previous = np.concatenate([[-np.inf], scores])
            best = np.maximum(scores, blanks[:-1])
            shifted = previous[:-1] + not_after
            to_label[index] = np.where(shifted > best, 2, blanks[:-1] > scores)
            to_blank[index] = previous > blanks
            scores = np.maximum(best, shifted) + row[labels]
            blanks = np.maximum(blanks, previous) + row[self.blank] - blank_costs
        if end == len(self.emissions) and scores[-1] > blanks[-1]:
            label, on_label = label - 1, True
        for index in range(end - first - 1, -1, -1):
            if on_label:
                spans[label, 0] = first + index
                spans[label, 1] = max(spans[label, 1], first + index + 1)
                came_from = to_label[index, label - low]
                label, on_label = label - int(came_from == 2), came_from != 1
            elif to_blank[index, label - low]:
                label, on_label = label - 1, True
        return label, on_label
