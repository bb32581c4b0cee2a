"""The decoders against definitions: enumeration of all alignments, a language model read word by word, plain CTC."""

import gzip
import itertools
import math
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from modeling_deepspeech2.decoding_deepspeech2 import CTCBeamSearchDecoder, GreedyDecoder, log_softmax
from modeling_deepspeech2.ngram import LanguageModelError, NGramModel
from modeling_deepspeech2.tokenization_deepspeech2 import DeepSpeech2CTCTokenizer


REPOSITORY = Path(__file__).parent.parent
EVERYTHING = {"beam_width": 100_000, "cutoff_probability": 1.0, "cutoff_top_n": 1000, "beam_threshold": math.inf}
UNKNOWN = {"unknown_word_score": -1.5, "unknown_letter_score": -0.7}

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


def arpa_log_prob(arpa: str, words: list[str], unknown: float = 0.0, letter: float = 0.0) -> float:
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
        total += math.log(10) * log10(history[-2:], known) + (unknown + letter * len(word)) * (known == "<unk>")
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
    word_score, letter_score = UNKNOWN.values()
    for seed in range(250):
        random = np.random.default_rng(1000 + seed)
        alpha, beta = random.choice([0.0, 0.4, 1.3]), random.choice([0.0, 0.7, 2.0])
        decoder = CTCBeamSearchDecoder(tokenizer, arpas.get(unit), alpha=alpha, beta=beta, **UNKNOWN, **EVERYTHING)
        logits = random_logits(seed, len(tokenizer))
        expected = {}
        for labels, acoustic in enumerate_labellings(logits, blank).items():
            language = length = 0.0
            if unit:
                read = units(labels, tokenizer, unit)
                language = arpa_log_prob(arpa, read, word_score, letter_score if unit == "word" else 0.0)
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
            score = acoustic + 0.6 * arpa_log_prob(WORDS_ARPA, words, -10.0, -1.0) + 0.8 * len(words)
            text = " ".join(words)
            expected[text] = max(expected.get(text, -np.inf), score)
        found = decoder.decode(logits, 0.02, n_best=10_000)
        assert {one.text: one.score for one in found} == pytest.approx(expected, abs=1e-4)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_alpha_and_beta_of_zero_are_no_language_model(english, arpas):
    """The language model may not leak into the search where it has no weight: the same n-best and scores as without one."""
    random = np.random.default_rng(0)
    for _ in range(5):
        logits = 2 * random.normal(size=(60, len(english)))
        plain = CTCBeamSearchDecoder(english, beam_width=30, alpha=0, beta=0).decode(logits, 0.02, n_best=10)
        with_model = CTCBeamSearchDecoder(english, arpas["word"], beam_width=30, alpha=0, beta=0)
        found = with_model.decode(logits, 0.02, n_best=10)
        assert [(one.text, one.words, one.characters) for one in found] == [
            (one.text, one.words, one.characters) for one in plain
        ]
        assert [one.score for one in found] == pytest.approx([one.score for one in plain], abs=1e-9)


def test_pruning_of_the_paper(english):
    """Section 3.8: the fewest symbols whose probabilities reach 0.99, 40 at most; against a plain count, frame by frame."""
    random = np.random.default_rng(0)
    for cutoff, top in ((0.99, 40), (0.99, 3), (0.5, 40), (1.0, 5), (1.0, 29)):
        decoder = CTCBeamSearchDecoder(english, cutoff_probability=cutoff, cutoff_top_n=top)
        log_probs = log_softmax(random.normal(size=(50, 29)) * random.choice([1, 3, 8], size=(50, 1)))
        for frame, kept in zip(log_probs, decoder.kept_symbols(log_probs)):
            expected, reached = set(), 0.0
            for symbol in np.argsort(-frame):
                if reached >= cutoff < 1 or len(expected) == top:
                    break
                expected.add(int(symbol))
                reached += np.exp(frame[symbol])
            assert set(kept.tolist()) == expected - {english.pad_token_id}


