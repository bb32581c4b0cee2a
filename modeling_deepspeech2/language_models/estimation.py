"""Estimates the n-gram language model of a decoder from texts (`deepspeech2 language-model`).

Interpolated modified Kneser-Ney estimates (Chen and Goodman, 1998) of all n-grams are pruned to the requested size: those
stay whose loss would raise the perplexity most (Stolcke, 1998). The unit is the word, or the character in scripts without
spaces between words. All steps are sorts and counts of whole arrays.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ..errors import UserError
from ..ngram import BEGIN, END, UNKNOWN, NGramModel, Order
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer


NEVER = -99 * float(np.log(10))  # of <s>, which begins a sentence and is never predicted


@dataclass
class Counts:
    """The n-grams of one order, sorted by context and word."""

    contexts: np.ndarray  # where their first n-1 words stand in the order below
    words: np.ndarray
    suffixes: np.ndarray  # where their last n-1 words stand there
    raw: np.ndarray  # how often they occur
    adjusted: np.ndarray  # the number of words that they follow, for all but the highest order


def split_words(tokenizer: DeepSpeech2CTCTokenizer, line: str, unit: str) -> list[str]:
    """What the language model reads of a line: words or symbols after the text rules; `<unk>` where none can be spelled."""
    text = tokenizer.normalize(line)
    if unit == "word":
        return [word if all(map(tokenizer.is_known, word)) else UNKNOWN for word in text.split()]
    if all(character == " " or tokenizer.is_known(character) for character in text):
        return tokenizer.tokenize(line)
    named = {" ": tokenizer.word_delimiter_token}
    return [named.get(character, character if tokenizer.is_known(character) else UNKNOWN) for character in text]


def count_ngrams(sentences: np.ndarray, order: int, num_words: int) -> list[Counts]:
    """Counts of all orders.

    Args:
        sentences: word numbers of all sentences, one after the other, each with its `<s>` (1) and `</s>` (2).
    """
    begins = np.flatnonzero(sentences == 1)
    positions = np.arange(len(sentences)) - np.repeat(begins, np.diff(begins, append=len(sentences)))
    raw = np.bincount(sentences, minlength=num_words)
    everything = np.arange(num_words)
    found = [Counts(np.zeros(num_words, np.int64), everything, np.zeros(num_words, np.int64), raw, raw)]
    at_begin = [everything == 1]
    ngrams = sentences.astype(np.int64)  # of the order so far that ends at each position
    for size in range(2, order + 1):
        here = np.flatnonzero(positions >= size - 1)
        keys = ngrams[here - 1] * num_words + sentences[here]
        unique, first, inverse, raw = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        contexts, words = np.divmod(unique, num_words)
        found.append(Counts(contexts, words, ngrams[here[first]], raw, raw))
        at_begin.append(at_begin[-1][contexts])
        ngrams = np.full(len(sentences), -1)
        ngrams[here] = inverse
    for lower, higher, begin in zip(found, found[1:], at_begin):
        lower.adjusted = np.bincount(higher.suffixes, minlength=len(lower.words))
        lower.adjusted[begin] = lower.raw[begin]  # nothing comes before the beginning
    found[0].adjusted[1] = 0
    return found


def discounts(adjusted: np.ndarray) -> np.ndarray:
    """What is taken from counts of 0, 1, 2 and of 3 or more."""
    ones, twos, threes, fours = (np.count_nonzero(adjusted == count) for count in (1, 2, 3, 4))
    usual = np.array([0.0, 0.5, 1.0, 1.5])  # of texts that are too short or too regular for estimates
    if 0 in (ones, twos, threes):
        return usual
    share = ones / (ones + 2 * twos)
    estimate = np.array([0, 1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes])
    return estimate if (estimate[1:] > 0).all() and (estimate <= [0, 1, 2, 3]).all() else usual


def kneser_ney(counts: list[Counts]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Probabilities of the n-grams of each order, and for each context the share that its lower order gets."""
    probabilities, shares = [], []
    for size, order in enumerate(counts, 1):
        taken = discounts(order.adjusted)[np.minimum(order.adjusted, 3)]
        num_contexts = 1 if size == 1 else len(counts[size - 2].words)
        total = np.maximum(np.bincount(order.contexts, order.adjusted, num_contexts), 1e-300)
        share = np.bincount(order.contexts, taken, num_contexts) / total
        if size == 1:
            lower = np.full(len(order.words), 1 / (len(order.words) - 1))
            lower[1] = 0  # <s>
        else:
            lower = probabilities[-1][order.suffixes]
        probabilities.append((order.adjusted - taken) / total[order.contexts] + share[order.contexts] * lower)
        shares.append(share)
    return probabilities, shares


