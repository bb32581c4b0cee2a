"""Averages several trainings of one network, weights and BatchNorm statistics alike.

If the trainings continued from one another with a high learning rate, the mean often makes fewer errors than each of them.
Measure it on a development split.
"""

import argparse

from .options import add_output, check_output_folder


EPILOG = """example:
  deepspeech2 average runs/first runs/second --output runs/mean"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="folders, or names on the Hub; the first gives the processor"
    )
    add_output(parser, "folder for the mean")


def run(settings: argparse.Namespace) -> int:
    from ..modeling_deepspeech2 import DeepSpeech2ForCTC
    from ..processing_deepspeech2 import DeepSpeech2Processor
    from ..training.averaging import average
    from ..training.publishing import save_repository

    check_output_folder(settings.output)
    mean = average([DeepSpeech2ForCTC.from_pretrained(name) for name in settings.models])
    save_repository(settings.output, mean, DeepSpeech2Processor.from_pretrained(settings.models[0]))
    print(f"The mean of {len(settings.models)} models is in {settings.output}.")
    return 0