def test_a_beam_of_one_still_finds_peaky_text(english):
    """With posteriors that leave no doubt, the beam search, the best path and the tokenizer agree, times included."""
    labels = english("it's a   narrow boat, too").input_ids
    logits = np.full((4 * len(labels), len(english)), -9.0)
    logits[:, english.pad_token_id] = 0
    for position, label in enumerate(labels):
        logits[4 * position + 1 : 4 * position + 3, label] = 9
    greedy = GreedyDecoder(english).decode(logits, 0.02)
    offsets = english.decode(logits.argmax(1), output_char_offsets=True)
    assert greedy[0].text == offsets["text"] == "it's a narrow boat too"
    expected = [
        (one["char"], 0.02 * one["start_offset"], 0.02 * one["end_offset"]) for one in offsets["char_offsets"]
    ]  # what transformers gives as times
    for width in (1, 2, 100):
        found = CTCBeamSearchDecoder(english, beam_width=width).decode(logits, 0.02)[0]
        for hypothesis in (found, greedy[0]):
            for one, (text, start, end) in zip(hypothesis.characters, expected, strict=True):
                assert (one.text, one.start, one.end) == (text, pytest.approx(start), pytest.approx(end))
            assert [word.text for word in hypothesis.words] == ["it's", "a", "narrow", "boat", "too"]
            assert all(0.99 < one.confidence <= 1 for one in hypothesis.words + hypothesis.characters)


def test_times_and_confidences_are_in_range(english, arpas):
    """Whatever the posteriors: times in order and within the audio, characters that spell the text, shares in [0, 1]."""
    decoder = CTCBeamSearchDecoder(english, arpas["word"])
    for seed in range(20):
        logits = np.random.default_rng(seed).normal(size=(40, 29)) * 10 ** np.random.default_rng(seed).uniform(-1, 3)
        for one in [*decoder.decode(logits, 0.04, n_best=5), *GreedyDecoder(english).decode(logits, 0.04)]:
            assert "".join(span.text for span in one.characters) == one.text == " ".join(word.text for word in one.words)
            for spans in (one.words, one.characters):
                times = [time for span in spans for time in (span.start, span.end)]
                assert times == sorted(times) and all(0 <= time <= 1.6 + 1e-9 for time in times)
                assert all(span.start < span.end and 0 <= span.confidence <= 1 for span in spans)


def test_mandarin_words_are_characters():
    """Each ideograph is a word with its own times; the text has no spaces."""
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "tokenizer" / "mandarin")
    labels = tokenizer("今天下雨").input_ids
    logits = np.zeros((3 * len(labels), len(tokenizer)))
    logits[np.arange(0, len(logits), 3), labels] = 30
    logits[np.arange(1, len(logits), 3), tokenizer.pad_token_id] = 30
    logits[np.arange(2, len(logits), 3), tokenizer.pad_token_id] = 30
    found = CTCBeamSearchDecoder(tokenizer).decode(logits, 0.06)[0]
    assert found.text == "今天下雨"
    assert [(word.text, round(word.start, 2)) for word in found.words] == [
        ("今", 0),
        ("天", 0.18),
        ("下", 0.36),
        ("雨", 0.54),
    ]


@pytest.mark.parametrize("language_model", [None, "word"])
@pytest.mark.parametrize("hotwords", [None, {"abba": 4.0}])
def test_a_stream_is_the_whole(english, arpas, language_model, hotwords):
    """Frames in pieces of any size give the same hypotheses and scores, bit for bit; what was stable stays as it was."""
    decoder = CTCBeamSearchDecoder(english, arpas.get(language_model), beam_width=20)
    random = np.random.default_rng(1)
    for _ in range(5):
        logits = 200 * random.normal(size=(80, 29))
        expected = decoder.decode(logits, 0.02, n_best=5, hotwords=hotwords)
        beam, stable = decoder.start(hotwords), []
        for piece in np.split(logits, np.sort(random.integers(0, 81, size=9))):
            decoder.step(beam, piece)
            now = decoder.stable_labels(beam)
            assert now[: len(stable)] == stable == decoder.best_labels(beam)[: len(stable)]
            stable = now
            decoder.hypotheses(beam, 0.02, is_final=False)  # a look at what there is changes nothing
        assert decoder.hypotheses(beam, 0.02, n_best=5) == expected
        assert len(stable) > 3


