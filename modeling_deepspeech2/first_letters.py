"""Corrects the times of first letters that a bidirectional network emits before the pause in front of their word.

The backward half of the network already knows the next word during the pause, and CTC allows a letter at any time. Trained
networks therefore emit the first letter at the end of the previous word, or at the beginning of the recording, followed by
blanks until the word is spoken. The text is right; only the time of the letter is wrong. It is corrected in the times that
the search or the alignment found, and `UtteranceDecoder` ends no utterance between such a letter and the rest of its word.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


PAUSE_SECONDS = 0.3  # longer than anything between two letters of a word that is spoken without a pause
LONGEST_PAUSE_SECONDS = 30.0  # so that memory stays bounded


def words_without_pause(is_space: list[bool]) -> list[tuple[int, int]]:
    """Runs of symbols, first and the one after the last, that no pause belongs into: words.

    To a word of one letter belongs the space behind it, so that such a word moves, too: nothing tells "i" before a pause
    from "i" behind it, and more sentences begin with it than end.
    """
    edges = [-1, *(place for place, space in enumerate(is_space) if space), len(is_space)]
    words = [(before + 1, after) for before, after in zip(edges, edges[1:]) if after > before + 1]
    return [(first, end + 1) if end == first + 1 and end < len(is_space) else (first, end) for first, end in words]


def behind_pauses(times: np.ndarray, words: Iterable[tuple[int, int]], pause: float) -> np.ndarray:
    """Start and end of each symbol, shape (symbols, 2), of which words that a pause divides are put together.

    The side with fewer letters moves, most often the first letter alone; of equal ones that before the pause.

    Args:
        times: in any unit.
        words: first symbol and the one after the last of each.
        pause: in the same unit; longer gaps are pauses.
    """
    times = np.array(times)
    for first, end in words:
        gaps = times[first + 1 : end, 0] - times[first : end - 1, 1]
        if len(gaps) and gaps.max() > pause:
            split = first + 1 + int(gaps.argmax())
            if split - first <= end - split:
                times[first:split] += gaps.max()
            else:
                times[split:end] -= gaps.max()
    return times
