"""Folders and manifests of every kind become the same data set, sorted, with its vocabulary and statistics."""

import csv
import errno
import json
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modeling_deepspeech2 import DeepSpeech2FeatureExtractor, DeepSpeech2Processor
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.corpus import prepare as preparing
from modeling_deepspeech2.corpus.clips import read_clips
from modeling_deepspeech2.corpus.prepare import PreparationSettings, draw_splits, encode_clip, measure_clip, prepare
from modeling_deepspeech2.data.sources import DataError, SpeechData, all_splits


LENGTHS = {"one": 1.0, "two": 0.5, "three": 2.25, "four": 1.5}
NO_DRAW = PreparationSettings(validation_share=0, test_share=0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def tone(seconds: float, rate: int) -> np.ndarray:
    return (np.sin(np.arange(round(seconds * rate)) * 0.3) * 0.2).astype(np.float32)


def recordings(folder: Path, rate: int = 16_000) -> Path:
    folder.mkdir(parents=True)
    for name, seconds in LENGTHS.items():
        soundfile.write(folder / f"{name}.wav", tone(seconds, rate), rate)
    return folder


def audio_folder(folder: Path) -> Path:
    recordings(folder)
    lines = "".join(f"{name}.wav,text {name},{name[0]}\n" for name in LENGTHS)
    (folder / "metadata.csv").write_text("file_name,text,speaker_id\n" + lines)
    return folder


def folder_of_splits(folder: Path) -> Path:
    recordings(folder / "train")
    rows = [{"file_name": f"{name}.wav", "text": f"text {name}", "speaker_id": name[0]} for name in LENGTHS]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def json_manifest(folder: Path) -> Path:
    recordings(folder)
    rows = [{"audio_filepath": f"{name}.wav", "text": f"text {name}", "speaker": name[0]} for name in LENGTHS]
    (folder / "manifest.json").write_text(json.dumps(rows))
    return folder / "manifest.json"


def tsv_manifest(folder: Path) -> Path:
    """With the columns of Common Voice."""
    recordings(folder)
    lines = "".join(f"{name[0]}\t{name}.wav\ttext {name}\n" for name in LENGTHS)
    (folder / "train.tsv").write_text("client_id\tpath\tsentence\n" + lines, encoding="utf-8-sig")
    return folder / "train.tsv"


def kaldi(folder: Path) -> Path:
    recordings(folder)
    (folder / "wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in LENGTHS))
    (folder / "text").write_text("".join(f"{name} text {name}\n" for name in LENGTHS))
    (folder / "utt2spk").write_text("".join(f"{name} {name[0]}\n" for name in LENGTHS))
    return folder


def kaldi_segments(folder: Path) -> Path:
    """One recording at another rate, which holds all clips one after the other."""
    folder.mkdir()
    soundfile.write(folder / "all.flac", np.concatenate([tone(seconds, 22_050) for seconds in LENGTHS.values()]), 22_050)
    ends = np.cumsum(list(LENGTHS.values()))
    segments = [f"{name} all {end - LENGTHS[name]:.3f} {end:.3f}\n" for name, end in zip(LENGTHS, ends)]
    (folder / "wav.scp").write_text("all all.flac\n")
    (folder / "segments").write_text("".join(segments))
    (folder / "text").write_text("".join(f"{name} text {name}\n" for name in LENGTHS))
    (folder / "utt2spk").write_text("".join(f"{name} {name[0]}\n" for name in LENGTHS))
    return folder


KINDS = [audio_folder, folder_of_splits, json_manifest, tsv_manifest, kaldi, kaldi_segments]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_gives_the_same_data_set(kind, tmp_path):
    """Sorted by duration, with the transcripts, speakers and samples that went in, as run_ctc.py reads them."""
    output = tmp_path / "speech"
    prepare(kind(tmp_path / "source"), output, NO_DRAW, show_progress=False)
    assert all_splits(str(output)) == ["train"]
    data = SpeechData(str(output), ["train"], show_progress=False)
    found = data.read(np.arange(4))
    assert [found[number].text for number in range(4)] == ["text two", "text one", "text four", "text three"]
    assert data.index.seconds.tolist() == pytest.approx([0.5, 1.0, 1.5, 2.25], abs=1e-3)
    waveforms = list(data.waveforms(16_000, limit=4))
    assert sorted(len(waveform) / 16_000 for waveform in waveforms) == pytest.approx([0.5, 1.0, 1.5, 2.25], abs=1e-3)
    table = pyarrow.parquet.read_table(output / "train-00000-of-00001.parquet")
    assert table["speaker_id"].to_pylist() == ["t", "o", "f", "t"]
    assert table["duration"].to_pylist() == pytest.approx([0.5, 1.0, 1.5, 2.25], abs=1e-3)


def test_whole_files_stay_as_they_are(tmp_path):
    """No second encoding: the bytes, and with them the sampling rate."""
    source = audio_folder(tmp_path / "source")
    prepare(source, tmp_path / "speech", NO_DRAW, show_progress=False)
    rows = pyarrow.parquet.read_table(tmp_path / "speech" / "train-00000-of-00001.parquet").to_pylist()
    assert rows[0]["audio"]["bytes"] == (source / "two.wav").read_bytes()


def test_an_alphabet_of_nothing_is_refused(tmp_path):
    """Before any work: every transcript would be left out of the training."""
    settings = PreparationSettings(validation_share=0, test_share=0, minimum_count=1_000)
    with pytest.raises(DataError, match="No character of .* occurs 1000 times in training"):
        prepare(audio_folder(tmp_path / "source"), tmp_path / "speech", settings, show_progress=False)


def test_files_at_an_address_are_fetched(tmp_path):
    """All of them were left out, since their addresses were taken for paths."""
    source = recordings(tmp_path / "source")
    rows = [{"audio": (source / f"{name}.wav").as_uri(), "text": f"text {name}"} for name in LENGTHS]
    (source / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    clip = pandas.DataFrame(read_clips(source / "list.jsonl")).iloc[0]
    assert measure_clip(clip) == (1.0, "") and encode_clip(clip) == ((source / "one.wav").read_bytes(), ".wav")


@pytest.mark.parametrize("broken", ["test", "train"])
def test_a_split_of_which_nothing_can_be_decoded(broken, tmp_path):
    """The card named files of it that were not there, so that no split could be opened."""
    for split in ("train", "test"):
        folder = recordings(tmp_path / "source" / split)
        (folder / "wav.scp").write_text("".join(f"{split}-{name} {name}.wav\n" for name in LENGTHS))
        (folder / "text").write_text("".join(f"{split}-{name}-1 {name}\n" for name in LENGTHS))
        (folder / "segments").write_text("".join(f"{split}-{name}-1 {split}-{name} 0 0.4\n" for name in LENGTHS))
    for file in (tmp_path / "source" / broken).glob("*.wav"):
        soundfile.write(file, np.full(16_000, np.nan), 16_000, "FLOAT")
    if broken == "train":
        with pytest.raises(DataError, match="No clip of .* for training can be used; .* not finite"):
            prepare(tmp_path / "source", tmp_path / "speech", NO_DRAW, show_progress=False)
    else:
        prepared = prepare(tmp_path / "source", tmp_path / "speech", NO_DRAW, show_progress=False)
        assert list(prepared.splits) == ["train"] == all_splits(str(tmp_path / "speech"))
        assert len(prepared.left_out) == 4


def test_segments_are_cut_to_the_sample(tmp_path):
    source = kaldi_segments(tmp_path / "source")
    prepare(source, tmp_path / "speech", NO_DRAW, show_progress=False)
    rows = pyarrow.parquet.read_table(tmp_path / "speech" / "train-00000-of-00001.parquet").to_pylist()
    (tmp_path / "cut.flac").write_bytes(rows[1]["audio"]["bytes"])  # "one", which stands first
    samples, rate = soundfile.read(tmp_path / "cut.flac", dtype="float32")
    whole, _ = soundfile.read(source / "all.flac", dtype="float32")
    assert rate == 22_050
    assert np.array_equal(samples, whole[:22_050])


def test_processor_and_shards(tmp_path):
    """The processor is that of the training split; small shards are in order, and datasets finds them beside it."""
    source = audio_folder(tmp_path / "source")
    output = tmp_path / "speech"
    prepare(source, output, NO_DRAW, show_progress=False)
    processor = DeepSpeech2Processor.from_pretrained(output / "processor")
    assert set(AutoTokenizer.from_pretrained(output / "processor").get_vocab()) == {"<pad>", "|", *"textonwhrfu"}
    data = SpeechData(str(output), ["train"], show_progress=False)
    expected = DeepSpeech2FeatureExtractor().fit(data.waveforms(16_000, limit=4))
    assert processor.feature_extractor.mean == expected.mean


def test_shards_end_at_their_size(tmp_path):
    source = recordings(tmp_path / "source")
    soundfile.write(source / "long.wav", tone(40, 16_000), 16_000)  # 1.2 MB
    lines = "".join(f"{name}.wav,text\n" for name in ["long", *LENGTHS])
    (source / "metadata.csv").write_text("file_name,text\n" + lines + "long.wav,again\n")
    settings = PreparationSettings(validation_share=0, test_share=0, shard_megabytes=1)
    prepared = prepare(source, tmp_path / "speech", settings, show_progress=False)
    assert prepared.splits["train"]["shards"] == 2
    assert SpeechData(str(tmp_path / "speech"), ["train"]).index.seconds.tolist() == [0.5, 1, 1.5, 2.25, 40, 40]


def test_what_cannot_be_used_is_named(tmp_path, capsys):
    """Broken, absent and empty: left out, and told with the reason; the rest is prepared."""
    source = audio_folder(tmp_path / "source")
    (source / "broken.wav").write_bytes(b"no audio")
    with open(source / "metadata.csv", "a") as file:
        file.write('broken.wav,text,a\nnone.wav,text,a\none.wav,,a\ntwo.wav,well, no,a\ntwo.wav,"well,a\n')
    shares = ["--validation_share", "0", "--test_share", "0"]
    assert main(["prepare", str(source), "--output", str(tmp_path / "speech"), *shares]) == 0
    reasons = dict(csv.reader((tmp_path / "speech" / "left_out.csv").read_text().splitlines()[1:]))
    assert set(reasons) == {"broken.wav", "none.wav", "one.wav (2)", "metadata.csv, line 9", "metadata.csv, line 10"}
    assert "There is no audio file" in reasons["none.wav"] and "empty" in reasons["one.wav (2)"]
    assert "has 4 fields" in reasons["metadata.csv, line 9"] and "not closed" in reasons["metadata.csv, line 10"]
    printed = capsys.readouterr().out
    assert "5 clips were left out" in printed and "train: 4 utterances" in printed


def test_bad_sources_end_with_one_sentence(tmp_path, capsys, monkeypatch):
    def says(source, bars: int = 0) -> str:
        assert main(["prepare", str(source), "--output", str(tmp_path / "speech")]) == 2
        *before, error = capsys.readouterr().err.splitlines()
        assert not before or bars
        return error

    assert "no folder or manifest" in says(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds none of metadata.csv" in says(tmp_path / "empty")
    (tmp_path / "bad.csv").write_text("name,words\na,b\n")
    assert "line 2: expected one of the columns file_name, audio" in says(tmp_path / "bad.csv")
    (tmp_path / "bad.json").write_text('[{"audio": "a.wav", "text": "a"},')
    assert "expected an array of JSON objects" in says(tmp_path / "bad.json")
    folder = kaldi(tmp_path / "kaldi")
    (folder / "wav.scp").write_text("one sph2pipe one.sph |\n")
    assert "commands are not run" in says(folder)
    (tmp_path / "list.json").write_text('["a.wav", "b.wav"]')
    assert "No clip of" in says(tmp_path / "list.json", 3)
    assert "no JSON object with fields, but 'a.wav'" in says(tmp_path / "list.json", 3)
    folder_of_splits(tmp_path / "dashes")
    (tmp_path / "dashes" / "train").rename(tmp_path / "dashes" / "train-clean")
    assert "but found 'train-clean': rename it" in says(tmp_path / "dashes")
    assert main(["prepare", str(tmp_path), "--output", str(tmp_path / "speech"), "--numerals", "spell"]) == 2
    assert "language" in capsys.readouterr().err and not (tmp_path / "speech").exists()
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "something").write_text("")
    assert "holds something already" in says(audio_folder(tmp_path / "good"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["prepare", str(tmp_path / "good"), "--output", "."]) == 2
    assert "expected a folder of its own" in capsys.readouterr().err


STOPS = ["measure_clip", "encode_clip", "write_shards", "write_card", "DeepSpeech2Processor"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "disk"]
)
@pytest.mark.parametrize("place", STOPS)
def test_what_was_stopped_is_no_data_set_and_goes_on(place, error, tmp_path, monkeypatch):
    """A torso looked like a data set. Now the folder is there when it is whole, and the same call goes on."""
    source, output = audio_folder(tmp_path / "source"), tmp_path / "speech"
    prepare(source, tmp_path / "expected", NO_DRAW, show_progress=False)
    calls, original = [], getattr(preparing, place)

    def stop(*arguments, **more):
        calls.append(1)
        if len(calls) == (3 if place.endswith("clip") else 1):
            raise error
        return original(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(preparing, place, stop)
        expected = KeyboardInterrupt if error is KeyboardInterrupt else DataError
        if place in ("measure_clip", "encode_clip") and expected is DataError:
            return  # reading a clip fills no disk
        with pytest.raises(
            expected, match="" if expected is KeyboardInterrupt else "no space left for .* goes on where it stopped"
        ):
            prepare(source, output, NO_DRAW, show_progress=False)
    assert not output.exists()
    measured = []
    monkeypatch.setattr(preparing, "measure_clip", lambda clip: measured.append(clip) or measure_clip(clip))
    prepared = prepare(source, output, NO_DRAW, show_progress=False)
    assert len(measured) == (2 if place == "measure_clip" else 0)
    assert prepared.splits["train"]["utterances"] == 4
    assert not (tmp_path / "speech.parts").exists()
    names = [sorted(file.name for file in folder.rglob("*")) for folder in (output, tmp_path / "expected")]
    assert names[0] == names[1]
    tables = [
        pyarrow.parquet.read_table(folder / "train-00000-of-00001.parquet") for folder in (output, tmp_path / "expected")
    ]
    assert tables[0].equals(tables[1])


def test_a_finished_split_is_not_written_again(tmp_path, monkeypatch):
    """But one whose clips have changed is."""
    source, output = audio_folder(tmp_path / "source"), tmp_path / "speech"
    lines = (source / "metadata.csv").read_text().splitlines()
    parts = [f"{line},{split}" for line, split in zip(lines, ["split", "train", "train", "test", "test"])]
    (source / "metadata.csv").write_text("\n".join(parts))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(preparing, "write_card", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare(source, output, NO_DRAW, show_progress=False)
    soundfile.write(source / "three.wav", tone(3.0, 16_000), 16_000)  # of the split test
    encoded = []
    monkeypatch.setattr(preparing, "encode_clip", lambda clip: encoded.append(clip.name) or encode_clip(clip))
    prepare(source, output, NO_DRAW, show_progress=False)
    assert sorted(encoded) == ["four.wav", "three.wav"]


def test_segments_outside_their_recording_are_left_out(tmp_path):
    source = kaldi_segments(tmp_path / "source")
    with open(source / "segments", "a") as file:
        file.write("five all 5.0 7.0\n")
    with open(source / "text", "a") as file:
        file.write("five text five\n")
    prepared = prepare(source, tmp_path / "speech", NO_DRAW, show_progress=False)
    assert prepared.left_out[0][0] == "five" and "lasts 5.25 s" in prepared.left_out[0][1]


@given(st.data())
def test_drawn_splits_share_neither_speakers_nor_recordings_nor_sentences(data):
    """Whichever the property is that the splits are drawn by; and they take about the share asked for."""
    unit = data.draw(st.sampled_from(["speaker", "recording", "sentence"]))
    size = data.draw(st.integers(60, 120))
    speakers = [f"speaker {number % (40 if unit == 'speaker' else 5)}" for number in range(size)]
    texts = [f"Sentence {number % 50}" for number in range(size)]
    seconds = data.draw(st.lists(st.floats(1, 4), min_size=size, max_size=size))
    clips = pandas.DataFrame({"speaker": speakers, "text": texts, "seconds": seconds})
    if unit == "recording":
        clips["source"] = [f"{number % 30}.flac" for number in range(size)]
    clips["split"], found = draw_splits(clips, 0.1, 0.2)
    assert found == unit
    key = {"speaker": "speaker", "recording": "source", "sentence": "text"}[unit]
    assert (clips.groupby(key)["split"].nunique() == 1).all()
    shares = clips.groupby("split")["seconds"].sum() / clips["seconds"].sum()
    assert 0.1 <= shares["validation"] <= 0.2 and 0.2 <= shares["test"] <= 0.35


@pytest.mark.parametrize("number", range(1, 6))
def test_half_of_the_smallest_data_set_stays_for_training(number):
    clips = pandas.DataFrame({"speaker": None, "text": [f"{i}" for i in range(number)], "seconds": 1.0})
    drawn, _ = draw_splits(clips, 0.05, 0.05)
    assert (drawn == "train").sum() >= number / 2


def test_numbers_are_texts_and_names(tmp_path):
    """JSON may hold a transcript, a speaker and an id as numbers; speaker 0 is a speaker."""
    recordings(tmp_path / "clips")
    rows = [{"id": 0, "audio": "one.wav", "text": 12, "speaker_id": 0}]
    (tmp_path / "clips" / "train.json").write_text(json.dumps(rows))
    [clip] = read_clips(tmp_path / "clips")
    assert (clip.name, clip.text, clip.speaker) == ("0", "12", "0")


def test_paths_may_start_elsewhere(tmp_path):
    recordings(tmp_path / "clips")
    (tmp_path / "train.csv").write_text("path,sentence\none.wav,text\n")
    [clip] = read_clips(tmp_path / "train.csv", tmp_path / "clips")
    assert Path(clip.path).exists()
    with pytest.raises(DataError, match="is none"):
        list(read_clips(tmp_path / "clips" / "one.wav"))
