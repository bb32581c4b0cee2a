"""The command `deepspeech2`: recordings to text and subtitles, known texts to subtitles, and a microphone to text.

In come files, or a live sound; text goes to the standard output or into files, everything else to the standard error. The
exit status is 0, 1 if a file could not be used, and 2 if something is set wrongly, which stops it before any audio is read.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import shutil
import sys
import time
import unicodedata
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import soxr
import torch
from tqdm import tqdm
from transformers.utils import logging

from ..audio import AudioError, audio_seconds, read_audio_blocks
from ..decoding_deepspeech2 import CTCBeamSearchDecoder, Hypothesis
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from ..transcription.alignment import Alignment, align
from ..transcription.recordings import BLOCK_SECONDS, transcribe
from ..transcription.streaming import DeepSpeech2Stream
from ..transcription.subtitles import make_cues, srt, vtt
from ..transcription.utterances import LONGEST_UTTERANCE


try:  # Only a microphone needs it.
    import sounddevice
except (ImportError, OSError):  # OSError: the package is there, the PortAudio library is not
    sounddevice = None

FORMATS = ("txt", "json", "srt", "vtt")
LIVE_SECONDS = 0.1  # of a piece

BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}{postfix}]"
BAR_WITHOUT_END = "{desc}{n:.0f} s of audio [{elapsed}{postfix}]"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = _parser()
    settings = parser.parse_args(arguments)
    logging.disable_progress_bar()
    try:
        return settings.run(settings)
    except _SettingError as error:
        parser.exit(2, f"deepspeech2: {error}\n")
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads has seen enough, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _SettingError(Exception):
    """One sentence on what is set wrongly."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepspeech2", description="Speech to text with a Deep Speech 2 model.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Any, summary: str, examples: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=summary,
            epilog="examples:\n" + examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        command.add_argument("--model", required=True, help="folder of a model, or its name on the Hub")
        return command

    command = add(
        "transcribe",
        _transcribe,
        "Transcribes recordings of any length and format.",
        "  deepspeech2 transcribe speech.flac --model runs/mine\n"
        "  deepspeech2 transcribe talks/*.mp3 --model runs/mine --lm --format srt --output subtitles\n",
    )
    command.add_argument("files", nargs="+", metavar="FILE", help="audio; what cannot be read is named, the others go on")
    _add_decoding(command)
    command.add_argument("--format", choices=FORMATS, default="txt", help="txt: a line for each utterance; json: words, too")
    command.add_argument("--output", type=Path, metavar="FOLDER", help="a file for each recording; else all is printed")

    command = add(
        "align",
        _align,
        "Finds when each word of a known text was said, for subtitles.",
        "  deepspeech2 align talk.mp3 talk.txt --model runs/mine > talk.srt\n"
        "  deepspeech2 align chapter.ogg chapter.txt --model runs/mine --format json --output chapter.json\n",
    )
    command.add_argument("audio", metavar="AUDIO", help="the recording")
    command.add_argument(
        "text", metavar="TEXT", help="UTF-8 file with all that is said; each line gets subtitles of its own"
    )
    command.add_argument(
        "--format", choices=FORMATS, default="srt", help="txt: start, end, cost and line; json: words and characters, too"
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="else it is printed")

    command = add(
        "live",
        _live,
        "Transcribes a microphone, or sound from a pipe, while it goes on; needs a unidirectional model.",
        "  deepspeech2 live --model runs/mine\n"
        "  ffmpeg -v error -i speech.mp3 -ac 1 -ar 16000 -f s16le - | deepspeech2 live - --model runs/mine\n",
    )
    command.add_argument("source", nargs="?", metavar="-", help="'-': WAV, or 16-bit PCM, from the standard input")
    command.add_argument("--rate", type=int, metavar="HERTZ", help="of PCM, which is mono; the model's rate if not given")
    _add_decoding(command)
    return parser


def _add_decoding(command: argparse.ArgumentParser) -> None:
    command.add_argument("--lm", action="store_true", help="search with the decoder in the model's folder or repository")
    command.add_argument(
        "--pause", type=float, default=0.8, metavar="SECONDS", help="a pause that ends an utterance (%(default)s)"
    )


def _load(settings: argparse.Namespace) -> tuple[DeepSpeech2ForCTC, DeepSpeech2Processor]:
    try:
        model = DeepSpeech2ForCTC.from_pretrained(settings.model).eval()
        processor = DeepSpeech2Processor.from_pretrained(settings.model)
    except (OSError, ValueError) as error:
        is_name = settings.model.count("/") <= 1 or Path(settings.model).exists()
        reason = str(error).strip().partition("\n")[0] if is_name else "there is no such folder"
        raise _SettingError(f"--model: found no Deep Speech 2 model in {settings.model} ({reason})") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").fold_batch_norm(), processor


def _load_decoder(settings: argparse.Namespace, processor: DeepSpeech2Processor) -> CTCBeamSearchDecoder | None:
    if not 0 < settings.pause < LONGEST_UTTERANCE:
        raise _SettingError(f"--pause: found {settings.pause}, expected seconds above 0 and below {LONGEST_UTTERANCE:g}.")
    try:
        return CTCBeamSearchDecoder.from_pretrained(settings.model, processor.tokenizer) if settings.lm else None
    except (OSError, ValueError) as error:
        raise _SettingError(f"--lm: {error}") from error


