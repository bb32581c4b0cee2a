"""Checks a data set before training.

Reads every utterance once and reports, as text and as one HTML page with plots: hours, durations, character rates,
characters outside the vocabulary, pairs that CTC cannot fit, duplicates within and across splits, speakers shared between
splits, silence, clipping, bandwidth, sampling rates. Splits called train… are for training, all others to choose or measure
a model. The exit status is 1 if something would spoil a result.
"""

import argparse
from pathlib import Path

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..corpus.checks import CHECKS
from ..corpus.report import html_report, text_report
from ..corpus.verify import verify
from ..data.sources import all_splits
from .options import add_columns, add_dataset, add_processes, check_output_file, open_tokenizer
from .vocabulary import quiet_tokenizer


EPILOG = (
    "checks:\n"
    + "\n".join(f"  {name:21s}{what}" for name, what in CHECKS.items())
    + """

examples:
  deepspeech2 verify --dataset my_speech --html my_speech.html
  deepspeech2 verify --dataset me/my-speech --split train validation --model runs/mine --accept shared_speakers"""
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser, "the splits to check, each [CONFIGURATION/]SPLIT (default: all)")
    parser.add_argument("--tokenizer", help="tokenizer with the alphabet (default: the characters of the training splits)")
    parser.add_argument("--model", help="take the alphabet and the stride in time of this model")
    parser.add_argument(
        "--time_stride",
        type=int,
        metavar="FRAMES",
        help=f"input frames per output frame ({DeepSpeech2Config().time_stride})",
    )
    parser.add_argument("--language", help="en, zh, …: whose text rules hold if no tokenizer is given")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    parser.add_argument(
        "--accept", nargs="+", default=[], choices=CHECKS, metavar="CHECK", help="checks whose findings you accept"
    )
    add_columns(parser, "audio", "text", "speaker", "duration")
    add_processes(parser)


def run(settings: argparse.Namespace) -> int:
    quiet_tokenizer()
    if settings.html:
        settings.html.parent.mkdir(parents=True, exist_ok=True)
        check_output_file("html", settings.html)
    tokenizer, stride = None, settings.time_stride
    if settings.model:
        stride = DeepSpeech2Config.from_pretrained(settings.model).time_stride if stride is None else stride
    if settings.tokenizer or settings.model:
        tokenizer = open_tokenizer(settings.tokenizer or settings.model)
    found = verify(
        settings.dataset,
        settings.split or all_splits(settings.dataset),
        tokenizer,
        DeepSpeech2Config().time_stride if stride is None else stride,
        settings.language,
        (settings.audio_column, settings.text_column, settings.speaker_column, settings.duration_column),
        settings.processes,
    )
    accepted = frozenset(settings.accept)
    print(text_report(found, accepted))
    if settings.html:
        settings.html.write_text(html_report(found, Path(settings.dataset).name, accepted), encoding="utf-8")
        print(f"The plots are in {settings.html}.")
    return int(any(finding.spoils and finding.check not in accepted for finding in found.findings))
