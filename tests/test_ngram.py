"""The n-gram model against its text, and the estimation against the definition of Kneser-Ney smoothing."""

import gzip
import itertools
import lzma
import math
import resource
from collections import Counter, defaultdict

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from test_decoding_deepspeech2 import WORDS_ARPA, arpa_log_prob
from transformers import AutoTokenizer

from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2CTCTokenizer
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.language_models.estimation import (
    build,
    count_ngrams,
    dataset_lines,
    discounts,
    estimate,
    perplexity,
)
from modeling_deepspeech2.ngram import BEGIN, END, UNKNOWN, LanguageModelError, NGramModel


SENTENCES = ["a b c", "a b d", "b a", "c a b c", "d", "a b c d", "d c", "b b b", "a c", "e a b", "e b a b c a"]


@pytest.fixture
def english():
    return AutoTokenizer.from_pretrained("tokenizer/english")


def random_sentences(seed: int, number: int = 300, words: str = "abcdefgh") -> list[list[str]]:
    """Sentences from a random bigram process, so that some contexts say much and others little."""
    random = np.random.default_rng(seed)
    table = random.dirichlet(np.full(len(words) + 1, 0.3), size=len(words) + 1)
    found = []
    for _ in range(number):
        sentence, word = [], len(words)
        while len(sentence) < 12:
            word = random.choice(len(words) + 1, p=table[word])
            if word == len(words):
                break
            sentence.append(words[word])
        found.append(sentence or ["a"])
    return found


def numbered(sentences: list[list[str]]) -> tuple[np.ndarray, list[str]]:
    words = [UNKNOWN, BEGIN, END, *sorted({word for sentence in sentences for word in sentence})]
    index = {word: number for number, word in enumerate(words)}
    return np.array([index[word] for sentence in sentences for word in (BEGIN, *sentence, END)]), words


class Silent:
    def set_description(self, text: str) -> None:
        pass


def model_of(sentences: list[list[str]], order: int, max_bytes: float = math.inf) -> NGramModel:
    flat, words = numbered(sentences)
    return estimate(flat, words, order, max_bytes, "word", Silent())


def kneser_ney(sentences: list[list[str]], order: int):
    """p(word | context) by the recursive definition, with dictionaries; of the tested code only `discounts`."""
    counts = [Counter() for _ in range(order + 1)]
    for sentence in sentences:
        tokens = (BEGIN, *sentence, END)
        for size, start in itertools.product(range(1, order + 1), range(len(tokens))):
            if start + size <= len(tokens):
                counts[size][tokens[start : start + size]] += 1
    vocabulary = {token for (token,) in counts[1]} | {UNKNOWN}
    adjusted = [Counter() for _ in range(order + 1)]
    adjusted[order] = counts[order]
    for size in range(1, order):
        left = defaultdict(set)
        for ngram in counts[size + 1]:
            left[ngram[1:]].add(ngram[0])
        for ngram, count in counts[size].items():
            adjusted[size][ngram] = count if ngram[0] == BEGIN else len(left[ngram])
    adjusted[1][(BEGIN,)] = 0
    taken = [None] + [discounts(np.array([*adjusted[size].values(), 0])) for size in range(1, order + 1)]

    def probability(context: tuple, word: str) -> float:
        size = len(context) + 1
        followers = {ngram[-1]: count for ngram, count in adjusted[size].items() if ngram[:-1] == context}
        if not followers:
            return probability(context[1:], word)
        total, discount = sum(followers.values()), taken[size]
        share = sum(discount[min(count, 3)] for count in followers.values()) / total
        count = followers.get(word, 0)
        lower = probability(context[1:], word) if context else 1 / (len(vocabulary) - 1)
        return (count - discount[min(count, 3)]) / total + share * lower

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_estimates_are_kneser_neys(order):
    """Interpolated modified Kneser-Ney by its recursive definition, for every word after many contexts, also unseen ones."""
    sentences = random_sentences(order, 60, "abcd") + [sentence.split() for sentence in SENTENCES]
    model, expected = model_of(sentences, order), kneser_ney(sentences, order)
    for history in ([], ["a"], ["b", "b"], ["a", "b", "c"], ["d", "d", "d", "d"], ["e", "b", "a", "b", "c"], ["zzz", "a"]):
        scores, unknown = model.sentence(history)
        for position, word in enumerate([*history, END]):
            if unknown[: position + 1].any():
                continue
            context = (BEGIN, *history)[: position + 1][-(order - 1) :] if order > 1 else ()
            assert math.exp(scores[position]) == pytest.approx(expected(context, word), rel=1e-9)


