"""Find the weights of the language model: a model and a development split in; out come alpha and beta and a picture.

    python -m modeling_deepspeech2.language_models.tuning --model runs/mine --language_model lm.safetensors \\
        --dataset my_speech --split validation

The logits are computed once. A grid over alpha and beta comes first, then two finer ones around the best pair; each pair is
one pass of the beam search over the split. The folder of the model ends up with the decoder, `decoder_tuning.json`, which
holds every pair with its error rate and says what it was measured on, and the same as a picture.
"""

import argparse
import json
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..data.sources import DataError, SpeechData
from ..decoding_deepspeech2 import CTCBeamSearchDecoder
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..training.evaluation import emissions
from ..training.metrics import ErrorRates


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


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


_work: tuple[CTCBeamSearchDecoder, list[np.ndarray]]


def _share(*work) -> None:
    global _work
    _work = work


def _transcribe(task: tuple[float, float, int]) -> str:
    alpha, beta, utterance = task
    decoder, logits = _work
    decoder.alpha, decoder.beta = alpha, beta
    beam = decoder.step(decoder.start(), logits[utterance].astype(np.float64))
    labels = decoder.best_labels(beam, is_final=True)
    return " ".join(decoder.tokenizer.decode(labels, group_tokens=False).split())


def tune(
    decoder: CTCBeamSearchDecoder,
    logits: list[np.ndarray],
    references: list[str],
    max_alpha: float = 2.0,
    max_beta: float = 3.0,
    num_processes: int = 1,
) -> Tuning:
    """Tries pairs of alpha and beta; leaves the decoder with the best one.

    Args:
        logits: of each utterance, shape (frames, vocab_size).
    """
    metric = "cer" if decoder.tokenizer.language == "zh" else "wer"
    rates = ErrorRates()
    best_path = [decoder.tokenizer.decode(one.argmax(1)) for one in logits]
    greedy = rates.compute(predictions=best_path, references=references)[metric]
    tuning = Tuning(metric, greedy, {})
    alpha_step, beta_step = max_alpha / (GRID - 1), max_beta / (GRID - 1)
    total = (GRID**2 + 16) * len(logits)
    _share(decoder, logits)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with (
        context.Pool(num_processes, _share, (decoder, logits)) as pool,
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
                    for text in pool.imap(_transcribe, [(alpha, beta, number) for number in range(len(logits))], 4):
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
    figure, axis = plt.subplots(figsize=(6.5, 4.5))
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
    plt.close(figure)


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
        lengths = batch["attention_mask"][:, :: model.config.time_stride].sum(1).tolist()
        for one, length in zip(found.log_softmax(-1), lengths):
            logits.append(one[:length].clamp(min=-100).cpu().to(torch.float16).numpy())
        references += batch["texts"]
        skipped += batch["skipped"]
        seconds += batch["seconds"]
    if not references:
        raise DataError(f"The split {' '.join(data.splits)} holds no utterance that can be used.")
    return logits, references, skipped, seconds


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_deepspeech2.language_models.tuning",
        description="Tune alpha and beta of the beam search on a development split, and save the decoder with the model.\n\n"
        "Q = log p_ctc + alpha · log p_lm + beta · words (characters in Mandarin). Lower is better: the word error\n"
        "rate, in Mandarin the character error rate. Measure a test split only afterwards, with run_ctc.py --eval_only.",
        epilog="example:\n  %(prog)s --model runs/mine --language_model lm.safetensors --dataset mine --split validation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="folder of a trained model, or a name on the Hub")
    parser.add_argument("--language_model", required=True, type=Path, help=".safetensors, or ARPA, plain, .gz or .xz")
    parser.add_argument("--dataset", required=True, help="as in run_ctc.py: a folder or a name on the Hub")
    parser.add_argument(
        "--split",
        required=True,
        nargs="+",
        help="what to tune on, as in run_ctc.py: [DATA SET::][CONFIGURATION/]SPLIT; never what you test on",
    )
    parser.add_argument("--output", type=Path, help="folder for the decoder (default: the model's)")
    parser.add_argument("--max_utterances", type=int, default=400, help="drawn at random; 0: all (default %(default)s)")
    parser.add_argument("--max_alpha", type=float, default=2.0, help="of the first grid (default %(default)s)")
    parser.add_argument("--max_beta", type=float, default=3.0, help="of the first grid (default %(default)s)")
    parser.add_argument("--beam_width", type=int, default=100, help="here and in the decoder saved (default %(default)s)")
    parser.add_argument("--audio_column", default="audio")
    parser.add_argument("--text_column", default="text")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_processes", type=int, help="of the search (default: all cores)")
    parser.add_argument("--seed", type=int, default=0, help="of the utterances drawn")
    settings = parser.parse_args(arguments)
    for split in settings.split:
        if split.rpartition("::")[2].rpartition("/")[2].startswith("test"):
            parser.error(f"--split: found the test split {split}; weights that were tuned on it make its figures worthless")
    if settings.output is None and not Path(settings.model).is_dir():
        parser.error(f"--output: needed, because the model {settings.model} is not a folder")
    if settings.max_alpha <= 0 or settings.max_beta <= 0:
        parser.error("--max_alpha and --max_beta must be above 0")
    if settings.num_processes is None:
        settings.num_processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return settings


def main(arguments: list[str] | None = None) -> None:
    settings = parse_arguments(arguments)
    output = settings.output or Path(settings.model)
    try:
        processor = DeepSpeech2Processor.from_pretrained(settings.model)
        decoder = CTCBeamSearchDecoder(processor.tokenizer, settings.language_model, beam_width=settings.beam_width)
        model = DeepSpeech2ForCTC.from_pretrained(settings.model).eval()
        data = SpeechData(settings.dataset, settings.split, settings.audio_column, settings.text_column)
        logits, references, skipped, seconds = collect(
            model, processor, data, settings.max_utterances, settings.batch_size, settings.seed
        )
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    measured_on = f"{' '.join(settings.split)} of {settings.dataset}"
    print(f"Tuning on {measured_on}: {len(references):,} utterances, {seconds / 3600:.2f} h.")
    for name, reason in skipped:
        print(f"  left out: {name}: {reason}")
    tuning = tune(decoder, logits, references, settings.max_alpha, settings.max_beta, settings.num_processes)
    decoder.save_pretrained(output)
    table = {
        "splits": settings.split,
        "utterances": len(references),
        "left_out": len(skipped),
        "metric": tuning.metric,
        "best_path": tuning.greedy,
        "rates": [{"alpha": alpha, "beta": beta, "rate": rate} for (alpha, beta), rate in sorted(tuning.rates.items())],
    }
    (output / f"{SURFACE}.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    draw_surface(tuning, f"{len(references):,} utterances of {' '.join(settings.split)}", output / f"{SURFACE}.png")
    print(f"{tuning}; saved in {output}.")
    for name, value, limit in (("alpha", tuning.best[0], settings.max_alpha), ("beta", tuning.best[1], settings.max_beta)):
        if value >= limit:
            print(f"The best {name} is at the edge of what was tried: a higher --max_{name} may do better.")


if __name__ == "__main__":
    main()
