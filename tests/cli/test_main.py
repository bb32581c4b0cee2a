"""The command `deepspeech2`, as people type it: what is printed, what is written, what is said when something is wrong."""

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import modeling_deepspeech2
from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2ForCTC, DeepSpeech2Processor, DeepSpeech2Stream
from modeling_deepspeech2.audio import AudioError
from modeling_deepspeech2.cli import live_sound, output
from modeling_deepspeech2.cli.main import COMMANDS, main
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.training.publishing import save_repository
from modeling_deepspeech2.transcription.recordings import transcribe


RATE = 16_000
REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def live_folder(tmp_path_factory, make_tiny_model, processor) -> Path:
    """A unidirectional model with a decoder beside it."""
    folder = tmp_path_factory.mktemp("live_model")
    save_repository(folder, make_tiny_model(bidirectional=False, lookahead=3), processor)
    CTCBeamSearchDecoder(processor.tokenizer, beam_width=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(clips, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("audio")
    for name, clip in zip(("one.wav", "two.flac", "three.ogg"), clips):
        soundfile.write(folder / name, clip.waveform, RATE)
    return sorted(map(str, folder.iterdir()))


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    try:
        status = main(list(map(str, arguments)))
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_text_of_files(capsys, tiny_model_folder, make_tiny_model, processor, files):
    """The utterances of `transcribe`, a line each; of several files with the file's name before it."""
    status, out, _ = run(capsys, "transcribe", files[0], "--model", tiny_model_folder)
    expected = [one.text for one in transcribe(make_tiny_model(), processor, files[0])]
    assert status == 0 and out.splitlines() == expected and expected[0]
    status, out, _ = run(capsys, "transcribe", *files, "--model", tiny_model_folder)
    assert status == 0 and out.startswith(f"{files[0]}: {expected[0]}\n")
    assert {line.partition(": ")[0] for line in out.splitlines()} == set(files)


def test_a_bad_file_does_not_stop_the_rest(capsys, tiny_model_folder, files, tmp_path):
    """It is named with its reason, counted, and in the exit status; the others are written, and no half file is."""
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    soundfile.write(tmp_path / "nan.wav", np.r_[np.zeros(30 * RATE), np.full(RATE, np.nan)], RATE, subtype="FLOAT")
    given = [files[0], bad, tmp_path / "missing.wav", tmp_path / "nan.wav", files[1]]
    status, out, err = run(
        capsys, "transcribe", *given, "--model", tiny_model_folder, "--format", "srt", "--output", tmp_path / "out"
    )
    assert status == 1 and out == ""
    assert "bad.wav is damaged" in err and "no audio file" in err and "nan.wav holds samples" in err
    assert "3 of 5 files could not be transcribed" in err
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(f"{Path(file).stem}.srt" for file in files[:2])
    assert " --> " in (tmp_path / "out" / written[0]).read_text()


def test_json_has_words_in_time(capsys, live_folder, files, processor):
    status, out, _ = run(capsys, "transcribe", *files, "--model", live_folder, "--lm", "on", "--format", "json")
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [one["file"] for one in found] == files
    for utterance in found[0]["utterances"]:
        assert " ".join(word["text"] for word in utterance["words"]) == utterance["text"]
        assert utterance["start"] == utterance["words"][0]["start"] < utterance["end"]
        assert all(0 <= word["confidence"] <= 1 for word in utterance["words"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["transcribe", "FILE", "--model", "/no/such/folder"], "there is no such folder"),
        (["transcribe", "FILE", "--model", "MODEL", "--lm", "on"], "decoder_config.json"),
        (["transcribe", "FILE", "FILE", "--model", "MODEL", "--format", "srt"], "need a folder"),
        (["transcribe", "FILE", "FILE", "--model", "MODEL", "--output", "OUT"], "would both be written"),
        (["transcribe", "FILE", "--model", "MODEL", "--pause", "0"], "--pause"),
        (["transcribe", "FILE", "--model", "MODEL", "--pause", "40"], "--pause: found 40.0"),
        (["align", "FILE", "FILE", "--model", "MODEL", "--output", "/no/such/folder/x.srt"], "there is no folder"),
        (["align", "FILE", "/no/such/text", "--model", "MODEL"], "cannot be read"),
        (["align", "FILE", "FILE", "--model", "MODEL"], "not in UTF-8"),
        (["align", "FILE", "FILE", "--model", "MODEL", "--output", "FILE"], "would be written over"),
        (["align", "FILE", "FILE", "--model", "MODEL", "--output", "/"], "is a folder, expected the name of a file"),
        (
            ["evaluate", "--model", "MODEL", "--dataset", "none", "--output", "/no/such/x.json"],
            "there is no folder /no/such",
        ),
        (["widen", "--model", "MODEL", "--hidden_size", "999", "--output", "FILE"], "which is a file; expected a folder"),
        (["widen", "--model", "MODEL", "--hidden_size", "999", "--output", "MODEL"], "would be lost"),
        (["average", "LIVE", "MODEL", "--output", "MODEL"], "would be lost"),
        (["average", "MODEL", "MODEL", "--output", "FILE"], "which is a file; expected a folder"),
        (["vocabulary", "--extra_characters", "abc", "--output", "FILE"], "which is a file; expected a folder"),
        (["verify", "--dataset", "none", "--html", "/"], "--html: / is a folder"),
        (["verify", "--dataset", "none", "--split", "train", "--tokenizer", "EMPTY"], "--tokenizer: "),
        (["prepare", "none", "--output", "OUT", "--tokenizer", "EMPTY"], "cannot be opened"),
        (["language-model", "FILE", "--tokenizer", "EMPTY", "--output", "/lm.safetensors"], "cannot be opened"),
        (["live", "-", "--model", "MODEL"], "bidirectional=False"),
        (["live", "song.mp3", "--model", "MODEL"], "expected '-' for a pipe"),
        (["live", "-", "--model", "LIVE", "--rate", "16"], "--rate"),
    ],
)
def test_bad_settings_stop_before_any_audio(
    capsys, tiny_model_folder, live_folder, files, tmp_path, monkeypatch, arguments, message
):
    """One sentence, exit status 2, and no audio was opened."""
    monkeypatch.setattr(output, "read_audio_blocks", lambda *_, **__: pytest.fail("audio was read"))
    monkeypatch.setattr(live_sound, "pipe", lambda *_: pytest.fail("audio was read"))
    names = {"FILE": files[0], "MODEL": tiny_model_folder, "LIVE": live_folder, "OUT": tmp_path / "out", "EMPTY": tmp_path}
    status, out, err = run(capsys, *(names.get(argument, argument) for argument in arguments))
    assert status == 2 and out == "" and message in err and len(err.strip().splitlines()) == 1


def test_microphone_without_its_package(capsys, live_folder, monkeypatch):
    monkeypatch.setattr(live_sound, "sounddevice", None)
    status, _, err = run(capsys, "live", "--model", live_folder)
    assert status == 2 and "pip install sounddevice" in err


def test_align(capsys, tiny_model_folder, clips, files, tmp_path):
    """Subtitles of a known text, with its own spelling; json has the cost of each line."""
    text = tmp_path / "text.txt"
    words = clips[0].text.split()
    text.write_text(" ".join(words[:2]).title() + ",\n" + " ".join(words[2:]) + "!\n", encoding="utf-8-sig")
    audio = next(file for file in files if "one" in file)
    status, out, _ = run(capsys, "align", audio, text, "--model", tiny_model_folder)
    assert status == 0 and out.startswith("1\n00:00:0") and " ".join(words[:2]).title() + ",\n" in out
    status, _, _ = run(
        capsys, "align", audio, text, "--model", tiny_model_folder, "--format", "json", "--output", tmp_path / "a.json"
    )
    found = json.loads((tmp_path / "a.json").read_text())
    assert status == 0 and len(found["lines"]) == 2
    assert found["cost"] >= sum(line["cost"] for line in found["lines"]) > 0
    text.write_text("far too much text " * 200)
    status, _, err = run(capsys, "align", audio, text, "--model", tiny_model_folder)
    assert status == 1 and "too long" in err and audio in err


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"{modeling_deepspeech2.__version__}\n")


