"""Scores prefixes of the beam search by a language model of words, by one of characters, or by none.

The search uses all three through one protocol ([`Scoring`]) and keeps their results in a table with one row per prefix.
Scores are alpha · log p_lm + beta · length, in natural logarithms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from .ngram import END, LanguageModelError, NGramModel


_WORD_BASE = 0x5851F42D4C957F2B  # of the rolling hash of a word, modulo 2^64


class Table:
    """Named arrays of equal length, or further tables: the base of dataclasses that hold one row for each prefix."""

    def take(self, rows: np.ndarray) -> Any:
        """A copy of some rows, in the order given."""
        return type(self)(*[column.take(rows) for column in vars(self).values()])

    def __getitem__(self, rows: slice) -> Any:
        """A view of some rows."""
        return type(self)(*[column[rows] for column in vars(self).values()])


class Limits(NamedTuple):
    """What the search keeps after each frame: the best `width` prefixes, none further than `threshold` below the best."""

    width: int
    threshold: float


class Scoring(Protocol):
    """The scoring that the search uses. `state` is the scoring's own table, one row for each prefix."""

    alpha: float
    beta: float

    def start(self) -> Table:
        """The state of the empty prefix: one row."""

    def standing(self, state: Table) -> np.ndarray | float:
        """The score of each prefix as it stands, shape (prefixes,)."""

    def extend(self, state: Table, symbols: np.ndarray, staying: np.ndarray, scores: np.ndarray, limits: Limits) -> Any:
        """Adds to `scores`, shape (prefixes, symbols), what each symbol would change; what it returns goes to `grow`.

        `staying` are the scores of the prefixes themselves: with `limits` they tell which extensions have no chance.
        """

    def grow(self, state: Table, symbols: np.ndarray, extension: Any, rows: np.ndarray, columns: np.ndarray) -> None:
        """Extends copies of prefixes by one symbol: entry (row, column) of what `extend` looked at."""

    def finish(self, state: Table, is_final: bool) -> tuple[np.ndarray | float, np.ndarray | float]:
        """log p_lm and length of each prefix; `is_final`: with the last word and the end of the sentence."""


class NoModel:
    """No language model: alpha and beta have nothing to weigh."""

    def __init__(self, alpha: float, beta: float):
        self.alpha, self.beta = alpha, beta

    def start(self) -> Table:
        return Table()

    def standing(self, state: Table) -> float:
        return 0.0

    def extend(self, state: Table, symbols: np.ndarray, staying: np.ndarray, scores: np.ndarray, limits: Limits) -> None:
        return None

    def grow(self, state: Table, symbols: np.ndarray, extension: None, rows: np.ndarray, columns: np.ndarray) -> None:
        pass

    def finish(self, state: Table, is_final: bool) -> tuple[float, float]:
        return 0.0, 0.0


@dataclass
class CharacterState(Table):
    """The state of a model of characters for each prefix."""

    log_prob: np.ndarray  # of their characters
    model_state: np.ndarray
    length: np.ndarray  # characters, spaces not counted