def information(counts: list[Counts], probabilities: list[np.ndarray]) -> list[np.ndarray]:
    """For each n-gram from two on: the relative entropy that its loss costs, in nats a word (Stolcke, 1998, equation 7)."""
    total = counts[0].raw.sum()
    costs = []
    for size in range(2, len(counts) + 1):
        order, lower, own = counts[size - 1], probabilities[size - 2], probabilities[size - 1]
        num_contexts = len(counts[size - 2].words)
        backed = lower[order.suffixes]
        rest = np.maximum(1 - np.bincount(order.contexts, own, num_contexts), 1e-12)[order.contexts]
        lower_rest = np.maximum(1 - np.bincount(order.contexts, backed, num_contexts), 1e-12)[order.contexts]
        change = np.log((rest + own) / (lower_rest + backed))
        context = np.bincount(order.contexts, order.raw, num_contexts)[order.contexts] / total
        costs.append(
            -context * (own * (np.log(backed) + change - np.log(own)) + rest * (change - np.log(rest / lower_rest)))
        )
    return costs


def prune(counts: list[Counts], costs: list[np.ndarray], max_bytes: float) -> list[np.ndarray]:
    """Which n-grams from two on are kept, as many as fit: the costliest to lose, and the contexts of what is kept."""
    word_bytes = np.min_scalar_type(len(counts[0].words)).itemsize

    def kept_above(threshold: float) -> list[np.ndarray]:
        kept: list[np.ndarray] = []
        for size in range(len(counts), 1, -1):
            mask = costs[size - 2] > threshold
            if kept:
                mask[counts[size].contexts[kept[0]]] = True
            kept.insert(0, mask)
        return kept

    def size_of(kept: list[np.ndarray]) -> float:
        numbers = [len(counts[0].words), *map(np.count_nonzero, kept)]
        followers_and_backoffs = 4 * numbers[0] + 2 * sum(numbers[1:-1])
        return 10 * numbers[0] + (word_bytes + 2) * sum(numbers[1:]) + followers_and_backoffs

    low, high = -80.0, 0.0  # logarithms of thresholds
    kept = kept_above(-np.inf)
    if size_of(kept) <= max_bytes:
        return kept
    for _ in range(30):
        middle = (low + high) / 2
        kept = kept_above(float(np.exp(middle)))
        low, high = (middle, high) if size_of(kept) > max_bytes else (low, middle)
    return kept_above(float(np.exp(high)))


def estimate(sentences: np.ndarray, words: list[str], order: int, max_bytes: float, unit: str, bar: tqdm) -> NGramModel:
    """A pruned model whose probabilities after each context add up to one.

    Args:
        sentences: see `count_ngrams`.
        words: their words; `<unk>`, `<s>`, `</s>` first.
    """
    bar.set_description("counting")
    counts = count_ngrams(sentences, order, len(words))
    bar.set_description("estimating")
    probabilities, shares = kneser_ney(counts)
    kept = [np.ones(len(words), bool), *prune(counts, information(counts, probabilities), max_bytes)]
    bar.set_description("pruning")
    with np.errstate(divide="ignore"):
        log_probs = np.maximum(np.log(probabilities[0]), NEVER)
    orders = [Order(np.zeros(len(words), np.int64), np.arange(len(words)), log_probs, np.zeros(len(words)))]
    for size in range(2, order + 1):
        level, mask = counts[size - 1], kept[size - 1]
        if not mask.any():
            break
        places = np.cumsum(kept[size - 2]) - 1
        contexts, own = places[level.contexts[mask]], probabilities[size - 1][mask]
        # The back-off weight of a context shares out what its kept n-grams leave, over what the lower order gives the rest.
        lower = NGramModel(words, orders, unit)
        histories = _histories(counts, size - 1)[kept[size - 2]][contexts]
        states = np.zeros(len(contexts), np.int64)
        for column in range(1, size - 1):  # without its first word
            states = lower.score(states, histories[:, column])[1]
        backed = np.exp(lower.score(states, level.words[mask])[0])
        rest = 1 - np.bincount(contexts, own, len(orders[-1].words))
        lower_rest = 1 - np.bincount(contexts, backed, len(orders[-1].words))
        followed = np.zeros(len(orders[-1].words), bool)
        followed[contexts] = True
        weights = np.log(np.maximum(rest, 1e-9) / np.maximum(lower_rest, 1e-9))
        orders[-1].backoffs = np.where(followed, weights, 0.0)
        orders.append(Order(contexts, level.words[mask], np.log(own), np.zeros(len(contexts))))
    return NGramModel(words, orders, unit)