def test_help_waits_for_nothing():
    """Neither torch nor transformers nor numpy is imported before a command asks for it."""
    code = "import sys, deepspeech2_command as c; sys.argv[1:] = ['--help']\ntry: c.main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'torch', 'transformers'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    assert out.splitlines()[-1] == "[]" and set(COMMANDS) <= set(out.split())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_every_command_shows_an_example(capsys, name):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0 and f"deepspeech2 {name} " in out.partition("example")[2]


def test_a_missing_package_comes_with_the_line_that_installs_it(capsys, monkeypatch):
    """As where only the base is installed."""
    monkeypatch.setitem(sys.modules, "modeling_deepspeech2.cli.average", None)
    assert main(["average", "--help"]) == 2
    assert "pip install 'modeling-deepspeech2[train]'" in capsys.readouterr().err


def test_a_mistake_is_a_sentence_and_debug_shows_where(capsys, tmp_path):
    arguments = ["publish", "--model", tmp_path, "--output", tmp_path / "new"]
    status, _, err = run(capsys, *arguments)
    assert status == 2 and err.startswith("deepspeech2 publish: --model: there is no") and err.count("\n") == 1
    with pytest.raises(UserError):
        main([*map(str, arguments), "--debug"])


@pytest.fixture(scope="module")
def call(clips, tmp_path_factory) -> Path:
    """Two speakers, each in a channel, who speak at the same time."""
    file = tmp_path_factory.mktemp("calls") / "call.wav"
    both = [np.pad(clip.waveform, (place, 60_000))[:80_000] for clip, place in zip(clips[2:], (0, 8_000))]
    soundfile.write(file, np.stack(both, 1), RATE)
    return file


