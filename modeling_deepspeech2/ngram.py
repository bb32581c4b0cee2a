"""An n-gram language model that scores many words at once: from states and words to log-probabilities and next states.

It reads ARPA files (`arpa.py`) and its own compact form, which needs no package but safetensors and is written by
`deepspeech2 language-model`: for each order the n-grams sorted by context, with their words, probabilities and back-off
weights in half precision. Every file is checked completely before it is used.
"""

import gzip
import json
import lzma
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .arpa import BEGIN, END, UNKNOWN, LanguageModelError, Order, read_arpa
from .settings_files import replacing


__all__ = ["BEGIN", "END", "UNITS", "UNKNOWN", "LanguageModelError", "NGramModel", "Order"]

UNITS = ("word", "character")
_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_METADATA = "ngram_language_model"
_LARGEST = 2.0**62  # of a key, so that 64 bits hold it


class NGramModel:
    """A back-off n-gram model.

    Args:
        words: the vocabulary; `<unk>`, `<s>` and `</s>` first.
        orders: from the unigrams on, all of them, in the order of `words`.
        unit: what a word of the model is, "word" or "character" (a symbol of the tokenizer).
    """

    def __init__(self, words: list[str], orders: list[Order], unit: str = "word"):
        self.words, self.orders, self.unit = words, orders, unit
        starts = np.cumsum([1, *(len(order.words) for order in orders)])
        self.log_probs = np.concatenate([np.zeros(1, np.float32), *(order.log_probs for order in orders)])
        self._backoffs = np.concatenate([np.zeros(1, np.float32), *(order.backoffs for order in orders)])
        number_type = np.int32 if starts[-1] < 2**31 else np.int64
        contexts = [np.zeros(1 + len(words), number_type)]
        contexts += [order.contexts.astype(number_type) + number_type(starts[n - 1]) for n, order in enumerate(orders) if n]
        contexts = np.concatenate(contexts)
        last_words = np.concatenate([np.zeros(1, number_type), *(order.words.astype(number_type) for order in orders)])
        # They are sorted already. A hash table took twice as long here: its collisions need several rounds of NumPy.
        self._keys = _keys(contexts[1:], last_words[1:], len(words))
        # Where a state falls back to, and where an n-gram leads: the longest suffix that makes a difference to what follows.
        self._suffixes = np.zeros(len(contexts), number_type)
        matters = self._backoffs != 0
        matters[contexts[starts[1] :]] = True
        self._next = np.zeros(len(contexts), number_type)
        for number, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist()), 1):
            own = slice(first, last)
            if number == 2:  # of two words, the second one
                self._suffixes[own] = 1 + last_words[own]
            elif number > 2:
                self._suffixes[own] = self._longest_suffix(self._suffixes[contexts[own]], last_words[own])
            self._next[own] = np.where(matters[own], np.arange(first, last), self._next[self._suffixes[own]])
        self.begin = int(self._next[1 + words.index(BEGIN)])

    @property
    def num_ngrams(self) -> list[int]:
        return [len(order.words) for order in self.orders]

    def _find(self, states: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The n-gram of each state and word, -1 where there is none."""
        keys = _keys(states, words, len(self.words))
        places = self._keys.searchsorted(keys)
        places[places == len(self._keys)] = 0
        return np.where(self._keys[places] == keys, 1 + places, -1)

    def _longest_suffix(self, states: np.ndarray, words: np.ndarray) -> np.ndarray:
        found = self._find(states, words)
        missing = np.flatnonzero(found < 0)
        states = states[missing]
        while len(missing):
            states = self._suffixes[states]
            found[missing] = self._find(states, words[missing])
            still = found[missing] < 0
            missing, states = missing[still], states[still]
        return found

    def score(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log p(word | state) in natural logarithms, and the next states.

        Args:
            states, words: integers of one shape (n,); `begin` is the state at the beginning of a sentence.
        """
        contexts, penalties = [states], [np.zeros(len(states))]  # ever shorter ones, the last of which knows every word
        for _ in self.orders[1:]:
            penalties.append(penalties[-1] + self._backoffs[contexts[-1]])
            contexts.append(self._suffixes[contexts[-1]])
        found = self._find(np.stack(contexts), words)
        longest = (found >= 0).argmax(0), np.arange(len(words))
        found = found[longest]
        return np.stack(penalties)[longest] + self.log_probs[found], self._next[found]

    def sentence(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The natural log-probability of each word of a sentence and of its end, and which of them are unknown."""
        index = {word: number for number, word in enumerate(self.words)}
        numbers = [index.get(word, 0) for word in words] + [index[END]]
        scores, state = [], np.array([self.begin])
        for number in numbers:
            score, state = self.score(state, np.array([number]))
            scores.append(score[0])
        return np.array(scores), np.array(numbers) == 0

    def save(self, file: str | Path) -> None:
        """Writes the compact form, whole or not at all; log-probabilities are rounded to half precision.

        Raises:
            LanguageModelError: it cannot be written; an older file stays.
        """
        arrays = {"words": np.frombuffer("\n".join(self.words).encode(), np.uint8)}
        for number, order in enumerate(self.orders, 1):
            if number > 1:
                followers = np.bincount(order.contexts, minlength=len(self.orders[number - 2].words))
                arrays[f"{number}.followers"] = followers.astype(np.min_scalar_type(int(followers.max(initial=0))))
                arrays[f"{number}.words"] = order.words.astype(np.min_scalar_type(len(self.words)))
            arrays[f"{number}.log_probs"] = np.clip(order.log_probs, -6e4, 0).astype(np.float16)
            if number < len(self.orders):
                kept = _has_followers(self.orders, number)
                kept = kept if not order.backoffs[~kept].any() else slice(None)
                arrays[f"{number}.backoffs"] = order.backoffs[kept].astype(np.float16)
        facts = json.dumps({"unit": self.unit, "order": len(self.orders)})  # one entry, for several come in any order
        try:
            with replacing(Path(file)) as new:
                save_file(arrays, new, metadata={_METADATA: facts})
        except (SafetensorError, OSError) as error:  # safetensors has its own words for a full disk
            raise LanguageModelError(f"{file} could not be written: {error}.") from error

    @classmethod
    def load(cls, file: str | Path) -> "NGramModel":
        """Reads the compact form (`.safetensors`) or ARPA, plain or compressed (`.arpa`, `.arpa.gz`, `.arpa.xz`).

        Raises:
            LanguageModelError: there is no such file, or it is neither.
        """
        file = Path(file)
        if not file.is_file():
            raise LanguageModelError(f"There is no language model {file}.")
        if file.suffix == ".safetensors":
            return cls._load_compact(file)
        return cls._load_arpa(file)

    @classmethod
    def _load_compact(cls, file: Path) -> "NGramModel":
        try:
            with safe_open(file, "numpy") as content:
                if _METADATA not in (content.metadata() or {}):
                    raise LanguageModelError(f"{file} holds tensors, but no n-gram language model.")
                facts = json.loads(content.metadata()[_METADATA])
                arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            words, orders = _from_arrays(arrays, int(facts["order"]))
            if facts["unit"] not in UNITS:
                raise ValueError(f"unit: found {facts['unit']!r}, expected one of {', '.join(UNITS)}")
            check_model(words, orders)
        except LanguageModelError:
            raise
        except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise LanguageModelError(f"{file} is damaged or no language model: {error}.") from error
        return cls(words, orders, facts["unit"])

    @classmethod
    def _load_arpa(cls, file: Path) -> "NGramModel":
        try:
            with _OPENERS.get(file.suffix, open)(file, "rt", encoding="utf-8") as lines:
                words, orders = read_arpa(lines, file)
        except (UnicodeDecodeError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise LanguageModelError(
                f"{file} is neither an ARPA file nor a model that this package saved ({error}); KenLM's binaries cannot be "
                f"read, the ARPA files that they were made of can."
            ) from error
        try:
            check_model(words, orders)
        except ValueError as error:
            raise LanguageModelError(f"{file} is damaged: {error}.") from error
        ordinary = [word for word in words if word not in (UNKNOWN, BEGIN, END)]
        unit = "character" if ordinary and all(len(word) == 1 for word in ordinary) else "word"
        return cls(words, orders, unit)


def _keys(contexts: np.ndarray, words: np.ndarray, num_words: int) -> np.ndarray:
    """A number for each n-gram, in 64 bits whatever its parts are kept in."""
    keys = contexts.astype(np.int64)
    keys *= num_words
    keys += words
    return keys


def _from_arrays(arrays: dict[str, np.ndarray], num_orders: int) -> tuple[list[str], list[Order]]:
    """The vocabulary and the n-grams in the arrays of the compact form; ValueError where their sizes do not agree."""
    words = bytes(arrays["words"]).decode().split("\n")
    orders: list[Order] = []
    for number in range(1, num_orders + 1):
        log_probs = arrays[f"{number}.log_probs"].astype(np.float32)
        if number == 1:
            contexts, own = np.zeros(len(words), np.int32), np.arange(len(words), dtype=np.int32)
        else:
            followers, own = arrays[f"{number}.followers"], arrays[f"{number}.words"].astype(np.int32)
            if len(followers) != len(orders[-1].words) or followers.astype(np.float64).sum() != len(own):
                raise ValueError(f"{number}.followers does not fit to the n-grams of orders {number - 1} and {number}")
            contexts = np.repeat(np.arange(len(followers), dtype=np.int32), followers)
        orders.append(Order(contexts, own, log_probs, np.zeros(len(own), np.float32)))
    for number in range(1, len(orders)):
        backoffs, kept = arrays[f"{number}.backoffs"], orders[number - 1].backoffs
        kept[slice(None) if len(backoffs) == len(kept) else _has_followers(orders, number)] = backoffs
    return words, orders


def check_model(words: list[str], orders: list[Order]) -> None:
    """Raises ValueError for a model that a search could not use: numbers out of range, not sorted, or not finite."""
    if words[:3] != [UNKNOWN, BEGIN, END] or len(set(words)) < len(words) or not all(words):
        raise ValueError(f"its vocabulary does not begin with {UNKNOWN}, {BEGIN} and {END}, or holds a word twice, or none")
    if not orders:
        raise ValueError("it has no n-grams")
    size = 1
    for number, order in enumerate(orders, 1):
        what = f"the n-grams of order {number}"
        if len({len(order.words), len(order.contexts), len(order.log_probs), len(order.backoffs)}) > 1:
            raise ValueError(f"{what} have arrays of different lengths")
        for name, values, end in (("word", order.words, len(words)), ("context", order.contexts, size)):
            if len(values) and not 0 <= values.min() <= values.max() < end:
                wrong = values[(values < 0) | (values >= end)][0]
                raise ValueError(f"{what} name {name} number {wrong}, but there are {end:,}")
        if len(words) * max(size, 1) >= _LARGEST or (np.diff(_keys(order.contexts, order.words, len(words))) <= 0).any():
            raise ValueError(f"{what} are not sorted, or one of them occurs twice")
        if not (np.isfinite(order.log_probs).all() and np.isfinite(order.backoffs).all()):
            raise ValueError(f"{what} have probabilities that are not finite")
        if order.log_probs.max(initial=0.0) > 1e-3:
            raise ValueError(f"{what} have a probability above 1")
        size = len(order.words)
    if len(orders[0].words) != len(words):
        raise ValueError("its vocabulary and its n-grams of order 1 differ")


def _has_followers(orders: list[Order], number: int) -> np.ndarray:
    """Which n-grams of order `number` are a context of the next order."""
    mask = np.zeros(len(orders[number - 1].words), bool)
    mask[orders[number].contexts] = True
    return mask