class CharacterModel:
    """A language model of symbols: each is scored as it comes."""

    def __init__(self, tokenizer: Any, model: NGramModel, alpha: float, beta: float, unknown_score: float):
        self.model, self.alpha, self.beta, self.unknown_score = model, alpha, beta, unknown_score
        self.delimiter = tokenizer.word_delimiter_token_id
        index = {word: number for number, word in enumerate(model.words)}
        symbols = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.numbers = np.array([index.get(symbol, 0) for symbol in symbols], np.int64)  # of each symbol, in the model
        self.end = index[END]
        _check_vocabulary(int((self.numbers > 2).sum()), set(symbols), model.words)

    def start(self) -> CharacterState:
        return CharacterState(np.zeros(1), np.array([self.model.begin]), np.zeros(1, np.int64))

    def standing(self, state: CharacterState) -> np.ndarray:
        return self.alpha * state.log_prob + self.beta * state.length

    def extend(
        self, state: CharacterState, symbols: np.ndarray, staying: np.ndarray, scores: np.ndarray, limits: Limits
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns log p_lm and the next state of the model, shape (prefixes, symbols) each.

        log p_lm is at most 0, so a score without it is a bound: what cannot get into the beam even so is not looked up.
        """
        scores += self.beta * (symbols != self.delimiter)
        log_probs, next_states = np.zeros(scores.shape), np.zeros(scores.shape, np.int64)
        bounds, found, followers = scores.ravel().copy(), log_probs.ravel(), next_states.ravel()
        exact = scores.ravel()
        exact[:] = -np.inf
        best = staying  # scores known so far
        least = best.max() - limits.threshold
        promising = np.flatnonzero(bounds > least)
        rounds = [promising]
        if len(promising) > 2 * limits.width:  # the best first: their scores rule out most of the others
            promising = promising[np.argpartition(-bounds[promising], limits.width)]
            rounds = [promising[: limits.width], promising[limits.width :]]
        for places in rounds:
            if len(best) >= limits.width:
                least = max(least, np.partition(best, -limits.width)[-limits.width])
                places = places[bounds[places] > least]
            if not len(places):
                continue
            rows, columns = np.divmod(places, len(symbols))
            numbers = self.numbers[symbols[columns]]
            log_prob, followers[places] = self.model.score(state.model_state[rows], numbers)
            log_prob += self.unknown_score * (numbers == 0)
            found[places] = log_prob
            exact[places] = bounds[places] + self.alpha * log_prob
            best = np.concatenate([staying, exact[places]])
        return log_probs, next_states

    def grow(
        self,
        state: CharacterState,
        symbols: np.ndarray,
        extension: tuple[np.ndarray, np.ndarray],
        rows: np.ndarray,
        columns: np.ndarray,
    ) -> None:
        log_probs, next_states = extension
        state.log_prob += log_probs[rows, columns]
        state.model_state[:] = next_states[rows, columns]
        state.length += symbols != self.delimiter

    def finish(self, state: CharacterState, is_final: bool) -> tuple[np.ndarray, np.ndarray]:
        log_prob = state.log_prob
        if is_final:
            log_prob = log_prob + self.model.score(state.model_state, np.full(len(log_prob), self.end))[0]
        return log_prob, state.length


@dataclass
class WordState(Table):
    """The state of a model of words for each prefix."""

    log_prob: np.ndarray  # of their complete words
    lookahead: np.ndarray  # of the word under way: the best unigram that begins so
    model_state: np.ndarray  # after the complete words
    word: np.ndarray  # hash of the word under way; 0: there is none
    letters: np.ndarray  # of the word under way
    length: np.ndarray  # words, that under way included
    closed: np.ndarray  # log p_lm of the word under way if it ended here; NaN: not asked yet
    closed_state: np.ndarray  # the model's state then


class WordModel:
    """A language model of words: a word is scored at its end, and until then by the best unigram that begins like it."""

    def __init__(
        self,
        tokenizer: Any,
        model: NGramModel,
        alpha: float,
        beta: float,
        unknown_word_score: float,
        unknown_letter_score: float,
    ):
        self.model, self.alpha, self.beta = model, alpha, beta
        self.unknown_word_score, self.unknown_letter_score = unknown_word_score, unknown_letter_score
        self.delimiter, self.end = tokenizer.word_delimiter_token_id, model.words.index(END)
        self.vocabulary = Vocabulary(tokenizer, model, unknown_word_score, unknown_letter_score)

    def start(self) -> WordState:
        none = [np.zeros(1, np.int64) for _ in range(5)]
        state, word, letters, length, closed_state = none
        state[0] = self.model.begin
        return WordState(np.zeros(1), np.zeros(1), state, word, letters, length, np.array([np.nan]), closed_state)

    def standing(self, state: WordState) -> np.ndarray:
        return self.alpha * (state.log_prob + state.lookahead) + self.beta * state.length

    def extend(self, state: WordState, symbols: np.ndarray, staying: np.ndarray, scores: np.ndarray, limits: Limits) -> None:
        has_no_word = state.word == 0
        scores += self.beta * has_no_word[:, None]  # a letter begins a word
        spaces = np.flatnonzero(symbols == self.delimiter)
        if len(spaces):
            self._close(state)
            closing = np.where(has_no_word, -self.beta, self.alpha * (state.closed - state.lookahead))
            scores[:, spaces[0]] += closing

    def grow(self, state: WordState, symbols: np.ndarray, extension: None, rows: np.ndarray, columns: np.ndarray) -> None:
        is_space, has_word = symbols == self.delimiter, state.word != 0
        closes = is_space & has_word
        state.log_prob[closes] += state.closed[closes]
        state.model_state[closes] = state.closed_state[closes]
        state.length += ~is_space & ~has_word
        spelled = self.vocabulary.spelled(state.word, symbols)
        state.word[:] = np.where(is_space, 0, spelled)
        state.letters[:] = np.where(is_space, 0, state.letters + self.vocabulary.letters[symbols])
        state.lookahead[:] = np.where(is_space, 0.0, self.vocabulary.lookahead(spelled, state.letters))
        state.closed[:] = np.nan

    def finish(self, state: WordState, is_final: bool) -> tuple[np.ndarray, np.ndarray]:
        if not is_final:
            return state.log_prob + state.lookahead, state.length
        self._close(state)
        is_open = state.word != 0
        log_prob = state.log_prob + np.where(is_open, state.closed, 0.0)
        last = np.where(is_open, state.closed_state, state.model_state)
        return log_prob + self.model.score(last, np.full(len(last), self.end))[0], state.length

    def _close(self, state: WordState) -> None:
        """Asks the language model for the words that would be complete now, once for each prefix."""
        waiting = np.flatnonzero(np.isnan(state.closed) & (state.word != 0))
        if len(waiting):
            numbers = self.vocabulary.number(state.word[waiting])
            found, states = self.model.score(state.model_state[waiting], numbers)
            unknown = self.unknown_word_score + self.unknown_letter_score * state.letters[waiting]
            state.closed[waiting] = found + unknown * (numbers == 0)
            state.closed_state[waiting] = states


class Vocabulary:
    """The words of a word model by the rolling hash of their characters: whole words, and what they begin with."""

    def __init__(self, tokenizer: Any, model: NGramModel, unknown: float, unknown_letter: float):
        symbols = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        own = {character for symbol in symbols for character in symbol if symbol not in tokenizer.all_special_tokens}
        known = [number for number, word in enumerate(model.words) if number > 2 and own.issuperset(word)]
        _check_vocabulary(len(known), own, model.words)
        # One symbol more takes a hash h to h * factor + term, whether the symbol has one character or two.
        factors, terms = [], []
        for symbol in symbols:
            factor, term = 1, 0
            for character in symbol:
                factor, term = factor * _WORD_BASE, term * _WORD_BASE + ord(character)
            factors.append(factor)
            terms.append(term)
        self._factors, self._terms = _wrapped(factors), _wrapped(terms)
        self.letters = np.array([len(symbol) for symbol in symbols], np.int64)  # of each symbol
        self._unknown, self._unknown_letter = float(model.log_probs[1] + unknown), unknown_letter
        self._index([model.words[number] for number in known], np.array(known, np.int64), model.log_probs)

    def _index(self, words: list[str], numbers: np.ndarray, log_probs: np.ndarray) -> None:
        order = np.argsort([len(word) for word in words], kind="stable")
        words, numbers = [words[place] for place in order], numbers[order]
        scores = log_probs[1 + numbers]
        hashes, prefixes, best = np.zeros(len(words), np.int64), [], []
        lengths = np.array([len(word) for word in words])
        longest = int(lengths.max(initial=0))
        codes = np.zeros((len(words), longest), np.int64)
        for row, word in enumerate(words):
            codes[row, : len(word)] = [ord(character) for character in word]
        base = _wrapped([_WORD_BASE])
        for position in range(longest):
            first = int(np.searchsorted(lengths, position, side="right"))  # the words that reach so far
            hashes[first:] = hashes[first:] * base + codes[first:, position]
            unique, inverse = np.unique(hashes[first:], return_inverse=True)
            top = np.full(len(unique), -np.inf)
            np.maximum.at(top, inverse, scores[first:])
            prefixes.append(unique)
            best.append(top)
        order = np.argsort(hashes)
        self._hashes, self._numbers = hashes[order], numbers[order]
        all_prefixes, all_best = np.concatenate(prefixes), np.concatenate(best)
        order = np.argsort(all_prefixes)
        self._prefixes, self._best = all_prefixes[order], all_best[order]

    def spelled(self, hashes: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """The hashes of words that are one symbol longer."""
        return hashes * self._factors[symbols] + self._terms[symbols]

    def number(self, hashes: np.ndarray) -> np.ndarray:
        """Word numbers, 0 for unknown words."""
        place = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[place] == hashes, self._numbers[place], 0)

    def lookahead(self, hashes: np.ndarray, letters: np.ndarray) -> np.ndarray:
        """The best unigram of the words that begin so: the search learns of a word before its end."""
        place = np.minimum(np.searchsorted(self._prefixes, hashes), len(self._prefixes) - 1)
        unknown = self._unknown + self._unknown_letter * letters
        return np.where(self._prefixes[place] == hashes, self._best[place], unknown)


def _wrapped(numbers: Iterable[int]) -> np.ndarray:
    return np.array([number % 2**64 for number in numbers], np.uint64).astype(np.int64)


def _check_vocabulary(spelled: int, own: set[str], vocabulary: list[str]) -> None:
    """Refuses a language model of which less than half of the words can be spelled."""
    words = len(vocabulary) - 3
    if words < 1:
        raise LanguageModelError("The language model has no words: build it from a text.")
    if spelled < words / 2:
        other = sorted({character for word in vocabulary[3:] for character in word} - own)
        raise LanguageModelError(
            f"The language model is of another alphabet: the tokenizer spells {spelled:,} of its {words:,} words, and lacks "
            f"{' '.join(other[:20])}{' …' if len(other) > 20 else ''}; build it with the tokenizer of the model."
        )


def make_scoring(
    tokenizer: Any,
    model: NGramModel | None,
    alpha: float,
    beta: float,
    unknown_word_score: float,
    unknown_letter_score: float,
) -> Scoring:
    """The scoring that a language model needs, by its unit.

    Raises:
        LanguageModelError: the model is of another alphabet, or one of words where words cannot be told apart.
    """
    if model is None:
        return NoModel(alpha, beta)
    if model.unit == "character":
        return CharacterModel(tokenizer, model, alpha, beta, unknown_word_score)
    if getattr(tokenizer, "word_boundaries", "spaces") == "characters":
        raise LanguageModelError(
            "The language model is one of words, but the tokenizer's language has no spaces between words and is decoded by "
            "character: build it with the tokenizer of the model."
        )
    return WordModel(tokenizer, model, alpha, beta, unknown_word_score, unknown_letter_score)
