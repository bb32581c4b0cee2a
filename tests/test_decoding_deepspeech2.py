"""The decoders against definitions: enumeration of all alignments, a language model read word by word, plain CTC."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from modeling_deepspeech2.decoding_deepspeech2 import CTCBeamSearchDecoder
from modeling_deepspeech2.tokenization_deepspeech2 import DeepSpeech2CTCTokenizer


REPOSITORY = Path(__file__).parent.parent
EVERYTHING = {"beam_width": 100_000, "cutoff_probability": 1.0, "cutoff_top_n": 1000}
UNKNOWN_SCORE = -1.5

WORDS_ARPA = """\\data\\
ngram 1=8
ngram 2=6
ngram 3=3

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-1.5\t<unk>\t-0.05
-0.7\ta\t-0.2
-0.9\tb\t-0.25
-1.1\tab\t-0.1
-1.3\tba\t-0.15
-1.2\txy

\\2-grams:
-0.3\t<s> a\t-0.12
-0.5\ta ab\t-0.4
-0.4\tab </s>
-0.6\tb ba
-0.35\ta a\t-0.2
-0.2\t<unk> a

\\3-grams:
-0.1\t<s> a ab
-0.25\ta a a
-0.15\ta ab </s>

\\end\\
"""
CHARACTERS_ARPA = WORDS_ARPA.replace("ab", "|").replace("ba", "c").replace("xy", "d")


@pytest.fixture(scope="module")
def english():
    return AutoTokenizer.from_pretrained(REPOSITORY / "tokenizer" / "english")


@pytest.fixture(scope="module", params=["character", "bigram"])
def tokenizer(request) -> DeepSpeech2CTCTokenizer:
    """Two letters and a space; as bigrams one pair more."""
    return DeepSpeech2CTCTokenizer.from_texts(["ab"], extra_characters="", label_unit=request.param)


def random_logits(seed: int, num_symbols: int) -> np.ndarray:
    """Up to six frames, from almost flat to peaky."""
    random = np.random.default_rng(seed)
    return random.normal(size=(random.integers(1, 7 if num_symbols == 3 else 6), num_symbols)) * random.choice([0.3, 2, 6])


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)


def enumerate_labellings(logits: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """log p_ctc of every labelling: the sum over all paths that collapse to it."""
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found: dict[tuple[int, ...], list[float]] = {}
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        found.setdefault(collapse(path, blank), []).append(log_probs[np.arange(len(path)), path].sum())
    return {labels: float(np.logaddexp.reduce(scores)) for labels, scores in found.items()}


def arpa_log_prob(arpa: str, words: list[str], unknown: float = 0.0) -> float:
    """log p_lm of a sentence with its end, read from the text of the ARPA file by the definition of back-off."""
    rows = [line.split() for line in arpa.splitlines() if "\t" in line]
    entries = {}
    for row in rows:
        size = len(row) - 1 if row[-1].lstrip("-").replace(".", "").isdigit() is False else len(row) - 2
        entries[tuple(row[1 : size + 1])] = float(row[0]), float(row[size + 1]) if len(row) > size + 1 else 0.0

    def log10(history: tuple, word: str) -> float:
        if (*history, word) in entries:
            return entries[(*history, word)][0]
        return entries.get(history, (0, 0.0))[1] + log10(history[1:], word)

    history, total = ("<s>",), 0.0
    for word in [*words, "</s>"]:
        known = word if (word,) in entries else "<unk>"
        total += math.log(10) * log10(history[-2:], known) + unknown * (known == "<unk>")
        history += (known,)
    return total


@pytest.fixture(scope="module")
def arpas(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("arpa")
    files = {"word": folder / "words.arpa", "character": folder / "characters.arpa"}
    files["word"].write_text(WORDS_ARPA)
    files["character"].write_text(CHARACTERS_ARPA)
    return files


def units(labels: tuple[int, ...], tokenizer, unit: str) -> list[str]:
    """What the language model reads: words, or symbols."""
    symbols = tokenizer.convert_ids_to_tokens(list(labels))
    return "".join(symbols).replace("|", " ").split() if unit == "word" else symbols


@pytest.mark.parametrize("unit", [None, "word", "character"])
def test_wide_beam_finds_the_best_labelling(tokenizer, arpas, unit):
    """Against the enumeration of all alignments in 250 random cases for each kind: the same best labelling, and its scores.

    Protects the whole of Q = log p_ctc + alpha log p_lm + beta length: joining of prefixes, repeats, language model states,
    unknown words, words that end with the utterance, spaces in a row, at its beginning and at its end, and no symbol at all.
    """
    blank, delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
    arpa = {None: None, "word": WORDS_ARPA, "character": CHARACTERS_ARPA}[unit]
    kinds = set()
    for seed in range(250):
        random = np.random.default_rng(1000 + seed)
        alpha, beta = random.choice([0.0, 0.4, 1.3]), random.choice([0.0, 0.7, 2.0])
        decoder = CTCBeamSearchDecoder(
            tokenizer, arpas.get(unit), alpha=alpha, beta=beta, unknown_word_score=UNKNOWN_SCORE, **EVERYTHING
        )
        logits = random_logits(seed, len(tokenizer))
        expected = {}
        for labels, acoustic in enumerate_labellings(logits, blank).items():
            language = length = 0.0
            if unit:
                read = units(labels, tokenizer, unit)
                language = arpa_log_prob(arpa, read, UNKNOWN_SCORE)
                length = len([word for word in read if word != "|"])
            expected[labels] = (acoustic + alpha * language + beta * length, acoustic, language)
        best = max(expected, key=expected.get)
        beam = decoder.step(decoder.start(), logits)
        assert tuple(decoder.best_labels(beam, is_final=True)) == best
        found = decoder.hypotheses(beam, 0.02)[0]
        assert (found.score, found.acoustic_score, found.lm_score) == pytest.approx(expected[best], abs=1e-4)
        kinds.add((not best, delimiter in best[:1], delimiter in best[-1:], (delimiter, delimiter) in zip(best, best[1:])))
    assert {case for kind in kinds for case in enumerate(kind)} >= {(0, True), (1, True), (2, True)}


def test_all_hypotheses_have_the_scores_of_the_enumeration(tokenizer, arpas):
    """n-best: every text once, best first, each with the best labelling that spells it."""
    decoder = CTCBeamSearchDecoder(tokenizer, arpas["word"], alpha=0.6, beta=0.8, **EVERYTHING)
    for seed in range(40):
        logits = random_logits(seed, len(tokenizer))
        expected: dict[str, float] = {}
        for labels, acoustic in enumerate_labellings(logits, tokenizer.pad_token_id).items():
            words = units(labels, tokenizer, "word")
            score = acoustic + 0.6 * arpa_log_prob(WORDS_ARPA, words, -10.0) + 0.8 * len(words)
            text = " ".join(words)
            expected[text] = max(expected.get(text, -np.inf), score)
        found = decoder.decode(logits, 0.02, n_best=10_000)
        assert {one.text: one.score for one in found} == pytest.approx(expected, abs=1e-4)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
