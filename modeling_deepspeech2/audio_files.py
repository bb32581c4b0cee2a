"""Opens a source of audio and decodes it block by block.

The source is a path, a URL, the standard input (`-`), a pipe, the bytes of a file, or an open file. Each becomes one
seekable file, which soundfile decodes or, if it does not know the format, the ffmpeg program. Nothing else is ever opened:
ffmpeg gets one local file, no network access, and no format that refers to other files (playlists, concatenation lists).
"""

import contextlib
import io
import logging
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from .waveform import AudioError


try:
    import soundfile
except ImportError as error:
    raise ImportError("Reading audio files needs two packages: pip install soundfile soxr") from error

logger = logging.getLogger(__name__)

LOWEST_RATE = 1_000  # hertz; what is below holds no speech, and is most likely a rate in kilohertz
HIGHEST_RATE = 1_000_000
BLOCK_SAMPLES = 1 << 24  # of all channels, at most in one block
LARGEST_STREAM = 4 << 30  # bytes that are taken from a pipe or a URL, which may never end
COPY_BYTES = 1 << 20

# What libsndfile notes about a file that ends too early. Sizes near 2³¹ and 2³² stand in files that were written to a pipe,
# whose length was not yet known.
_DECLARED_BYTES = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
_UNKNOWN_BYTES = 0x7FFF_0000
_LARGEST_OGG_PAGE = 65_307  # bytes
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL_IN_TEXT = re.compile(_URL.pattern + r"[^\s'\"<>]+")
_SECRETS = re.compile(r"(?<=://)[^/?#]*@|[?#].*", re.DOTALL)  # of a URL: passwords, and tokens behind the path

# Formats that hold audio themselves. What is not in this list, playlists above all, can make ffmpeg open other files.
FFMPEG_FORMATS = (
    "aac ac3 eac3 aiff amr amrnb amrwb ape asf au avi caf dts flac flv gsm ircam loas matroska,webm mov,mp4,m4a,3gp,3g2,mj2 "
    "mp3 mpc mpc8 mpeg mpegts mxf nistsphere nut oga ogg oma qcp rm shn sox tak tta voc w64 wav wv xwma"
).replace(" ", ",")
AU_FLOAT = 6  # the number of 32-bit floating point in an au header

AudioSource = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO


@dataclass
class AudioHeader:
    """The header of a file; no `seconds` if only decoding can tell."""

    rate: int
    channels: int
    seconds: float | None
    decoder: str  # "soundfile", which every installation has, or "ffmpeg"


@contextmanager
def open_audio(source: AudioSource, name: str, streams: bool = True) -> Iterator["SoundFileDecoder | FFmpegDecoder"]:
    """Opens a source for its blocks of samples.

    Args:
        source: path, URL, `-`, bytes of a file, or an open binary file.
        name: what messages call it.
        streams: whether pipes are read to their end, too; a data set, which is read many times, names none.

    Raises:
        AudioError: no known format, or nothing that can be read.
        FileNotFoundError: there is no such file.
    """
    name = name_of(name)
    with ExitStack() as stack:
        file = stack.enter_context(_seekable(source, name, streams))
        decoder = _decoder(file, name)
        stack.callback(decoder.close)
        if not LOWEST_RATE <= decoder.header.rate <= HIGHEST_RATE:
            raise AudioError(
                f"The sampling rate of {name} must lie within {LOWEST_RATE} and {HIGHEST_RATE} hertz, but is "
                f"{decoder.header.rate}."
            )
        yield decoder


def _decoder(file: BinaryIO, name: str) -> "SoundFileDecoder | FFmpegDecoder":
    if not file.read(1):
        raise AudioError(f"{name} is empty: it holds no bytes.")
    file.seek(0)
    try:
        return SoundFileDecoder(file, name)
    except Exception as error:  # a damaged header makes more kinds of errors than its own
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        if shutil.which("ffmpeg") is None:
            raise AudioError(
                f"{name} is damaged, or in no audio format that soundfile knows ({reason}); formats beyond wav, flac, mp3 "
                "and ogg need the ffmpeg program."
            ) from error
    file.seek(0)
    return FFmpegDecoder(file, name)


