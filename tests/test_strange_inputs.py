"""Inputs of every kind that people met or might meet: each gives the right result, or one sentence that says why not."""

import gzip
import io
import json
import math
import os
import shutil
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_deepspeech2 import (
    CTCBeamSearchDecoder,
    DeepSpeech2ForCTC,
    DeepSpeech2Pipeline,
    DeepSpeech2Processor,
    DeepSpeech2Stream,
    feed_streams,
    read_audio,
    transcribe,
)
from modeling_deepspeech2.audio import name_of, read_waveform, to_mono
from modeling_deepspeech2.corpus.clips import read_clips
from modeling_deepspeech2.corpus.prepare import measure_clip
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.ngram import NGramModel
from modeling_deepspeech2.waveform import ChannelMixer


RATE = 16_000
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 11043444\n"


def one_sentence(call: Callable[[], object], *kinds: type[BaseException]) -> str:
    """The message of the user's mistake that a call ends with."""
    with pytest.raises(kinds or (UserError, FileNotFoundError)) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message and "Traceback" not in message and len(message) < 600, message
    return message


@pytest.fixture(scope="module")
def pipe(make_tiny_model, processor) -> DeepSpeech2Pipeline:
    return DeepSpeech2Pipeline(
        model=make_tiny_model(), tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor, decoder=None
    )


@pytest.fixture(scope="module")
def live_model(make_tiny_model) -> DeepSpeech2ForCTC:
    return make_tiny_model(bidirectional=False, lookahead=2)


# Samples that are no speech.


def spoilt(place: int, value: float, kind: type = np.float32) -> np.ndarray:
    samples = (0.1 * np.random.default_rng(0).standard_normal(8_000)).astype(kind)
    samples[place] = value
    return samples


