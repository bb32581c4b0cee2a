"""Finds the weights of the language model, alpha and beta, on a development split (`deepspeech2 tune`).

The logits are computed once. A grid over alpha and beta comes first, then two finer grids around the best pair; each pair
costs one pass of the beam search over the split. The decoder is saved in the model's folder, with `decoder_tuning.json`,
which holds the data measured on and the error rate of every pair, and with a picture of it.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ..data.sources import DataError, SpeechData
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..recognition import Recognition
from ..training.evaluation import emissions
from ..training.metrics import ErrorRates


SURFACE = "decoder_tuning"  # .png and .json
GRID = 6  # values of alpha and of beta in the first round


@dataclass
class Tuning:
    """Error rates of a split by (alpha, beta)."""

    metric: str
    greedy: float
    rates: dict[tuple[float, float], float]

    @property
    def best(self) -> tuple[float, float]:
        """The pair with the lowest rate; of equal ones that which leans least on the language model."""
        return min(self.rates, key=lambda pair: (self.rates[pair], pair))

    def __str__(self) -> str:
        alpha, beta = self.best
        return (
            f"best: alpha {alpha:g}, beta {beta:g}: {self.metric.upper()} {self.rates[self.best]:.2%}; without a language "
            f"model {self.rates[0.0, 0.0]:.2%}, best path {self.greedy:.2%}"
        )


def first_round(max_alpha: float, max_beta: float) -> list[tuple[float, float]]:
    return [
        (round(float(alpha), 6), round(float(beta), 6))
        for alpha in np.linspace(0, max_alpha, GRID)
        for beta in np.linspace(0, max_beta, GRID)
    ]


def finer(pair: tuple[float, float], alpha_step: float, beta_step: float) -> list[tuple[float, float]]:
    """The eight neighbours of a pair."""
    found = [
        (round(max(0.0, pair[0] + i * alpha_step), 6), round(max(0.0, pair[1] + j * beta_step), 6))
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    return [other for other in dict.fromkeys(found) if other != pair]


_work: tuple[Recognition, list[np.ndarray]]


def _share(*work) -> None:
    global _work
    _work = work


def _transcribe(task: tuple[float, float, int]) -> str:
    alpha, beta, utterance = task
    recognition, logits = _work
    recognition.decoder.alpha, recognition.decoder.beta = alpha, beta
    return recognition.transcript([logits[utterance]])[0].text


class _Workers:
    """Processes that transcribe all utterances with one pair of weights after the other."""

    def __init__(self, recognition: Recognition, logits: list[np.ndarray], num_processes: int):
        self.num_utterances = len(logits)
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        self.pool = ProcessPoolExecutor(num_processes, context, _share, (recognition, logits))

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def transcribe(self, alpha: float, beta: float) -> Iterator[str]:
        """The texts of the utterances, in order."""
        tasks = [(alpha, beta, number) for number in range(self.num_utterances)]
        try:
            yield from self.pool.map(_transcribe, tasks, chunksize=4)
        except BrokenProcessPool as error:
            raise UserError(
                "One of the processes that tune was killed, most likely for lack of memory: use fewer (--processes)."
            ) from error


def tune(
    recognition: Recognition,
    logits: list[np.ndarray],
    references: list[str],
    max_alpha: float = 2.0,
    max_beta: float = 3.0,
    num_processes: int = 1,
) -> Tuning:
    """Tries pairs of alpha and beta; leaves the decoder with the best one.

    Args:
        recognition: with a beam search.
        logits: of each utterance, shape (frames, vocab_size).

    Raises:
        UserError: one of the processes was killed.
    """
    decoder = recognition.decoder
    metric = decoder.tokenizer.error_metric
    rates = ErrorRates(decoder.tokenizer.word_boundaries)
    best_path = [found[0].text for found in recognition.with_best_path().transcripts(logits)]
    greedy = rates.compute(predictions=best_path, references=references)[metric]
    tuning = Tuning(metric, greedy, {})
    alpha_step, beta_step = max_alpha / (GRID - 1), max_beta / (GRID - 1)
    total = (GRID**2 + 16) * len(logits)
    with (
        _Workers(recognition, logits, num_processes) as workers,
        tqdm(total=total, desc="tuning", unit=" transcripts") as bar,
    ):
        for round_ in range(3):
            if round_ == 0:
                pairs = first_round(max_alpha, max_beta)
            else:
                pairs = finer(tuning.best, alpha_step / 2**round_, beta_step / 2**round_)
            for alpha, beta in pairs:
                if (alpha, beta) not in tuning.rates:
                    texts = []
                    for text in workers.transcribe(alpha, beta):
                        texts.append(text)
                        bar.update()
                    tuning.rates[alpha, beta] = rates.compute(predictions=texts, references=references)[metric]
                best = tuning.best
                bar.set_postfix_str(f"best {metric.upper()} {tuning.rates[best]:.2%} at alpha {best[0]:g}, beta {best[1]:g}")
        bar.total = bar.n  # at the edge of the grid there are fewer neighbours
        bar.refresh()
    decoder.alpha, decoder.beta = tuning.best
    return tuning


def draw_surface(tuning: Tuning, title: str, file: Path) -> None:
    """Error rate over alpha and beta, every pair a point, the best one a star."""
    alphas, betas = (np.array(axis) for axis in zip(*tuning.rates))
    values = 100 * np.array(list(tuning.rates.values()))
    figure = Figure(figsize=(6.5, 4.5))  # no pyplot: its backend is the notebook's or the caller's
    axis = figure.subplots()
    if values.min() < values.max():
        contours = axis.tricontourf(alphas, betas, values, levels=16, cmap="viridis_r")
        figure.colorbar(contours, label=f"{tuning.metric.upper()}, %")
    axis.plot(alphas, betas, ".", color="black", ms=3)
    alpha, beta = tuning.best
    axis.plot(alpha, beta, "*", color="red", ms=14, label=f"best: {100 * tuning.rates[tuning.best]:.2f} %")
    axis.set(xlabel="alpha, weight of the language model", ylabel="beta, bonus of a word or character", title=title)
    axis.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def collect(
    model: DeepSpeech2ForCTC, processor: DeepSpeech2Processor, data: SpeechData, limit: int, batch_size: int, seed: int
) -> tuple[list[np.ndarray], list[str], list[tuple[str, str]], float]:
    """Logits in half precision and texts of up to `limit` utterances drawn at random, what was left out, and seconds."""
    if limit and limit < len(data.index):
        chosen = np.zeros(len(data.index), bool)
        chosen[np.random.default_rng(seed).permutation(len(chosen))[:limit]] = True
        data.index = data.index.select(chosen)
    logits, references, skipped, seconds = [], [], [], 0.0
    for batch, found in emissions(model, processor, data, Accelerator(), batch_size, "logits"):
        logits += [one.log_softmax(-1).clamp(min=-100).to(torch.float16).numpy() for one in found]
        references += batch["texts"]
        skipped += batch["skipped"]
        seconds += batch["seconds"]
    if not references:
        raise DataError(f"The split {' '.join(data.splits)} holds no utterance that can be used.")
    return logits, references, skipped, seconds
