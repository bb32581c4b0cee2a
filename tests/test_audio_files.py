"""Every format that people have through every way in, by one reader; hostile files open nothing and end quickly."""

import gzip
import http.server
import io
import logging
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from modeling_deepspeech2.audio import AudioError, audio_seconds, read_audio, read_audio_blocks, read_header, read_waveform
from modeling_deepspeech2.waveform import LARGEST_SAMPLE


RATE = 16_000
SECONDS = 1.2
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")


def speech_like(seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """A tone whose loudness rises, so that a part cannot pass for the whole."""
    time = np.arange(round(seconds * rate)) / rate
    return (np.sin(2 * np.pi * 440 * time) * np.linspace(0.1, 0.5, len(time))).astype(np.float32)


def by_soundfile(kind: str, subtype: str):
    def write(path: Path) -> None:
        rate = 8_000 if subtype == "GSM610" else RATE
        soundfile.write(path, speech_like(rate=rate), rate, subtype, format=kind)

    return write


def by_ffmpeg(*arguments: str):
    def write(path: Path) -> None:
        source = path.with_name("source.wav")
        soundfile.write(source, speech_like(rate=48_000), 48_000)
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *arguments, path], check=True)
        source.unlink()

    return write


def streamed(size: int):
    """A wav whose writer did not know its length."""

    def write(path: Path) -> None:
        soundfile.write(path, speech_like(), RATE, "PCM_16", format="WAV")
        content = bytearray(path.read_bytes())
        content[4:8] = content[40:44] = struct.pack("<I", size)
        path.write_bytes(content)

    return write


def amr(path: Path) -> None:
    """Frames of 20 ms at 12.2 kbit/s, of any bits: there is no free encoder in ffmpeg."""
    draw = np.random.default_rng(0)
    frames = [b"\x3c" + draw.bytes(31) for _ in range(round(SECONDS / 0.02))]
    path.write_bytes(b"#!AMR\n" + b"".join(frames))


