"""Transcribes recordings of any length and format. Files that cannot be used are reported, and the others continue."""

import argparse
import contextlib
import dataclasses
import heapq
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_decoder, add_engine, add_model, add_pause, add_precision, check_pause


if TYPE_CHECKING:
    import numpy as np

    from ..hypotheses import Hypothesis, Span

    Recognize = Callable[[Iterable[np.ndarray]], Iterator[Hypothesis]]

EPILOG = """examples:
  deepspeech2 transcribe demo/number.ogg --model checkpoints/deepspeech2-english
  deepspeech2 transcribe talks/*.mp3 --model runs/mine --format srt --output subtitles
  deepspeech2 transcribe calls/*.wav --model runs/mine --channels split --format json > calls.jsonl"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio in any format")
    add_model(parser)
    add_decoder(parser)
    add_pause(parser)
    add_precision(parser)
    add_engine(parser)
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="chunks of 50 s that a bidirectional model reads at once: more take more memory (4)",
    )
    parser.add_argument(
        "--channels",
        choices=("mix", "split"),
        default="mix",
        help="split: transcribe each channel as a speaker of its own, as calls are recorded (%(default)s)",
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
    from ..audio import audio_seconds, name_of
    from ..errors import UserError
    from .output import Progress, written

    check_pause(settings)
    if settings.batch_size is not None and settings.batch_size < 1:
        raise UserError(f"--batch_size: found {settings.batch_size}, expected at least 1.")
    outputs = _outputs(settings)
    rate, recognize = (_load_exported if settings.engine == "onnx" else _load)(settings)
    bad = []
    lengths = [audio_seconds(file) for file in settings.files]
    with Progress(sum(length or 0 for length in lengths), all(lengths)) as progress:
        for file, output in zip(settings.files, outputs):
            try:
                with written(output) as stream, contextlib.ExitStack() as stack:
                    channels = _channels(file) if settings.channels == "split" else [None]
                    streams = [stack.enter_context(contextlib.closing(progress.watch(file, rate, one))) for one in channels]
                    spoken = [recognize(blocks) for blocks in streams]
                    prefix = f"{file}: " if output is None and len(outputs) > 1 else ""
                    for part in _formatted(settings.format, file, spoken, prefix):
                        progress.write(part, stream)
            except BrokenPipeError:
                raise
            except (UserError, OSError) as error:
                shown = name_of(file) if "://" in file else file  # an address may hold a secret
                bad.append(shown)
                progress.write(f"{error}\n" if shown in str(error) else f"{shown}: {error}\n", sys.stderr)
    if bad:
        print(f"{len(bad)} of {len(outputs)} files could not be transcribed: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


def _load(settings: argparse.Namespace) -> "tuple[int, Recognize]":
    """The sampling rate, and a function from blocks of samples to utterances."""
    from ..transcription.recordings import transcribe
    from .recognizer import load, load_decoder

    model, processor = load(settings)
    decoder = load_decoder(settings, processor)

    def recognize(blocks: "Iterable[np.ndarray]") -> "Iterator[Hypothesis]":
        return transcribe(
            model, processor, blocks, decoder, end_of_utterance=settings.pause, batch_size=settings.batch_size or 4
        )

    return processor.feature_extractor.sampling_rate, recognize


def _load_exported(settings: argparse.Namespace) -> "tuple[int, Recognize]":
    from ..errors import UserError
    from ..transcription.chunks import CHUNKS
    from ..transcription.exported import ExportedModel

    if settings.device not in (None, "cpu") or settings.dtype != "float32":
        raise UserError("--engine: onnx computes in float32 on the CPU, but --device or --dtype asks for something else.")
    model = ExportedModel(settings.model)
    decoder, batch_size = model.find_decoder(settings.lm), settings.batch_size or CHUNKS
    return model.sampling_rate, lambda blocks: model.transcribe(blocks, decoder, settings.pause, batch_size=batch_size)


def _outputs(settings: argparse.Namespace) -> list[Path | None]:
    """The output file of each recording; None is the standard output."""
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


def _channels(file: str) -> list[int]:
    """The channels of a file that can be read several times."""
    from ..audio import AudioError, name_of, open_audio

    if file == "-" or "://" in file:
        raise AudioError(f"{name_of(file)} cannot be read once for each channel, as --channels split does: save it first.")
    with open_audio(file, name_of(file), streams=False) as opened:
        return list(range(opened.header.channels))


def _formatted(style: str, file: str, channels: "list[Iterator[Hypothesis]]", prefix: str) -> Iterator[str]:
    from ..transcription.subtitles import make_cues, srt, vtt
    from .output import as_json, spans

    if style == "txt":
        for speaker, utterance in _by_time(channels):
            yield f"{prefix}{_named(speaker)}{utterance.text}\n"
    elif style == "json":
        found = [
            {"start": item.words[0].start, "end": item.words[-1].end, "text": item.text, "words": spans(item.words)}
            | ({} if speaker is None else {"speaker": speaker})
            for speaker, item in _by_time(channels)
        ]
        yield as_json({"file": file, "utterances": found})
    else:
        cues = [make_cues(words) for words in map(_words_to_show, _numbered(channels), channels)]
        yield from (srt if style == "srt" else vtt)(heapq.merge(*cues, key=lambda cue: cue.start))


def _numbered(channels: "list[Iterator[Hypothesis]]") -> list[int | None]:
    """The number of each speaker, from 1; None for one alone."""
    return [None] if len(channels) == 1 else list(range(1, len(channels) + 1))


def _by_time(channels: "list[Iterator[Hypothesis]]") -> "Iterator[tuple[int | None, Hypothesis]]":
    """The utterances of all channels by their beginnings, with the number of the speaker."""
    if len(channels) == 1:
        return ((None, utterance) for utterance in channels[0])

    def spoken(speaker: int | None, utterances: "Iterator[Hypothesis]") -> "Iterator[tuple[float, int | None, Hypothesis]]":
        return ((utterance.words[0].start, speaker, utterance) for utterance in utterances if utterance.words)

    merged = heapq.merge(*map(spoken, _numbered(channels), channels), key=lambda item: item[:2])
    return ((speaker, utterance) for _, speaker, utterance in merged)


def _named(speaker: int | None) -> str:
    return "" if speaker is None else f"Speaker {speaker}: "


def _words_to_show(speaker: int | None, utterances: "Iterator[Hypothesis]") -> "Iterator[list[Span]]":
    """The words of each utterance, the first one behind the speaker's name."""
    for utterance in utterances:
        first, *others = utterance.words
        yield [dataclasses.replace(first, text=_named(speaker) + first.text), *others]
