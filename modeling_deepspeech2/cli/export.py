"""Exports a model to ONNX: a folder for browsers (transformers.js), phones (sherpa-onnx) and onnxruntime, without torch.

The folder is a Hub repository of its own; a card in it shows how each program loads it.
"""

import argparse
from pathlib import Path

from .options import add_columns, add_dataset


EPILOG = """examples:
  deepspeech2 export checkpoints/deepspeech2-english english-onnx
  deepspeech2 export runs/live live-onnx --live --dataset my_speech --split test
  deepspeech2 export runs/mine mine-onnx --push_to_hub me/mine-onnx"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a model, or its name on the Hub")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="a new folder")
    parser.add_argument("--live", action="store_true", help="add the graph for streams, which needs a unidirectional model")
    add_dataset(parser, "splits whose error rates with each file the card shows (default: none)", is_required=False)
    add_columns(parser, "audio", "text", "duration")
    parser.add_argument("--push_to_hub", metavar="USER/NAME", help="upload the folder to this repository of the Hub")


def run(settings: argparse.Namespace) -> int:
    from ..data.sources import SpeechData
    from ..decoding_deepspeech2 import CTCBeamSearchDecoder, has_decoder
    from ..errors import UserError
    from .recognizer import load

    try:
        from ..export.folder import check_output, export
    except ImportError as error:
        raise UserError(f"the export needs the package onnx ({error}): pip install onnx") from error

    if settings.split and not settings.dataset:
        raise UserError("--split: found splits without --dataset, expected the data set that they are of.")
    check_output(settings.output)
    columns = (settings.audio_column, settings.text_column, settings.duration_column)
    splits = {split: SpeechData(settings.dataset, [split], *columns) for split in settings.split}
    model, processor = load(settings)
    decoder = (
        CTCBeamSearchDecoder.from_pretrained(settings.model, processor.tokenizer) if has_decoder(settings.model) else None
    )
    if settings.push_to_hub:
        from ..training.publishing import open_repository, push_folder

        open_repository(settings.push_to_hub)  # a bad name or token ends it before the work
    export(model, processor, settings.output, settings.live, decoder, settings.model, splits, settings.push_to_hub)
    print(f"The model is in {settings.output}.")
    if settings.push_to_hub:
        print("Published:", push_folder(settings.output, settings.push_to_hub, content="exported model and card"))
    return 0
