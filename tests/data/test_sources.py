"""Data sets of every kind become the same utterances, and their durations are known before any audio is decoded."""

import importlib.util
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from hub_server import HubServer

from modeling_deepspeech2 import DeepSpeech2FeatureExtractor
from modeling_deepspeech2.data.durations import duration_of
from modeling_deepspeech2.data.loader import Collator
from modeling_deepspeech2.data.sources import DataError, SpeechData


def recording(seconds: float, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(int(16_000 * seconds))).astype(np.float32) * 0.1, 16_000, format=kind)
    return file.getvalue()


LENGTHS = {"one": 1.0, "two": 0.5, "three": 2.25}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def parquet(folder: Path, duration: bool = False, lengths: dict = LENGTHS) -> Path:
    folder.mkdir(exist_ok=True)
    columns = {
        "id": list(lengths),
        "audio": [{"bytes": recording(seconds), "path": None} for seconds in lengths.values()],
        "text": [f"text of {name}" for name in lengths],
    }
    if duration:
        columns["duration"] = list(lengths.values())
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "train-00000-of-00001.parquet")
    return folder


def audio_folder(folder: Path, metadata: str) -> Path:
    (folder / "train").mkdir(parents=True)
    for name, seconds in LENGTHS.items():
        (folder / "train" / f"{name}.wav").write_bytes(recording(seconds))
    rows = [{"file_name": f"{name}.wav", "text": f"text of {name}"} for name in LENGTHS]
    if metadata == "csv":
        text = "file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train" / f"metadata.{metadata}").write_text(text)
    return folder