def test_each_channel_is_a_speaker(capsys, live_folder, call, tmp_path):
    """Every channel gives the utterances that it gives as a file of its own, in the order of time."""
    expected = []
    for speaker, samples in enumerate(soundfile.read(call)[0].T, 1):
        soundfile.write(tmp_path / "one.wav", samples, RATE)
        out = run(capsys, "transcribe", tmp_path / "one.wav", "--model", live_folder, "--format", "json")[1]
        expected += [utterance | {"speaker": speaker} for utterance in json.loads(out)["utterances"]]
    split = ["transcribe", call, "--model", live_folder, "--channels", "split"]
    status, out, _ = run(capsys, *split, "--format", "json")
    found = json.loads(out)["utterances"]
    assert status == 0 and {one["speaker"] for one in found} == {1, 2}
    assert found == sorted(expected, key=lambda one: (one["start"], one["speaker"]))
    status, out, _ = run(capsys, *split)
    assert status == 0 and out.splitlines() == [f"Speaker {one['speaker']}: {one['text']}" for one in found]
    for style in ("srt", "vtt"):
        status, out, _ = run(capsys, *split, "--format", style)
        assert status == 0 and "\nSpeaker 1: " in out and "\nSpeaker 2: " in out


def test_a_terminated_command_leaves_no_unfinished_file(live_folder, files, tmp_path):
    """SIGTERM amid a recording that still comes in: as after Ctrl-C, nothing half-written stays."""
    command = [sys.executable, "deepspeech2_command.py", "transcribe", "-", "--model", live_folder, "--output", tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=REPOSITORY) as process:
        process.stdin.write(Path(next(file for file in files if file.endswith(".wav"))).read_bytes()[:20_000])
        process.stdin.flush()
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*.part")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob("*.part"))
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_channels_of_what_is_read_once_are_not_split(capsys, live_folder, call, files):
    """One sentence for a pipe; a mono file has no speakers; the batch goes on."""
    status, out, err = run(
        capsys, "transcribe", "-", files[0], call, "--model", live_folder, "--channels", "split", "--lm", "off"
    )
    assert status == 1 and "the standard input cannot be read once for each channel" in err
    assert f"{files[0]}: " in out and f"{files[0]}: Speaker" not in out and f"{call}: Speaker 2: " in out


def test_the_decoder_of_the_folder_is_the_default(capsys, tiny_model_with_decoder, files, clips):
    """The command writes what the pipeline says of a short clip; `--lm off` gives the best path."""
    model = DeepSpeech2ForCTC.from_pretrained(tiny_model_with_decoder)
    processor = DeepSpeech2Processor.from_pretrained(tiny_model_with_decoder)
    decoder = CTCBeamSearchDecoder.from_pretrained(tiny_model_with_decoder, processor.tokenizer)
    texts = {}
    for lm, expected in (("auto", decoder), ("on", decoder), ("off", None)):
        status, out, _ = run(capsys, "transcribe", files[0], "--model", tiny_model_with_decoder, "--lm", lm)
        texts[lm] = out
        assert status == 0 and out.splitlines() == [one.text for one in transcribe(model, processor, files[0], expected)]
    assert texts["auto"] == texts["on"] != texts["off"]


