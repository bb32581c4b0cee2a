"""Finds when each word of a known text was said, for subtitles, karaoke or cutting."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_model, add_precision, check_output_file


if TYPE_CHECKING:
    from ..transcription.alignment import Alignment

EPILOG = """examples:
  deepspeech2 align talk.mp3 talk.txt --model runs/mine > talk.srt
  deepspeech2 align chapter.ogg chapter.txt --model runs/mine --format json --output chapter.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", metavar="AUDIO", help="the recording")
    parser.add_argument("text", metavar="TEXT", help="UTF-8 file of all that is said; each line gets its own subtitles")
    add_model(parser)
    add_precision(parser)
    parser.add_argument(
        "--format",
        choices=("txt", "json", "srt", "vtt"),
        default="srt",
        help="txt: start, end, cost and text of each line; json: words and characters as well (%(default)s)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of printing")


def run(settings: argparse.Namespace) -> int:
    from ..audio import audio_seconds
    from ..errors import UserError
    from ..transcription.alignment import align
    from .output import Progress, written
    from .recognizer import load

    check_output_file("output", settings.output, settings.audio, settings.text)
    try:
        text = Path(settings.text).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"TEXT: {settings.text} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"TEXT: {settings.text} is not in UTF-8.") from error
    model, processor = load(settings)
    seconds = audio_seconds(settings.audio)
    try:
        with Progress(seconds or 0, bool(seconds)) as progress:
            blocks = progress.watch(settings.audio, processor.feature_extractor.sampling_rate)
            found = align(blocks, text, model, processor)
        with written(settings.output) as stream:
            stream.writelines(_formatted(settings.format, found))
    except BrokenPipeError:
        raise
    except (UserError, OSError) as error:
        print(error if settings.audio in str(error) else f"{settings.audio}: {error}", file=sys.stderr)
        return 1
    return 0


def _formatted(style: str, found: "Alignment") -> Iterator[str]:
    from ..transcription.subtitles import make_cues, srt, vtt
    from .output import as_json, spans

    if style == "txt":
        for line in found.lines:
            yield f"{line.start:.2f}\t{line.end:.2f}\t{line.cost:.2f}\t{line.text}\n"
    elif style == "json":
        lines = [
            {
                **{"start": round(line.start, 3), "end": round(line.end, 3), "cost": round(line.cost, 3), "text": line.text},
                **{"words": spans(line.words), "characters": spans(line.characters)},
            }
            for line in found.lines
        ]
        yield as_json({"cost": round(found.cost, 3), "lines": lines})
    else:
        yield from (srt if style == "srt" else vtt)(make_cues(line.words for line in found.lines))
