"""Averages several trainings of one network, weights and BatchNorm statistics alike.

If the trainings continued from one another with a high learning rate, the mean often makes fewer errors than each of them.
Measure it on a development split.
"""

import argparse

from .options import add_output, check_output_folder


FEATURES = ("sampling_rate", "n_fft", "hop_length", "normalization", "mean", "deviation")
EPILOG = """example:
  deepspeech2 average runs/first runs/second --output runs/mean"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="folders, or names on the Hub; the first gives the processor"
    )
    add_output(parser, "folder for the mean")


def run(settings: argparse.Namespace) -> int:
    from ..errors import UserError
    from ..modeling_deepspeech2 import DeepSpeech2ForCTC
    from ..processing_deepspeech2 import DeepSpeech2Processor
    from ..training.averaging import average
    from ..training.output_folder import written
    from ..training.publishing import save_repository

    check_output_folder(settings.output, *settings.models)
    processors = [DeepSpeech2Processor.from_pretrained(name) for name in settings.models]
    first = processors[0]
    for model, other in zip(settings.models, processors):
        if other.tokenizer.get_vocab() != first.tokenizer.get_vocab():
            raise UserError(f"{model} has another alphabet than {settings.models[0]}: their outputs cannot be averaged.")
        if any(getattr(other.feature_extractor, name) != getattr(first.feature_extractor, name) for name in FEATURES):
            raise UserError(f"{model} has learned from other features than {settings.models[0]}: they cannot be averaged.")
    mean = average([DeepSpeech2ForCTC.from_pretrained(name) for name in settings.models])
    with written(settings.output, 0):
        save_repository(settings.output, mean, first)
    print(f"The mean of {len(settings.models)} models is in {settings.output}.")
    return 0
