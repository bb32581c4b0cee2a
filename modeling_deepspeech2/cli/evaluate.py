"""Measures the word and character error rates of a model on splits of a data set, through its own pipeline."""

import argparse
from pathlib import Path

from .options import add_columns, add_dataset, add_decoder, add_model, add_precision, check_output_file


EPILOG = """examples:
  deepspeech2 evaluate --model checkpoints/deepspeech2-english --dataset demo/speech --split english/test
  deepspeech2 evaluate --model runs/mine --dataset my_speech --split validation test --lm off --output rates.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_dataset(parser, "the splits to measure, each [CONFIGURATION/]SPLIT (default: test)")
    add_decoder(parser)
    add_precision(parser)
    parser.add_argument("--batch_size", type=int, default=16, metavar="N", help="utterances in a batch (%(default)s)")
    add_columns(parser, "audio", "text", "duration")
    parser.add_argument("--examples", type=int, default=5, metavar="N", help="transcripts printed (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the rates and all transcripts as JSON")


def run(settings: argparse.Namespace) -> int:
    from accelerate import Accelerator

    from ..data.sources import SpeechData
    from ..errors import UserError
    from ..training.evaluation import evaluate
    from .output import as_json, written
    from .recognizer import load, load_decoder

    if settings.batch_size < 1:
        raise UserError(f"--batch_size: found {settings.batch_size}, expected at least 1.")
    check_output_file("output", settings.output)
    columns = (settings.audio_column, settings.text_column, settings.duration_column)
    splits = {split: SpeechData(settings.dataset, [split], *columns) for split in settings.split or ["test"]}
    model, processor = load(settings)
    decoder = load_decoder(settings, processor)
    accelerator = Accelerator(cpu=model.device.type == "cpu")
    results = {}
    for split, data in splits.items():
        found = evaluate(model, processor, data, accelerator, settings.batch_size, split, decoder)
        print(f"{split}: {found}")
        if settings.examples > 0:
            print(found.examples(settings.examples))
        for name, reason in found.skipped:
            print(f"  not measured: {name}: {reason}")
        transcripts = [
            {"name": name, "reference": reference, "prediction": prediction}
            for name, reference, prediction in zip(found.names, found.references, found.predictions)
        ]
        results[split] = {"wer": found.wer, "cer": found.cer, "seconds": found.seconds, "transcripts": transcripts}
    if settings.output is not None:
        with written(settings.output) as stream:
            stream.write(as_json(results))
    return 0