def manifest(folder: Path) -> Path:
    """JSON lines as NeMo writes them, with paths from the manifest's folder on."""
    folder.mkdir()
    lines = []
    for name, seconds in LENGTHS.items():
        (folder / f"{name}.wav").write_bytes(recording(seconds))
        lines.append(json.dumps({"audio": f"{name}.wav", "text": f"text of {name}", "duration": seconds}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder


KINDS = {
    "parquet": parquet,
    "parquet with durations": lambda folder: parquet(folder, duration=True),
    "audio folder, csv": lambda folder: audio_folder(folder, "csv"),
    "audio folder, jsonl": lambda folder: audio_folder(folder, "jsonl"),
    "manifest": manifest,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_set_gives_the_same_utterances(kind, tmp_path):
    data = SpeechData(str(KINDS[kind](tmp_path / "speech")), ["train"])
    assert data.index.seconds.tolist() == list(LENGTHS.values())
    found = data.read(np.array([2, 0]))
    assert {number: utterance.text for number, utterance in found.items()} == {0: "text of one", 2: "text of three"}
    assert [len(waveform) / 16_000 for waveform in data.waveforms(16_000, limit=3)] == list(LENGTHS.values())
    assert data.index.hours == pytest.approx(3.75 / 3600)


READ_FROM_THE_HUB = """
import sys
import numpy as np
from huggingface_hub import HfApi
from modeling_deepspeech2.data.loader import Collator
from modeling_deepspeech2.data.sources import DataError, SpeechData

HfApi().create_repo("tester/folder", repo_type="dataset")
HfApi().upload_folder(repo_id="tester/folder", repo_type="dataset", folder_path=sys.argv[1])
try:
    data = SpeechData("tester/folder", ["train"], show_progress=False)
    print(sorted(data.index.seconds.tolist()), len(list(data.waveforms(16_000, limit=3))))
except DataError as error:
    print(error)
"""


def test_an_audio_folder_on_the_hub_is_streamed_or_says_what_is_missing(tmp_path):
    """datasets reads folders of files with torchcodec alone, which is no part of this package."""
    folder = audio_folder(tmp_path / "speech", "csv")
    with HubServer() as hub:
        command = [sys.executable, "-c", READ_FROM_THE_HUB, str(folder)]
        environment = hub.environment(tmp_path / "home")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    has_torchcodec = importlib.util.find_spec("torchcodec") is not None
    expected = f"{sorted(LENGTHS.values())} 3" if has_torchcodec else "please install 'torchcodec'. Or make it parquet."
    assert expected in done.stdout, done.stderr


def test_durations_are_measured_once(tmp_path, monkeypatch):
    folder = parquet(tmp_path / "speech")
    first = SpeechData(str(folder), ["train"]).index
    monkeypatch.setattr(SpeechData, "_measure", None)
    assert SpeechData(str(folder), ["train"]).index.seconds.tolist() == first.seconds.tolist()
    monkeypatch.undo()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    parquet(folder, lengths={"four": 4.0})  # other contents under the same name
    assert SpeechData(str(folder), ["train"]).index.seconds.tolist() == [4.0]


def test_a_duration_column_saves_reading_the_audio(tmp_path):
    folder = tmp_path / "speech"
    folder.mkdir()
    columns = {"id": ["a"], "audio": [{"bytes": b"no audio", "path": None}], "text": ["x"], "seconds": [7.0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "train-00000-of-00001.parquet")
    assert SpeechData(str(folder), ["train"], duration_column="seconds").index.seconds.tolist() == [7.0]
    assert SpeechData(str(folder), ["train"]).index.seconds.tolist() == [0.0]  # for the collator to name


def test_several_data_sets_with_weights(tmp_path):
    one, two = parquet(tmp_path / "one"), manifest(tmp_path / "two")
    data = SpeechData(str(one), ["train*0.5", f"{two}::train*3"])
    assert data.index.weights.tolist() == [0.5] * 3 + [3.0] * 3
    assert data.index.hours == pytest.approx(2 * 3.75 / 3600)  # each utterance once
    assert data.index.shards.tolist() == [0] * 3 + [1] * 3
    found = data.read(np.array([5, 1]))
    assert found[5].audio["path"].endswith("three.wav") and found[1].name == "two"


def test_the_held_out_part_and_the_rest_are_the_whole(tmp_path):
    folder = parquet(tmp_path / "speech", lengths={f"clip {i}": 0.1 for i in range(40)})
    kept, held_out = (SpeechData(str(folder), ["train"], held_out=0.3, part=part) for part in ("kept", "held_out"))
    assert 0 < len(held_out.index) < len(kept.index)
    assert sorted([*kept.index.rows, *held_out.index.rows]) == list(range(40))


def test_parts_of_a_split_are_the_whole_and_share_nothing(tmp_path):
    folder = parquet(tmp_path / "speech", lengths={f"clip {i}": 0.1 for i in range(60)})
    first, last = (SpeechData(str(folder), [f"train[{part}]*2"]).index for part in (":60%", "60%:"))
    assert 20 < len(first) < 50
    assert sorted([*first.rows, *last.rows]) == list(range(60))
    assert (first.weights == 2).all()
    held_out = SpeechData(str(folder), ["train[60%:]"], held_out=0.5, part="held_out").index
    assert 0 < len(held_out) < len(last) and set(held_out.rows) < set(last.rows)


@pytest.mark.parametrize("entry", ["train[80%:20%]", "train[:120%]", "train[80]", "train[:80%", "train*x"])
def test_parts_that_are_none_are_refused(entry, tmp_path):
    with pytest.raises(DataError, match=re.escape(entry)):
        SpeechData(str(parquet(tmp_path / "speech")), [entry])


def rows_with(folder: Path, **columns: list) -> SpeechData:
    folder.mkdir()
    audio = [{"bytes": recording(seconds), "path": None} for seconds in LENGTHS.values()]
    table = pyarrow.table({"id": list(LENGTHS), "audio": audio, "text": list(LENGTHS)} | columns)
    pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    return SpeechData(str(folder), ["train"])


def test_rows_without_a_duration_are_measured(tmp_path):
    """A batch by seconds would take any number of utterances of no length."""
    assert rows_with(tmp_path / "speech", duration=[1.0, None, 2.25]).index.seconds.tolist() == list(LENGTHS.values())


def test_a_duration_column_in_milliseconds_is_refused(tmp_path):
    with pytest.raises(DataError, match="must hold seconds, but says 1000 of a recording of 1.00 s"):
        rows_with(tmp_path / "speech", duration=[1000, 500, 2250]).index  # noqa: B018


@pytest.mark.parametrize("lie", [float("nan"), float("inf"), -1.0, 0.0, 1e9, "one second", None])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_durations_that_cannot_be_one_are_measured(lie, row, tmp_path):
    """In any row, not in the first alone: NaN ends sorting, and an infinite one fills a batch by seconds."""
    said = list(LENGTHS.values())
    said[row] = lie
    said = [str(seconds) for seconds in said] if isinstance(lie, str) else said
    assert rows_with(tmp_path / "speech", duration=said).index.seconds.tolist() == list(LENGTHS.values())


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_wrong_duration_in_the_sample_is_said(row, tmp_path, caplog, monkeypatch):
    """A hundredfold one, in any row: then all are measured."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    said = list(LENGTHS.values())
    said[row] *= 100
    assert rows_with(tmp_path / "speech", duration=said).index.seconds.tolist() == list(LENGTHS.values())
    [warning] = caplog.records
    assert "is wrong in 1 of 3 rows" in warning.message and "measured instead" in warning.message


def test_a_wrong_duration_beyond_the_sample_is_named_when_it_is_read(tmp_path, processor, make_tiny_model):
    lengths = {f"clip {number}": 1.0 for number in range(40)}
    folder = parquet(tmp_path / "speech", duration=True, lengths=lengths)
    table = pyarrow.parquet.read_table(folder / "train-00000-of-00001.parquet")
    said = [1.0] * 40
    said[20] = 100.0
    table = table.set_column(table.schema.get_field_index("duration"), "duration", pyarrow.array(said))
    pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    data = SpeechData(str(folder), ["train"])
    assert data.index.seconds[20] == 100
    batch = Collator(processor, make_tiny_model().config)(list(data.read(np.arange(18, 22)).values()))
    assert batch["skipped"] == [("clip 20", "It lasts 1.00 s, but its data set says 100.00 s.")]


@pytest.mark.parametrize("damage", [b"", b"no archive", "cut", "half"])
def test_a_damaged_cache_of_durations_is_made_anew(damage, tmp_path, caplog, monkeypatch):
    """It gave a traceback at each start until somebody deleted it by hand."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    folder = parquet(tmp_path / "speech")
    expected = SpeechData(str(folder), ["train"]).index.seconds.tolist()
    [cache] = (tmp_path / "cache" / "deepspeech2_durations").iterdir()
    content = cache.read_bytes()
    cache.write_bytes({"cut": content[:-30], "half": content[: len(content) // 2]}.get(damage, damage))
    assert SpeechData(str(folder), ["train"]).index.seconds.tolist() == expected
    assert "is damaged" in caplog.records[0].message and "is made anew" in caplog.records[0].message
    assert cache.read_bytes()[:4] == content[:4] and len(caplog.records) == 1
    SpeechData(str(folder), ["train"]).index  # noqa: B018
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "texts, kind",
    [([["a"], ["b"], ["c"]], "list"), ([{"en": "a"}] * 3, "struct"), ([1.0, 2.5, 3.0], "double"), ([True] * 3, "bool")],
)
def test_transcripts_that_are_no_text_are_refused(texts, kind, tmp_path):
    """Lists were learned as their Python text, and digits that became floating point as "five point zero"."""
    with pytest.raises(DataError, match=f"'text' of the data set .* must hold text, but holds {kind}"):
        rows_with(tmp_path / "speech", text=texts)


@pytest.mark.parametrize("kind", ["list", "int64", "struct"])
def test_audio_that_is_no_file_is_refused(kind, tmp_path):
    """Samples, numbers and foreign structs ended in a traceback at the first row."""
    value = {"list": [0.1, 0.2], "int64": 5, "struct": {"array": [0.1]}}[kind]
    with pytest.raises(DataError, match=f"'audio' of the data set .* must hold audio files, .* but holds {kind}"):
        rows_with(tmp_path / "speech", audio=[value] * 3)


def test_bytes_alone_are_audio(tmp_path):
    data = rows_with(tmp_path / "speech", audio=[recording(1.0)] * 3)
    assert data.index.seconds.tolist() == [1.0] * 3 and data.read(np.array([1]))[1].audio["bytes"] == recording(1.0)


def test_statistics_of_nothing_that_can_be_read_say_why(tmp_path):
    """They ended in a traceback before the run could say what was wrong with its data."""
    data = rows_with(tmp_path / "speech", audio=[b"no audio"] * 3)
    with pytest.raises(DataError, match="No utterance of train .* can be read; one says: one is damaged"):
        DeepSpeech2FeatureExtractor().fit(data.waveforms(16_000, limit=3))


@pytest.mark.parametrize("damage", ["a page", "a string", "gone"])
def test_a_shard_that_cannot_be_read_is_named(damage, tmp_path):
    """Arrow does not say in which file a page is damaged."""
    data = SpeechData(str(parquet(tmp_path / "speech")), ["train"], show_progress=False)
    file = tmp_path / "speech" / "train-00000-of-00001.parquet"
    table = pyarrow.parquet.read_table(file)
    if damage == "a string":
        text = pyarrow.array([b"gr\xfcn"] * len(table), pyarrow.binary()).view(pyarrow.string())
        table = table.set_column(table.column_names.index("text"), "text", text)
    pyarrow.parquet.write_table(table, file, compression="snappy")
    if damage == "a page":
        content = file.read_bytes()
        file.write_bytes(content[:4] + b"\xff" * 40 + content[44:])
    if damage == "gone":
        file.unlink()
    with pytest.raises(DataError, match="train-00000-of-00001.parquet (cannot be read|is no parquet file), or "):
        list(data.sources[0].rows.tables(0, ["id", "text"]))


def test_utterances_of_one_name_are_two(tmp_path):
    """Otherwise one that is left out would count for both."""
    data = rows_with(tmp_path / "speech", id=["a", "b", "a"])
    assert [data.read(np.arange(3))[number].name for number in range(3)] == ["a (train, row 0)", "b", "a (train, row 2)"]


@pytest.mark.parametrize(
    "path", ["foo://bar/b.wav", "/dev/zero", "/dev/stdin", "pipe", "nowhere.wav", "", "https://127.0.0.1:9/"]
)
def test_a_path_that_is_no_file_costs_no_other_row(path, tmp_path, processor, make_tiny_model):
    """An unknown protocol ended the run; a device or a pipe hung, or filled the memory."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.wav").write_bytes(recording(1.0))
    (tmp_path / "metadata.csv").write_text(f"file_name,text\na.wav,one\n{path},two\n")
    data = SpeechData(str(tmp_path), ["train"], show_progress=False)
    assert data.index.seconds.tolist() == [1.0, 0.0]
    batch = Collator(processor, make_tiny_model().config)(list(data.read(np.arange(2)).values()))
    assert batch["texts"] == ["one"] and len(batch["skipped"]) == 1


def test_transcripts_of_digits_alone_are_text(tmp_path):
    assert rows_with(tmp_path / "speech", text=[1, 2, 3]).read(np.array([2]))[2].text == "3"


@pytest.mark.parametrize("place", ["train", "data/train", "."])
@pytest.mark.parametrize("texts", [("007", "", "12"), ("007", "8", "12")])
def test_digits_in_the_metadata_of_a_folder_stay_text_or_are_refused(place, texts, tmp_path):
    """Beside an empty row "7" became "7.0", and without one "007" became "7", in folders that `datasets` itself reads."""
    folder = audio_folder(tmp_path / "speech", "csv")
    lines = "".join(f"{name}.wav,{text}\n" for name, text in zip(LENGTHS, texts))
    (folder / "train" / "metadata.csv").write_text(f"file_name,text\n{lines}")
    if place != "train":
        (folder / "train").rename(folder / "moved")
        (folder / place).mkdir(parents=True, exist_ok=True)
        for file in (folder / "moved").iterdir():
            file.rename(folder / place / file.name)
        (folder / "moved").rmdir()
    if place == "data/train":
        with pytest.raises(DataError, match="'text' of the data set .* must hold text"):
            SpeechData(str(folder), ["train"])
    else:
        found = SpeechData(str(folder), ["train"]).read(np.arange(3))
        assert [found[number].text for number in range(3)] == list(texts)


def test_a_kind_of_file_that_soundfile_does_not_know_has_a_length(tmp_path):
    wave = tmp_path / "clip.wav"
    wave.write_bytes(recording(1.5))
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", wave, tmp_path / "clip.m4a"], check=True)
    assert duration_of({"bytes": None, "path": str(tmp_path / "clip.m4a")}) == pytest.approx(1.5, abs=0.1)


def test_metadata_beside_the_audio_is_the_split_train_alone(tmp_path):
    folder = audio_folder(tmp_path / "speech", "csv")
    (folder / "train" / "metadata.csv").rename(folder / "metadata.csv")
    SpeechData(str(folder), ["train"])
    with pytest.raises(DataError, match="is one split, 'train'; for 'test' there must be a folder"):
        SpeechData(str(folder), ["test"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"path": "./no_such_folder"}, "no data set folder ./no_such_folder"),
        ({"splits": ["trian"]}, "trian"),
        ({"splits": ["train*many"]}, r"\*WEIGHT, of which only SPLIT must be there; found 'train\*many'"),
        ({"text_column": "transcript"}, "no column 'transcript'; its columns are id, audio, text"),
        ({"audio_column": "sound"}, "no column 'sound'"),
    ],
)
def test_what_cannot_be_opened_is_named(changes, message, tmp_path):
    settings = {"path": str(parquet(tmp_path / "speech")), "splits": ["train"]} | changes
    with pytest.raises(DataError, match=message):
        SpeechData(**settings)


def test_a_data_set_that_changed_is_noticed(tmp_path):
    data = SpeechData(str(parquet(tmp_path / "speech")), ["train"])
    assert len(data.index) == 3
    parquet(tmp_path / "speech", lengths={"one": 1.0})
    with pytest.raises(DataError, match="ends before row 2"):
        data.read(np.array([2]))
