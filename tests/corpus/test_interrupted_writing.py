"""Killed, or without room, at every change of a file: what was whole stays whole, and the same call goes on."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

import modeling_deepspeech2.corpus.prepare as prepare_module
from modeling_deepspeech2.corpus.build import OLD, BuildSettings, build
from modeling_deepspeech2.corpus.prepare import PreparationSettings, prepare
from modeling_deepspeech2.corpus.shards import own_parts, parts_of
from modeling_deepspeech2.data.sources import DataError, SpeechData


CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "open"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
KILL, FULL = KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")
_watcher: Callable[[str, Path], None] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _watcher is None or event not in CHANGES or (event == "open" and not (arguments[2] or 0) & WRITING):
        return
    if isinstance(arguments[0], (str, bytes, os.PathLike)):
        path, folder = Path(os.fsdecode(arguments[0])), arguments[-1]
        if event in ("os.remove", "os.rmdir") and isinstance(folder, int) and folder >= 0:
            path = Path(os.readlink(f"/proc/self/fd/{folder}")) / path
        _watcher(event, path)


sys.addaudithook(_hook)


@contextlib.contextmanager
def stopped(places: tuple[Path, ...], number: int, error: BaseException) -> Iterator[list[str]]:
    """Raises an error before the change `number` of something below the places; gives what was changed."""
    global _watcher
    seen: list[str] = []

    def watch(event: str, path: Path) -> None:
        if any(path.is_relative_to(place) for place in places):
            seen.append(f"{event} {path.name}")
            if len(seen) == number:
                raise error

    _watcher = watch
    try:
        yield seen
    finally:
        _watcher = None


def rows(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pyarrow.parquet.read_table(file).to_pylist()]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    names = [f"{number}.wav" for number in range(3)]
    for number, name in enumerate(names):
        soundfile.write(folder / name, 0.1 * np.random.default_rng(number).standard_normal(8_000), 16_000)
    (folder / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},a text\n" for name in names))
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("error", [KILL, FULL], ids=["killed", "disk full"])
def test_prepare_at_every_change(error, source, tmp_path):
    settings = PreparationSettings(validation_share=0, test_share=0)
    prepare(source, tmp_path / "expected", settings, show_progress=False)
    expected = rows(tmp_path / "expected")
    for number in range(1, 200):
        output = tmp_path / f"speech{number}"
        with stopped((output, parts_of(output)), number, error) as seen:
            try:
                prepare(source, output, settings, show_progress=False)
            except BaseException as raised:
                assert isinstance(raised, KeyboardInterrupt if error is KILL else (DataError, OSError)), seen[-1]
        if len(seen) < number:  # there was no such change any more
            assert number > 12
            return
        assert not output.exists() or rows(output) == expected, seen[-1]
        if parts_of(output).exists() or not output.exists():
            prepare(source, output, settings, show_progress=False)
        assert rows(output) == expected and not parts_of(output).exists(), seen[-1]
        assert {file.name for file in output.iterdir()} == {file.name for file in (tmp_path / "expected").iterdir()}
    pytest.fail("prepare does not end")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("error", [KILL, FULL], ids=["killed", "disk full"])
def test_a_build_over_an_older_one_at_every_change(error, clips, tiny_model_folder, tmp_path):
    """At any moment the old data set or the new one is there, whole, or the next call brings it; notes stay."""
    source, output = tmp_path / "source", tmp_path / "speech"
    source.mkdir()
    soundfile.write(source / "one.flac", clips[0].waveform, 16_000)
    (source / "one.txt").write_text(clips[0].text)
    settings = BuildSettings(model=str(tiny_model_folder), precision=0, validation_share=0)
    build(str(source), [], output, settings, show_progress=False)
    expected = rows(output)
    (output / "notes.txt").write_text("mine")
    for number in range(1, 200):
        with stopped((output, parts_of(output)), number, error) as seen:
            try:
                build(str(source), [], output, settings, show_progress=False)
            except BaseException as raised:
                assert isinstance(raised, KeyboardInterrupt if error is KILL else (DataError, OSError)), seen[-1]
        if len(seen) < number:
            assert number > 12
            return
        whole = output if output.exists() else parts_of(output) / OLD
        assert rows(whole) == expected and (whole / "README.md").exists(), seen[-1]
        if number % 3 == 0:  # the others are met by the next stop
            build(str(source), [], output, settings, show_progress=False)
            assert rows(output) == expected and (output / "notes.txt").read_text() == "mine", seen[-1]
    pytest.fail("build does not end")


@pytest.fixture
def interrupted(source, tmp_path, monkeypatch) -> Path:
    """The place of a data set, of which all splits but the last are written."""
    for number in range(3, 30):
        shutil.copy(source / f"{number % 3}.wav", source / f"{number}.wav")
    lines = [f"{number}.wav,a text {chr(97 + number % 26)} {number // 26 * 'b'}\n" for number in range(30)]
    (source / "metadata.csv").write_text("file_name,text\n" + "".join(lines))
    output, write_split = tmp_path / "speech", prepare_module._write_split

    def write(clips, split, *others):
        if split == "validation":
            raise KeyboardInterrupt
        return write_split(clips, split, *others)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_module, "_write_split", write)
        prepare(source, output, PreparationSettings(), show_progress=False)
    assert (parts_of(output) / "test.json").exists()
    return output


def test_a_split_of_an_earlier_call_does_not_stay(interrupted, source):
    """Its clips are training clips now: as a test split they would flatter the model."""
    prepare(source, interrupted, PreparationSettings(test_share=0), show_progress=False)
    assert not list(interrupted.glob("test-*")) and len(rows(interrupted)) == 30


@pytest.mark.parametrize("name", ["train.json", "durations.jsonl"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"key": 3}', b"\xff\xfe\n5\n[[1], 2]\n", bytes(4)], ids=repr)
def test_damaged_notes_of_what_is_done_cost_only_time(name, content, interrupted, source):
    file = parts_of(interrupted) / name
    file.write_bytes(content + b"\n" + (file.read_bytes() if name == "durations.jsonl" else b""))
    prepare(source, interrupted, PreparationSettings(), show_progress=False)
    assert len(rows(interrupted)) == 30


def test_two_calls_do_not_share_a_place(interrupted, source):
    with own_parts(interrupted), pytest.raises(DataError, match="Another call is writing"):
        prepare(source, interrupted, PreparationSettings(), show_progress=False)
    prepare(source, interrupted, PreparationSettings(), show_progress=False)
    assert len(rows(interrupted)) == 30


def test_parts_of_somebody_else_are_left_alone(source, tmp_path):
    (tmp_path / "speech.parts").mkdir()
    (tmp_path / "speech.parts" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds mine.txt, which is none"):
        prepare(source, tmp_path / "speech", PreparationSettings(), show_progress=False)
    assert (tmp_path / "speech.parts" / "mine.txt").read_text() == "mine"


def test_a_link_to_an_empty_folder_is_filled(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "speech").symlink_to(tmp_path / "elsewhere")
    prepare(source, tmp_path / "speech", PreparationSettings(), show_progress=False)
    assert (tmp_path / "speech").is_symlink() and len(rows(tmp_path / "elsewhere")) == 3


def test_room_for_copies_is_no_fault_of_the_clips(source, tmp_path, monkeypatch):
    """What ffmpeg reads may need a copy; where there is no room for it, no clip is left out for good."""
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "encode_clip", Mock(side_effect=FULL))
        with pytest.raises(DataError, match="no space left"):
            prepare(source, tmp_path / "speech", PreparationSettings(), show_progress=False)
    prepare(source, tmp_path / "speech", PreparationSettings(), show_progress=False)
    assert len(rows(tmp_path / "speech")) == 3


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A real disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]).returncode:
        pytest.skip("needs the right to mount a disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_one_sentence_with_what_is_missing(small_disk, tmp_path):
    """Nothing looks like a data set; with room the same call ends well."""
    source, output = tmp_path / "many", small_disk / "speech"
    source.mkdir()
    for number in range(5):
        soundfile.write(source / f"{number}.wav", np.random.default_rng(number).uniform(-1, 1, 160_000), 16_000)
    lines = "".join(f"{number}.wav,a text\n" for number in range(5))
    (source / "metadata.csv").write_text("file_name,text\n" + lines)
    settings = PreparationSettings(validation_share=0, test_share=0)
    with pytest.raises(DataError, match=r"no space left for .*about [\d.]+ MB are missing.*goes on where it stopped"):
        prepare(source, output, settings, show_progress=False)
    assert not output.exists() and not list(small_disk.rglob("*.parquet"))
    with pytest.raises(DataError, match="root of a disk"):
        prepare(source, small_disk, settings, show_progress=False)
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    prepare(source, output, settings, show_progress=False)
    assert len(SpeechData(str(output), ["train"], show_progress=False).index) == 5