def _histories(counts: list[Counts], size: int) -> np.ndarray:
    """The words of all n-grams of an order, shape (n-grams, size)."""
    columns, here = [], np.arange(len(counts[size - 1].words))
    for order in reversed(counts[:size]):
        columns.append(order.words[here])
        here = order.contexts[here]
    return np.stack(columns[::-1], axis=1)


def perplexity(model: NGramModel, sentences: list[list[str]]) -> tuple[float, float]:
    """Perplexity over known words and ends of sentences, and the share of words that are unknown."""
    index = {word: number for number, word in enumerate(model.words)}
    total, known, unknown = 0.0, 0, 0
    numbers = [[index.get(word, 0) for word in words] + [2] for words in sentences]
    states = np.full(len(numbers), model.begin)
    for position in range(max(map(len, numbers), default=0)):
        alive = np.array([row for row, sentence in enumerate(numbers) if position < len(sentence)])
        words = np.array([numbers[row][position] for row in alive])
        scores, states[alive] = model.score(states[alive], words)
        total += scores[words != 0].sum()
        known += np.count_nonzero(words)
        unknown += np.count_nonzero(words == 0)
    return float(np.exp(-total / max(1, known))), unknown / max(1, unknown + known - len(numbers))


def dataset_lines(entry: str, text_column: str) -> Iterator[str]:
    """The texts of "DATA SET::[CONFIGURATION/]SPLIT", streamed.

    Raises:
        UserError: no such data set, split or column, or a column of something else.
    """
    from datasets import load_dataset

    path, _, split = entry.partition("::")
    configuration, _, split = split.rpartition("/")
    try:
        rows = load_dataset(path, configuration or None, split=split, streaming=True).select_columns([text_column])
        for row in rows:
            text = row[text_column]
            if text is not None and not isinstance(text, str):
                raise UserError(f"{entry}: the column {text_column!r} holds {type(text).__name__}, expected text.")
            yield text or ""
    except UserError:
        raise
    except (ValueError, KeyError, OSError) as error:  # each kind of file has its own
        reason = " ".join(str(error).split())
        raise UserError(f"{entry}: the column {text_column!r} cannot be read ({reason}).") from error


def build(
    lines: Iterable[str],
    tokenizer: DeepSpeech2CTCTokenizer,
    unit: str,
    order: int = 5,
    megabytes: float = 8.0,
    held_out: float = 0.02,
    seed: int = 0,
) -> tuple[NGramModel, str]:
    """The model, and a report: what was read, how large it is, its perplexity on lines that it has not seen.

    Args:
        lines: as written; equal ones count once after the text rules.
        tokenizer: of the acoustic model.
        unit: `"word"` or `"character"`, see `DeepSpeech2CTCTokenizer.language_model_unit`.
        order: length of the longest n-grams.
        megabytes: size of the saved model, about.
        held_out: share of the lines that the perplexity is measured on.
        seed: of the draw of these lines.

    Raises:
        UserError: no line has a word in it, or words are asked for where there are no spaces between them.
    """
    if unit == "word" and tokenizer.language_model_unit != "word":
        raise UserError(
            f"unit: found 'word', but a tokenizer of word_boundaries={tokenizer.word_boundaries!r} is decoded by character; "
            "expected 'character'."
        )
    sentences = dict.fromkeys(
        tuple(split_words(tokenizer, line, unit)) for line in tqdm(lines, "reading", unit=" lines", leave=False)
    )
    sentences.pop((), None)
    texts = list(sentences)
    random.Random(seed).shuffle(texts)  # lines of one source stand together
    number = round(held_out * len(texts))
    held, texts = texts[:number], texts[number:]
    if not texts:
        raise UserError("The texts hold no words: there is nothing to build a language model from.")
    occurrences = Counter(word for text in texts for word in text)
    unknown = occurrences.pop(UNKNOWN, 0)
    words = [UNKNOWN, BEGIN, END, *sorted(occurrences)]
    index = {word: number for number, word in enumerate(words)}
    flat = np.fromiter((index[word] for text in texts for word in (BEGIN, *text, END)), np.int64)
    with tqdm(desc="counting", leave=False, bar_format="{desc}, {elapsed}") as bar:
        model = estimate(flat, words, order, megabytes * 1e6, unit, bar)
    report = [
        f"{len(texts):,} lines, {sum(map(len, texts)):,} {unit}s, {len(words) - 3:,} different; {unknown:,} that the "
        f"tokenizer cannot spell count as unknown",
        f"n-grams kept, by order: {', '.join(f'{kept:,}' for kept in model.num_ngrams)}",
    ]
    if held:
        value, share = perplexity(model, [list(text) for text in held])
        report.append(f"perplexity {value:.1f} on {len(held):,} lines held out; {share:.2%} of their {unit}s are unknown")
    return model, "\n".join(report)
