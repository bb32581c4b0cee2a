"""Transcribes a microphone, or audio from a pipe, as you speak; needs a unidirectional model."""

import argparse
import contextlib
import shutil
import sys
import unicodedata
from typing import TYPE_CHECKING, TextIO

from .options import add_decoder, add_engine, add_model, add_pause, check_pause


if TYPE_CHECKING:
    from ..hypotheses import Hypothesis
    from ..transcription.streams import DeepSpeech2Stream

EPILOG = """examples:
  deepspeech2 live --model checkpoints/deepspeech2-english-live
  deepspeech2 live --model runs/live --device "USB microphone"
  deepspeech2 live --model live-onnx --engine onnx
  ffmpeg -v error -i speech.mp3 -ac 1 -ar 16000 -f s16le - | deepspeech2 live - --model runs/live"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="-", help="'-': WAV or 16-bit mono PCM from the standard input")
    add_model(parser)
    add_decoder(parser)
    add_pause(parser)
    add_engine(parser, " --live")
    parser.add_argument("--rate", type=int, metavar="HERTZ", help="sampling rate of PCM (default: the model's)")
    parser.add_argument(
        "--device",
        "--microphone",
        dest="microphone",
        metavar="NAME",
        help="the microphone: its number or a part of its name, see `python -m sounddevice` (default: the system's)",
    )


def run(settings: argparse.Namespace) -> int:
    from ..audio import AudioError
    from ..errors import UserError
    from . import live_sound

    if settings.source not in (None, "-"):
        raise UserError(f"found {settings.source!r}, expected '-' for a pipe, or nothing for the microphone.")
    if settings.source == "-" and settings.microphone is not None:
        raise UserError("--device names a microphone, but '-' asks for the standard input: leave one of them out.")
    check_pause(settings)
    if settings.rate is not None and settings.rate < 1_000:
        raise UserError(f"--rate: found {settings.rate}, expected at least 1000 hertz.")
    stream = (_open_exported if settings.engine == "onnx" else _open)(settings)
    rate = stream.sampling_rate
    if settings.source is None:
        pieces = live_sound.microphone(rate, settings.microphone)
    else:
        pieces = live_sound.pipe(sys.stdin.buffer, settings.rate or rate, rate)
    screen = _Screen(sys.stdout)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            for samples in pieces:
                screen.show(stream.feed(samples), stream)
    except AudioError as error:
        screen.show(stream.finish(), stream)
        print(error, file=sys.stderr)
        return 1
    screen.show(stream.finish(), stream)
    return 0


def _open(settings: argparse.Namespace) -> "DeepSpeech2Stream":
    from ..errors import UserError
    from ..transcription.streams import DeepSpeech2Stream
    from .recognizer import load, load_decoder

    model, processor = load(argparse.Namespace(model=settings.model))
    try:
        return DeepSpeech2Stream(model, processor, load_decoder(settings, processor), end_of_utterance=settings.pause)
    except ValueError as error:
        raise UserError(f"--model: {error}") from error


def _open_exported(settings: argparse.Namespace) -> "DeepSpeech2Stream":
    from ..transcription.exported import ExportedModel
    from ..transcription.streams import DeepSpeech2Stream

    model = ExportedModel(settings.model)
    return DeepSpeech2Stream(model, decoder=model.find_decoder(settings.lm), end_of_utterance=settings.pause)


class _Screen:
    """A line for each utterance that has ended; on a terminal the current one stands below, what may change in grey."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.is_terminal = stream.isatty()

    def show(self, ended: "list[Hypothesis]", live: "DeepSpeech2Stream") -> None:
        clear = "\r\033[K" if self.is_terminal else ""
        for utterance in ended:
            self.stream.write(f"{clear}{utterance.text}\n")
        if self.is_terminal:
            stable, tentative = live.utterances.text
            columns = shutil.get_terminal_size().columns - 1
            tentative = _tail(tentative, columns)
            stable = _tail(stable, columns - _columns(tentative))
            self.stream.write(f"{clear}{stable}\033[90m{tentative}\033[0m")
        self.stream.flush()


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _tail(text: str, columns: int) -> str:
    """The end of a text that fits into so many columns."""
    while text and _columns(text) > columns:
        text = text[1:]
    return text
