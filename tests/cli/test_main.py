"""The command `deepspeech2`, as people type it: what is printed, what is written, what is said when something is wrong."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

import modeling_deepspeech2.cli.main as command_line
from modeling_deepspeech2 import CTCBeamSearchDecoder, DeepSpeech2Stream
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.training.publishing import save_repository
from modeling_deepspeech2.transcription.recordings import transcribe


RATE = 16_000


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
    status, out, _ = run(capsys, "transcribe", *files, "--model", live_folder, "--lm", "--format", "json")
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
        (["transcribe", "FILE", "--model", "MODEL", "--lm"], "decoder_config.json"),
        (["transcribe", "FILE", "FILE", "--model", "MODEL", "--format", "srt"], "need a folder"),
        (["transcribe", "FILE", "FILE", "--model", "MODEL", "--output", "OUT"], "would both be written"),
        (["transcribe", "FILE", "--model", "MODEL", "--pause", "0"], "--pause"),
        (["transcribe", "FILE", "--model", "MODEL", "--pause", "40"], "--pause: found 40.0"),
        (["align", "FILE", "FILE", "--model", "MODEL", "--output", "/no/such/folder/x.srt"], "there is no folder"),
        (["align", "FILE", "/no/such/text", "--model", "MODEL"], "cannot be read"),
        (["align", "FILE", "FILE", "--model", "MODEL"], "not in UTF-8"),
        (["live", "-", "--model", "MODEL"], "bidirectional=False"),
        (["live", "song.mp3", "--model", "MODEL"], "expected '-' for a pipe"),
        (["live", "-", "--model", "LIVE", "--rate", "16"], "--rate"),
    ],
)
def test_bad_settings_stop_before_any_audio(
    capsys, tiny_model_folder, live_folder, files, tmp_path, monkeypatch, arguments, message
):
    """One sentence, exit status 2, and no audio was opened."""
    monkeypatch.setattr(command_line, "read_audio_blocks", lambda *_: pytest.fail("audio was read"))
    monkeypatch.setattr(command_line, "_pipe", lambda *_: pytest.fail("audio was read"))
    names = {"FILE": files[0], "MODEL": tiny_model_folder, "LIVE": live_folder, "OUT": tmp_path / "out"}
    status, out, err = run(capsys, *(names.get(argument, argument) for argument in arguments))
    assert status == 2 and out == "" and message in err and len(err.strip().splitlines()) == 1


def test_microphone_without_its_package(capsys, live_folder, monkeypatch):
    monkeypatch.setattr(command_line, "sounddevice", None)
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


@pytest.mark.parametrize("kind", ["pcm", "wav", "stereo 32 kHz wav"])
def test_live_from_a_pipe(live_folder, make_tiny_model, processor, clips, kind):
    """Raw samples or WAV on the standard input; each utterance is a line, the text that of the stream."""
    waveform = np.round(clips[0].waveform * 32_767).astype("<i2")
    content = waveform.tobytes()
    if kind != "pcm":
        file, channels, rate = io.BytesIO(), (2 if "stereo" in kind else 1), (32_000 if "32" in kind else RATE)
        repeated = np.repeat(waveform, rate // RATE)
        soundfile.write(file, np.stack([repeated] * channels, axis=1), rate, format="wav", subtype="PCM_16")
        content = file.getvalue()
    command = [sys.executable, "-m", "modeling_deepspeech2.cli.main", "live", "-", "--model", str(live_folder)]
    found = subprocess.run(command, input=content, capture_output=True, timeout=600)
    assert found.returncode == 0, found.stderr
    stream = DeepSpeech2Stream(make_tiny_model(bidirectional=False, lookahead=3), processor)
    stream.feed((waveform / 32_768).astype(np.float32))
    stream.finish()
    text = " ".join(found.stdout.decode().split("\n")).strip()
    assert len(text) > 15 and (text == stream.text.stable or "32" in kind)


def test_live_on_a_terminal(live_folder, clips):
    """The utterance under way stands in one line, which is written over; in the end it is the line of the utterance."""
    content = np.round(clips[0].waveform * 32_767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "modeling_deepspeech2.cli.main", "live", "-", "--model", str(live_folder)]
    outer, inner = pty.openpty()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=inner, stderr=subprocess.DEVNULL)
    os.close(inner)
    threading.Thread(target=lambda: (process.stdin.write(content), process.stdin.close()), daemon=True).start()
    shown = b""
    try:
        while part := os.read(outer, 65_536):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert process.wait(600) == 0
    lines = shown.decode().split("\r\033[K")
    assert len(lines) > 10 and "\033[90m" in lines[5]
    ended = [line for line in lines if line.endswith("\n")]
    assert ended and len(ended[-1]) > 15