@pytest.mark.parametrize("max_bytes", [math.inf, 3000, 1200, 0])
def test_probabilities_add_up_to_one(max_bytes):
    """After any context, also when most n-grams are pruned."""
    model = model_of(random_sentences(0), 4, max_bytes)
    everything = np.arange(len(model.words))
    for history in ([], ["a"], ["a", "b"], ["c", "c", "h"], ["g", "f", "e", "d"]):
        state = np.array([model.begin])
        for word in history:
            _, state = model.score(state, np.array([model.words.index(word)]))
        scores, _ = model.score(np.repeat(state, len(everything)), everything)
        assert np.exp(scores).sum() == pytest.approx(1, abs=1e-9)


def test_pruning_keeps_what_matters():
    """Smaller is a little worse and never larger than asked; contexts of kept n-grams stay; random pruning is worse."""
    sentences = random_sentences(1, 2000)
    train, held = sentences[:1500], sentences[1500:]
    whole = model_of(train, 4)
    values = [perplexity(model_of(train, 4, size), held)[0] for size in (math.inf, 6000, 3000, 1500)]
    assert values[0] == perplexity(whole, held)[0]
    assert sum(model_of(train, 4, 3000).num_ngrams) < sum(whole.num_ngrams) / 2
    assert max(values[:3]) < 1.05 * min(values[:3])  # half of the n-grams say next to nothing


def test_perplexity_is_that_of_its_definition():
    sentences = random_sentences(2, 50)
    model = model_of(sentences, 3)
    held = [["a", "b"], ["b", "zzz", "c"], ["h"] * 12]
    scores = [model.sentence(words) for words in held]
    known = np.concatenate([values[~unknown] for values, unknown in scores])
    assert perplexity(model, held) == (pytest.approx(math.exp(-known.mean())), pytest.approx(1 / 17))