class SoundFileDecoder:
    """Blocks of samples by libsndfile."""

    def __init__(self, file: BinaryIO, name: str):
        self.source, self.name = file, name
        # Its content tells the format: by the ending `.raw` soundfile would take anything for samples.
        self.file = _ForwardSoundFile(_Content(file))
        self.header = AudioHeader(self.file.samplerate, self.file.channels, None, "soundfile")
        if 0 <= self.file.frames < 1 << 48 and self.header.rate:
            self.header.seconds = self.file.frames / self.header.rate

    def blocks(self, seconds: float, start: float = 0.0) -> Iterator[np.ndarray]:
        """float32 samples from `start` (seconds) to the end, each block of shape (samples, channels)."""
        size = _block_size(seconds, self.header)
        found = round(start * self.header.rate)
        try:
            if self.file.format == "MP3":  # in which seeking goes wrong
                for skipped in range(0, found, size):
                    self.file.read(min(size, found - skipped), dtype="float32")
            elif found:
                self.file.seek(min(found, self.file.frames))
            while len(block := self.file.read(size, dtype="float32", always_2d=True)):
                found += len(block)
                yield block
        except Exception as error:
            reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
            raise AudioError(f"{self.name} is damaged or cut short ({reason}).") from error
        if found and self._is_cut_short(found):
            logger.warning(
                f"{self.name} is cut short: it ends before its format says, after {found / self.header.rate:.2f} s."
            )

    def content(self) -> bytes:
        """The file as it stands, undecoded."""
        self.source.seek(0)
        return self.source.read()

    def _is_cut_short(self, found: int) -> bool:
        # An mp3 within a wav declares the frames of its encoder, of which the decoder gives up to two fewer.
        if found < self.file.frames - 2_304 * (self.file.format == "WAV" and self.file.subtype.startswith("MPEG")):
            return True
        if self.file.format == "OGG":
            return not has_last_ogg_page(self.source)
        sizes = [(int(declared), int(present)) for declared, present in _DECLARED_BYTES.findall(self.file.extra_info)]
        return any(present < declared < _UNKNOWN_BYTES for declared, present in sizes)

    def close(self) -> None:
        self.file.close()


class _ForwardSoundFile(soundfile.SoundFile):
    """Reads on without seeking; soundfile seeks after each block, which corrupts the rest of an mp3."""

    def seekable(self) -> bool:
        return False


class _Content:
    """A file without its name, and with the length of a streamed wav, whose writer declared none."""

    def __init__(self, file: BinaryIO):
        self.file, self.seek, self.tell = file, file.seek, file.tell
        self.place = _place_of_missing_size(file)

    def read(self, size: int = -1) -> bytes:
        start = self.file.tell()
        content = self.file.read(size)
        if self.place is None or not start < self.place + 4 <= start + len(content) + 3:
            return content
        patched = bytearray(content)
        for place in range(max(start, self.place), min(start + len(content), self.place + 4)):
            patched[place - start] = 0xFF
        return bytes(patched)


def _place_of_missing_size(file: BinaryIO) -> int | None:
    """The position where a wav wrongly declares 0 bytes of samples, else None; rewinds the file."""
    size, place = file.seek(0, os.SEEK_END), 12
    file.seek(0)
    start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data" and length == 0:
                follows = file.read(8)
                is_chunk = len(follows) == 8 and follows[:4].isalnum() and struct.unpack("<I", follows[4:])[0] <= size
                file.seek(0)
                return place + 4 if follows and not is_chunk else None
            if name == b"data":
                break
            place += 8 + length + length % 2
            file.seek(place)
    file.seek(0)
    return None


