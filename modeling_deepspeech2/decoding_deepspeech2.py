"""From logits to text: the best path, or a beam search with an n-gram language model (section 3.8 of the paper).

In come the logits of an utterance, shape (frames, vocab_size); out come hypotheses with scores, and their words and
characters with times in seconds and confidences. Nothing here reads audio.

The search is our own, in NumPy: what can be installed is exact without a language model only, knows no weights of single
hot words, and cannot go on where a live stream stopped (measured: `python -m benchmarks decoding`).
"""

import json
import logging
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from .hotwords import Hotwords
from .hub_access import find_file, take
from .ngram import END, LanguageModelError, NGramModel
from .viterbi import ctc_viterbi


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
    """Logits, shape (frames, vocab_size) -> log-probabilities, float64 if the logits are, else float32.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    if isinstance(logits, Tensor):
        logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).cpu().numpy()
    logits = np.asarray(logits)
    logits = logits.astype(np.promote_types(logits.dtype, np.float32), copy=False)
    if logits.ndim != 2:
        raise ValueError(f"logits: found shape {logits.shape}, expected (frames, vocab_size) of one utterance.")
    # In NumPy, because torch's threads do not survive the fork of `decode_batch`.
    centred = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(centred).sum(axis=1, keepdims=True, dtype=np.float64)  # little beside 1 counts where a symbol is certain
    log_probs = centred - np.log(total).astype(centred.dtype)
    if np.isnan(log_probs).any():
        raise ValueError("logits: found NaN or infinity, expected numbers.")
    return log_probs


def spell(
    tokenizer: Any, labels: list[int], frames: list[list[int]], log_probs: np.ndarray, seconds_per_frame: float
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


def check_alphabet(decoder: Any, vocab_size: int) -> None:
    """Stops before any audio is read: ValueError where the model has other symbols than the decoder, if there is one."""
    if decoder is not None and vocab_size != len(decoder.tokenizer):
        raise ValueError(
            f"The decoder was made for an alphabet of {len(decoder.tokenizer)} symbols, but the model has {vocab_size}: "
            "make it with the tokenizer of the model."
        )


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


logger = logging.getLogger(__name__)

# The rows of a beam's tables: one column for each prefix in the beam.
_BLANK, _NONBLANK, _LM, _LOOKAHEAD, _CLOSED, _BONUS = range(6)  # floats
_HASH, _PARENT, _LAST, _NODE, _STATE, _CLOSED_STATE, _WORD, _LETTERS, _LENGTH, _CONTEXT = range(10)  # integers

_IMPOSSIBLE = np.finfo(float).min  # what is below it is minus infinity
_PREFIX_BASE, _WORD_BASE = 6364136223846793005, 0x5851F42D4C957F2B  # of rolling hashes, modulo 2^64


class Beam:
    """The state of a search: what is known of an utterance so far; [`CTCBeamSearchDecoder`] makes it and moves it on."""

    def __init__(self, hotwords: Hotwords | None, lm_state: int):
        self.hotwords = hotwords
        self.log_probs: list[np.ndarray] = []  # of the frames so far
        self.floats = np.zeros((6, 1))
        self.floats[_NONBLANK] = -np.inf
        self.floats[_CLOSED] = np.nan
        self.integers = np.zeros((10, 1), np.int64)
        self.integers[_HASH], self.integers[_PARENT], self.integers[_LAST] = 1, 0, -1
        self.integers[_STATE] = lm_state
        if hotwords is not None:
            self.integers[_CONTEXT] = hotwords.start
        # The tree of prefixes: node 0 is the empty one.
        self.parents, self.symbols, self.size = np.zeros(1024, np.int64), np.zeros(1024, np.int64), 1

    def grow(self, parents: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """New nodes of the tree."""
        new = np.arange(self.size, self.size + len(parents))
        self.size += len(parents)
        while self.size > len(self.parents):
            self.parents, self.symbols = np.resize(self.parents, 2 * self.size), np.resize(self.symbols, 2 * self.size)
        self.parents[new], self.symbols[new] = parents, symbols
        return new

    def labels(self, node: int) -> list[int]:
        """The prefix that ends in a node."""
        found = []
        while node:
            found.append(int(self.symbols[node]))
            node = int(self.parents[node])
        return found[::-1]


class _Words:
    """The vocabulary of a word model by the rolling hash of its characters: whole words, and what they begin with."""

    def __init__(self, tokenizer: Any, model: NGramModel, unknown: float, unknown_letter: float):
        symbols = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        own = {character for symbol in symbols for character in symbol if symbol not in tokenizer.all_special_tokens}
        known = [number for number, word in enumerate(model.words) if number > 2 and own.issuperset(word)]
        _check_alphabet(len(known), len(model.words) - 3, own, model.words)
        # One symbol more takes a hash h to h * factor + term, whether the symbol has one character or two.
        factors, terms = [], []
        for symbol in symbols:
            factor, term = 1, 0
            for character in symbol:
                factor, term = factor * _WORD_BASE, term * _WORD_BASE + ord(character)
            factors.append(factor)
            terms.append(term)
        self.factors, self.terms = _wrapped(factors), _wrapped(terms)
        numbers = np.array(known, np.int64)
        numbers = numbers[np.argsort([len(model.words[number]) for number in known], kind="stable")]
        scores = model.log_probs[1 + numbers]
        hashes, prefixes, best = np.zeros(len(numbers), np.int64), [], []
        lengths = np.array([len(model.words[number]) for number in numbers])
        longest = int(lengths.max(initial=0))
        codes = np.zeros((len(numbers), longest), np.int64)
        for row, number in enumerate(numbers):
            codes[row, : lengths[row]] = [ord(character) for character in model.words[number]]
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
        self.hashes, self.numbers = hashes[order], numbers[order]
        prefixes, best = np.concatenate(prefixes), np.concatenate(best)
        order = np.argsort(prefixes)
        self.prefixes, self.best = prefixes[order], best[order]
        self.unknown, self.unknown_letter = float(model.log_probs[1] + unknown), unknown_letter
        self.letters = np.array([len(symbol) for symbol in symbols], np.int64)  # of each symbol

    def number(self, hashes: np.ndarray) -> np.ndarray:
        """Word numbers, 0 for unknown words"""
        place = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        return np.where(self.hashes[place] == hashes, self.numbers[place], 0)

    def lookahead(self, hashes: np.ndarray, letters: np.ndarray) -> np.ndarray:
        """The best unigram of the words that begin so: the search gets the news of a word before its end."""
        place = np.searchsorted(self.prefixes, hashes).clip(max=len(self.prefixes) - 1)
        return np.where(self.prefixes[place] == hashes, self.best[place], self.unknown + self.unknown_letter * letters)


def _wrapped(numbers: Iterable[int]) -> np.ndarray:
    return np.array([number % 2**64 for number in numbers], np.uint64).astype(np.int64)


def _check_alphabet(spelled: int, words: int, own: set[str], vocabulary: list[str]) -> None:
    if not words:
        raise LanguageModelError("The language model has no words: build it from a text.")
    if spelled < words / 2:
        other = sorted({character for word in vocabulary[3:] for character in word} - own)
        raise LanguageModelError(
            f"The language model is of another alphabet: the tokenizer spells {spelled:,} of its {words:,} words, and lacks "
            f"{' '.join(other[:20])}{' …' if len(other) > 20 else ''}; build it with the tokenizer of the model."
        )


class CTCBeamSearchDecoder:
    """Prefix beam search for the labelling y with the best Q(y) = log p_ctc(y|x) + alpha · log p_lm(y) + beta · length(y).

    Length counts words, or characters where the language model is one of characters (Mandarin). p_lm includes the end of the
    sentence; without a language model both terms are 0. Every log is natural. While a word is not complete the search ranks
    it by the best unigram that begins so, which is taken back at its end, so that Q is what it says.

    Args:
        tokenizer: of the acoustic model.
        language_model: `.safetensors` (see `training/language_model.py`) or ARPA, plain, `.gz` or `.xz`; None: none.
        alpha: weight of the language model.
        beta: bonus for each word (or character).
        beam_width: prefixes kept after each frame, at most.
        beam_threshold: of these, only those whose score is not further below the best than this; infinity: all.
        cutoff_probability, cutoff_top_n: of each frame, the search looks at the fewest symbols whose cumulative probability
            reaches the first, and at no more than the second (section 3.8); 1.0 and the size of the alphabet: at all.
        unknown_word_score, unknown_letter_score: added to log p_lm of every word that the language model does not know, and
            for each of its letters (not where characters are modelled): else several words that were heard badly would be
            cheaper as one.

    Raises:
        ValueError: a setting out of its range.
        LanguageModelError: the language model is not there, damaged, or of another alphabet.
    """

    def __init__(
        self,
        tokenizer: Any,
        language_model: str | Path | None = None,
        alpha: float = 0.5,
        beta: float = 1.5,
        beam_width: int = 100,
        cutoff_probability: float = 0.99,
        cutoff_top_n: int = 40,
        beam_threshold: float = 15.0,
        unknown_word_score: float = -10.0,
        unknown_letter_score: float = -1.0,
    ):
        given = locals()
        for name, (is_right, expected) in SETTINGS.items():
            value = given[name]
            if not isinstance(value, Real) or isinstance(value, bool) or not is_right(value):
                raise ValueError(f"{name}: found {value!r}, expected {expected}.")
        self.tokenizer = tokenizer
        self.alpha, self.beta = float(alpha), float(beta)
        self.beam_width = int(beam_width)
        self.cutoff_probability, self.cutoff_top_n = float(cutoff_probability), int(cutoff_top_n)
        self.beam_threshold = float(beam_threshold)
        self.unknown_word_score, self.unknown_letter_score = float(unknown_word_score), float(unknown_letter_score)
        self.blank, self.delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
        self.language_model_file = None if language_model is None else Path(language_model)
        self.model = None if language_model is None else NGramModel.load(language_model)
        self.words: _Words | None = None
        self._numbers: np.ndarray | None = None
        if self.model is not None and self.model.unit == "word":
            if getattr(tokenizer, "language", None) == "zh":
                raise LanguageModelError(
                    f"The language model {language_model} is one of words, but Mandarin is decoded by character: build it "
                    "with the tokenizer of the model."
                )
            self.words = _Words(tokenizer, self.model, self.unknown_word_score, self.unknown_letter_score)
        elif self.model is not None:
            index = {word: number for number, word in enumerate(self.model.words)}
            symbols = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
            self._numbers = np.array([index.get(symbol, 0) for symbol in symbols], np.int64)
            _check_alphabet(int((self._numbers > 2).sum()), len(index) - 3, set(symbols), self.model.words)
        self._end = 0 if self.model is None else self.model.words.index(END)

    def decode(
        self,
        logits: Tensor | np.ndarray,
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
    ) -> list[Hypothesis]:
        """The best hypotheses of an utterance, best first, no two of them with the same text.

        Args:
            logits: shape (frames, vocab_size).
            seconds_per_frame: of the logits.
            n_best: how many, if the beam holds so many.
            hotwords: word or phrase -> what it adds to Q, e.g. 5.0; it steers the search from its first letters on.

        Raises:
            ValueError: logits of another shape or not finite, a negative weight, a hot word of another alphabet.
        """
        beam = self.step(self.start(hotwords), logits)
        return self.hypotheses(beam, seconds_per_frame, n_best)

    def decode_batch(
        self,
        logits: list[Tensor | np.ndarray],
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
        num_processes: int | None = None,
    ) -> list[list[Hypothesis]]:
        """`decode` for each utterance of a list, on `num_processes` cores (None: all; one where the system is not Linux)."""
        self._hotwords(hotwords)  # wrong ones end it here
        if num_processes is None:
            num_processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        num_processes = min(num_processes, len(logits)) if sys.platform == "linux" else 1
        logits = [one.detach().float().cpu().numpy() if isinstance(one, Tensor) else one for one in logits]
        if num_processes <= 1:
            return [self.decode(one, seconds_per_frame, n_best, hotwords) for one in logits]
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(num_processes, context, _take_decoder, (self,)) as pool:
            jobs = [pool.submit(_decode_one, one, seconds_per_frame, n_best, hotwords) for one in logits]
            return [job.result() for job in jobs]

    # A live stream: the search goes on piece by piece, and gives what `decode` gives for all frames at once.

    def start(self, hotwords: dict[str, float] | None = None) -> Beam:
        """The state before the first frame."""
        return Beam(self._hotwords(hotwords), 0 if self.model is None else self.model.begin)

    def _hotwords(self, hotwords: dict[str, float] | None) -> Hotwords | None:
        whole_words = getattr(self.tokenizer, "language", None) != "zh"
        return Hotwords(self.tokenizer, hotwords, whole_words) if hotwords else None

    def step(self, beam: Beam, logits: Tensor | np.ndarray) -> Beam:
        """Goes on by the frames of `logits`, shape (frames, vocab_size), any number of them; changes and returns `beam`."""
        log_probs = log_softmax(logits)
        if log_probs.shape[1] != len(self.tokenizer):
            raise ValueError(
                f"logits: found {log_probs.shape[1]} symbols, expected the {len(self.tokenizer)} of the tokenizer."
            )
        if len(log_probs):
            beam.log_probs.append(log_probs)
        for frame, symbols in zip(log_probs, self._kept_symbols(log_probs)):
            self._advance(beam, frame, symbols)
        return beam

    def _kept_symbols(self, log_probs: np.ndarray) -> list[np.ndarray]:
        """For each frame the symbols that a prefix may go on with, the blank left out."""
        enough = self.cutoff_probability if self.cutoff_probability < 1 else np.inf
        best = log_probs.argmax(1)
        kept = [best[frame : frame + 1] for frame in range(len(best))]
        unsure = np.flatnonzero(np.exp(log_probs[np.arange(len(best)), best]) < enough)
        if len(unsure):
            rows, number = log_probs[unsure], min(self.cutoff_top_n, log_probs.shape[1])
            top = np.argpartition(-rows, number - 1, axis=1)[:, :number]
            values = np.take_along_axis(rows, top, 1)
            order = np.argsort(-values, axis=1, kind="stable")
            top, values = np.take_along_axis(top, order, 1), np.exp(np.take_along_axis(values, order, 1))
            counts = (np.cumsum(values, axis=1) - values < enough).sum(1)
            for frame, symbols, count in zip(unsure.tolist(), top, counts):
                kept[frame] = symbols[:count]
        return [symbols[symbols != self.blank] for symbols in kept]

    def _advance(self, beam: Beam, log_probs: np.ndarray, symbols: np.ndarray) -> None:
        """One frame: every prefix stays or grows by a symbol, and the best `beam_width` go on."""
        floats, integers = beam.floats, beam.integers
        blank, nonblank = floats[_BLANK], floats[_NONBLANK]
        last = integers[_LAST]
        total = np.logaddexp(blank, nonblank)
        new_blank = total + log_probs[self.blank]
        repeated = nonblank + np.where(last >= 0, log_probs[last], -np.inf)  # without a blank between: the same symbol
        if not len(symbols):
            floats[_BLANK], floats[_NONBLANK] = new_blank, repeated
            return
        width = floats.shape[1]
        grown = total[:, None] + log_probs[symbols]
        columns = np.full(len(log_probs), -1)
        columns[symbols] = np.arange(len(symbols))
        column = columns[last]  # of the symbol that each prefix ends with; prefix without symbols: of any, to be masked
        column[last < 0] = -1
        same = np.flatnonzero(column >= 0)
        grown[same, column[same]] = blank[same] + log_probs[last[same]]  # the symbol twice needs a blank between
        # A prefix that grows into another one of the beam becomes one with it.
        hashes = integers[_HASH]
        order = np.argsort(hashes)
        place = np.searchsorted(hashes, integers[_PARENT], sorter=order).clip(max=width - 1)
        parent = order[place]
        joined = np.flatnonzero((hashes[parent] == integers[_PARENT]) & (column >= 0))
        if len(joined):
            spot = (parent[joined], column[joined])
            repeated[joined] = np.logaddexp(repeated[joined], grown[spot])
            grown[spot] = -np.inf
        extra = self.alpha * (floats[_LM] + floats[_LOOKAHEAD]) + self.beta * integers[_LENGTH] + floats[_BONUS]
        staying = np.logaddexp(new_blank, repeated) + extra
        scores = grown + extra[:, None]
        if beam.hotwords is not None:
            scores += beam.hotwords.bonus[integers[_CONTEXT][:, None], symbols]
        character_lm = None
        if self.words is not None:
            scores += self.beta * (integers[_WORD] == 0)[:, None]
            spaces = np.flatnonzero(symbols == self.delimiter)
            if len(spaces):
                self._close_words(floats, integers)
                closing = np.where(integers[_WORD] == 0, -self.beta, self.alpha * (floats[_CLOSED] - floats[_LOOKAHEAD]))
                scores[:, spaces[0]] += closing
        elif self._numbers is not None:
            scores += self.beta * (symbols != self.delimiter)
            character_lm = self._score_characters(integers[_STATE], symbols, staying, scores)

        everything = np.concatenate([staying, scores.ravel()])
        bound = max(everything.max() - self.beam_threshold, _IMPOSSIBLE)
        chosen = np.flatnonzero(everything >= bound)
        if len(chosen) > self.beam_width:
            chosen = chosen[np.argpartition(-everything[chosen], self.beam_width - 1)[: self.beam_width]]
        stays, grows = chosen[chosen < width], chosen[chosen >= width] - width
        rows, cols = np.divmod(grows, len(symbols))
        floats[_BLANK], floats[_NONBLANK] = new_blank, repeated
        source = np.concatenate([stays, rows])
        beam.floats, beam.integers = floats[:, source], integers[:, source]
        if len(grows):
            new = beam.floats[:, len(stays) :], beam.integers[:, len(stays) :]
            self._grow(beam, *new, symbols[cols], grown[rows, cols], character_lm, rows, cols)

    def _score_characters(
        self, states: np.ndarray, symbols: np.ndarray, staying: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Adds alpha · log p_lm to the scores of grown prefixes, shape (prefixes, symbols) -> log p_lm and next states.

        log p_lm is at most 0, so a score without it is a bound: what cannot get into the beam even so is not looked up.
        """
        log_probs, next_states = np.zeros(scores.shape), np.zeros(scores.shape, np.int64)
        bounds, found, followers = scores.ravel().copy(), log_probs.ravel(), next_states.ravel()
        exact = scores.ravel()
        exact[:] = -np.inf
        best = staying  # scores known so far
        least = best.max() - self.beam_threshold
        promising = np.flatnonzero(bounds > least)
        rounds = [promising]
        if len(promising) > 2 * self.beam_width:  # the best first: their scores rule out most of the others
            promising = promising[np.argpartition(-bounds[promising], self.beam_width)]
            rounds = [promising[: self.beam_width], promising[self.beam_width :]]
        for places in rounds:
            if len(best) >= self.beam_width:
                least = max(least, np.partition(best, -self.beam_width)[-self.beam_width])
                places = places[bounds[places] > least]
            if not len(places):
                continue
            rows, cols = np.divmod(places, len(symbols))
            numbers = self._numbers[symbols[cols]]
            log_prob, followers[places] = self.model.score(states[rows], numbers)
            log_prob += self.unknown_word_score * (numbers == 0)
            found[places] = log_prob
            exact[places] = bounds[places] + self.alpha * log_prob
            best = np.concatenate([staying, exact[places]])
        return log_probs, next_states

    def _grow(
        self,
        beam: Beam,
        floats: np.ndarray,
        integers: np.ndarray,
        symbols: np.ndarray,
        acoustic: np.ndarray,
        character_lm: tuple[np.ndarray, np.ndarray] | None,
        rows: np.ndarray,
        cols: np.ndarray,
    ) -> None:
        """Turns copies of prefixes into the prefixes that are one symbol longer; the tables are views into the beam."""
        floats[_BLANK], floats[_NONBLANK] = -np.inf, acoustic
        integers[_PARENT] = integers[_HASH]
        integers[_HASH] = integers[_HASH] * _PREFIX_BASE + (symbols + 1)
        integers[_LAST] = symbols
        integers[_NODE] = beam.grow(integers[_NODE], symbols)
        if beam.hotwords is not None:
            floats[_BONUS] += beam.hotwords.bonus[integers[_CONTEXT], symbols]
            integers[_CONTEXT] = beam.hotwords.next[integers[_CONTEXT], symbols]
        if self.words is not None:
            is_space, has_word = symbols == self.delimiter, integers[_WORD] != 0
            closes = is_space & has_word
            floats[_LM, closes] += floats[_CLOSED, closes]
            integers[_STATE, closes] = integers[_CLOSED_STATE, closes]
            integers[_LENGTH] += ~is_space & ~has_word
            spelled = integers[_WORD] * self.words.factors[symbols] + self.words.terms[symbols]
            integers[_WORD] = np.where(is_space, 0, spelled)
            integers[_LETTERS] = np.where(is_space, 0, integers[_LETTERS] + self.words.letters[symbols])
            floats[_LOOKAHEAD] = np.where(is_space, 0.0, self.words.lookahead(spelled, integers[_LETTERS]))
            floats[_CLOSED] = np.nan
        elif character_lm is not None:
            floats[_LM] += character_lm[0][rows, cols]
            integers[_STATE] = character_lm[1][rows, cols]
            integers[_LENGTH] += symbols != self.delimiter

    def _close_words(self, floats: np.ndarray, integers: np.ndarray) -> None:
        """Asks the language model for the words that would be complete now, once for each prefix."""
        waiting = np.flatnonzero(np.isnan(floats[_CLOSED]) & (integers[_WORD] != 0))
        if len(waiting):
            numbers = self.words.number(integers[_WORD, waiting])
            found, states = self.model.score(integers[_STATE, waiting], numbers)
            unknown = self.unknown_word_score + self.unknown_letter_score * integers[_LETTERS, waiting]
            floats[_CLOSED, waiting] = found + unknown * (numbers == 0)
            integers[_CLOSED_STATE, waiting] = states

    def _ranking(self, beam: Beam, is_final: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Places in the beam, best first, and acoustic score, log p_lm and Q of all of them."""
        floats, integers = beam.floats, beam.integers
        acoustic = np.logaddexp(floats[_BLANK], floats[_NONBLANK])
        lm, bonus, state = floats[_LM].copy(), floats[_BONUS].copy(), integers[_STATE].copy()
        if is_final and self.words is not None:
            self._close_words(floats, integers)
            is_open = integers[_WORD] != 0
            lm[is_open] += floats[_CLOSED, is_open]
            state[is_open] = integers[_CLOSED_STATE, is_open]
        if is_final and self.model is not None:
            lm += self.model.score(state, np.full(len(state), self._end))[0]
        elif self.words is not None:
            lm += floats[_LOOKAHEAD]
        if is_final and beam.hotwords is not None:
            bonus += beam.hotwords.final_bonus[integers[_CONTEXT]]
        score = acoustic + self.alpha * lm + self.beta * integers[_LENGTH] + bonus
        return np.argsort(-score, kind="stable"), acoustic, lm, score

    def hypotheses(self, beam: Beam, seconds_per_frame: float, n_best: int = 1, is_final: bool = True) -> list[Hypothesis]:
        """The best hypotheses so far, best first; `is_final`: the last word and the end of the sentence count, too."""
        if n_best < 1 or n_best % 1:
            raise ValueError(f"n_best: found {n_best}, expected an integer of at least 1.")
        log_probs = np.concatenate(beam.log_probs or [np.zeros((0, len(self.tokenizer)))])
        order, acoustic, lm, score = self._ranking(beam, is_final)
        found: dict[str, Hypothesis] = {}
        for place in order:
            labels = beam.labels(int(beam.integers[_NODE, place]))
            frames = ctc_viterbi(log_probs, np.array(labels), self.blank).tolist() if labels else []
            spelled = spell(self.tokenizer, labels, frames, log_probs, seconds_per_frame)
            scores = float(acoustic[place]), float(lm[place]), float(score[place])
            found.setdefault(spelled[0], Hypothesis(*spelled, *scores))
            if len(found) == n_best:
                break
        return list(found.values())

    def best_labels(self, beam: Beam, is_final: bool = False) -> list[int]:
        """The labels of the best hypothesis alone, without times."""
        order, *_ = self._ranking(beam, is_final)
        return beam.labels(int(beam.integers[_NODE, order[0]]))

    def stable_labels(self, beam: Beam) -> list[int]:
        """The labels that all prefixes of the beam descend from: what comes later leaves them as they are."""
        nodes = set(beam.integers[_NODE].tolist())
        while len(nodes) > 1:  # a node comes after its parent
            newest = max(nodes)
            nodes.remove(newest)
            nodes.add(int(beam.parents[newest]))
        return beam.labels(nodes.pop())

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `decoder_config.json` and the language model, if there is one, into the folder of a model."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(self, name) for name in SETTINGS}
        if self.language_model_file is not None:
            kind = self.language_model_file.suffix
            name = LANGUAGE_MODEL if kind == ".safetensors" else "language_model.arpa" + kind * (kind in (".gz", ".xz"))
            settings["language_model"] = name
            if (folder / name).resolve() != self.language_model_file.resolve():
                shutil.copyfile(self.language_model_file, folder / name)
        (folder / DECODER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name: str | Path, tokenizer: Any = None, **settings: Any) -> "CTCBeamSearchDecoder":
        """Reads what `save_pretrained` wrote.

        Args:
            name: a folder, or a model repository on the Hub.
            tokenizer: of the acoustic model; None: the one that is saved there.
            settings: change what was saved, e.g. `beam_width=200`; `revision`, `token`, `cache_dir`, `local_files_only`
                and `subfolder` are those of every download from the Hub.

        Raises:
            LanguageModelError: there is no decoder, or its language model is missing.
        """
        hub = take(settings)
        file = find_file(name, DECODER_CONFIG, **hub)
        if file is None:
            raise LanguageModelError(f"There is no decoder in {name}: it has no {DECODER_CONFIG}.")
        try:
            content = dict(json.loads(Path(file).read_text(encoding="utf-8"))) | settings
        except (ValueError, TypeError) as error:
            raise LanguageModelError(f"{DECODER_CONFIG} of {name} is damaged ({error}): tune the decoder again.") from error
        unknown = content.keys() - SETTINGS.keys() - {"language_model"}
        if unknown:
            raise LanguageModelError(
                f"{DECODER_CONFIG} of {name} has no setting {min(unknown)!r}; there are {', '.join(SETTINGS)}."
            )
        if content.get("language_model") is not None and "language_model" not in settings:
            model = find_file(name, content["language_model"], **hub)
            if model is None:
                raise LanguageModelError(
                    f"The decoder of {name} needs its language model {content['language_model']}, which is not there."
                )
            content["language_model"] = model
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(name, **hub)
        return cls(tokenizer, **content)


_AT_LEAST_0 = (lambda value: 0 <= value < np.inf, "a number of at least 0")
_AT_MOST_0 = (lambda value: -np.inf < value <= 0, "a number of at most 0")
_FROM_1_ON = (lambda value: value >= 1 and value % 1 == 0, "an integer of at least 1")
SETTINGS = {  # name -> whether a number is right, and what is
    "alpha": _AT_LEAST_0,
    "beta": _AT_LEAST_0,
    "beam_width": _FROM_1_ON,
    "cutoff_probability": (lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "cutoff_top_n": _FROM_1_ON,
    "beam_threshold": (lambda value: value > 0, "a number above 0"),
    "unknown_word_score": _AT_MOST_0,
    "unknown_letter_score": _AT_MOST_0,
}
DECODER_CONFIG = "decoder_config.json"
LANGUAGE_MODEL = "language_model.safetensors"


def has_decoder(name: str | Path, **hub: Any) -> bool:
    """Whether a folder or a repository holds what `save_pretrained` wrote; `hub`: see `from_pretrained`."""
    try:
        return find_file(name, DECODER_CONFIG, **hub) is not None
    except OSError as error:  # no connection and nothing in the cache, or a folder that is gone
        logger.warning("Could not look for a decoder in %s, so the best path is taken: %s", name, str(error).splitlines()[0])
        return False


_decoder: CTCBeamSearchDecoder | None = None


def _take_decoder(decoder: CTCBeamSearchDecoder) -> None:
    """In a process of its own."""
    global _decoder
    _decoder = decoder


def _decode_one(log_probs: np.ndarray, *arguments: Any) -> list[Hypothesis]:
    return _decoder.decode(log_probs, *arguments)
