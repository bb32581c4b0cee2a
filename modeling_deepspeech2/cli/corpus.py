"""From recordings to training data, on the command line.

    python -m modeling_deepspeech2.cli.corpus prepare my_clips --output my_speech         # clips with transcripts
    python -m modeling_deepspeech2.cli.corpus build my_recordings --model runs/mine --output my_speech   # hours of them
    python -m modeling_deepspeech2.cli.corpus verify my_speech --html my_speech.html       # look before you train

In come folders and settings, out go data sets and reports. The work itself is done by the modules named like the commands.
"""

import argparse
import logging
import sys
from pathlib import Path

from transformers import AutoTokenizer

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..corpus.build import FILTER, REJECTED, BuildSettings, build
from ..corpus.clips import MANIFESTS
from ..corpus.prepare import LEFT_OUT, PROCESSOR, PreparationSettings, prepare
from ..corpus.report import html_report, text_report
from ..corpus.segments import CuttingSettings
from ..corpus.verify import CHECKS, verify
from ..data.processes import available_cores
from ..data.sources import DataError, all_splits
from ..language_models.vocabulary import coverage_report
from ..tokenization_deepspeech2 import LABEL_UNITS, NUMERALS, DeepSpeech2CTCTokenizer


def _add_prepare(commands) -> None:
    default = PreparationSettings()
    parser = commands.add_parser(
        "prepare",
        help="clips with transcripts -> a data set ready for training",
        description="Makes parquet shards with durations, from the shortest utterance to the longest, a tokenizer of the\n"
        "transcripts' characters, and a feature extractor with the statistics of the training speech. Read are\n\n"
        "  a folder of audio with metadata.csv or metadata.jsonl (file_name, text; speaker_id if you have it),\n"
        "  or such a folder for each split: train, validation, test;\n"
        f"  a manifest ({', '.join(MANIFESTS)}) with the columns audio (or audio_filepath, path, …) and text (or\n"
        "  sentence, …), or a folder with one for each split;\n"
        "  a folder as Kaldi has them: wav.scp, text, and if you like segments and utt2spk.\n\n"
        "Audio stays as it is, in any sampling rate; what soundfile cannot read becomes FLAC.",
        epilog="example:\n  %(prog)s my_recordings --language el --output my_speech",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="the folder or manifest")
    parser.add_argument("--output", required=True, type=Path, help="folder for the data set, made if need be")
    parser.add_argument("--audio_root", type=Path, help="where paths start from, if not in the manifest's own folder")
    parser.add_argument(
        "--validation_share", type=float, default=default.validation_share, metavar="SHARE",
        help="of the speech, drawn where the source has no splits of its own (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--test_share", type=float, default=default.test_share, metavar="SHARE", help="likewise (default %(default)s)"
    )
    parser.add_argument(
        "--shard_megabytes", type=int, default=default.shard_megabytes, metavar="MB", help="(default %(default)s)"
    )
    parser.add_argument("--language", help="en, zh, …: whose text rules hold; without it the alphabet is taken as it is")
    parser.add_argument("--numerals", choices=NUMERALS, default=default.numerals, help="spell: digits are read as words")
    parser.add_argument("--label_unit", choices=LABEL_UNITS, default=default.label_unit, help="(default %(default)s)")
    parser.add_argument(
        "--minimum_count", type=int, default=1, metavar="N", help="leave out what occurs less than N times (default 1)"
    )
    parser.add_argument("--extra_characters", default="", metavar="CHARACTERS", help="to include in any case")
    parser.add_argument("--tokenizer", help="use this one instead of making one")
    parser.set_defaults(run=_prepare)


def _prepare(settings: argparse.Namespace) -> int:
    fields = ("validation_share", "test_share", "shard_megabytes", "language", "numerals", "label_unit", "minimum_count")
    tokenizer = AutoTokenizer.from_pretrained(settings.tokenizer) if settings.tokenizer else None
    preparation = PreparationSettings(
        **{name: getattr(settings, name) for name in fields},
        extra_characters=settings.extra_characters,
        tokenizer=tokenizer,
    )
    prepared = prepare(settings.source, settings.output, preparation, settings.audio_root)
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
    print(
        f"Go on with\n  python -m modeling_deepspeech2.cli.corpus verify {settings.output} --tokenizer "
        f"{settings.output / PROCESSOR}"
    )
    return 0