def test_batches_and_numbers_of_half_the_size(capsys, tiny_model_folder, files):
    """A batch changes nothing; bfloat16 runs; a device that is not there is refused."""
    expected = run(capsys, "transcribe", files[0], "--model", tiny_model_folder)[1]
    assert run(capsys, "transcribe", files[0], "--model", tiny_model_folder, "--batch_size", 1)[1] == expected
    status, out, _ = run(
        capsys, "transcribe", files[0], "--model", tiny_model_folder, "--dtype", "bfloat16", "--device", "cpu"
    )
    assert status == 0 and out.strip()
    status, _, err = run(capsys, "transcribe", files[0], "--model", tiny_model_folder, "--device", "quantum")
    assert status == 2 and "--device: quantum cannot be used here" in err


def test_evaluate(capsys, tiny_model_folder, clips, tmp_path):
    """Rates and transcripts of a split, printed and as JSON."""
    rows = []
    for clip in clips[:2]:
        soundfile.write(tmp_path / f"{clip.name}.wav", clip.waveform, RATE)
        rows.append(json.dumps({"audio": str(tmp_path / f"{clip.name}.wav"), "text": clip.text}))
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "test.jsonl").write_text("\n".join(rows) + "\n")
    data = ["--dataset", tmp_path / "speech", "--output", tmp_path / "rates.json"]
    status, out, _ = run(capsys, "evaluate", "--model", tiny_model_folder, *data)
    assert status == 0 and out.startswith("test: WER ")
    (found,) = json.loads((tmp_path / "rates.json").read_text()).values()
    assert f"WER {found['wer']:.2%}" in out and len(found["transcripts"]) == 2
    assert {row["reference"] for row in found["transcripts"]} == {clip.text for clip in clips[:2]}


def test_output_that_is_no_utf_8(live_folder, clips, tmp_path, monkeypatch):
    """Transcripts are UTF-8 whatever the locale says; the bytes of a name that is no text come back as they were."""
    soundfile.write(tmp_path / "早.wav", clips[0].waveform, RATE)
    latin = os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn.wav")
    shutil.copyfile(tmp_path / "早.wav", latin)
    for style in ("txt", "json"):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", out)
        name = str(tmp_path / "早.wav")
        assert main(["transcribe", name, latin, "--model", str(live_folder), "--format", style]) == 0
        out.flush()
        written = out.buffer.getvalue()
        assert name in written.decode("utf-8", "surrogateescape")
        if style == "txt":
            assert os.fsencode(latin) in written
        else:
            assert json.loads(written.splitlines()[1])["file"] == latin


