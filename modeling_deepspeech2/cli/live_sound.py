"""Reads audio from a microphone or a pipe as it arrives, in pieces of float32 samples at the model's rate."""

import queue
import sys
import wave
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import soxr

from ..audio import AudioError
from ..audio_files import HIGHEST_RATE, LOWEST_RATE
from ..errors import UserError


try:  # Only a microphone needs it.
    import sounddevice
except (ImportError, OSError):  # OSError: the package is there, the PortAudio library is not
    sounddevice = None

PIECE_SECONDS = 0.1
CONVERT = "expected WAV or 16-bit PCM; convert it, for example with `ffmpeg -v error -i FILE -ac 1 -ar 16000 -f s16le -`."
# Where the first bytes of other formats say what they are; MP3 without a tag is recognised by its frames.
FORMATS = {
    "MP3": (0, b"ID3"),
    "FLAC": (0, b"fLaC"),
    "Ogg": (0, b"OggS"),
    "MP4 or M4A": (4, b"ftyp"),
    "Matroska or WebM": (0, b"\x1aE\xdf\xa3"),
    "AIFF": (0, b"FORM"),
    "AU": (0, b".snd"),
    "CAF": (0, b"caff"),
    "WMA": (0, b"0&\xb2u\x8ef\xcf\x11"),
    "big-endian WAV": (0, b"RIFX"),
    "RF64": (0, b"RF64"),
}
LONGEST_MP3_FRAME = 1_441  # bytes
MP3_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # MPEG-1 layer III
MP3_KILOBITS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # MPEG-2 and 2.5 layer III
MP3_HERTZ = (44_100, 48_000, 32_000)


def microphone(rate: int, name: str | None = None) -> Iterator[np.ndarray]:
    """Pieces from a microphone until it is interrupted, resampled if it does not offer the rate.

    Args:
        rate: hertz.
        name: its number or a part of its name; None: the system's default.

    Raises:
        UserError: sounddevice is missing, or there is no such microphone; before the first piece.
    """
    if sounddevice is None:
        raise UserError(
            "a microphone needs the package sounddevice and the PortAudio library: pip install sounddevice "
            "(and on Debian: apt install libportaudio2)"
        )
    device = int(name) if name is not None and name.isdecimal() else name
    recorded: queue.Queue = queue.Queue()

    def record(samples: np.ndarray, *_: object) -> None:
        recorded.put(samples[:, 0].copy())

    def open_stream(hertz: int) -> Any:
        return sounddevice.InputStream(
            samplerate=hertz,
            channels=1,
            dtype="float32",
            blocksize=round(PIECE_SECONDS * hertz),
            device=device,
            callback=record,
        )

    try:
        own_rate = rate
        try:
            sounddevice.check_input_settings(device=device, channels=1, dtype="float32", samplerate=rate)
        except sounddevice.PortAudioError:
            own_rate = round(sounddevice.query_devices(device, "input")["default_samplerate"])
        stream = open_stream(own_rate)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(
            f"--device: the microphone {name or 'of the system'} cannot be opened ({error}); `python -m sounddevice` lists "
            f"what there is."
        ) from error
    return _recorded(stream, recorded, Resampler(own_rate, rate))


def _recorded(stream: Any, recorded: queue.Queue, resampler: "Resampler") -> Iterator[np.ndarray]:
    with stream:
        print("Speak; Ctrl-C ends it.", file=sys.stderr)
        while True:
            samples = [recorded.get()]
            while not recorded.empty():  # what came while the last piece was worked on
                samples.append(recorded.get())
            yield resampler(np.concatenate(samples))


class Resampler:
    """Resamples audio in pieces; does nothing if both rates are the same."""

    def __init__(self, rate: int, wanted: int):
        self.stream = None if rate == wanted else soxr.ResampleStream(rate, wanted, 1, dtype="float32")

    def __call__(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        return samples if self.stream is None else self.stream.resample_chunk(samples, last=last)


def pipe(file: BinaryIO, pcm_rate: int, rate: int) -> Iterator[np.ndarray]:
    """Pieces of a WAV file, or of 16-bit little-endian mono samples at `pcm_rate`.

    Raises:
        AudioError: another format, or a WAV of another kind.
    """
    start = file.read(2 * LONGEST_MP3_FRAME)
    found = name_format(start)
    if found is not None:
        raise AudioError(f"The standard input holds {found}, {CONVERT}")
    whole: Any = _Rejoined(start, file)
    sound: Any = None
    channels = 1
    if start.startswith(b"RIFF"):
        try:
            sound = wave.Wave_read(whole)
        except (wave.Error, EOFError) as error:
            raise AudioError(f"The WAV on the standard input cannot be read ({error}), {CONVERT}") from error
        if sound.getsampwidth() != 2:
            raise AudioError(f"The WAV on the standard input has {8 * sound.getsampwidth()} bits, {CONVERT}")
        pcm_rate, channels = sound.getframerate(), sound.getnchannels()
        if not LOWEST_RATE <= pcm_rate <= HIGHEST_RATE:
            raise AudioError(f"The WAV on the standard input declares {pcm_rate} hertz, {CONVERT}")
    is_declared = sound is not None and sound.getnframes() > 0

    def read(samples: int) -> bytes:
        # A writer to a pipe may declare no samples, since it does not know yet how many will follow.
        return sound.readframes(samples) if is_declared else whole.read(2 * channels * samples)

    resampler = Resampler(pcm_rate, rate)
    while content := read(round(PIECE_SECONDS * pcm_rate)):
        content = content[: len(content) // (2 * channels) * 2 * channels]
        yield resampler(np.frombuffer(content, "<i2").reshape(-1, channels).mean(1, dtype=np.float32) / 32_768)
    yield resampler(np.zeros(0, np.float32), last=True)


def name_format(start: bytes) -> str | None:
    """The format that the first bytes of a file indicate; None for WAV and possible PCM."""
    for name, (offset, mark) in FORMATS.items():
        if start[offset : offset + len(mark)] == mark:
            return name
    length = _mp3_frame(start)
    # A sample of PCM may look like the header of a frame, but hardly twice at the right distance.
    return "MP3" if length and _mp3_frame(start[length:]) else None


def _mp3_frame(header: bytes) -> int:
    """Bytes of the MP3 frame that begins here; 0 if none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # sync, layer III
        return 0
    version, bitrate, rate, padding = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or rate == 3 or not 0 < bitrate < 15:
        return 0
    is_first = version == 3
    kilobits = (MP3_KILOBITS if is_first else MP3_KILOBITS_2)[bitrate - 1]
    hertz = MP3_HERTZ[rate] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if is_first else 72) * 1_000 * kilobits // hertz + padding


class _Rejoined:
    """A pipe whose first bytes have been read already."""

    def __init__(self, start: bytes, file: BinaryIO):
        self.start, self.file = start, file

    def read(self, size: int) -> bytes:
        content, self.start = self.start[:size], self.start[size:]
        return content + self.file.read(size - len(content)) if len(content) < size else content