@pytest.mark.parametrize("beam_width", [1, 2, 50])
def test_stable_labels_are_what_all_prefixes_share(english, beam_width):
    """By definition: the longest common beginning of the labels of every prefix in the beam, after one frame or several."""
    decoder, random = CTCBeamSearchDecoder(english, beam_width=beam_width), np.random.default_rng(2)
    beam, lengths = decoder.start(), []

    def labels_from(node: int) -> list[int]:
        return [*labels_from(beam.parents[node]), int(beam.symbols[node])] if node else []

    for scale in np.repeat([3.0, 60.0, 1.0, 60.0], 15):
        decoder.step(beam, scale * random.normal(size=(int(random.integers(1, 4)), 29)))
        labels = [labels_from(node) for node in beam.prefixes.node]
        assert [beam.labels(int(node)) for node in beam.prefixes.node] == labels
        shared = [symbols[0] for symbols in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*labels))]
        assert decoder.stable_labels(beam) == shared
        lengths.append(len(shared))
    assert lengths[-1] > 3


def hotword_bonus(text: str, hotwords: dict[str, float], whole_words: bool) -> float:
    """By definition: every occurrence adds the weight, between spaces where words are spelled with letters."""
    text, total = f" {text} " if whole_words else text, 0.0
    for word, weight in hotwords.items():
        word = f" {word} " if whole_words else word
        total += weight * sum(text.startswith(word, start) for start in range(len(text)))
    return total


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hot_words_against_the_enumeration(language):
    """Each occurrence of a hot word adds its own weight to Q, no more and no less, whatever was begun and not finished."""
    hotwords = (
        {"a": 0.7, "ab": 2.5, "b a": 1.3, "bb": 1.9, "abab": 3.0} if language == "en" else {"一二": 2.5, "二一二": 1.3}
    )
    letters = "ab" if language == "en" else "一二"
    tokenizer = DeepSpeech2CTCTokenizer.from_texts([letters], language=language)
    decoder = CTCBeamSearchDecoder(tokenizer, **EVERYTHING)
    for seed in range(100):
        logits = random_logits(seed, len(tokenizer))
        expected: dict[str, float] = {}
        for labels, acoustic in enumerate_labellings(logits, tokenizer.pad_token_id).items():
            spelled = "".join(tokenizer.convert_ids_to_tokens(list(labels))).replace("|", " ")
            text = " ".join(spelled.split())
            score = acoustic + hotword_bonus(spelled, hotwords, language == "en")
            expected[text] = max(expected.get(text, -np.inf), score)
        found = {one.text: one.score for one in decoder.decode(logits, 0.02, n_best=10_000, hotwords=hotwords)}
        assert found == pytest.approx(expected, abs=1e-4)


def test_hot_words_win_a_close_call(english):
    """A name that is nearly heard comes out when it is hot, and a word begun like it does not gain from it."""
    heard = english("call ivan").input_ids
    logits = np.full((2 * len(heard), 29), -4.0)
    logits[1::2, english.pad_token_id] = 4
    logits[np.arange(0, len(logits), 2), heard] = 4
    logits[2 * 5, english.convert_tokens_to_ids("e")] = 4.5  # evan, a little more likely
    decoder = CTCBeamSearchDecoder(english)
    assert decoder.decode(logits, 0.02)[0].text == "call evan"
    assert decoder.decode(logits, 0.02, hotwords={"ivan": 2.0})[0].text == "call ivan"
    assert decoder.decode(logits, 0.02, hotwords={"ivanhoe": 2.0})[0].text == "call evan"
    assert decoder.decode(logits, 0.02, hotwords={"Call Ivan!": 2.0})[0].text == "call ivan"