def piped(capsys, monkeypatch, content: bytes, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return run(capsys, "live", "-", *arguments)


@pytest.mark.parametrize("kind", ["pcm", "wav", "stereo 32 kHz wav"])
def test_live_from_a_pipe(capsys, monkeypatch, live_folder, make_tiny_model, processor, clips, kind):
    """Raw samples or WAV on the standard input; each utterance is a line, the text that of the stream."""
    waveform = np.round(clips[0].waveform * 32_767).astype("<i2")
    content, expected = waveform.tobytes(), (waveform / 32_768).astype(np.float32)
    if kind != "pcm":
        file, channels, rate = io.BytesIO(), (2 if "stereo" in kind else 1), (32_000 if "32" in kind else RATE)
        repeated = np.repeat(waveform, rate // RATE)
        soundfile.write(file, np.stack([repeated] * channels, axis=1), rate, format="wav", subtype="PCM_16")
        content = file.getvalue()
        if rate != RATE:
            resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32")
            expected = resampler.resample_chunk((repeated / 32_768).astype(np.float32), last=True)
    status, out, _ = piped(capsys, monkeypatch, content, "--model", live_folder, "--lm", "off")
    stream = DeepSpeech2Stream(make_tiny_model(bidirectional=False, lookahead=3), processor)
    stream.feed(expected)
    stream.finish()
    text = " ".join(out.split("\n")).strip()
    assert status == 0 and len(text) > 15 and text == stream.text.stable


@pytest.mark.parametrize("name", ["MP3", "FLAC", "Ogg", "AIFF", "AU", "CAF", "MP3 with a tag", "MP4 or M4A", "RF64"])
def test_live_refuses_files_that_are_no_pcm(capsys, monkeypatch, live_folder, clips, name):
    """Their bytes would be noise, and noise an empty transcript with exit status 0."""
    file = io.BytesIO()
    if name == "MP4 or M4A":
        file.write(b"\0\0\0\x20ftypM4A " + bytes(1_000))
    else:
        style = name.partition(" ")[0]
        waveform = np.tile(clips[0].waveform, 2)
        soundfile.write(file, waveform, RATE, format=style.upper(), subtype=None if style not in ("AU", "CAF") else "PCM_16")
    content = (b"ID3\x04" if name.endswith("tag") else b"") + file.getvalue()
    status, out, err = piped(capsys, monkeypatch, content, "--model", live_folder)
    assert status == 1 and not out.strip() and f"holds {name.partition(' with')[0]}, expected WAV or 16-bit PCM" in err


@pytest.mark.parametrize("rate, declared", [(16_000, 0), (16_000, 0xFFFF_FFFF), (0, 64_000), (3, 64_000), (2**31, 64_000)])
def test_live_wav_of_strange_headers(rate, declared):
    """Whoever writes to a pipe may declare no samples; rates that are none gave nothing, or a traceback."""
    file = io.BytesIO()
    soundfile.write(file, np.full(32_000, 0.125), RATE, format="wav", subtype="PCM_16")
    content = bytearray(file.getvalue())
    content[24:28], content[40:44] = rate.to_bytes(4, "little"), declared.to_bytes(4, "little")
    pieces = live_sound.pipe(io.BytesIO(bytes(content)), RATE, RATE)
    if rate == RATE:
        assert np.array_equal(np.concatenate(list(pieces)), np.full(32_000, 0.125, np.float32))
    else:
        with pytest.raises(AudioError, match=f"declares {rate} hertz"):
            list(pieces)


def test_pcm_is_not_taken_for_another_format():
    """Random, loud and silent samples alike."""
    generator = np.random.default_rng(0)
    for loudness in (0, 1, 2, 300, 32_000):
        samples = generator.integers(-loudness, loudness + 1, (400, 2_000)).astype("<i2")
        assert {live_sound.name_format(one.tobytes()) for one in samples} == {None}


class Microphones:
    """sounddevice with one microphone of 44.1 kHz, which says a clip and is then switched off."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, waveform: np.ndarray):
        self.waveform = waveform

    def check_input_settings(self, device, samplerate, **_):
        if samplerate != 44_100:
            raise self.PortAudioError("Invalid sample rate")

    def query_devices(self, device, kind):
        if device not in (None, 3, "USB"):
            raise ValueError(f"No input device matching {device!r}")
        return {"default_samplerate": 44_100.0}

    def InputStream(self, samplerate, callback, **_):  # noqa: N802
        waveform = self.waveform

        class Stream:
            def __enter__(self):
                for piece in np.array_split(soxr.resample(waveform, RATE, samplerate), 10):
                    callback(piece[:, None], None, None, None)

            def __exit__(self, *_):
                pass

        return Stream()


def test_a_microphone_of_another_rate_is_resampled(clips, monkeypatch):
    """By number, by a part of its name, or the system's; one that is not there is named."""
    monkeypatch.setattr(live_sound, "sounddevice", Microphones(clips[0].waveform))
    for name in ("3", "USB", None):
        piece = next(live_sound.microphone(RATE, name))
        expected = clips[0].waveform[: len(piece)]
        assert len(piece) > 0.9 * len(clips[0].waveform)
        assert np.corrcoef(piece, expected)[0, 1] > 0.99
    with pytest.raises(UserError, match="--device: the microphone Nobody"):
        live_sound.microphone(RATE, "Nobody")


def test_live_on_a_terminal(live_folder, clips, monkeypatch):
    """The current utterance stands in one line, which is written over; in the end it is the line of the utterance."""
    content = np.round(clips[0].waveform * 32_767).astype("<i2").tobytes()
    outer, inner = pty.openpty()
    shown = bytearray()

    def watch() -> None:
        try:
            while part := os.read(outer, 65_536):
                shown.extend(part)
        except OSError:  # the other end is closed
            pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    with os.fdopen(inner, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert main(["live", "-", "--model", str(live_folder)]) == 0
    watcher.join(60)
    lines = shown.decode().split("\r\033[K")
    assert len(lines) > 10 and "\033[90m" in lines[5]
    ended = [line for line in lines if line.endswith("\n")]
    assert ended and len(ended[-1]) > 15