SAMPLES = {
    "the last sample is 1e25": spoilt(-1, 1e25),
    "the first sample is -inf": spoilt(0, -np.inf),
    "NaN in the middle, 64 bits": spoilt(4_000, np.nan, np.float64),
    "half precision that overflowed": spoilt(10, np.inf, np.float16),
    "integers as floating point": spoilt(5, 12_000.0),
    "NaN in the right channel alone": np.stack([spoilt(3, 0.0), spoilt(3, np.nan)]),
    "infinity in both channels, with opposite signs": np.stack([spoilt(3, np.inf), spoilt(3, -np.inf)]),
    "64-bit integers": np.arange(8_000),
    "unsigned bytes": np.full(8_000, 128, np.uint8),
    "complex numbers": spoilt(0, 0.1) * 1j,
    "truth values": np.zeros(8_000, bool),
    "text": np.array(["0.1", "0.2"]),
    "objects": np.array([0.1, None, 0.3], object),
    "three axes": np.zeros((1, 2, 8_000), np.float32),
    "a scalar": np.float32(0.1),
    "nothing": np.zeros(0, np.float32),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_that_no_recording_holds(name, pipe, live_model, processor):
    """Pipeline, command and stream refuse them alike; a stream that was refused a piece goes on."""
    samples = SAMPLES[name]
    one_sentence(lambda: pipe(samples))
    one_sentence(lambda: list(transcribe(pipe.model, processor, samples)))
    stream = DeepSpeech2Stream(live_model, processor)
    if name != "nothing":
        one_sentence(lambda: stream.feed(samples))
    stream.feed(spoilt(0, 0.0))
    stream.finish()


@pytest.mark.parametrize(
    "samples",
    [
        spoilt(0, 0.0)[::-1],
        spoilt(0, 0.0).byteswap().view(spoilt(0, 0.0).dtype.newbyteorder()),
        np.asfortranarray(np.stack([spoilt(0, 0.0)] * 2)),
        (spoilt(0, 0.0) * 32_767).astype(np.int16),
        (spoilt(0, 0.0) * 2**31).astype(np.int32),
        np.full(8_000, 1e-42, np.float32),
        np.ma.masked_array(spoilt(0, 0.0)),
        torch.from_numpy(spoilt(0, 0.0)),
        torch.from_numpy(spoilt(0, 0.0)).requires_grad_(),
    ],
    ids=[
        "reversed",
        "other byte order",
        "columns first",
        "int16",
        "int32",
        "denormal",
        "masked",
        "tensor",
        "gradient",
    ],
)
def test_samples_in_unusual_forms_are_taken(samples, pipe):
    assert isinstance(pipe(samples)["text"], str)


@pytest.mark.parametrize("rate", [0, -16_000, 8, math.nan, math.inf, None, "16000", 2e9, True])
def test_rates_that_are_none(rate, pipe):
    one_sentence(lambda: pipe({"array": spoilt(0, 0.0), "sampling_rate": rate}))


# Weights and the files beside them.

WEIGHTS = {
    "a pointer of Git LFS": lambda file: file.write_bytes(LFS_POINTER),
    "the page of an error": lambda file: file.write_text("<!DOCTYPE html><title>404</title>"),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "one byte short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "a header that lies about its size": lambda file: file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:]),
    "a negative variance": lambda file: changed(file, "deepspeech2.convolutions.0.norm.running_var", -1.0),
    "a variance of -inf": lambda file: changed(file, "deepspeech2.layers.0.rnn.norm.running_var", -math.inf),
    "a pickle": lambda file: file.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94."),
}


def changed(file: Path, key: str, value: float) -> None:
    weights = load_file(file)
    weights[key] = torch.full_like(weights[key], value)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_none(name, tiny_model_folder, tmp_path):
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    WEIGHTS[name](tmp_path / "model.safetensors")
    one_sentence(lambda: DeepSpeech2ForCTC.from_pretrained(tmp_path), UserError, OSError)


CONFIGS = [
    {"num_hidden_layers": -1}, {"hidden_size": "many"}, {"vocab_size": 0}, {"conv_channels": []}, {"lookahead": -3},
    {"hidden_act": "gelu"}, {"hidden_dropout": 2.0}, {"pad_token_id": 99}, {"conv_strides": [[0, 0], [0, 0]]},
    {"rnn_type": "transformer"}, {"sampling_rate": None},
]  # fmt: skip


@pytest.mark.parametrize("change", CONFIGS, ids=str)
def test_configurations_out_of_range(change, tiny_model_folder, tmp_path):
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(content))
    one_sentence(lambda: DeepSpeech2ForCTC.from_pretrained(tmp_path), ValueError, TypeError, OSError)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json", "vocab.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{\x00}\x00", LFS_POINTER], ids=repr)
def test_damaged_files_beside_the_weights(name, content, tiny_model_folder, tmp_path):
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content)
    load = DeepSpeech2ForCTC if name == "config.json" else DeepSpeech2Processor
    one_sentence(lambda: load.from_pretrained(tmp_path), UserError, OSError)


# Language models and decoders.

ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-0.8\t</s>
-0.5\tone\t-0.2
-0.6\ttwo\t-0.1

\\2-grams:
-0.2\t<s> one
-0.3\tone two
-0.4\ttwo </s>

