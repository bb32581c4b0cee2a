"""Reads n-gram language models in the ARPA format, and checks that a file is complete: counts, sections and end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import UserError


UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"  # words 0, 1 and 2
_LN10 = float(np.log(10))
_COUNT = re.compile(r"ngram\s+(\d+)\s*=\s*(\d+)")
_SECTION = re.compile(r"\\(\d+)-grams:")


class LanguageModelError(UserError):
    """A language model that cannot be used: which, and why."""


@dataclass
class Order:
    """The n-grams of one order, sorted by context and word."""

    contexts: np.ndarray  # where the first n-1 words stand in the order below
    words: np.ndarray
    log_probs: np.ndarray  # natural logarithms
    backoffs: np.ndarray  # in most models 0 where nothing follows


@dataclass
class _Section:
    """The lines of one order, each split at its spaces."""

    number: int
    rows: list[list[str]] = field(default_factory=list)


def read_arpa(lines: Iterable[str], file: Path) -> tuple[list[str], list[Order]]:
    """Lines of an ARPA file -> its vocabulary and its n-grams of each order.

    Raises:
        LanguageModelError: no ARPA file, or one that is cut short or damaged.
    """
    words: list[str] = []
    orders: list[Order] = []
    for section in _sections(lines, file):
        try:
            if section.number == 1:
                words, order = _unigrams(section.rows)
                index = {word: number for number, word in enumerate(words)}
            else:
                order = _ngrams(section, index, orders)
        except (ValueError, IndexError, KeyError) as error:
            raise LanguageModelError(
                f"{file}: the n-grams of order {section.number} are not as ARPA has them ({error})."
            ) from error
        orders.append(order)
    if not orders:
        raise LanguageModelError(f"{file} has no n-grams: it is neither an ARPA file nor a model that this package saved.")
    return words, orders


def _sections(lines: Iterable[str], file: Path) -> Iterator[_Section]:
    """The orders from 1 on, each when it is complete."""
    counts: dict[int, int] = {}
    section: _Section | None = None
    for line in map(str.strip, lines):
        begins = _SECTION.fullmatch(line)
        if begins or line == "\\end\\":
            if section is not None:
                yield _counted(section, counts, file)
            number = section.number + 1 if section else 1
            if line == "\\end\\":
                if number <= max(counts, default=0):
                    raise LanguageModelError(f"{file} has no n-grams of order {number}, which its head announces.")
                return
            if begins and int(begins[1]) != number:
                raise LanguageModelError(f"{file}: found n-grams of order {begins[1]}, expected those of order {number}.")
            section = _Section(number)
        elif section is not None and line:
            section.rows.append(line.split())
        elif count := _COUNT.fullmatch(line):
            counts[int(count[1])] = int(count[2])
    if section is not None:
        raise LanguageModelError(
            f"{file} is cut short: it stops among the n-grams of order {section.number}, without the line \\end\\; get the "
            "whole file."
        )


def _counted(section: _Section, counts: dict[int, int], file: Path) -> _Section:
    expected = counts.get(section.number)
    if len(section.rows) != expected:
        announced = "none" if expected is None else f"{expected:,}"
        raise LanguageModelError(
            f"{file}: found {len(section.rows):,} n-grams of order {section.number}, but its head announces {announced}: "
            "it is cut short or damaged."
        )
    return section


def _scores(rows: list[list[str]], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and back-off weights."""
    for row in rows:
        if len(row) not in (number + 1, number + 2):
            raise ValueError(f"found {' '.join(row)!r}, expected a number, {number} words and perhaps a number")
    log_probs = np.array([float(row[0]) for row in rows]) * _LN10
    backoffs = np.array([float(row[number + 1]) if len(row) > number + 1 else 0.0 for row in rows]) * _LN10
    return log_probs, backoffs


def _unigrams(rows: list[list[str]]) -> tuple[list[str], Order]:
    log_probs, backoffs = _scores(rows, 1)
    index = {UNKNOWN: 0, BEGIN: 1, END: 2}
    spelled = [UNKNOWN if row[1] == "<UNK>" else row[1] for row in rows]
    for word in spelled:
        index.setdefault(word, len(index))
    if len(set(spelled)) < len(spelled):
        raise ValueError("a word occurs twice")
    words = list(index)
    places = np.array([index[word] for word in spelled], np.int64)
    # A model without <unk> or <s> gives them what it gives nothing else: next to no probability.
    order = Order(
        np.zeros(len(words), np.int64), np.arange(len(words)), np.full(len(words), -100 * _LN10), np.zeros(len(words))
    )
    order.log_probs[places], order.backoffs[places] = log_probs, backoffs
    return words, order


def _ngrams(section: _Section, index: dict[str, int], orders: list[Order]) -> Order:
    number, size = section.number, len(index)
    log_probs, backoffs = _scores(section.rows, number)
    numbers = [[index[UNKNOWN if word == "<UNK>" else word] for word in row[1 : number + 1]] for row in section.rows]
    ngrams = np.array(numbers, np.int64).reshape(-1, number)
    contexts = ngrams[:, 0]
    for level in range(1, number - 1):
        keys = orders[level].contexts * size + orders[level].words
        wanted = contexts * size + ngrams[:, level]
        contexts = np.searchsorted(keys, wanted).clip(max=max(0, len(keys) - 1))
        if len(wanted) and (not len(keys) or (keys[contexts] != wanted).any()):
            raise ValueError("the first words of one are no n-gram")
    last = ngrams[:, -1]
    by_context = np.lexsort((last, contexts))
    return Order(contexts[by_context], last[by_context], log_probs[by_context], backoffs[by_context])