def has_last_ogg_page(file: BinaryIO) -> bool:
    """Whether the file's last page is whole and marked as the stream's end (RFC 3533, section 6).

    libsndfile notes the same, but misses the mark in some whole files of one page.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LARGEST_OGG_PAGE))
    end = file.read()
    page = end[max(0, end.rfind(b"OggS")) :]
    header = 27 + page[26] if len(page) > 26 else 27
    return len(page) >= header + sum(page[27:header]) and bool(page[5] & 4)


class FFmpegDecoder:
    """Blocks of samples by the ffmpeg program, which gets a local file that it can seek in, and nothing else."""

    def __init__(self, file: BinaryIO, name: str):
        self.name, self.stack = name, ExitStack()
        self.said = self.stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        try:
            self.path = self._path(file)
            self.process = self._start(0.0)
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise

    def _path(self, file: BinaryIO) -> str:
        # Only of a file that is read itself: what is unpacked may bear the name of its archive, or of any other file.
        raw = getattr(getattr(file, "file", file), "raw", None)
        path = getattr(raw, "name", None)
        is_own = isinstance(raw, io.FileIO) and isinstance(path, (str, bytes)) and os.path.isfile(path)
        if is_own and os.path.samestat(os.fstat(raw.fileno()), os.stat(path)):
            return os.path.abspath(os.fsdecode(path))
        copy = self.stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115 (the stack closes it)
        shutil.copyfileobj(file, copy, COPY_BYTES)
        copy.flush()
        return copy.name

    def _start(self, start: float) -> subprocess.Popen:
        limits = ["-protocol_whitelist", "file", "-format_whitelist", FFMPEG_FORMATS]
        wanted = ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        # With its protocol and from the root on, no name can begin with a hyphen or name another protocol.
        begin = ["-ss", f"{start:.6f}"] if start else []
        command = ["ffmpeg", "-nostdin", "-v", "error", *limits, *begin, "-i", f"file:{self.path}", *wanted]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.said)

    def _read_header(self) -> AudioHeader:
        header = self.process.stdout.read(24)
        if len(header) < 24:
            raise AudioError(f"{self.name} is damaged, or in no audio format that soundfile or ffmpeg knows.")
        magic, offset, _, encoding, rate, channels = struct.unpack(">4s5I", header)
        assert (magic, encoding) == (b".snd", AU_FLOAT)
        self.process.stdout.read(offset - 24)
        return AudioHeader(rate, channels, None, "ffmpeg")

    def blocks(self, seconds: float, start: float = 0.0) -> Iterator[np.ndarray]:
        """float32 samples from `start` (seconds) to the end, each block of shape (samples, channels)."""
        if start:
            self._stop()
            self.process = self._start(start)
            self._read_header()
        frame = 4 * self.header.channels
        size = frame * _block_size(seconds, self.header)
        while block := self.process.stdout.read(size):
            yield np.frombuffer(block[: len(block) // frame * frame], ">f4").reshape(-1, self.header.channels).astype("f4")
        self.process.wait()
        self.said.seek(0)
        complaints = self.said.read().decode(errors="replace").strip().splitlines()
        if complaints:
            logger.warning(f"{self.name} may be damaged or cut short; ffmpeg says: {complaints[-1].strip()}")

    def _stop(self) -> None:
        self.process.kill()  # for a reader that stops in the middle; a finished process is not hurt
        self.process.stdout.close()
        self.process.wait()

    def close(self) -> None:
        if hasattr(self, "process"):
            self._stop()
        self.stack.close()


def _block_size(seconds: float, header: AudioHeader) -> int:
    return max(1, min(round(seconds * header.rate), BLOCK_SAMPLES // max(header.channels, 1)))


@contextmanager
def _seekable(source: AudioSource, name: str, streams: bool) -> Iterator[BinaryIO]:
    """A seekable file, positioned at its beginning."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
        return
    with ExitStack() as stack:
        if isinstance(source, str) and source == "-" and streams:
            file = sys.stdin.buffer
        elif isinstance(source, str) and _URL.match(source):
            file = _open_url(source, name, stack)
        elif hasattr(source, "read"):
            file = source
        elif not isinstance(source, (str, os.PathLike)):  # a number would be taken for a file that is open already
            raise AudioError(f"{name} is {source!r:.40}, expected a path, a URL, bytes, or an open binary file.")
        else:
            file = stack.enter_context(open_regular(source, name, streams))
        if isinstance(file, io.TextIOBase):
            raise AudioError(f"{name} is open as text, but audio needs a file that is open in binary mode ('rb').")
        if file.seekable():
            file.seek(0)
            yield file
            return
        yield _copy(iter(lambda: file.read(COPY_BYTES), b""), name, stack)


