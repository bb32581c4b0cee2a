"""Recordings of every kind are read, aligned, cut and written; an interrupted build goes on; all rejects are named."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.corpus import build as building
from modeling_deepspeech2.corpus.build import BuildSettings, build
from modeling_deepspeech2.corpus.filtering import FEATURES
from modeling_deepspeech2.corpus.transcripts import Line, read_recordings, read_transcript
from modeling_deepspeech2.data.sources import DataError, SpeechData


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def recordings(tmp_path, clips) -> Path:
    """Two recordings of four clips each, with pauses, and their transcripts beside them."""
    folder = tmp_path / "recordings"
    (folder / "deep").mkdir(parents=True)
    pause = np.zeros(8_000, dtype=np.float32)
    for name, some in (("one.flac", clips[:4]), ("deep/two.wav", clips[4:8])):
        samples = np.concatenate([piece for clip in some for piece in (clip.waveform, pause)])
        soundfile.write(folder / name, samples, 16_000)
        (folder / name).with_suffix(".txt").write_text("\n".join(clip.text for clip in some))
    return folder


def settings(model: Path, **changes) -> BuildSettings:
    return BuildSettings(**({"model": str(model), "precision": 0, "validation_share": 0} | changes))


def test_recordings_become_a_data_set(recordings, tiny_model_folder, clips, tmp_path):
    """No word is lost, and what run_ctc.py reads is what the recording has between start and end."""
    output = tmp_path / "speech"
    built = build(str(recordings), [], output, settings(tiny_model_folder), show_progress=False)
    for name, some in (("one.flac", clips[:4]), ("deep/two.wav", clips[4:8])):
        own = built.segments[built.segments["source"] == name].sort_values("start")
        assert " ".join(own["text"]).split() == " ".join(clip.text for clip in some).split()
    data = SpeechData(str(output), ["train"], show_progress=False)
    assert len(data.index) == len(built.segments) - len(built.rejected)
    assert (np.diff(data.index.seconds) >= 0).all()
    rows = pyarrow.parquet.read_table(output / "train-00000-of-00001.parquet").to_pylist()
    kept = built.segments.set_index("id")
    for row, waveform in zip(rows, data.waveforms(16_000, limit=len(rows))):
        whole, _ = soundfile.read(recordings / row["source"], dtype="float32")
        start = int(np.floor(kept.loc[row["id"], "start"] * 16_000))
        assert np.array_equal(waveform, whole[start:][: len(waveform)])
        assert row["duration"] == pytest.approx(len(waveform) / 16_000, abs=1e-4)


def test_several_processes_give_the_same(recordings, tiny_model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "CHARACTERS_AT_A_TIME", 1)  # each recording by itself
    found = []
    for number in (1, 2):
        folder = tmp_path / f"speech{number}"
        build(str(recordings), [], folder, settings(tiny_model_folder), num_processes=number, show_progress=False)
        found.append(pyarrow.parquet.read_table(folder / "train-00000-of-00001.parquet"))
    assert found[0].equals(found[1])


def test_a_build_goes_on_where_it_was_interrupted(recordings, tiny_model_folder, tmp_path, monkeypatch):
    """What was done is not done again; what was being written counts for nothing."""
    monkeypatch.setattr(building, "CHARACTERS_AT_A_TIME", 1)  # each recording by itself
    worked_on, segments = [], building._segments

    def watched(recording, *rest):
        if worked_on and not resumed:
            raise KeyboardInterrupt
        worked_on.append(recording.name)
        return segments(recording, *rest)

    resumed = False
    monkeypatch.setattr(building, "_segments", watched)
    with pytest.raises(KeyboardInterrupt):
        build(str(recordings), [], tmp_path / "speech", settings(tiny_model_folder), show_progress=False)
    assert not (tmp_path / "speech").exists()
    resumed = True
    built = build(str(recordings), [], tmp_path / "speech", settings(tiny_model_folder), show_progress=False)
    assert sorted(worked_on) == ["deep/two.wav", "one.flac"]
    assert set(built.segments["source"]) == {"deep/two.wav", "one.flac"}
    build(str(recordings), [], tmp_path / "speech", settings(tiny_model_folder), show_progress=False)  # nothing to do
    assert len(worked_on) == 2
    (recordings / "one.txt").write_text("other words")  # a changed transcript is another recording
    build(str(recordings), [], tmp_path / "speech", settings(tiny_model_folder), show_progress=False)
    assert len(worked_on) == 3
    samples, rate = soundfile.read(recordings / "deep" / "two.wav")
    soundfile.write(recordings / "deep" / "two.wav", samples[1_000:], rate)  # and so is other audio under its name
    build(str(recordings), [], tmp_path / "speech", settings(tiny_model_folder), show_progress=False)
    assert len(worked_on) == 4


def test_every_reject_is_named_with_its_reason(recordings, tiny_model_folder, tmp_path):
    (recordings / "broken.wav").write_bytes(b"no audio")
    (recordings / "broken.txt").write_text("words")
    (recordings / "empty.txt").write_text("\n")
    os.link(recordings / "one.flac", recordings / "empty.flac")
    (recordings / "long.txt").write_text("many words " * 2_000)
    os.link(recordings / "one.flac", recordings / "long.flac")
    os.link(recordings / "one.flac", recordings / "alone.flac")
    (recordings / "notes.txt").write_text("words")
    (recordings / "cover.jpg").write_bytes(b"")  # nobody takes it for a recording
    (recordings / "settings.json").write_text("{}")
    (recordings / "latin.TXT").write_bytes("grün".encode("latin-1"))
    os.link(recordings / "one.flac", recordings / "latin.flac")
    build(str(recordings), [], tmp_path / "speech", settings(tiny_model_folder), show_progress=False)
    table = pandas.read_csv(tmp_path / "speech" / "rejected.csv").set_index("source")
    assert "damaged, or in no audio format" in table.loc["broken.wav", "reason"]
    assert table.loc["empty.flac", "reason"] == "The transcript is empty."
    assert "too long for it" in table.loc["long.flac", "reason"]
    assert "no transcript beside it" in table.loc["alone.flac", "reason"]
    assert "no audio beside" in table.loc["notes.txt", "reason"]
    assert "expected UTF-8" in table.loc["latin.flac", "reason"]
    assert not {"one.flac", "cover.jpg", "settings.json"} & set(table.index)
    assert list(table.columns[-len(FEATURES) :]) == list(FEATURES)


@pytest.fixture
def many_clips(tmp_path, clips) -> Path:
    """A data set of 128 short clips, more than a filter needs; their speakers are numbers."""
    rows = [
        {
            "id": f"{copy}-{number}",
            "audio": {"bytes": wav(clip.waveform[copy * 160 :][:12_000]), "path": None},
            "text": clip.text[:8],
            "speaker_id": number,
        }
        for copy in range(16)
        for number, clip in enumerate(clips)
    ]
    (tmp_path / "clips").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "clips" / "train-00000-of-00001.parquet")
    return tmp_path / "clips"


def test_the_filter_is_trained_and_its_rejects_are_named(many_clips, tiny_model_folder, tmp_path):
    """With a random model no transcript is better than another, so that most must go: the way there is what is tested."""
    asked = settings(tiny_model_folder, precision=0.5)
    built = build(str(many_clips), [], tmp_path / "speech", asked, show_progress=False)
    assert set(built.segments["speaker_id"]) == {str(number) for number in range(8)}
    saved = json.loads((tmp_path / "speech" / "filter.json").read_text())
    assert list(saved["weights"]) == list(FEATURES) and saved["precision"] >= 0.5
    judged = built.segments["probability"]
    assert (judged >= saved["threshold"]).sum() == sum(facts["utterances"] for facts in built.splits.values())
    assert built.rejected["reason"].str.startswith("Its transcript is probably wrong").all()


def test_the_filter_may_learn_from_known_transcripts(recordings, many_clips, tiny_model_folder, tmp_path, monkeypatch):
    """All known ones count as right, without them half of the clips do. A wrong name stops before any work."""
    asked = settings(tiny_model_folder, precision=0.5, known=f"{many_clips}::train")
    built = build(str(many_clips), [], tmp_path / "speech", asked, show_progress=False)
    assert built.filter.sample > 128
    monkeypatch.setattr(building, "make_parts", lambda *rest: pytest.fail("work was begun"))
    with pytest.raises(DataError, match="nowhere"):
        build(str(recordings), [], tmp_path / "other", settings(tiny_model_folder, known="./nowhere"), show_progress=False)


def wav(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV")
    return file.getvalue()


def test_command_line(recordings, tiny_model_folder, tmp_path, capsys):
    output = tmp_path / "speech"
    arguments = ["build", str(recordings), "--model", str(tiny_model_folder), "--processes", "1", "--validation_share", "0"]
    assert main([*arguments, "--output", str(output), "--precision", "0"]) == 0
    assert "segments were left out, each with its reason" in capsys.readouterr().out
    assert main([*arguments, "--output", str(tmp_path / "other"), "--precision", "0.9"]) == 2  # eight clips are too few
    assert "at least 50 segments" in capsys.readouterr().err
    assert main([*arguments, "--output", str(recordings), "--precision", "0"]) == 2
    assert "holds something already" in capsys.readouterr().err


TRANSCRIPTS = {
    "a.txt": ("one\n\n two \n", [Line("one"), Line("two")]),
    "a.srt": (
        "1\n00:00:01,000 --> 00:00:02,000\n<i>one</i>\nand a half\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo &amp; three\n",
        [Line("one and a half"), Line("two & three")],
    ),
    "a.vtt": (
        "WEBVTT\n\nNOTE not said\n\n00:01.000 --> 00:02.000 align:start\n<v Ann>one\n\nid\n00:03.000 --> 00:04.000\ntwo\n",
        [Line("one", "Ann"), Line("two")],
    ),
    "b.srt": (  # an empty line within a cue, none between cues, out of order
        "3\r\n00:00:05,000 --> 00:00:06,000\r\nfour\r\n\r\n1\r\n00:00:01,000 --> 00:00:02,000\r\none\r\n\r\n two\r\n"
        "2\r\n00:00:03,000 --> 00:00:04,000\r\nthree\r\n",
        [Line("one two"), Line("three"), Line("four")],
    ),
    "b.vtt": (  # captions that roll
        "WEBVTT\nKind: captions\n\n00:00:01.000 --> 00:00:02.000\n \none<00:00:01.500><c> two</c>\n\n"
        "00:00:02.000 --> 00:00:02.010\none two\n \n\n"
        "00:00:02.010 --> 00:00:04.000\none two\nthree<00:00:03.000><c> four</c>\n",
        [Line("one two"), Line("three four")],
    ),
    "c.srt": (  # said again, which is no rolling
        "1\n00:00:01,000 --> 00:00:02,000\nNo.\n\n2\n00:00:02,000 --> 00:00:03,000\nNo.\n\n"
        "3\n00:00:03,000 --> 00:00:04,000\nYes.\n\n4\n00:00:04,000 --> 00:00:05,000\n7\n",
        [Line("No."), Line("No."), Line("Yes."), Line("7")],
    ),
    "d.srt": (  # no fractions, an empty line after every line
        "1\n\n00:00:01 --> 00:00:02\n\none\n\n2\n\n00:00:03:500 --> 00:00:04:000\n\ntwo\n",
        [Line("one"), Line("two")],
    ),
    "sounds.srt": (
        "1\n00:00:01,000 --> 00:00:02,000\n[Music]\n\n2\n00:00:03,000 --> 00:00:04,000\n(applause) Thank you. [door\ncreaks]"
        "\n\n3\n00:00:05,000 --> 00:00:06,000\n♪ la la la ♪\n\n4\n00:00:07,000 --> 00:00:08,000\n（笑）好\n",
        [Line("Thank you."), Line("好")],
    ),
    "names.vtt": (
        "WEBVTT\n\n00:01.000 --> 00:02.000\nSPEAKER 1: Hello.\n\n00:03.000 --> 00:04.000\n- JOHN: Who is it?\n"
        "- MARY: Me: Mary.\n\n"
        "00:05.000 --> 00:06.000\n>> It is 10:30, note: late.\n\n00:07.000 --> 00:08.000\nSpeaker 2: [sighs] Yes.\n",
        [
            Line("Hello.", "SPEAKER 1"),
            Line("Who is it?", "JOHN"),
            Line("Me: Mary.", "MARY"),
            Line("It is 10:30, note: late."),
            Line("Yes.", "Speaker 2"),
        ],
    ),  # fmt: skip
    "A.TXT": ("one\n", [Line("one")]),
    "b.json": ('{"segments": [{"text": " one ", "speaker": "A"}, {"text": "two"}]}', [Line("one", "A"), Line("two")]),
    "c.json": ('[{"text": "one", "speaker_id": "A"}]', [Line("one", "A")]),
    "e.json": ('[{"text": 12, "speaker": 0}]', [Line("12", "0")]),
    "f.json": ('[{"text": 5.0}, {"text": 1e3}, {"text": null}]', [Line("5.0"), Line("1e3")]),
    "d.json": ('{"text": "one\\ntwo"}', [Line("one"), Line("two")]),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts_of_every_kind(name, tmp_path):
    content, lines = TRANSCRIPTS[name]
    (tmp_path / name).write_text(content)
    assert read_transcript(tmp_path / name) == lines


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", b"\xff\xfe\x00"),
        ("a.json", b"{"),
        ("b.json", b'[{"words": 1}]'),
        ("c.json", b'{"text": ["one", "two"]}'),
        ("d.json", b'[{"text": true}]'),
    ],
)
def test_bad_transcripts_are_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: expected"):
        read_transcript(tmp_path / name)


def test_manifests_and_data_sets_are_recordings_too(tmp_path, recordings):
    (recordings / "one.txt").unlink()
    (recordings / "deep" / "two.txt").unlink()
    (recordings / "train.jsonl").write_text('{"audio": "one.flac", "text": "a\\nb", "speaker_id": "A"}\n')
    [found] = read_recordings(str(recordings), [])
    assert found.lines == [Line("a", "A"), Line("b", "A")] and found.audio["path"].endswith("one.flac")
    rows = [{"id": "x", "audio": {"bytes": b"1", "path": None}, "text": "a", "speaker_id": "B"}]
    (tmp_path / "speech").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "speech" / "test-00000-of-00001.parquet")
    [found] = read_recordings(str(tmp_path / "speech"), [])
    assert (found.name, found.lines, found.split) == ("x", [Line("a", "B")], "test")