def test_ten_thousand_hot_words(english):
    """Built once for all utterances, in a second at most, and in memory that is linear in their letters."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlcumwfgypbvkjxqz"))
    words = {"".join(random.choice(letters, size)): 3.0 for size in random.integers(4, 14, 10_000)}
    decoder = CTCBeamSearchDecoder(english)
    begin = time.process_time()
    beam = decoder.start(words)
    assert time.process_time() - begin < 4  # half a second where nothing else runs
    tracemalloc.start()
    CTCBeamSearchDecoder(english).start(dict(list(words.items())[:1000]))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert decoder.start(dict(words)).hotwords is beam.hotwords
    assert decoder.start({"word": 3.0}).hotwords is not beam.hotwords
    labels = english(word := next(iter(words))).input_ids
    logits = np.full((2 * len(labels), 29), -3.0)
    logits[np.arange(0, len(logits), 2), labels] = 3
    logits[1::2, english.pad_token_id] = 3
    logits[2] = 0  # one letter is missing
    assert decoder.decode(logits, 0.02, hotwords=words)[0].text == word


def test_batch_is_one_by_one(english, arpas):
    """On several cores the same as alone, in the same order, whatever the lengths; none at all is fine."""
    decoder = CTCBeamSearchDecoder(english, arpas["word"], beam_width=20)
    logits = [np.random.default_rng(size).normal(size=(size, 29)) * 4 for size in (0, 1, 30, 7, 50)]
    expected = [decoder.decode(one, 0.02, 2, {"ab": 1.0}) for one in logits]
    for num_processes in (1, 2, None):
        assert decoder.decode_batch(logits, 0.02, 2, {"ab": 1.0}, num_processes) == expected
    assert decoder.decode_batch([], 0.02) == []
    tensors = [torch.from_numpy(one).float() for one in logits]
    assert decoder.decode_batch(tensors, 0.02, 2) == [decoder.decode(one, 0.02, 2) for one in tensors]


def test_saved_decoder_comes_back(english, arpas, tmp_path):
    """Settings and language model from one folder; settings can be changed on reading."""
    NGramModel.load(arpas["word"]).save(tmp_path / "any name.safetensors")
    english.save_pretrained(tmp_path / "model")
    logits = np.random.default_rng(0).normal(size=(40, 29)) * 3
    for name in ("lm.txt", "3-gram.pruned.1e-7.arpa", "EN.ARPA"):  # as people call them
        (tmp_path / name).write_bytes(arpas["word"].read_bytes())
    (tmp_path / "lm.v2.arpa.gz").write_bytes(gzip.compress(arpas["word"].read_bytes()))
    for model, name in (
        (tmp_path / "any name.safetensors", "language_model.safetensors"),
        (arpas["word"], "language_model.arpa"),
        (tmp_path / "lm.txt", "language_model.arpa"),
        (tmp_path / "3-gram.pruned.1e-7.arpa", "language_model.arpa"),
        (tmp_path / "EN.ARPA", "language_model.arpa"),
        (tmp_path / "lm.v2.arpa.gz", "language_model.arpa.gz"),
        (None, None),
    ):
        decoder = CTCBeamSearchDecoder(
            english, model, alpha=0.7, beta=0.3, beam_width=17, cutoff_probability=0.9, cutoff_top_n=9, unknown_word_score=-2
        )
        decoder.save_pretrained(tmp_path / "model")
        decoder.save_pretrained(tmp_path / "model")  # over itself
        assert name is None or (tmp_path / "model" / name).exists()
        again = CTCBeamSearchDecoder.from_pretrained(tmp_path / "model", english)
        assert again.decode(logits, 0.02, 5) == decoder.decode(logits, 0.02, 5)
        again.save_pretrained(tmp_path / "model")
        assert (again.alpha, again.beam_width, again.cutoff_top_n) == (0.7, 17, 9)
        assert CTCBeamSearchDecoder.from_pretrained(tmp_path / "model", english, beam_width=3).beam_width == 3


ERRORS = [
    ({"alpha": -0.1}, "alpha: found -0.1, expected a number of at least 0"),
    ({"alpha": math.nan}, "alpha: found nan"),
    ({"beta": -1}, "beta: found -1"),
    ({"beam_width": 0}, "beam_width: found 0, expected an integer of at least 1"),
    ({"beam_width": 2.5}, "beam_width: found 2.5"),
    ({"beam_width": math.inf}, "beam_width: found inf"),
    ({"beam_width": "100"}, "beam_width: found '100', expected an integer"),
    ({"alpha": None}, "alpha: found None, expected a number"),
    ({"alpha": True}, "alpha: found True"),
    ({"cutoff_top_n": 0}, "cutoff_top_n: found 0"),
    ({"cutoff_probability": 0}, "cutoff_probability: found 0"),
    ({"cutoff_probability": 1.1}, "cutoff_probability: found 1.1"),
    ({"beam_threshold": 0}, "beam_threshold: found 0"),
    ({"unknown_word_score": 1}, "unknown_word_score: found 1"),
    ({"unknown_letter_score": 1}, "unknown_letter_score: found 1"),
    ({"alpha": 1e4}, "alpha: found 10000.0, expected a number of at least 0 and at most 1,000"),
    ({"beta": math.inf}, "beta: found inf"),
    ({"beam_width": 10**9}, "beam_width: found 1000000000, expected an integer of at least 1 and at most 100,000"),
    ({"cutoff_top_n": 10**9}, "cutoff_top_n: found 1000000000"),
    ({"beam_threshold": math.nan}, "beam_threshold: found nan"),
    ({"unknown_word_score": -math.inf}, "unknown_word_score: found -inf"),
    ({"language_model": "no/such.arpa"}, "There is no language model no/such.arpa"),
]


@pytest.mark.parametrize("settings, message", ERRORS, ids=str)
def test_bad_settings(english, settings, message):
    """One sentence when the decoder is made, before any audio is read."""
    with pytest.raises(ValueError, match=message) as caught:
        CTCBeamSearchDecoder(english, **settings)
    assert "\n" not in str(caught.value)


def test_language_model_of_another_alphabet(english, tmp_path):
    """Words that the tokenizer cannot spell, capitals or Cyrillic, are told apart from a few odd ones."""
    for letters, is_fine in (("абв", False), ("ABC", False), ("abc", True), ("abcdefgß", True)):
        words = "".join(f"-1\t{letter}\t0\n" for letter in letters)
        (tmp_path / "lm.arpa").write_text(
            f"\\data\\\nngram 1={3 + words.count(chr(10))}\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-1\t</s>\n{words}\n\\end\\\n"
        )
        if is_fine:
            CTCBeamSearchDecoder(english, tmp_path / "lm.arpa")
        else:
            with pytest.raises(LanguageModelError, match="of another alphabet: .* build it with") as caught:
                CTCBeamSearchDecoder(english, tmp_path / "lm.arpa")
            assert "\n" not in str(caught.value)


def test_language_model_of_words_for_mandarin(arpas):
    """The likeliest mistake: the Mandarin alphabet has all letters of an English model, and yet is decoded by character."""
    with pytest.raises(LanguageModelError, match="of words, but .* no spaces between words and is decoded by character"):
        CTCBeamSearchDecoder(AutoTokenizer.from_pretrained("tokenizer/mandarin"), arpas["word"])


@pytest.mark.parametrize(
    "content, message",
    [
        ("{oops", "decoder_config.json of .* is damaged"),
        ("[1]", "decoder_config.json of .* is damaged"),
        ('{"gamma": 1}', "has no setting 'gamma'; there are alpha, beta"),
        ('{"alpha": "x"}', "decoder_config.json of .*: alpha: found 'x', expected a number"),
        ('{"alpha": null}', "decoder_config.json of .*: alpha: found None"),
        ('{"alpha": NaN}', "decoder_config.json of .*: alpha: found nan"),
        ('{"beam_width": 1e9}', "decoder_config.json of .*: beam_width: found 1000000000.0, expected an integer"),
        ('{"beam_width": [100]}', "decoder_config.json of .*: beam_width: found .100."),
        ('{"language_model": 5}', "language_model: found 5, expected the name of a file beside it"),
        ('{"language_model": "../lm.arpa"}', "language_model: found '../lm.arpa', expected the name of a file beside it"),
        ("[" * 100_000, "decoder_config.json of .* is damaged"),
        ("", "decoder_config.json of .* is damaged"),
    ],
)
def test_decoder_config_that_is_damaged(english, tmp_path, content, message):
    (tmp_path / "decoder_config.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        CTCBeamSearchDecoder.from_pretrained(tmp_path, english)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda decoder: decoder.decode(np.zeros(5), 0.02), r"found shape \(5,\), expected \(frames, vocab_size\)"),
        (lambda decoder: decoder.decode(np.zeros((5, 7)), 0.02), "found 7 symbols, expected the 29"),
        (lambda decoder: decoder.decode(np.full((5, 29), np.nan), 0.02), "found NaN or infinity in frame 0"),
        (lambda decoder: decoder.decode(np.diag([0, 0, np.inf] + [0] * 26), 0.02), "found NaN or infinity in frame 2"),
        (lambda decoder: decoder.decode(torch.tensor([[0.0] * 29, [-math.inf] * 29]), 0.02), "infinity in frame 1"),
        (lambda decoder: decoder.decode(np.zeros((5, 29)), 0.02, n_best=0), "n_best: found 0"),
        (lambda decoder: decoder.decode(np.zeros((5, 29)), 0.02, n_best=2.5), "n_best: found 2.5"),
        (lambda decoder: decoder.start({"word": -1.0}), "the weight -1.0 of 'word'"),
        (lambda decoder: decoder.start({"word": math.inf}), "the weight inf of 'word'"),
        (lambda decoder: decoder.start({"word": "5"}), "the weight '5' of 'word'"),
        (lambda decoder: decoder.start(["word"]), "found a list, expected a dict"),
        (lambda decoder: decoder.start({"слово": 1.0}), "no symbols for 'слов'"),
        (lambda decoder: decoder.start({" ": 1.0}), "no symbols for"),
        (lambda decoder: decoder.start({5: 1.0}), "found 5, expected a word or phrase"),
        (
            lambda decoder: decoder.start({"a" * 1_000_001: 1.0}),
            "of 1,000,001 letters, expected at most",
        ),
        (lambda decoder: GreedyDecoder(decoder.tokenizer).start({"word": 1.0}), "found 1 without a beam search"),
    ],
)
def test_bad_calls(english, call, message):
    with pytest.raises(ValueError, match=message):
        call(CTCBeamSearchDecoder(english))


def test_no_decoder_in_the_folder(tmp_path, english):
    """What is missing is named: the decoder, or the language model that it was saved with."""
    with pytest.raises(LanguageModelError, match="There is no decoder in"):
        CTCBeamSearchDecoder.from_pretrained(tmp_path, english)
    (tmp_path / "decoder_config.json").write_text('{"alpha": 1.0, "language_model": "language_model.safetensors"}')
    with pytest.raises(LanguageModelError, match="needs its language model language_model.safetensors, which is not there"):
        CTCBeamSearchDecoder.from_pretrained(tmp_path, english)
