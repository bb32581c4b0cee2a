"""Transcribes recordings of any length and format. A file that cannot be used is named, and the others go on."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_decoder, add_model, add_pause, add_precision


if TYPE_CHECKING:
    from ..decoding_deepspeech2 import Hypothesis

EPILOG = """examples:
  deepspeech2 transcribe demo/office.ogg --model checkpoints/deepspeech2-english
  deepspeech2 transcribe talks/*.mp3 --model runs/mine --format srt --output subtitles
  deepspeech2 transcribe calls/*.wav --model runs/mine --lm off --format json > calls.jsonl"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio in any format")
    add_model(parser)
    add_decoder(parser)
    add_pause(parser)
    add_precision(parser)
    parser.add_argument(
        "--batch_size",
        type=int,
        default=4,
        metavar="N",
        help="chunks of 50 s that a bidirectional model reads at once: more take more memory (%(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=("txt", "json", "srt", "vtt"),
        default="txt",
        help="txt: a line for each utterance; json: a line for each file, with words in time; srt, vtt: subtitles "
        "(%(default)s)",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write a file for each recording instead of printing")


def run(settings: argparse.Namespace) -> int:
    from ..audio import audio_seconds
    from ..errors import UserError
    from ..transcription.recordings import transcribe
    from .output import Progress, written
    from .recognizer import check_pause, load, load_decoder

    check_pause(settings)
    if settings.batch_size < 1:
        raise UserError(f"--batch_size: found {settings.batch_size}, expected at least 1.")
    outputs = _outputs(settings)
    model, processor = load(settings)
    decoder = load_decoder(settings, processor)
    bad = []
    lengths = [audio_seconds(file) for file in settings.files]
    with Progress(sum(length or 0 for length in lengths), all(lengths)) as progress:
        for file, output in zip(settings.files, outputs):
            blocks = progress.watch(file, processor.feature_extractor.sampling_rate)
            utterances = transcribe(
                model, processor, blocks, decoder, end_of_utterance=settings.pause, batch_size=settings.batch_size
            )
            try:
                with written(output) as stream:
                    prefix = f"{file}: " if output is None and len(outputs) > 1 else ""
                    for part in _formatted(settings.format, file, utterances, prefix):
                        progress.write(part, stream)
            except BrokenPipeError:
                raise
            except (UserError, OSError) as error:
                bad.append(file)
                progress.write(f"{error}\n" if file in str(error) else f"{file}: {error}\n", sys.stderr)
    if bad:
        print(f"{len(bad)} of {len(outputs)} files could not be transcribed: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


def _outputs(settings: argparse.Namespace) -> list[Path | None]:
    """Where the text of each recording goes; None is the standard output."""
    from ..errors import UserError

    if settings.output is None:
        if len(settings.files) > 1 and settings.format in ("srt", "vtt"):
            raise UserError(f"--output: subtitles of {len(settings.files)} files need a folder to be written into.")
        return [None] * len(settings.files)
    owners: dict[Path, str] = {}
    for file in settings.files:
        output = settings.output / f"{Path(file).stem}.{settings.format}"
        if output in owners:
            raise UserError(f"--output: {owners[output]} and {file} would both be written to {output}.")
        owners[output] = file
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {settings.output} cannot be made a folder ({error.strerror}).") from error
    return list(owners)


def _formatted(style: str, file: str, utterances: "Iterable[Hypothesis]", prefix: str) -> Iterator[str]:
    from ..transcription.subtitles import make_cues, srt, vtt
    from .output import as_json, spans

    if style == "txt":
        for utterance in utterances:
            yield f"{prefix}{utterance.text}\n"
    elif style == "json":
        found = [
            {"start": item.words[0].start, "end": item.words[-1].end, "text": item.text, "words": spans(item.words)}
            for item in utterances
        ]
        yield as_json({"file": file, "utterances": found})
    else:
        cues = make_cues(utterance.words for utterance in utterances)
        yield from (srt if style == "srt" else vtt)(cues)
