"""Makes a trained model wider without changing what it computes, to train it further (Net2Net, arXiv 1511.05641)."""

import argparse

from .options import add_model, add_output, check_output_folder


EPILOG = """example:
  deepspeech2 widen --model runs/small --hidden_size 384 --output runs/wide"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--hidden_size", required=True, type=int, metavar="UNITS", help="units per layer of the wider model")
    add_output(parser, "folder for the wider model")


def run(settings: argparse.Namespace) -> int:
    from ..modeling_deepspeech2 import DeepSpeech2ForCTC
    from ..processing_deepspeech2 import DeepSpeech2Processor
    from ..training.output_folder import written
    from ..training.publishing import save_repository
    from ..training.widening import widen

    check_output_folder(settings.output, settings.model)
    wide = widen(DeepSpeech2ForCTC.from_pretrained(settings.model), settings.hidden_size)
    processor = DeepSpeech2Processor.from_pretrained(settings.model)
    with written(settings.output, 0):
        save_repository(settings.output, wide, processor)
    print(f"The model with {settings.hidden_size} units is in {settings.output}.")
    return 0