def _add_build(commands) -> None:
    cutting, default = CuttingSettings(), BuildSettings(model="")
    parser = commands.add_parser(
        "build",
        help="long recordings with rough transcripts -> a data set for training",
        description="Aligns recordings with their transcripts by a trained model, cuts them where it hears nothing between\n"
        "two words, and keeps those segments whose transcript is right, as a classifier judges by their CTC costs.\n"
        "Read are\n\n"
        "  a folder of audio files with transcripts of the same name beside them: .txt (a sentence a line), .srt,\n"
        '  .vtt or .json ({"text": …} or a list of {"text": …, "speaker": …});\n'
        "  an audio folder or manifest, as `prepare` reads them;\n"
        "  a data set, on the Hub or of parquet shards, with the columns audio, text and, if you like, speaker_id.\n\n"
        f"Out go parquet shards with a card, {REJECTED} with every segment that was left out and why, and {FILTER}.\n"
        "What is done is kept in OUTPUT.parts: a build that was interrupted, or is run again with another precision,\n"
        "goes on from there. Remove that folder when you are content. An hour of audio takes 230 MB of memory.",
        epilog="example:\n  %(prog)s my_recordings --model runs/mine --precision 0.98 --output my_speech",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="the folder, manifest or data set")
    parser.add_argument("splits", nargs="*", metavar="SPLIT", help="of a data set: [CONFIGURATION/]SPLIT; without any, all")
    parser.add_argument("--model", required=True, help="the trained model, a folder or a name on the Hub")
    parser.add_argument("--output", required=True, type=Path, help="folder for the data set, made if need be")
    parser.add_argument(
        "--precision", type=float, default=default.precision,
        help="share of right transcripts wanted among those kept, 0 to keep all (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--known", metavar="DATASET[::SPLIT]",
        help="transcripts known to be right, to train the classifier on; without it, on the half of the segments that the "
        "model reads with most ease",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=cutting.seconds, help="of a segment (default %(default)s)")
    parser.add_argument("--max_seconds", type=float, default=cutting.max_seconds, help="at most (default %(default)s)")
    parser.add_argument(
        "--pause", type=float, default=cutting.pause, help="seconds of blanks that are cut at (default %(default)s)"
    )
    parser.add_argument(
        "--validation_share", type=float, default=default.validation_share, metavar="SHARE",
        help="of the speech, drawn where the source has no splits of its own (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--test_share", type=float, default=default.test_share, metavar="SHARE", help="likewise (default %(default)s)"
    )
    parser.add_argument(
        "--shard_megabytes", type=int, default=default.shard_megabytes, metavar="MB", help="(default %(default)s)"
    )
    _add_processes(parser)
    parser.set_defaults(run=_build)


def _build(settings: argparse.Namespace) -> int:
    fields = ("model", "precision", "known", "validation_share", "test_share", "shard_megabytes")
    cutting = CuttingSettings(settings.seconds, settings.max_seconds, settings.pause)
    building = BuildSettings(**{name: getattr(settings, name) for name in fields}, cutting=cutting)
    built = build(settings.source, settings.splits, settings.output, building, settings.processes)
    if built.filter is not None:
        print(
            f"The filter keeps a segment from a probability of {built.filter.threshold:.1%} on: of its sample of "
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


def _add_verify(commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="look at a data set before training",
        description="Reads every utterance of a data set once and reports, as text and as one HTML page with plots: hours,\n"
        "durations, character rates, characters outside the vocabulary, pairs that CTC cannot fit, duplicates\n"
        "within and across splits, speakers shared between splits, silence, clipping, bandwidth, sampling rates.\n"
        "Splits called train… are for training, all others to choose or measure a model.",
        epilog="Exit code: 0, or 1 when something would spoil a result, or 2 for a wrong setting.\n\nchecks:\n"
        + "\n".join(f"  {name:21s}{what}" for name, what in CHECKS.items())
        + "\n\nexamples:\n"
        "  %(prog)s my_speech --html my_speech.html\n"
        "  %(prog)s me/my-speech train validation --model runs/mine --accept shared_speakers",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="a name on the Hub, or a folder: parquet shards, audio files or manifests")
    parser.add_argument("splits", nargs="*", metavar="SPLIT", help="[CONFIGURATION/]SPLIT; without any, all that there are")
    parser.add_argument("--tokenizer", help="the alphabet; without it, that of the training splits")
    parser.add_argument("--model", help="a saved model, whose alphabet and stride in time are taken")
    parser.add_argument(
        "--time_stride", type=int, help=f"input frames for each output frame (default {DeepSpeech2Config().time_stride})"
    )
    parser.add_argument("--language", help="en, zh, …: whose text rules hold where no tokenizer is given")
    parser.add_argument("--html", type=Path, help="write a page with plots to this file")
    parser.add_argument(
        "--accept", nargs="+", default=[], choices=CHECKS, metavar="CHECK", help="checks whose findings you accept"
    )
    parser.add_argument("--audio_column", default="audio", help="(default audio)")
    parser.add_argument("--text_column", default="text", help="(default text)")
    parser.add_argument("--speaker_column", default="speaker_id", help="(default speaker_id)")
    parser.add_argument("--duration_column", default="duration", help="(default duration)")
    _add_processes(parser)
    parser.set_defaults(run=_verify)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes", type=int, default=available_cores(), metavar="N", help="that work side by side (default: all cores)"
    )


def _verify(settings: argparse.Namespace) -> int:
    if settings.html:
        settings.html.parent.mkdir(parents=True, exist_ok=True)
    tokenizer, stride = None, settings.time_stride
    if settings.model:
        stride = DeepSpeech2Config.from_pretrained(settings.model).time_stride if stride is None else stride
    if settings.tokenizer or settings.model:
        tokenizer = AutoTokenizer.from_pretrained(settings.tokenizer or settings.model)
    found = verify(
        settings.dataset,
        settings.splits or all_splits(settings.dataset),
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_deepspeech2.cli.corpus",
        description="From recordings to training data. COMMAND --help says more.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands)
    _add_build(commands)
    _add_verify(commands)
    settings = parser.parse_args(arguments)
    try:
        return settings.run(settings)
    except (DataError, ImportError, OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # The reports name what is left out, with counts; the tokenizer's own log lines would say it twice.
    logging.getLogger(DeepSpeech2CTCTokenizer.__module__).setLevel(logging.ERROR)
    sys.exit(main())
