"""Turns clips with transcripts into a data set ready for training.

Writes parquet shards with durations, from the shortest utterance to the longest, a tokenizer of the transcripts' characters,
and a feature extractor with the statistics of the training speech. The source is one of

  a folder of audio with metadata.csv or metadata.jsonl (file_name, text; speaker_id if you have it),
  or such a folder for each split: train, validation, test;
  a manifest (.jsonl, .json, .csv, .tsv) with the columns audio (or audio_filepath, path, …) and text (or
  sentence, …), or a folder with one for each split;
  a Kaldi folder: wav.scp, text, and perhaps segments and utt2spk;
  a corpus as it is downloaded: Common Voice, LibriSpeech, MLS, LJSpeech, M-AILABS, VCTK, AISHELL, TIMIT;
  audio files with a .txt of the same name beside each.

Audio keeps its encoding and sampling rate; formats that soundfile cannot read are converted to FLAC.
"""

import argparse
from pathlib import Path

from ..corpus.manifests import ManifestColumns
from ..corpus.prepare import LEFT_OUT, PROCESSOR, PreparationSettings, prepare
from ..language_models.vocabulary import coverage_report
from ..tokenization_deepspeech2 import LABEL_UNITS, NUMERALS
from .options import add_output, add_shares, open_tokenizer
from .vocabulary import add_text_rules, quiet_tokenizer


EPILOG = """example:
  deepspeech2 prepare my_recordings --language el --output my_speech"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = PreparationSettings()
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the folder or manifest")
    add_output(parser, "folder for the data set, made if need be")
    parser.add_argument(
        "--audio_root", type=Path, metavar="FOLDER", help="folder that the paths of a manifest start from (default: its own)"
    )
    parser.add_argument("--audio_column", metavar="NAME", help="column of the audio in a manifest, if its name is unusual")
    parser.add_argument("--text_column", metavar="NAME", help="column of the transcripts, likewise")
    parser.add_argument("--speaker_column", metavar="NAME", help="column of the speakers, likewise")
    add_shares(parser, default.validation_share, default.test_share, default.shard_megabytes)
    add_text_rules(parser, NUMERALS, LABEL_UNITS)
    parser.add_argument("--tokenizer", help="use this tokenizer instead of making one")


def run(settings: argparse.Namespace) -> int:
    quiet_tokenizer()
    fields = ("validation_share", "test_share", "shard_megabytes", "language", "numerals", "label_unit", "word_boundaries")
    tokenizer = open_tokenizer(settings.tokenizer) if settings.tokenizer else None
    preparation = PreparationSettings(
        **{name: getattr(settings, name) for name in fields},
        minimum_count=settings.minimum_count,
        extra_characters=settings.extra_characters,
        tokenizer=tokenizer,
    )
    names = {name: getattr(settings, f"{name}_column") for name in ("audio", "text", "speaker")}
    columns = ManifestColumns(**{name: (column,) for name, column in names.items() if column})
    prepared = prepare(settings.source, settings.output, preparation, settings.audio_root, columns=columns)
    for split, facts in prepared.splits.items():
        print(
            f"{split}: {facts['utterances']:,} utterances, {facts['hours']:.2f} h, "
            f"{facts['speakers'] or 'unnamed'} speakers, {facts['shards']} shards"
        )
    for name, reason in prepared.left_out[:10]:
        print(f"left out: {name}: {reason}")
    if prepared.left_out:
        print(f"{len(prepared.left_out)} clips were left out, all of them named in {settings.output / LEFT_OUT}.")
    print(coverage_report(prepared.tokenizer, prepared.texts))
    processor = settings.output / PROCESSOR
    print(f"Next: deepspeech2 verify --dataset {settings.output} --tokenizer {processor}")
    return 0