def open_regular(path: str | os.PathLike, name: str, streams: bool = False) -> BinaryIO:
    """Opens a file on this machine; devices, folders and sockets, which may never end, are refused.

    Raises:
        AudioError: no regular file, nor a pipe if `streams` allows it, or an impossible file name.
        OSError: it is not there, or may not be read.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no audio file {name}.") from error
    except ValueError as error:
        raise AudioError(f"{name!r} is no name of a file ({error}).") from error
    if stat.S_ISREG(mode) or (streams and stat.S_ISFIFO(mode)):
        return open(path, "rb")
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    kind = next((kind for is_kind, kind in kinds if is_kind(mode)), "a device")
    raise AudioError(f"{name} is {kind}, but must be a file.")


def _open_url(url: str, name: str, stack: ExitStack) -> BinaryIO:
    import fsspec  # both take a while to import, and most audio comes from files
    from huggingface_hub.utils import httpx

    try:
        if url.lower().startswith(("http://", "https://")):
            answer = stack.enter_context(httpx.stream("GET", url, follow_redirects=True, timeout=30))
            return _copy(answer.raise_for_status().iter_bytes(COPY_BYTES), name, stack)
        return stack.enter_context(fsspec.open(url))  # on the Hub, in an archive, …
    except (AudioError, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no audio file {name}.") from error
    except Exception as error:  # each protocol has its own kinds
        shown = name_of(url)
        place = "" if shown == name else f" from {shown}"
        reason = (str(error).strip() or repr(error)).replace(url, shown).splitlines()[0].rstrip(".")
        reason = _URL_IN_TEXT.sub(lambda match: name_of(match[0]), reason)  # those that it was sent on to
        raise AudioError(f"{name} cannot be fetched{place} ({reason}).") from error


def _copy(pieces: Iterator[bytes], name: str, stack: ExitStack) -> BinaryIO:
    """A stream of bytes, which cannot be sought in, as a temporary file."""
    copy = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115 (the stack closes it)
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > LARGEST_STREAM:
            raise AudioError(f"{name} does not end within {LARGEST_STREAM >> 30} GB, which is all that is taken.")
        copy.write(piece)
    copy.seek(0)
    return copy


def is_source(audio: object) -> bool:
    """Whether something is the place or content of a file, rather than an array or stream of samples."""
    return isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(audio, "read")


def name_of(source: AudioSource) -> str:
    """The name of a source in messages, in characters that any encoding of Unicode can represent."""
    if isinstance(source, str) and source == "-":
        return "the standard input"
    if isinstance(source, str) and _URL.match(source):
        source = _SECRETS.sub("", source)
    name = getattr(source, "name", None) if hasattr(source, "read") else source
    if isinstance(name, (str, os.PathLike)):
        with contextlib.suppress(UnicodeEncodeError):
            return os.fsencode(name).decode("utf-8", "backslashreplace")
        return os.fspath(name).encode("utf-8", "backslashreplace").decode()  # half a character, of JSON
    return "the audio bytes"
