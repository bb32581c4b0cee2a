"""Estimates an n-gram language model for the beam search from texts, and prints its perplexity.

Every line goes through the tokenizer's text rules; equal lines count once. A share of the lines is drawn at random and held
out to measure the perplexity. Use no text of a test set: its figures would mean nothing.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from .options import add_dataset, add_output, check_output_folder, open_tokenizer


EPILOG = """examples:
  English, from a file and the training transcripts of a data set:
    deepspeech2 language-model english.txt.xz --dataset my_speech --split train --tokenizer runs/mine --output lm.safetensors
  Mandarin, by character, of at most 4 MB:
    deepspeech2 language-model mandarin.txt.xz --tokenizer tokenizer/mandarin --megabytes 4 --output mandarin.safetensors"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", metavar="TEXT", nargs="*", type=Path, help="UTF-8, one sentence a line; plain, .gz or .xz")
    add_dataset(parser, "its splits, each [CONFIGURATION/]SPLIT (default: train)", is_required=False)
    parser.add_argument("--text_column", default="text", metavar="NAME", help="column of the text (%(default)s)")
    parser.add_argument("--tokenizer", required=True, help="tokenizer of the acoustic model: a folder or a name on the Hub")
    add_output(parser, "file to write, .safetensors")
    parser.add_argument(
        "--unit",
        choices=("word", "character"),
        help="what is counted (default: as the script is written, see the tokenizer)",
    )
    parser.add_argument("--order", type=int, default=5, metavar="N", help="the longest n-gram (%(default)s)")
    parser.add_argument(
        "--megabytes", type=float, default=8.0, metavar="MB", help="approximate size of the file (%(default)s)"
    )
    parser.add_argument(
        "--held_out",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="share of the lines kept for the perplexity (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the lines held out (%(default)s)")


def check(settings: argparse.Namespace) -> None:
    """Raises a UserError for a setting that would fail later."""
    from ..errors import UserError

    for text in settings.texts:
        if not text.is_file():
            raise UserError(f"TEXT: found no file {text}, expected UTF-8 text, plain, .gz or .xz.")
    if not settings.texts and not settings.dataset:
        raise UserError("nothing to estimate from: give at least one TEXT, or --dataset.")
    if settings.split and not settings.dataset:
        raise UserError("--split: needs the --dataset that has it.")
    for split in settings.split:
        if split.rpartition("/")[2].startswith("test"):
            raise UserError(f"--split: found the test split {split}; a model that has read the test proves nothing there.")
    if settings.output.suffix != ".safetensors":
        raise UserError(f"--output: found {settings.output}, expected a name that ends in .safetensors.")
    check_output_folder(settings.output.parent)
    if settings.output.is_dir():
        raise UserError(f"--output: {settings.output} is a folder, expected the name of a file.")
    if not 1 <= settings.order <= 8:
        raise UserError(f"--order: found {settings.order}, expected 1 to 8.")
    if not settings.megabytes > 0:
        raise UserError(f"--megabytes must be above 0, but is {settings.megabytes}.")
    if not 0 <= settings.held_out < 1:
        raise UserError(f"--held_out must lie in [0, 1), but is {settings.held_out}.")


def run(settings: argparse.Namespace) -> int:
    from ..language_models.estimation import build, dataset_lines
    from ..language_models.vocabulary import read_lines

    check(settings)
    tokenizer = open_tokenizer(settings.tokenizer)

    def lines() -> Iterator[str]:
        yield from read_lines(settings.texts)
        for split in (settings.split or ["train"]) if settings.dataset else []:
            yield from dataset_lines(f"{settings.dataset}::{split}", settings.text_column)

    unit = settings.unit or tokenizer.language_model_unit
    model, report = build(lines(), tokenizer, unit, settings.order, settings.megabytes, settings.held_out, settings.seed)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(settings.output)
    print(report)
    print(f"The language model is in {settings.output}, {settings.output.stat().st_size / 1e6:.1f} MB.")
    return 0