WAV_SUBTYPES = (
    "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610",
    "NMS_ADPCM_32",
)  # fmt: skip
SOUNDFILE_FORMATS = {
    **{f"wav {subtype}": by_soundfile("WAV", subtype) for subtype in WAV_SUBTYPES},
    "wav streamed, size 0": streamed(0),
    "wav streamed, size 2**32 - 1": streamed(2**32 - 1),
    "wavex": by_soundfile("WAVEX", "PCM_24"),
    "rf64": by_soundfile("RF64", "PCM_16"),
    "w64": by_soundfile("W64", "PCM_16"),
    "flac": by_soundfile("FLAC", "PCM_24"),
    "ogg": by_soundfile("OGG", "VORBIS"),
    "opus": by_soundfile("OGG", "OPUS"),
    "mp3": by_soundfile("MP3", "MPEG_LAYER_III"),
    "aiff": by_soundfile("AIFF", "PCM_16"),
    "au": by_soundfile("AU", "PCM_16"),
    "caf": by_soundfile("CAF", "PCM_16"),
    "nist sphere": by_soundfile("NIST", "PCM_16"),
}
FFMPEG_FORMATS = {
    "wav, ac3 within": by_ffmpeg("-c:a", "ac3", "-f", "wav"),
    "wav, wma within": by_ffmpeg("-c:a", "wmav2", "-f", "wav"),
    "wav, mp3 within": by_ffmpeg("-c:a", "libmp3lame", "-f", "wav"),
    "m4a": by_ffmpeg("-c:a", "aac", "-f", "ipod"),
    "m4a, index first": by_ffmpeg("-c:a", "aac", "-f", "ipod", "-movflags", "+faststart"),
    "alac": by_ffmpeg("-c:a", "alac", "-f", "ipod"),
    "aac": by_ffmpeg("-c:a", "aac", "-f", "adts"),
    "mp4": by_ffmpeg("-c:a", "aac", "-f", "mp4"),
    "mp4, fragments": by_ffmpeg("-c:a", "aac", "-f", "mp4", "-movflags", "frag_keyframe+empty_moov"),
    "mov": by_ffmpeg("-c:a", "pcm_s16le", "-f", "mov"),
    "3gp": by_ffmpeg("-c:a", "aac", "-f", "3gp"),
    "mkv": by_ffmpeg("-c:a", "libopus", "-f", "matroska"),
    "webm": by_ffmpeg("-c:a", "libopus", "-f", "webm"),
    "wma": by_ffmpeg("-c:a", "wmav2", "-f", "asf"),
    "amr": amr,
    "ac3": by_ffmpeg("-c:a", "ac3", "-f", "ac3"),
    "avi": by_ffmpeg("-c:a", "mp3", "-f", "avi"),
    "mpeg ts": by_ffmpeg("-c:a", "mp2", "-f", "mpegts"),
    "flv": by_ffmpeg("-ar", "44100", "-c:a", "mp3", "-f", "flv"),
    "true audio": by_ffmpeg("-c:a", "tta", "-f", "tta"),
    "wavpack": by_ffmpeg("-c:a", "wavpack", "-f", "wv"),
    "ogg, flac within": by_ffmpeg("-c:a", "flac", "-f", "ogg"),
}
FORMATS = [*SOUNDFILE_FORMATS, *(pytest.param(name, marks=needs_ffmpeg) for name in FFMPEG_FORMATS)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A web server over one folder."""
    folder = tmp_path_factory.mktemp("web")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def through_pipe(content: bytes, path: Path) -> Path:
    """A named pipe that somebody writes the content into."""
    os.mkfifo(path)
    threading.Thread(target=lambda: path.write_bytes(content), daemon=True).start()
    return path


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False


def parquet_bytes(content: bytes, folder: Path) -> dict:
    table = pyarrow.table({"audio": [{"bytes": content, "path": "clip"}]})
    pyarrow.parquet.write_table(table, folder / "one.parquet")
    return pyarrow.parquet.read_table(folder / "one.parquet")["audio"].to_pylist()[0]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_through_every_way_in(name, tmp_path, server, monkeypatch, caplog):
    """The same samples from a path, bytes, files, pipes, the net and a data set, whatever the ending, and in blocks."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    path = tmp_path / "clip.bin"
    (SOUNDFILE_FORMATS | FFMPEG_FORMATS)[name](path)
    content = path.read_bytes()
    expected = read_audio(path, RATE)
    # Codecs add silence at the ends, and lossy ones change the samples; the tone stays.
    assert abs(len(expected) / RATE - SECONDS) < 0.15
    assert name == "amr" or 0.15 < np.sqrt(np.mean(expected[: round(SECONDS * RATE)] ** 2)) < 0.3
    assert not [record for record in caplog.records if "cut short" in record.message]

    folder, address = server
    (folder / "clip").write_bytes(content)
    os.symlink(path, tmp_path / "-y.raw")  # an option of ffmpeg, and an ending for samples without a header
    stdin = io.TextIOWrapper(Unseekable(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    ways = {
        "an ending that lies": str(tmp_path / "-y.raw"),
        "bytes": content,
        "URL": f"{address}/clip",
        "a pipe": through_pipe(content, tmp_path / "pipe"),
        "the standard input": "-",
    }
    if name in SOUNDFILE_FORMATS or name == "m4a":
        ways |= {"memoryview": memoryview(content), "BytesIO": io.BytesIO(content), "a file": path.open("rb")}
        ways["BytesIO"].read()  # as of somebody who has just written it
    for way, source in ways.items():
        assert np.array_equal(read_audio(source, RATE), expected), way
    row = parquet_bytes(content, tmp_path)
    assert np.array_equal(read_waveform(row, RATE, "row 0"), expected)
    assert read_header(row, "row 0").seconds == pytest.approx(len(expected) / RATE, abs=0.05)
    blocks = np.concatenate(list(read_audio_blocks(path, RATE, 0.25)))
    assert abs(len(blocks) - len(expected)) <= 1 and np.abs(blocks[: len(expected)] - expected[: len(blocks)]).max() < 2e-3


# Files that hold no sound, or lie.


def wav_header(rate: int, channels: int, bits: int = 16, size: int = 64_000, block: int | None = None) -> bytes:
    block = channels * bits // 8 if block is None else block
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, channels, rate, 0, block, bits)
    return head + struct.pack("<4sI", b"data", size) + bytes(64_000)


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.wav\n#EXT-X-ENDLIST\n"
HOSTILE = {
    "HLS playlist": PLAYLIST,
    "HLS playlist, absolute path": PLAYLIST.replace(b"secret.wav", b"{folder}/secret.wav"),
    "HLS playlist, protocol": PLAYLIST.replace(b"secret.wav", b"file:{folder}/secret.wav"),
    "HLS playlist, concat": PLAYLIST.replace(b"secret.wav", b"concat:{folder}/secret.wav|{folder}/secret.wav"),
    "m3u": b"#EXTM3U\n{folder}/secret.wav\n",
    "pls": b"[playlist]\nFile1={folder}/secret.wav\nNumberOfEntries=1\nVersion=2\n",
    "ffconcat": b"ffconcat version 1.0\nfile {folder}/secret.wav\n",
    "concat list without a header": b"file '{folder}/secret.wav'\n",
    "DASH": b'<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT1S" minBufferTime="PT1S" '
    b'profiles="urn:mpeg:dash:profile:isoff-main:2011" xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet '
    b'mimeType="audio/wav"><Representation id="1" bandwidth="1"><BaseURL>file:{folder}/secret.wav</BaseURL>'
    b"</Representation></AdaptationSet></Period></MPD>",
    "SDP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "SMIL": b'<smil><body><audio src="{folder}/secret.wav"/></body></smil>',
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:{folder}/secret.wav"/></svg>',
    "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nwords\n",
    "ffmetadata": b";FFMETADATA1\ntitle=words\n",
    "text": b"These are words, not sounds.\n" * 100,
    "zeros": bytes(10_000),
    "noise": np.random.default_rng(1).bytes(10_000),
    "one byte": b"R",
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01" + bytes(500),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(500),
    "ZIP": b"PK\x03\x04" + bytes(500),
    "gzip": b"\x1f\x8b\x08" + bytes(500),
    "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
    "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n.",
    "RIFF of another kind": b"RIFF\x24\x00\x00\x00AVI LIST" + bytes(100),
    "wav without samples": wav_header(RATE, 1)[:44],
    "wav of 0 hertz": wav_header(0, 1),
    "wav of 16 hertz": wav_header(16, 1),
    "wav of 4 gigahertz": wav_header(2**32 - 1, 1),
    "wav of 0 channels": wav_header(RATE, 0, block=2),
    "wav of 65,535 channels": wav_header(RATE, 65_535, block=65_535),
    "wav of 0 bits": wav_header(RATE, 1, 0, block=0),
    "wav of 4,000 bits": wav_header(RATE, 1, 4_000),
    "header of a wav alone": b"RIFF\x24\x00\x00\x00WAVEfmt ",
    "header of a flac alone": b"fLaC\x00\x00\x00\x22" + bytes(34),
    "header of an ogg alone": b"OggS\x00\x02" + bytes(22),
    "header of an m4a alone": b"\x00\x00\x00\x20ftypM4A " + bytes(20),
    "m4a whose box is endless": b"\x00\x00\x00\x20ftypM4A " + bytes(20) + b"\x00\x00\x00\x01moov" + b"\xff" * 8,
    "matroska whose size is endless": b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 20,
}


@pytest.mark.parametrize("ffmpeg", [pytest.param(True, marks=needs_ffmpeg), False])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_audio_opens_nothing_and_gets_one_sentence(kind, ffmpeg, tmp_path, monkeypatch):
    """Playlists, lists and headers that lie: named, in one line, and no other file is read, whatever the name's ending."""
    soundfile.write(tmp_path / "secret.wav", speech_like(), RATE)
    if not ffmpeg:
        monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "x.mp3"
    path.write_bytes(HOSTILE[kind].replace(b"{folder}", bytes(tmp_path)))
    for source in (path,) if ffmpeg else (path, path.read_bytes()):
        with pytest.raises(AudioError) as caught:
            read_audio(source, RATE, name="x.mp3")
        assert "x.mp3" in str(caught.value) and "\n" not in str(caught.value)
    assert ffmpeg or not audio_seconds(path)


@needs_ffmpeg
@pytest.mark.parametrize(
    "template", ["concat:{0}|{0}", "file:{0}", "subfile,,start,0,end,9,,:{0}", "async:{0}", "pipe:0", "-i"]
)
def test_names_of_protocols_are_names_of_files(template, tmp_path, monkeypatch):
    """`concat:x` reads x for ffmpeg; here it is a file's name, read where there is such a file, else missing."""
    monkeypatch.chdir(tmp_path)
    by_ffmpeg("-c:a", "aac", "-f", "ipod")(tmp_path / "secret")
    name = template.format("secret")
    with pytest.raises(FileNotFoundError, match="There is no audio file"):
        read_audio(name, RATE)
    (tmp_path / name).write_bytes((tmp_path / "secret").read_bytes())
    assert np.array_equal(read_audio(name, RATE), read_audio("secret", RATE))


@pytest.mark.parametrize(
    "path, message",
    [
        ("/dev/zero", "/dev/zero is a device"),
        ("/dev/urandom", "is a device"),
        ("/dev/null", "is a device"),
        (".", "is a folder"),
        ("pipe", "is a pipe"),
        ("http://127.0.0.1:9/a.wav?token=hf_secret", "cannot be fetched"),
        ("foo://bar/a.wav", "cannot be fetched"),
        ("zip://a.wav::nowhere.zip", "cannot be fetched|There is no audio file"),
        ("a\0b.wav", "no name of a file"),
        ("x" * 5_000, "too long"),
        ("", "There is no audio file"),
        ("-", "There is no audio file"),
    ],
)
def test_paths_in_a_data_set_that_are_no_files(path, message, tmp_path, monkeypatch):
    """They would hang, fill the memory, or end the run: each is one utterance that is left out, with its reason."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")  # that nobody writes into
    with pytest.raises((AudioError, OSError), match=message) as caught:
        read_waveform({"bytes": None, "path": path}, RATE, path[:100])
    assert "\n" not in str(caught.value) and "hf_secret" not in str(caught.value).replace(path, "")


def test_devices_are_no_recordings():
    """Not in a data set alone: the command, too, would wait for ever."""
    with pytest.raises(AudioError, match="/dev/zero is a device"):
        read_audio("/dev/zero", RATE)


def test_a_stream_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr("modeling_deepspeech2.audio_files.LARGEST_STREAM", 1 << 21)

    class Endless(io.RawIOBase):
        def seekable(self) -> bool:
            return False

        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    with pytest.raises(AudioError, match="does not end within"):
        read_audio(Endless(), RATE, name="a radio")


def test_text_files_and_bad_answers(server, tmp_path):
    """A file that is open as text, and a page that is not there."""
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with open(tmp_path / "a.wav") as file, pytest.raises(AudioError, match="open as text"):
        read_audio(file, RATE)
    with pytest.raises(AudioError, match="cannot be fetched .*404"):
        read_audio(f"{server[1]}/nothing.wav", RATE)


def test_names_that_are_no_unicode(tmp_path):
    """A file system may hold any bytes; the name in a message can be printed."""
    path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav")
    soundfile.write(tmp_path / "a.wav", speech_like(), RATE)
    shutil.copyfile(tmp_path / "a.wav", path)
    assert len(read_audio(path, RATE)) == RATE * SECONDS
    with pytest.raises(FileNotFoundError) as caught:
        read_audio(path + "x", RATE)
    assert r"caf\xe9.wavx" in str(caught.value)
    str(caught.value).encode("utf-8")


def test_a_small_file_that_holds_hours_is_refused_early(tmp_path, monkeypatch):
    """Three hours of silence make a flac of half a megabyte: refused by its header, or after the first blocks."""
    soundfile.write(tmp_path / "hours.flac", np.zeros(RATE * 600, np.int16), RATE)
    with pytest.raises(AudioError, match="hours.flac lasts longer than 30 s"):
        read_audio(tmp_path / "hours.flac", RATE, "hours.flac", max_seconds=30)
    content = bytearray((tmp_path / "hours.flac").read_bytes())
    assert content[21] & 0x0F == 0
    content[22:26] = bytes(4)  # its header does not say how long it is
    assert len(content) < 200_000
    decoded = []
    monkeypatch.setattr(
        "modeling_deepspeech2.audio.check_samples", lambda block, name: decoded.append(len(block)), raising=True
    )
    with pytest.raises(AudioError, match="lasts longer than 30 s|holds no samples|damaged"):
        read_audio(bytes(content), RATE, "hours.flac", max_seconds=30)
    assert sum(decoded) <= 40 * RATE


# Samples that no recording holds, and channels.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e25, -1e25, 3e38, 32_768.0, 1.01 * LARGEST_SAMPLE])
@pytest.mark.parametrize("place", [0, RATE, -1])
def test_samples_beyond_any_recording_are_refused_by_name(value, place):
    """One of them made the whole transcript empty, and a live stream mute; so in one go and in blocks."""
    samples = speech_like()
    samples[place] = value
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, "FLOAT", format="WAV")
    with pytest.raises(AudioError, match="spoilt.wav holds samples"):
        read_audio(file, RATE, "spoilt.wav")
    with pytest.raises(AudioError, match="spoilt.wav holds samples"):
        list(read_audio_blocks(file, RATE, 0.25, "spoilt.wav"))


def test_overshoot_is_no_fault():
    """Decoders of lossy codecs, and float files of loud speech, go beyond full scale."""
    file = io.BytesIO()
    soundfile.write(file, 20 * speech_like(), RATE, "FLOAT", format="WAV")
    assert np.abs(read_audio(file, RATE)).max() > 9


def stereo(left: np.ndarray, right: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, np.stack([left, right], 1), RATE, "FLOAT", format="WAV")
    return file


@pytest.mark.parametrize("right", [-1.0, -0.95, -1.05])
def test_inverted_channels_are_heard_and_said(right, caplog, monkeypatch):
    """Their average is silence: the louder channel is taken, in one go, in blocks, and of an array."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    left = speech_like()
    louder = left if abs(right) <= 1 else right * left
    assert np.array_equal(read_audio(stereo(left, right * left), RATE, "call.wav"), louder)
    [warning] = caplog.records
    assert "channels of call.wav cancel each other" in warning.message
    blocks = np.concatenate(list(read_audio_blocks(stereo(left, right * left), RATE, 0.25, "call.wav")))
    assert np.array_equal(blocks, louder) and len(caplog.records) == 2


@pytest.mark.parametrize("right", [1.0, 0.0, 0.5, -0.5, "another"])
def test_other_channels_are_averaged(right, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    left = speech_like()
    other = speech_like()[::-1] if right == "another" else right * left
    assert np.allclose(read_audio(stereo(left, other), RATE), (left + other) / 2, atol=1e-6)
    assert not caplog.records


def test_one_channel_of_several():
    """As the two sides of a call, each its own speaker."""
    left, right = speech_like(), speech_like()[::-1]
    for channel, samples in enumerate((left, right)):
        assert np.array_equal(read_audio(stereo(left, right), RATE, channel=channel), samples)
        assert np.array_equal(
            np.concatenate(list(read_audio_blocks(stereo(left, right), RATE, 0.3, channel=channel))), samples
        )
    with pytest.raises(AudioError, match="has 2 channels, of which 3 is none"):
        read_audio(stereo(left, right), RATE, channel=2)


@needs_ffmpeg
def test_an_unpacked_file_is_not_taken_for_another_of_its_name(tmp_path, monkeypatch):
    """A member of an archive bears a name, too; the file of that name in the working folder was read instead."""
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("inner.m4a", SECONDS), ("talk.m4a", 3.0)):
        soundfile.write("source.wav", speech_like(seconds), RATE)
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", "source.wav", name], check=True)
    with zipfile.ZipFile("archive.zip", "w") as archive:
        archive.write("inner.m4a", "talk.m4a")
    Path("packed.gz").write_bytes(gzip.compress(Path("inner.m4a").read_bytes()))
    with zipfile.ZipFile("archive.zip") as archive, archive.open("talk.m4a") as member, gzip.open("packed.gz") as packed:
        for file in (member, packed):
            assert len(read_audio(file, RATE)) / RATE == pytest.approx(SECONDS, abs=0.1)
