"""Serves models for live streams and files over the protocols of OpenAI, Vosk and, with `--wyoming`, voice assistants."""

import argparse
import math

from .options import add_decoder


EPILOG = """examples:
  deepspeech2 serve --model checkpoints/deepspeech2-english-live
  deepspeech2 serve --model checkpoints/deepspeech2-english-live --model checkpoints/deepspeech2-mandarin --wyoming 10300
  deepspeech2 serve --model runs/live --host 0.0.0.0 --token_file token.txt

A page with a microphone is at http://127.0.0.1:8000/. A model that reads both ways serves files only. Clients of another
machine need the token of --token_file. docs/serving.md has clients, limits, and what to put in front of several servers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        help="folder of a model, or its name on the Hub; give it several times for several models, the default first",
    )
    add_decoder(parser)
    parser.add_argument(
        "--engine",
        choices=("torch", "onnx"),
        default="torch",
        help="what computes live streams; onnx: the live graph in onnxruntime (%(default)s)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(%(default)s)")
    parser.add_argument("--wyoming", type=int, metavar="PORT", help="serve the Wyoming protocol, too, on loopback")
    parser.add_argument("--token_file", metavar="FILE", help="its first line is the token that every client must send")
    parser.add_argument("--max_streams", type=int, default=100, metavar="N", help="live streams at a time (%(default)s)")
    parser.add_argument("--max_mb", type=float, default=25.0, metavar="N", help="size of an uploaded file (%(default)s)")
    parser.add_argument(
        "--max_seconds", type=float, default=14_400.0, metavar="N", help="audio in an uploaded file (%(default)s)"
    )
    parser.add_argument(
        "--idle_seconds",
        type=float,
        default=60.0,
        metavar="N",
        help="client silence that ends a stream (%(default)s)",
    )


def run(settings: argparse.Namespace) -> int:
    from ..errors import UserError

    for name in ("max_streams", "max_mb", "max_seconds", "idle_seconds"):
        if not 0 < getattr(settings, name) < math.inf:  # nor is it no number
            raise UserError(f"--{name}: found {getattr(settings, name)}, expected a number above 0.")
    for name in ("port", "wyoming"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < 65_536:
            raise UserError(f"--{name}: found {value}, expected a port from 0 to 65535.")
    try:
        from ..serving.limits import Limits
        from ..serving.server import Server, check_port, read_token, run
        from ..serving.service import Service

        if settings.wyoming is not None:
            from ..serving.protocols import wyoming  # noqa: F401
    except ModuleNotFoundError as error:
        extra = "wyoming" if error.name == "wyoming" else "serve"
        raise UserError(f"the package {error.name} is missing: pip install 'modeling-deepspeech2[{extra}]'") from error
    token = read_token(settings.token_file, settings.host)
    check_port("--port", settings.host, settings.port)
    if settings.wyoming is not None:
        check_port("--wyoming", "127.0.0.1", settings.wyoming)
    limits = Limits(
        max_streams=settings.max_streams,
        max_mb=settings.max_mb,
        max_file_seconds=settings.max_seconds,
        idle_seconds=settings.idle_seconds,
    )
    service = Service(settings.model, settings.lm, limits, settings.engine)
    run(Server(service, settings.host, settings.port, token, settings.wyoming))
    return 0
