"""Compares the beam search with other decoders, where they are installed.

    pip install --no-deps ctc-beam-decoder pyctcdecode pygtrie kenlm

The language model is a 5-gram estimated from a million words of a random process with a vocabulary like that of a language
(20,000 words, Zipf's law), so that no text is needed. The posteriors are either peaky, like those of a trained model, or
flat.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from benchmarks.measure import in_turns, ratio
from modeling_deepspeech2.decoding_deepspeech2 import CTCBeamSearchDecoder
from modeling_deepspeech2.language_models.estimation import build
from modeling_deepspeech2.ngram import NGramModel
from modeling_deepspeech2.tokenization_deepspeech2 import DeepSpeech2CTCTokenizer


try:
    import ctc_beam_decoder
except ImportError:
    ctc_beam_decoder = None
try:
    import kenlm  # noqa: F401
    import pyctcdecode
except ImportError:
    pyctcdecode = None

FRAMES, WIDTH, ALPHA, BETA = 500, 100, 0.5, 1.5
TOY_ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-1.5\t<unk>
-0.7\ta\t-0.2
-0.9\tb\t-0.25
-1.1\tab\t-0.1

\\2-grams:
-0.3\t<s> a
-0.5\ta ab
-0.4\tab </s>

\\end\\
"""


def random_text(vocabulary: list[str], separator: str, length: int, random: np.random.Generator) -> list[str]:
    """Lines of 12 words; each depends a little on the one before it, and is drawn by Zipf's law."""
    ranks = np.minimum(random.zipf(1.2, size=(length // 12, 12)) - 1, len(vocabulary) - 1)
    ranks[:, 1:] = np.where(random.random(ranks[:, 1:].shape) < 0.5, (7 * ranks[:, :-1] + 1) % 997, ranks[:, 1:])
    return [separator.join(vocabulary[rank % len(vocabulary)] for rank in line) for line in ranks]


def posteriors(labels: list[int], num_symbols: int, blank: int, kind: str, random: np.random.Generator) -> np.ndarray:
    """Log-probabilities, shape (FRAMES, num_symbols), float32 as a model gives them.

    Peaky: the best symbol of a frame has 50 to 99.99 % (uniform in the exponent of the rest), mostly the blank. Flat: the
    softmax of noise.
    """
    logits = random.normal(size=(FRAMES, num_symbols)) * (2 if kind == "peaky" else 1)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    if kind == "peaky":
        best = np.full(FRAMES, blank)
        best[np.sort(random.choice(np.arange(2, FRAMES - 2, 3), len(labels), replace=False))] = labels
        rest = 10 ** random.uniform(-4, -0.3, size=FRAMES)
        log_probs += np.log(rest)[:, None]
        log_probs[np.arange(FRAMES), best] = np.log(1 - rest)
    return log_probs.astype(np.float32)


def write_arpa(model: NGramModel, file: Path) -> None:
    spelled: list[list[str]] = []
    lines = ["\\data\\", *(f"ngram {size}={number}" for size, number in enumerate(model.num_ngrams, 1))]
    for size, order in enumerate(model.orders, 1):
        last = [model.words[number] for number in order.words]
        spelled.append(last if size == 1 else [f"{spelled[-1][c]} {word}" for c, word in zip(order.contexts, last)])
        lines += ["", f"\\{size}-grams:"]
        scores = zip((order.log_probs / np.log(10)).tolist(), spelled[-1], (order.backoffs / np.log(10)).tolist())
        lines += [f"{score:.6f}\t{words}\t{backoff:.6f}" for score, words, backoff in scores]
    file.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")


def labels_of(tokenizer: DeepSpeech2CTCTokenizer) -> list[str]:
    """The alphabet as the other decoders want it."""
    names = {tokenizer.pad_token: "", tokenizer.word_delimiter_token: " "}
    return [names.get(symbol, symbol) for symbol in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]


def rivals(tokenizer: DeepSpeech2CTCTokenizer, arpa: Path, words: list[str]) -> dict[str, Callable[[np.ndarray], object]]:
    found = {}
    for name, library in (("ctc-beam-decoder", ctc_beam_decoder), ("pyctcdecode", pyctcdecode)):
        if library is None:
            print(f"{name} is not installed, so it is left out.", file=sys.stderr)
        else:
            decoder = library.build_ctcdecoder(labels_of(tokenizer), str(arpa), unigrams=words, alpha=ALPHA, beta=BETA)
            found[name] = lambda log_probs, decoder=decoder: decoder.decode_beams(log_probs, beam_width=WIDTH)
    return found


def decoding(rounds: int) -> Iterator[tuple[str, str, str]]:
    random = np.random.default_rng(0)
    english = AutoTokenizer.from_pretrained("tokenizer/english")
    letters = np.array(list("etaoinshrdlcumwfgypbvkjxqz"))
    vocabulary = ["".join(letters[np.minimum(random.zipf(1.3, size=1 + n % 9) - 1, 25)]) for n in range(20_000)]
    with tempfile.TemporaryDirectory() as folder:
        model, _ = build(random_text(vocabulary, " ", 1_000_000, random), english, "word", held_out=0)
        model.save(Path(folder) / "lm.safetensors")
        decoder = CTCBeamSearchDecoder(english, Path(folder) / "lm.safetensors", ALPHA, BETA, WIDTH)
        write_arpa(model, Path(folder) / "lm.arpa")
        others = rivals(english, Path(folder) / "lm.arpa", model.words[3:])
        labels = english(" ".join(vocabulary[:30])).input_ids[:120]
        for kind, target in (("peaky", "≤ 150 ms"), ("flat", "≤ 500 ms")):
            log_probs = posteriors(labels, len(english), english.pad_token_id, kind, random)
            contenders = {"ours": lambda log_probs=log_probs: decoder.decode(log_probs, 0.02)}
            for name, run in others.items():
                contenders[name] = lambda log_probs=log_probs, run=run: run(log_probs)
            timings = in_turns(contenders, rounds, kind)
            what = f"beam search, T={FRAMES}, V={len(english)}, beam {WIDTH}, 5-gram, {kind}"
            yield what, f"{1e3 * timings['ours'].median:.0f} ms", target
            for name in others:
                yield f"– {name}", str(ratio(timings["ours"], timings[name])), ""

        characters = [chr(0x4E00 + number) for number in range(3998)]
        mandarin = DeepSpeech2CTCTokenizer.from_texts(["".join(characters)], language="zh")
        model, _ = build(random_text(characters, "", 1_000_000, random), mandarin, "character", held_out=0)
        model.save(Path(folder) / "lm.safetensors")
        decoder = CTCBeamSearchDecoder(mandarin, Path(folder) / "lm.safetensors", ALPHA, BETA, WIDTH)
        labels = mandarin("".join(characters[:40])).input_ids
        for kind, target in (("peaky", "≤ 120 ms"), ("flat", "")):
            log_probs = posteriors(labels, len(mandarin), mandarin.pad_token_id, kind, random)
            timing = in_turns({"ours": lambda log_probs=log_probs: decoder.decode(log_probs, 0.02)}, rounds, kind)["ours"]
            what = f"beam search, T={FRAMES}, V={len(mandarin)}, beam {WIDTH}, 5-gram of characters, {kind}"
            yield what, f"{1e3 * timing.median:.0f} ms", target
        yield from exactness(Path(folder))


def exactness(folder: Path, cases: int = 200) -> Iterator[tuple[str, str, str]]:
    """How often the text with the best Q is found by a beam wide enough for everything; Q by enumeration of all paths.

    The others get credit for the best text, with all its labellings joined, ours for the best labelling.
    """
    (folder / "toy.arpa").write_text(TOY_ARPA)
    model = NGramModel.load(folder / "toy.arpa")
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(["ab"])
    everything = {"beam_width": 10**5, "cutoff_probability": 1.0, "beam_threshold": np.inf}
    everything |= {"unknown_word_score": 0.0, "unknown_letter_score": 0.0}
    ours = CTCBeamSearchDecoder(tokenizer, folder / "toy.arpa", ALPHA, BETA, **everything)
    decoders = {"ours": lambda log_probs: ours.decode(log_probs, 0.02)[0].text}
    for name, library in (("ctc-beam-decoder", ctc_beam_decoder), ("pyctcdecode", pyctcdecode)):
        if library is not None:
            settings = {"alpha": ALPHA, "beta": BETA, "unk_score_offset": 0.0, "unigrams": ["a", "b", "ab"]}
            other = library.build_ctcdecoder(labels_of(tokenizer), str(folder / "toy.arpa"), **settings)
            wide = {"beam_width": 10**5, "beam_prune_logp": -1e9, "token_min_logp": -1e9}
            decoders[name] = lambda log_probs, other=other, wide=wide: other.decode_beams(log_probs, **wide)[0][0]
    names = labels_of(tokenizer)
    right = dict.fromkeys(decoders, 0)
    for seed in range(cases):
        random = np.random.default_rng(seed)
        logits = 2 * random.normal(size=(random.integers(1, 6), 4))
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        labellings: dict[str, float] = {}
        for path in itertools.product(range(4), repeat=len(log_probs)):
            labels = "".join(names[symbol] for symbol, _ in itertools.groupby(path))
            score = log_probs[np.arange(len(path)), path].sum()
            labellings[labels] = np.logaddexp(labellings.get(labels, -np.inf), score)
        texts: dict[str, float] = {}  # the others join labellings that differ in spaces alone
        for labels, acoustic in labellings.items():
            words = labels.split()
            labellings[labels] += ALPHA * model.sentence(words)[0].sum() + BETA * len(words)
            acoustic = np.logaddexp(texts.get(" ".join(words), -np.inf), acoustic)
            texts[" ".join(words)] = acoustic
        for text in texts:
            texts[text] += ALPHA * model.sentence(text.split())[0].sum() + BETA * len(text.split())
        best_labelling, best_text = max(labellings, key=labellings.get), max(texts, key=texts.get)
        for name, decode in decoders.items():
            right[name] += decode(log_probs) == (" ".join(best_labelling.split()) if name == "ours" else best_text)
    for name, number in right.items():
        yield f"best text found, {cases} small cases with a language model, {name}", f"{number}", f"{cases}"