# transcribe


def _transcribe(settings: argparse.Namespace) -> int:
    outputs = _outputs(settings)
    model, processor = _load(settings)
    decoder = _load_decoder(settings, processor)
    bad = []
    lengths = [audio_seconds(file) for file in settings.files]
    with _Progress(sum(length or 0 for length in lengths), all(lengths)) as progress:
        for file, output in zip(settings.files, outputs):
            blocks = progress.watch(file, processor.feature_extractor.sampling_rate)
            utterances = transcribe(model, processor, blocks, decoder, end_of_utterance=settings.pause)
            try:
                with _written(output) as stream:
                    prefix = f"{file}: " if output is None and len(outputs) > 1 else ""
                    for part in _formatted(settings.format, file, utterances, prefix):
                        progress.write(part, stream)
            except BrokenPipeError:
                raise
            except (ValueError, OSError) as error:
                bad.append(file)
                progress.write(f"{error}\n" if file in str(error) else f"{file}: {error}\n", sys.stderr)
    if bad:
        print(f"{len(bad)} of {len(outputs)} files could not be transcribed: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


def _outputs(settings: argparse.Namespace) -> list[Path | None]:
    """Where each recording's text goes; None is the standard output."""
    if settings.output is None:
        if len(settings.files) > 1 and settings.format in ("srt", "vtt"):
            raise _SettingError(f"--output: subtitles of {len(settings.files)} files need a folder to be written into.")
        return [None] * len(settings.files)
    owners: dict[Path, str] = {}
    for file in settings.files:
        output = settings.output / f"{Path(file).stem}.{settings.format}"
        if output in owners:
            raise _SettingError(f"--output: {owners[output]} and {file} would both be written to {output}.")
        owners[output] = file
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _SettingError(f"--output: {settings.output} cannot be made a folder ({error.strerror}).") from error
    return list(owners)


@contextlib.contextmanager
def _written(path: Path | None) -> Iterator[TextIO]:
    """The standard output, or a file that is there when it is complete, and not before."""
    if path is None:
        yield sys.stdout
        return
    unfinished = path.with_name(path.name + ".part")
    try:
        with open(unfinished, "w", encoding="utf-8") as stream:
            yield stream
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _formatted(style: str, file: str, utterances: Iterable[Hypothesis], prefix: str) -> Iterator[str]:
    if style == "txt":
        for utterance in utterances:
            yield f"{prefix}{utterance.text}\n"
    elif style == "json":
        found = [
            {"start": one.words[0].start, "end": one.words[-1].end, "text": one.text, "words": _spans(one.words)}
            for one in utterances
        ]
        yield json.dumps({"file": file, "utterances": found}, ensure_ascii=False) + "\n"
    else:
        cues = make_cues(utterance.words for utterance in utterances)
        yield from (srt if style == "srt" else vtt)(cues)


def _spans(spans: list) -> list[dict]:
    return [
        {name: round(value, 3) if isinstance(value, float) else value for name, value in dataclasses.asdict(span).items()}
        for span in spans
    ]


class _Progress:
    """A bar in seconds of audio, with the rate as a multiple of real time."""

    def __init__(self, seconds: float, is_known: bool):
        self.begin = time.perf_counter()
        self.bar = tqdm(
            total=seconds if is_known else None,
            bar_format=BAR if is_known and seconds else BAR_WITHOUT_END,
            dynamic_ncols=True,
            disable=None,  # where the standard error is no terminal
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def watch(self, file: str, rate: int) -> Iterator[np.ndarray]:
        """The audio of a file, counted as it is read."""
        self.bar.set_description_str(f"{Path(file).name} ")
        for block in read_audio_blocks(file, rate, BLOCK_SECONDS):
            yield block
            speed = (self.bar.n + len(block) / rate) / max(time.perf_counter() - self.begin, 1e-3)
            self.bar.set_postfix_str(f"{speed:.0f} × real time", refresh=False)
            self.bar.update(len(block) / rate)

    def write(self, text: str, stream: TextIO) -> None:
        if stream.isatty():
            with tqdm.external_write_mode(stream):
                stream.write(text)
        else:
            stream.write(text)
        if stream in (sys.stdout, sys.stderr):
            stream.flush()


# align


def _align(settings: argparse.Namespace) -> int:
    if settings.output is not None and not settings.output.parent.is_dir():
        raise _SettingError(f"--output: there is no folder {settings.output.parent}.")
    try:
        text = Path(settings.text).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _SettingError(f"TEXT: {settings.text} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise _SettingError(f"TEXT: {settings.text} is not in UTF-8.") from error
    model, processor = _load(settings)
    seconds = audio_seconds(settings.audio)
    try:
        with _Progress(seconds or 0, bool(seconds)) as progress:
            blocks = progress.watch(settings.audio, processor.feature_extractor.sampling_rate)
            found = align(blocks, text, model, processor)
        with _written(settings.output) as stream:
            stream.writelines(_formatted_alignment(settings.format, found))
    except (AudioError, ValueError, OSError) as error:
        print(error if settings.audio in str(error) else f"{settings.audio}: {error}", file=sys.stderr)
        return 1
    return 0


def _formatted_alignment(style: str, found: Alignment) -> Iterator[str]:
    if style == "txt":
        for line in found.lines:
            yield f"{line.start:.2f}\t{line.end:.2f}\t{line.cost:.2f}\t{line.text}\n"
    elif style == "json":
        lines = [
            {
                **{"start": round(line.start, 3), "end": round(line.end, 3), "cost": round(line.cost, 3), "text": line.text},
                **{"words": _spans(line.words), "characters": _spans(line.characters)},
            }
            for line in found.lines
        ]
        yield json.dumps({"cost": round(found.cost, 3), "lines": lines}, ensure_ascii=False) + "\n"
    else:
        yield from (srt if style == "srt" else vtt)(make_cues(line.words for line in found.lines))


# live


def _live(settings: argparse.Namespace) -> int:
    if settings.source not in (None, "-"):
        raise _SettingError(f"found {settings.source!r}, expected '-' for a pipe, or nothing for the microphone.")
    if settings.source is None and sounddevice is None:
        raise _SettingError("a microphone needs the package sounddevice and the PortAudio library: pip install sounddevice")
    model, processor = _load(settings)
    decoder = _load_decoder(settings, processor)
    try:
        stream = DeepSpeech2Stream(model, processor, decoder, end_of_utterance=settings.pause)
    except ValueError as error:
        raise _SettingError(f"--model: {error}") from error
    rate = processor.feature_extractor.sampling_rate
    if settings.rate is not None and settings.rate < 1_000:
        raise _SettingError(f"--rate: found {settings.rate}, expected at least 1000 hertz.")
    screen = _Screen(sys.stdout)
    try:
        pieces = _microphone(rate) if settings.source is None else _pipe(sys.stdin.buffer, settings.rate or rate, rate)
        with contextlib.suppress(KeyboardInterrupt):
            for samples in pieces:
                screen.show(stream.feed(samples), stream)
    except (AudioError, wave.Error) as error:
        screen.show(stream.finish(), stream)
        print(error, file=sys.stderr)
        return 1
    screen.show(stream.finish(), stream)
    return 0


def _microphone(rate: int) -> Iterator[np.ndarray]:
    """Pieces from the default microphone, until it is interrupted."""
    recorded: queue.Queue = queue.Queue()
    try:
        microphone = sounddevice.InputStream(
            samplerate=rate,
            channels=1,
            dtype="float32",
            blocksize=round(LIVE_SECONDS * rate),
            callback=lambda samples, *_: recorded.put(samples[:, 0].copy()),
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise _SettingError(f"the microphone cannot be opened ({error}).") from error
    with microphone:
        print("Speak; Ctrl-C ends it.", file=sys.stderr)
        while True:
            samples = [recorded.get()]
            while not recorded.empty():  # what came while the last piece was worked on
                samples.append(recorded.get())
            yield np.concatenate(samples)


def _pipe(file: BinaryIO, pcm_rate: int, rate: int) -> Iterator[np.ndarray]:
    """Pieces of a WAV file, or of 16-bit little-endian mono samples, at the given rate."""
    start = file.read(4)
    if start == b"RIFF":
        try:
            sound = wave.Wave_read(_Rejoined(start, file))
        except (wave.Error, EOFError) as error:
            raise AudioError(f"The WAV on the standard input cannot be read ({error}); 16-bit PCM is expected.") from error
        if sound.getsampwidth() != 2:
            raise AudioError(f"The WAV on the standard input has {8 * sound.getsampwidth()} bits, 16 are expected.")
        pcm_rate, channels = sound.getframerate(), sound.getnchannels()
        read = sound.readframes
    else:
        channels, whole = 1, _Rejoined(start, file)

        def read(samples: int) -> bytes:
            return whole.read(2 * samples)

    resampler = None if pcm_rate == rate else soxr.ResampleStream(pcm_rate, rate, 1, dtype="float32")
    while content := read(round(LIVE_SECONDS * pcm_rate)):
        content = content[: len(content) // (2 * channels) * 2 * channels]
        samples = np.frombuffer(content, "<i2").reshape(-1, channels).mean(1, dtype=np.float32) / 32_768
        yield resampler.resample_chunk(samples) if resampler else samples
    if resampler:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


class _Rejoined:
    """A pipe of which the first bytes have been read already."""

    def __init__(self, start: bytes, file: BinaryIO):
        self.start, self.file = start, file

    def read(self, size: int) -> bytes:
        content, self.start = self.start[:size], self.start[size:]
        return content + self.file.read(size - len(content)) if len(content) < size else content


class _Screen:
    """A line for each utterance that has ended; on a terminal the one under way stands below, what may change in grey."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.is_terminal = stream.isatty()

    def show(self, ended: list[Hypothesis], live: DeepSpeech2Stream) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