\\end\\
"""
ARPAS = {
    "no end": ARPA.replace("\\end\\", ""),
    "cut in a line": ARPA[: ARPA.index("one two") + 2],
    "only the head": ARPA[: ARPA.index("\\1-grams")],
    "one unigram fewer": ARPA.replace("-0.6\ttwo\t-0.1\n", ""),
    "one bigram more": ARPA.replace("\\end", "-0.1\tone one\n\n\\end"),
    "the orders swapped": ARPA.replace("\\1-", "\\3-"),
    "a bigram of an unknown word": ARPA.replace("one two", "one three"),
    "a bigram twice": ARPA.replace("two </s>", "one two"),
    "a probability above one": ARPA.replace("-0.5\tone", "0.5\tone"),
    "a probability that is not a number": ARPA.replace("-0.5\tone", "nan\tone"),
    "an infinite weight": ARPA.replace("one\t-0.2", "one\tinf"),
    "commas as decimal points": ARPA.replace("-0.5\tone", "-0,5\tone"),
    "no section at all": "one two three\n",
    "nothing": "",
    "counts that are negative": ARPA.replace("ngram 2=3", "ngram 2=-3"),
    "an end in the middle": ARPA.replace("\\2-grams:", "\\end\\\n\n\\2-grams:"),
}


@pytest.mark.parametrize("name", ARPAS)
def test_language_models_that_are_damaged(name, tmp_path):
    file = tmp_path / "lm.arpa"
    file.write_text(ARPAS[name])
    one_sentence(lambda: NGramModel.load(file))


def test_the_same_language_model_whole(tmp_path):
    """Also packed, with the ends of lines of Windows, and as UTF-8 with a mark of byte order."""
    (tmp_path / "lm.arpa").write_text(ARPA)
    (tmp_path / "windows.arpa").write_bytes(ARPA.replace("\n", "\r\n").encode())
    with gzip.open(tmp_path / "packed.arpa.gz", "wt") as file:
        file.write(ARPA)
    for name in ("lm.arpa", "windows.arpa", "packed.arpa.gz"):
        assert NGramModel.load(tmp_path / name).words[3:] == ["one", "two"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("lm.arpa", b"\xff\xfe" + ARPA.encode("utf-16-le")),
        ("lm.arpa.gz", gzip.compress(ARPA.encode())[:-20]),
        ("lm.arpa.gz", ARPA.encode()),
        ("lm.arpa.xz", b"\xfd7zXZ\x00broken"),
        ("lm.safetensors", LFS_POINTER),
        ("lm.safetensors", b""),
        ("lm.bin", b"mmap lm http://kheafield.com/code format version 5\n\x00"),
    ],
)
def test_language_models_of_another_kind(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    one_sentence(lambda: NGramModel.load(tmp_path / name))


DECODERS = [
    {"beam_width": 10**9}, {"beam_width": 0}, {"beam_width": 2.5}, {"beam_width": "100"}, {"beam_width": True},
    {"alpha": math.nan}, {"alpha": -1}, {"beta": math.inf}, {"cutoff_top_n": -4}, {"cutoff_probability": 1.5},
    {"beam_threshold": 0}, {"unknown_word_score": 5}, {"language_model": "../../etc/passwd"}, {"language_model": 5},
    {"language_model": "missing.arpa"}, {"temperature": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("change", DECODERS, ids=str)
def test_decoders_out_of_range(change, processor, tmp_path):
    CTCBeamSearchDecoder(processor.tokenizer).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "decoder_config.json").read_text()) | change
    (tmp_path / "decoder_config.json").write_text(json.dumps(content))
    one_sentence(lambda: CTCBeamSearchDecoder.from_pretrained(tmp_path, processor.tokenizer))


HOTWORDS = [
    {"one": -1.0}, {"one": math.nan}, {"one": "5"}, {"": 5.0}, {"   ": 5.0}, {"слово": 5.0}, {"a" * 1_000_001: 5.0},
    {5: 5.0}, ["one"], "one", {"one": None}, {"one": math.inf}, {"a": 1e308, "aa": 1e308}, {"one": 10**400},
]  # fmt: skip


@pytest.mark.parametrize("hotwords", HOTWORDS, ids=lambda words: repr(words)[:30])
def test_hot_words_that_cannot_be_used(hotwords, processor):
    decoder = CTCBeamSearchDecoder(processor.tokenizer)
    one_sentence(lambda: decoder.start(hotwords))


# Live streams.


def test_streams_that_are_misused(live_model, make_tiny_model, processor):
    stream = DeepSpeech2Stream(live_model, processor)
    one_sentence(lambda: feed_streams([stream, stream], [spoilt(0, 0.0)] * 2), ValueError)
    one_sentence(lambda: feed_streams([stream], []), ValueError)
    one_sentence(lambda: feed_streams([stream, None], [spoilt(0, 0.0)] * 2))
    assert feed_streams(iter([stream]), iter([spoilt(0, 0.0)[:0]])) == [[]]
    one_sentence(lambda: stream.feed(None))
    one_sentence(lambda: stream.feed("speech.wav"))
    one_sentence(lambda: stream.feed(b"\x00\x01" * 100))
    stream.finish()
    one_sentence(lambda: stream.feed(spoilt(0, 0.0)), ValueError)
    one_sentence(stream.finish, ValueError)
    one_sentence(lambda: DeepSpeech2Stream(make_tiny_model(), processor), ValueError)
    for seconds in (0, -1, math.nan, 31):
        one_sentence(lambda seconds=seconds: DeepSpeech2Stream(live_model, processor, end_of_utterance=seconds), ValueError)


# Files.


def wav(width: int = 2, rate: int = RATE, channels: int = 1, frames: int = 800) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((channels, width, rate, frames, "NONE", ""))
        sound.writeframes(bytes(np.random.default_rng(0).integers(0, 256, frames * width * channels, np.uint8)))
    return file.getvalue()


BROKEN = {
    "empty": b"",
    "one byte": b"R",
    "zeros": bytes(4_096),
    "a pointer of Git LFS": LFS_POINTER,
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "a page": b"<html><body>Not found</body></html>",
    "a playlist": b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
    "a list to concatenate": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a playlist of DASH": b'<?xml version="1.0"?><MPD><Period><BaseURL>file:///etc/passwd</BaseURL></Period></MPD>',
    "a description of a session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "a wav without samples": wav(frames=0),
    "a wav with a rate of 0": wav()[:24] + bytes(4) + wav()[28:],
    "a wav with a rate of 4 GHz": wav()[:24] + b"\xff\xff\xff\xff" + wav()[28:],
    "a wav without channels": wav()[:22] + bytes(2) + wav()[24:],
    "a wav cut in its head": wav()[:30],
    "a flac cut in its head": b"fLaC\x00\x00\x00\x22" + bytes(10),
    "an ogg of video": b"OggS\x00\x02" + bytes(20) + b"\x01\x1e\x01video",
    "text with the name of a tag": b"ID3 is the name of a tag",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("way", ["bytes", "file", "path"])
def test_files_that_are_no_audio(name, way, tmp_path):
    path = tmp_path / "clip.mp3"
    path.write_bytes(BROKEN[name])
    sources = {"bytes": BROKEN[name], "file": io.BytesIO(BROKEN[name]), "path": path}
    message = one_sentence(lambda: read_audio(sources[way], RATE))
    assert way != "path" or str(path) in message


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 44_100, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_every_plain_wav_is_read(width, rate, channels):
    samples = read_audio(wav(width, rate, channels, frames=rate), RATE)
    assert abs(len(samples) - RATE) <= 1 and np.isfinite(samples).all()


PLACES = ["/dev/zero", "/dev/null", "/", "concat:a.wav|b.wav", "file:x.wav", "-i", "no such file", "", "a\0b", "~/none.wav",
          "http://127.0.0.1:9/none.wav", "ftp://127.0.0.1:9/none.wav", "gopher://x/y.wav", "subfile,,start,0,end,9,,:x.wav",
          "data:audio/wav;base64,UklGRg==", "pipe:0", "//none/share/x.wav", "x" * 300]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: repr(place)[:24])
def test_places_that_hold_no_audio(place, tmp_path, monkeypatch):
    """None hangs, none opens another file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.wav").write_bytes(wav())
    one_sentence(lambda: read_audio(place, RATE), UserError, OSError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_of_data_sets_are_refused(tmp_path):
    from modeling_deepspeech2.audio import read_waveform

    os.mkfifo(tmp_path / "pipe.wav")
    one_sentence(lambda: read_waveform({"bytes": None, "path": str(tmp_path / "pipe.wav")}, RATE, "pipe.wav"))


AUDIO = [
    {}, {"array": spoilt(0, 0.0)}, {"sampling_rate": RATE}, {"bytes": None, "path": None}, {"path": 5},
    {"bytes": "text"}, {"bytes": b""}, {"raw": None, "sampling_rate": RATE}, 5, None, object, True, {"audio": "x.wav"},
]  # fmt: skip


@pytest.mark.parametrize("audio", AUDIO, ids=lambda audio: repr(audio)[:30])
def test_what_is_no_audio_at_all(audio, pipe):
    one_sentence(lambda: pipe(audio), UserError, OSError, TypeError)


def test_mono_of_two_channels_that_cancel(caplog):
    samples = spoilt(0, 0.0)
    found = to_mono(np.stack([samples, -samples]), RATE, RATE)
    assert np.abs(found).max() > 0.1 and "cancel each other" in caplog.text


@pytest.mark.parametrize("part", [0.0, 0.4, 0.9], ids=["all", "from the middle on", "in its last tenth"])
@pytest.mark.parametrize("length", [16_000, 1_600_000], ids=["a second", "long"])
def test_channels_that_cancel_in_a_part_of_a_recording(part, length, caplog):
    """A cable that loses its contact; as an array and in blocks."""
    samples = np.resize(spoilt(0, 0.0), length) if part == 0 else np.resize(spoilt(0, 0.0), 1_600_000)
    other = np.where(np.arange(len(samples)) < part * len(samples), samples, -samples)
    stereo = np.stack([samples, other]).astype(np.float32)
    mixer = ChannelMixer("a call")
    for found in (to_mono(stereo, RATE, RATE), np.concatenate([mixer(block) for block in np.array_split(stereo.T, 7)])):
        assert len(found) == len(samples) and np.abs(found[-4_000:]).max() > 0.1
    assert "cancel each other" in caplog.text


def test_channels_of_a_quiet_room_are_averaged(caplog):
    """Noises of their own, and a channel that is switched off, cancel nothing."""
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal((2, 160_000)).astype(np.float32)
    assert np.allclose(to_mono(noise, RATE, RATE), noise.mean(0), atol=1e-7)
    noise[1] = 0
    assert np.allclose(to_mono(noise, RATE, RATE), noise.mean(0), atol=1e-7) and caplog.text == ""


SECRET = "hunter2"
ADDRESSES = [
    f"http://me:{SECRET}@127.0.0.1:9/a.wav",
    f"http://{SECRET}@127.0.0.1:9/a.wav",
    f"http://127.0.0.1:9/a.wav?X-Amz-Signature={SECRET}",
    f"HTTP://127.0.0.1:9/a.wav?a=b#{SECRET}",
    f"http://127.0.0.1:9/a.wav#token={SECRET}",
    f"https://u:{SECRET}@[::1]:9/a.wav?token={SECRET}",
    f"ftp://u:{SECRET}@127.0.0.1:9/a.wav",
    f"gopher://u:{SECRET}@none/a.wav?{SECRET}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_secrets_of_an_address_are_never_shown(address, tmp_path, capsys, caplog):
    """Passwords and signatures: in no message, log or table, by whichever way the address comes."""
    said = []
    for read in (lambda: read_audio(address, RATE), lambda: read_waveform({"path": address}, RATE, address)):
        with pytest.raises((UserError, OSError)) as caught:
            read()
        said.append(str(caught.value))
    manifest = tmp_path / "train.jsonl"
    manifest.write_text(json.dumps({"audio": address, "text": "one"}))
    [clip] = read_clips(manifest)
    said += [clip.name, measure_clip(clip)[1]]
    assert all(SECRET not in text for text in (*said, caplog.text, *capsys.readouterr())), said
    assert all("a.wav" in text for text in said)


def test_names_of_half_a_character_are_shown():
    assert name_of("\ud800 a.wav") == "\\ud800 a.wav"
