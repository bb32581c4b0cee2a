"""Hot words: names and terms that the beam search prefers, each with its own weight."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from .errors import UserError


LARGEST_WEIGHT = 1e6  # sums of larger ones leave no place for the sound
MOST_LETTERS = 1_000_000  # of all hot words together: some 100,000 words


class Hotwords:
    """Hot words as an automaton over the symbols of an alphabet (Aho-Corasick), for a beam search to walk.

    A weight is given bit by bit along the word, and taken back on a mismatch. Words of an alphabet with spaces match from
    delimiter to delimiter, others anywhere. Memory is linear in the letters of the words, whatever the alphabet.

    Args:
        tokenizer: of the acoustic model.
        hotwords: word or phrase -> weight.
        whole_words: whether words stand between delimiters.

    Raises:
        ValueError: a weight that is no number of at least 0, a word that the model cannot spell, or too many words.
    """

    def __init__(self, tokenizer: Any, hotwords: dict[str, float], whole_words: bool):
        self._size = len(tokenizer)
        delimiter = tokenizer.word_delimiter_token_id
        children: dict[int, int] = {}  # state * size + symbol -> state
        depth, potential, final = [0], [0.0], [0.0]
        for labels, weight in _patterns(tokenizer, hotwords):
            labels = [delimiter, *labels, delimiter] if whole_words else labels
            state = 0
            for position, label in enumerate(labels, 1):
                key = state * self._size + label
                if key not in children:
                    children[key] = len(depth)
                    depth.append(depth[state] + 1)
                    potential.append(0.0)
                    final.append(0.0)
                state = children[key]
                # The delimiter before a word says nothing yet.
                share = (position - whole_words) / (len(labels) - whole_words)
                if position < len(labels):
                    potential[state] = max(potential[state], weight * share)
            final[state] = max(final[state], weight)
        failure = self._failures(children, depth)
        total = list(final)
        for state in np.argsort(depth, kind="stable").tolist()[1:]:
            total[state] += total[failure[state]]
            potential[state] = max(potential[state], potential[failure[state]])
        keys = sorted(children)
        self._keys = np.array([*keys, np.iinfo(np.int64).max])  # the last one is none, so that each search ends at a key
        self._children = np.array([children[key] for key in keys], np.int64)
        self._from_empty = np.array([children.get(symbol, 0) for symbol in range(self._size)], np.int64)
        self._failure = np.array(failure, np.int64)
        self._potential = np.array(potential)
        self._worth = np.array(total) + self._potential  # of arriving at a state
        self.start = children.get(delimiter, 0) if whole_words else 0
        # At the end: the last word closes, and what is not complete is taken back.
        states = np.arange(len(depth))
        completed = np.array(total)[self._following(states, np.full(len(depth), delimiter))] if whole_words else 0.0
        self.final_bonus = completed - self._potential

    def _failures(self, children: dict[int, int], depth: list[int]) -> list[int]:
        """Of each state, that of its longest suffix which is the beginning of a word."""
        failure = [0] * len(depth)
        for key in sorted(children, key=lambda key: depth[children[key]]):
            state, label = divmod(key, self._size)
            if state:
                shorter = failure[state]
                while shorter and shorter * self._size + label not in children:
                    shorter = failure[shorter]
                failure[children[key]] = children.get(shorter * self._size + label, 0)
        return failure

    def extend(self, states: np.ndarray, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each symbol is worth behind each state, and the state after it, shape (states, symbols) each."""
        different, inverse = np.unique(states, return_inverse=True)  # most prefixes of a beam are in few states
        following = self._following(np.repeat(different, len(symbols)), np.tile(symbols, len(different)))
        following = following.reshape(len(different), len(symbols))
        return (self._worth[following] - self._potential[different][:, None])[inverse], following[inverse]

    def _following(self, states: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """The state after each state and symbol, shape (n,) as both arguments."""
        found = self._from_empty[symbols]
        waiting = np.flatnonzero(states)
        current = states[waiting]
        while len(waiting):
            keys = current * self._size + symbols[waiting]
            places = self._keys.searchsorted(keys)
            is_there = self._keys[places] == keys
            found[waiting[is_there]] = self._children[places[is_there]]
            current = self._failure[current]
            goes_on = ~is_there & (current > 0)
            waiting, current = waiting[goes_on], current[goes_on]
        return found


def _patterns(tokenizer: Any, hotwords: dict[str, float]) -> list[tuple[list[int], float]]:
    """The labels and the weight of each hot word."""
    if not isinstance(hotwords, dict):
        raise UserError(f"hotwords: found a {type(hotwords).__name__}, expected a dict of words and their weights.")
    letters = sum(len(text) for text in hotwords if isinstance(text, str))
    if letters > MOST_LETTERS:
        raise UserError(
            f"hotwords: found {len(hotwords):,} words of {letters:,} letters, expected at most {MOST_LETTERS:,} letters: so "
            "many are a language model's task; take the most important ones."
        )
    patterns = []
    for text, weight in hotwords.items():
        if not isinstance(weight, Real) or not 0 <= weight <= LARGEST_WEIGHT:
            raise UserError(
                f"hotwords: found the weight {weight!r} of {text!r}, expected a number from 0 to {LARGEST_WEIGHT:,.0f}."
            )
        if not isinstance(text, str):
            raise UserError(f"hotwords: found {text!r}, expected a word or phrase as a string.")
        unknown = "".join(tokenizer.unknown_characters(text)) if hasattr(tokenizer, "unknown_characters") else ""
        labels = [] if unknown else tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
        if not labels:
            raise UserError(f"hotwords: the model has no symbols for {unknown or text!r}, expected its own alphabet.")
        patterns.append((labels, float(weight)))
    return patterns