def test_counts_by_hand():
    """Two sentences counted with a pencil: raw counts, and how many words each n-gram follows."""
    flat, words = numbered([["a", "b", "a", "b"], ["b"]])
    unigrams, bigrams = count_ngrams(flat, 2, len(words))
    assert dict(zip(words, unigrams.raw.tolist())) == {UNKNOWN: 0, BEGIN: 2, END: 2, "a": 2, "b": 3}
    assert dict(zip(words, unigrams.adjusted.tolist())) == {UNKNOWN: 0, BEGIN: 0, END: 1, "a": 2, "b": 2}
    pairs = {(words[one], words[two]): count for one, two, count in zip(bigrams.contexts, bigrams.words, bigrams.raw)}
    assert pairs == {(BEGIN, "a"): 1, (BEGIN, "b"): 1, ("a", "b"): 2, ("b", "a"): 1, ("b", END): 2}


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz", "lm.arpa.xz"])
def test_arpa_is_read_as_it_is_written(tmp_path, name):
    """Against a few lines that follow the definition of back-off; plain, compressed, and in the compact form."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(name[-3:], open)
    with opener(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write(WORDS_ARPA)
    model = NGramModel.load(tmp_path / name)
    model.save(tmp_path / "lm.safetensors")
    compact = NGramModel.load(tmp_path / "lm.safetensors")
    assert model.num_ngrams == [8, 6, 3] == compact.num_ngrams
    for length in range(5):
        for words in itertools.product(["a", "b", "ab", "ba", "xy", "zz"], repeat=length):
            expected = arpa_log_prob(WORDS_ARPA, list(words))
            assert model.sentence(list(words))[0].sum() == pytest.approx(expected, abs=1e-9)
            assert compact.sentence(list(words))[0].sum() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_saved_model_scores_the_same(tmp_path):
    """The compact form rounds log-probabilities to half precision, and nothing else; its bytes come back the same."""
    model = model_of(random_sentences(3), 5, 4000)
    model.save(tmp_path / "one.safetensors")
    again = NGramModel.load(tmp_path / "one.safetensors")
    again.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert again.words == model.words and again.unit == model.unit and again.num_ngrams == model.num_ngrams
    for words in random_sentences(4, 30):
        np.testing.assert_allclose(again.sentence(words)[0], model.sentence(words)[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"these are words", "has no n-grams"),
        (b"mmap lm http://kheafield.com/code format version 5\n\x00\xff\xfe", "KenLM's binaries cannot be read"),
        (("-0.7\ta\t-0.2", "abc\ta\t-0.2"), "n-grams of order 1 are not as ARPA has them"),
        (("-0.7\ta\t-0.2", "-0.7\ta b c"), "n-grams of order 1 are not as ARPA has them"),
        (("-0.9\tb\t", "-0.9\ta\t"), "n-grams of order 1 are not as ARPA has them .a word occurs twice"),
        (("-0.6\tb ba", "-0.6\tb bb"), "n-grams of order 2 are not as ARPA has them"),
        (("-0.6\tb ba", "-0.6\ta ab"), "order 2 are not sorted, or one of them occurs twice"),
        (("-0.6\tb ba", "nan\tb ba"), "order 2 have probabilities that are not finite"),
        (("-0.6\tb ba", "-0.6\tb ba\tinf"), "order 2 have probabilities that are not finite"),
        (("-0.6\tb ba", "0.6\tb ba"), "order 2 have a probability above 1"),
        (("-0.15\ta ab", "-0.15\tb ab"), "order 3 are not as ARPA has them .the first words of one are no n-gram"),
        (("-0.6\tb ba\n", ""), "found 5 n-grams of order 2, but its head announces 6"),
        (("ngram 2=6\n", "ngram 2=7\n"), "found 6 n-grams of order 2, but its head announces 7"),
        (("ngram 2=6\n", ""), "found 6 n-grams of order 2, but its head announces none"),
        (("ngram 3=3\n", "ngram 3=3\nngram 4=9\n"), "has no n-grams of order 4, which its head announces"),
        (("\\2-grams:", "\\4-grams:"), "found n-grams of order 4, expected those of order 2"),
        (("\\end\\", ""), "is cut short: it stops among the n-grams of order 3, without the line"),
    ],
)
def test_bad_files(tmp_path, content, message):
    """Each fault of an ARPA file is one sentence on loading; `content`: the whole file, or a change of a good one."""
    if isinstance(content, tuple):
        assert WORDS_ARPA.count(content[0]) == 1
        content = WORDS_ARPA.replace(*content).encode()
    (tmp_path / "lm.arpa").write_bytes(content)
    with pytest.raises(LanguageModelError, match=message) as caught:
        NGramModel.load(tmp_path / "lm.arpa")
    assert "lm.arpa" in str(caught.value) and "\n" not in str(caught.value)


def test_bad_compact_files(tmp_path):
    (tmp_path / "lm.safetensors").write_bytes(b"no tensors")
    with pytest.raises(LanguageModelError, match="is damaged or no language model"):
        NGramModel.load(tmp_path / "lm.safetensors")
    (tmp_path / "lm.arpa").write_text(WORDS_ARPA)
    NGramModel.load(tmp_path / "lm.arpa").save(tmp_path / "lm.safetensors")
    with safe_open(tmp_path / "lm.safetensors", "numpy") as content:
        save_file({"words": np.zeros(0, np.uint8)}, tmp_path / "half.safetensors", content.metadata())
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(b"ngram 1=2 " * 99)[:-20] + b"?" * 20)
    for name in ("half.safetensors", "lm.arpa.gz"):
        with pytest.raises(LanguageModelError, match=name):
            NGramModel.load(tmp_path / name)


def test_an_arpa_file_cut_anywhere_is_refused(tmp_path):
    """After each of its lines, but for the empty ones at its end."""
    lines = WORDS_ARPA.splitlines(keepends=True)
    for number in range(len(lines) - 1):
        (tmp_path / "lm.arpa").write_text("".join(lines[:number]))
        with pytest.raises(LanguageModelError):
            NGramModel.load(tmp_path / "lm.arpa")


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("2.words", lambda values: values + 50, "order 2 name word number 5., but there are 8"),
        ("2.words", lambda values: values[:-1], "2.followers does not fit"),
        ("2.words", lambda values: values[::-1].copy(), "order 2 are not sorted, or one of them occurs twice"),
        ("2.followers", lambda values: values[:-1], "2.followers does not fit"),
        ("2.followers", lambda values: np.full(len(values), 2**62, np.uint64), "2.followers does not fit"),
        ("1.log_probs", lambda values: values[:-1], "order 1 have arrays of different lengths"),
        ("2.log_probs", lambda values: values * np.float16("nan"), "order 2 have probabilities that are not finite"),
        ("3.log_probs", lambda values: -values, "order 3 have a probability above 1"),
        ("2.backoffs", lambda values: values * np.float16("inf"), "order 2 have probabilities that are not finite"),
        ("2.backoffs", lambda values: np.tile(values, 9), "is damaged"),
        ("words", lambda values: np.roll(values, -6), "its vocabulary does not begin with <unk>|is damaged"),
        ("words", lambda values: np.full(9, 255, np.uint8), "is damaged"),
    ],
)
def test_compact_files_are_checked_whole(tmp_path, name, change, message):
    """Word numbers out of range would search for ever, and others would give wrong scores in silence."""
    (tmp_path / "lm.arpa").write_text(WORDS_ARPA)
    NGramModel.load(tmp_path / "lm.arpa").save(tmp_path / "lm.safetensors")
    with safe_open(tmp_path / "lm.safetensors", "numpy") as content:
        arrays, metadata = {key: content.get_tensor(key) for key in content.keys()}, content.metadata()  # noqa: SIM118
    save_file(arrays | {name: change(arrays[name])}, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(LanguageModelError, match=message) as caught:
        NGramModel.load(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_mandarin_is_read_by_character():
    """Characters are the words of the model; those that the tokenizer cannot spell are unknown, and counted."""
    tokenizer = AutoTokenizer.from_pretrained("tokenizer/mandarin")
    lines = ["今天下雨。", "今天不下雨。", "明天下雨吗？", "他说hello。", "今天㐀。"] * 2
    model, report = build(lines, tokenizer, "character", order=3, held_out=0)
    assert {"今", "天", "雨", "吗", "h"} <= set(model.words) and "今天" not in model.words and "㐀" not in model.words
    assert "5 lines" in report and "1 that the tokenizer cannot spell" in report and model.unit == "character"


def test_the_command(tmp_path, capsys):
    """Text and a streamed data set in, one small file and its perplexity out."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "Seventy seven!"}\n{"text": "turn it off"}\n')
    with lzma.open(tmp_path / "text.txt.xz", "wt", encoding="utf-8") as file:
        file.write("Turn on the lamp.\nTurn off the lamp.\nTurn on the radio, please.\nÅngström 7\n" * 3)
    output = tmp_path / "models" / "lm.safetensors"
    texts = [str(tmp_path / "text.txt.xz"), "--dataset", str(tmp_path / "data")]
    main(["language-model", *texts, "--tokenizer", "tokenizer/english", "--output", str(output), "--held_out", "0.2"])
    printed = capsys.readouterr().out
    model = NGramModel.load(output)
    assert {"turn", "lamp", "angstrom"} & set(model.words) and "7" not in model.words
    assert len(model.num_ngrams) <= 5 and "perplexity" in printed and "held out" in printed and str(output) in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no_such.txt", "--output", "x.safetensors"], "found no file no_such.txt"),
        (["--dataset", "speech", "--split", "english/test", "--output", "x.safetensors"], "found the test split"),
        (["README.md", "--output", "x.bin"], "ends in .safetensors"),
        (["README.md", "--output", "x.safetensors", "--order", "0"], "--order: found 0"),
        (["README.md", "--output", "x.safetensors", "--megabytes", "0"], "--megabytes must be above 0"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert main(["language-model", *arguments, "--tokenizer", "tokenizer/english"]) == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_leaves_the_older_file(tmp_path):
    """A limit on the size of files stands for the disk; the decoder beside a model is written in the same way."""
    sentences = [list("abab")] * 40 + [list("bcca")] * 40
    model, file = model_of(sentences, 2), tmp_path / "lm.safetensors"
    model.save(file)
    decoder = CTCBeamSearchDecoder(DeepSpeech2CTCTokenizer.from_texts(["abc"]), file)
    decoder.save_pretrained(tmp_path / "model")
    before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        with pytest.raises(LanguageModelError, match="lm.safetensors could not be written"):
            model.save(file)
        with pytest.raises(OSError, match="too large"):
            decoder.save_pretrained(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()} == before


@pytest.mark.parametrize("split, column", [("test", "text"), ("train", "transcript"), ("none/train", "text")])
def test_a_data_set_without_that_text_is_one_sentence(split, column, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(UserError, match=f"{split}: the column '{column}' cannot be read"):
        list(dataset_lines(f"{tmp_path}::{split}", column))
