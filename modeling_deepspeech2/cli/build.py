"""Turns long recordings with rough transcripts into a data set for training.

A trained model aligns the recordings with their transcripts. They are cut at pauses between words, and a classifier on the
CTC costs keeps the segments whose transcript is right. The source is one of

  a folder of audio files with transcripts of the same name beside them: .txt (a sentence a line), .srt,
  .vtt or .json ({"text": …} or a list of {"text": …, "speaker": …});
  an audio folder or manifest, as `deepspeech2 prepare` reads them;
  a data set, on the Hub or of parquet shards, with the columns audio, text and perhaps speaker_id.

The output holds parquet shards with a card, rejected.csv, which names every segment that was left out with the reason, and
the filter. Finished recordings are kept in OUTPUT.parts: an interrupted build continues from there, and so does a build with
another precision. Remove that folder when you are satisfied. An hour of audio takes 230 MB of memory.
"""

import argparse

from ..corpus.build import REJECTED, BuildSettings, build
from ..corpus.segments import CuttingSettings
from .options import add_model, add_output, add_processes, add_shares


EPILOG = """example:
  deepspeech2 build my_recordings --model runs/mine --precision 0.98 --output my_speech"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cutting, default = CuttingSettings(), BuildSettings(model="")
    parser.add_argument("source", metavar="SOURCE", help="the folder, manifest or data set")
    parser.add_argument(
        "--split", nargs="+", default=[], metavar="SPLIT", help="splits of a data set: [CONFIGURATION/]SPLIT (default: all)"
    )
    add_model(parser)
    add_output(parser, "folder for the data set, made if need be")
    parser.add_argument(
        "--precision",
        type=float,
        default=default.precision,
        metavar="SHARE",
        help="share of right transcripts wanted among those kept; 0 keeps all (%(default)s)",
    )
    parser.add_argument(
        "--known",
        metavar="DATASET[::SPLIT]",
        help="transcripts known to be right, to train the classifier on (default: the half of the segments that the model "
        "finds easiest)",
    )
    parser.add_argument("--seconds", type=float, default=cutting.seconds, help="wished length of a segment (%(default)s)")
    parser.add_argument("--max_seconds", type=float, default=cutting.max_seconds, help="longest segment (%(default)s)")
    parser.add_argument("--pause", type=float, default=cutting.pause, help="seconds of blanks to cut at (%(default)s)")
    add_shares(parser, default.validation_share, default.test_share, default.shard_megabytes)
    add_processes(parser)


def run(settings: argparse.Namespace) -> int:
    fields = ("model", "precision", "known", "validation_share", "test_share", "shard_megabytes")
    cutting = CuttingSettings(settings.seconds, settings.max_seconds, settings.pause)
    building = BuildSettings(**{name: getattr(settings, name) for name in fields}, cutting=cutting)
    built = build(settings.source, settings.split, settings.output, building, settings.processes)
    if built.filter is not None:
        print(
            f"The filter keeps segments from a probability of {built.filter.threshold:.1%} on: in its sample of "
            f"{built.filter.sample:,}, half of them wrong, {built.filter.precision:.1%} of those kept are right, and "
            f"{built.filter.recall:.1%} of the right ones are kept."
        )
    for split, facts in built.splits.items():
        print(f"{split}: {facts['utterances']:,} utterances, {facts['hours']:.2f} h, {facts['shards']} shards")
    print(
        f"{len(built.rejected):,} of {len(built.segments):,} segments were left out, each with its reason in "
        f"{settings.output / REJECTED}."
    )
    return 0
