"""Corpora as they are downloaded are recognised by their look; every row and file of them is a clip, or named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_deepspeech2.corpus.clips import read_clips
from modeling_deepspeech2.corpus.layouts import split_name
from modeling_deepspeech2.corpus.manifests import ManifestColumns
from modeling_deepspeech2.corpus.prepare import measure_clip
from modeling_deepspeech2.corpus.transcripts import read_recordings
from modeling_deepspeech2.data.sources import DataError


def sound(file: Path, kind: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.sin(np.arange(4_000) * 0.1) * 0.1, 16_000, format=kind)


def text(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def common_voice(folder: Path) -> None:
    header = "client_id\tpath\tsentence\tup_votes\n"
    for split, name in (("train", "a"), ("dev", "b"), ("test", "c")):
        sound(folder / "clips" / f"{name}.mp3")
        text(folder / f"{split}.tsv", f'{header}spk {name}\t{name}.mp3\t"Text {name}\t2\n')
    text(folder / "validated.tsv", f"{header}x\tnone.mp3\tbut\t2\n")
    text(folder / "clip_durations.tsv", "clip\tduration[ms]\na.mp3\t250\n")
    text(folder / "reported.tsv", "sentence_id\tsentence\n1\tbad\n")


def librispeech(folder: Path) -> None:
    for split, name in (("train-clean-100", "1-2-0000"), ("dev-clean", "3-4-0000"), ("test-other", "5-6-0000")):
        place = folder / split / name.split("-")[0] / name.split("-")[1]
        sound(place / f"{name}.flac")
        text(place / f"{name[:3]}.trans.txt", f"{name} TEXT {name}\n")
    text(folder / "SPEAKERS.TXT", "; 1 | F | train-clean-100\n")


def ljspeech(folder: Path) -> None:
    for name in "ab":
        sound(folder / "wavs" / f"LJ00{name}.wav")
    text(folder / "metadata.csv", 'LJ00a|He said "12|He said "twelve\nLJ00b|Text b|Text b\n')


def m_ailabs(folder: Path) -> None:
    for speaker in "xy":
        book = folder / "en_US" / "by_book" / "female" / speaker / "book"
        sound(book / "wavs" / f"{speaker}_01_f000001.wav")
        text(book / "metadata.csv", f"{speaker}_01_f000001|Text 1|Text one\n")


def vctk(folder: Path) -> None:
    for name in ("p225_001", "p226_001"):
        text(folder / "txt" / name[:4] / f"{name}.txt", f"Text {name}\n")
        sound(folder / "wav48_silence_trimmed" / name[:4] / f"{name}_mic1.flac")


def aishell(folder: Path) -> None:
    for split, name in (("train", "BAC009S0002W0122"), ("dev", "BAC009S0724W0121"), ("test", "BAC009S0764W0121")):
        sound(folder / "wav" / split / name[6:11] / f"{name}.wav")
    lines = "BAC009S0002W0122 而 对\nBAC009S0724W0121 广州\nBAC009S0764W0121 甚至\n"
    text(folder / "transcript" / "aishell_transcript_v0.8.txt", lines)


def timit(folder: Path) -> None:
    for split, speaker in (("TRAIN", "FCJF0"), ("TEST", "MDAB0")):
        place = folder / split / "DR1" / speaker
        sound(place / "SA1.WAV", "NIST")
        text(place / "SA1.TXT", "0 46797 She had your dark suit.\n")
        text(place / "SA1.PHN", "0 3050 h#\n")


def mls(folder: Path) -> None:
    for split in ("train", "dev"):
        sound(folder / split / "audio" / "10" / "20" / "10_20_000001.flac")
        text(folder / split / "transcripts.txt", "10_20_000001\ttext of one\n")
        text(folder / split / "segments.txt", "10_20_000001\thttp://nowhere\t0.0\t1.0\n")


def text_beside(folder: Path) -> None:
    for name in ("a", "deep/b"):
        sound(folder / f"{name}.wav")
        text(folder / f"{name}.txt", f"Text\n{name}\n")


def kaldi_splits(folder: Path) -> None:
    for split in ("train", "test"):
        sound(folder / split / "a.wav")
        text(folder / split / "wav.scp", "a a.wav\n")
        text(folder / split / "segments", "a-1 a 0.0 0.2\n")
        text(folder / split / "text", "a-1 text\n")
        text(folder / split / "utt2spk", "a-1 s\n")


def semicolons(folder: Path) -> None:
    sound(folder / "clips" / "a.wav")
    text(folder / "metadata.csv", "file_name;text;speaker_id\nclips\\a.wav;well, yes;s\n")


CORPORA = {  # maker -> (split, speaker, text) of each clip
    common_voice: [("train", "spk a", '"Text a'), ("validation", "spk b", '"Text b'), ("test", "spk c", '"Text c')],
    librispeech: [
        ("train_clean_100", "1", "TEXT 1-2-0000"), ("validation_clean", "3", "TEXT 3-4-0000"),
        ("test_other", "5", "TEXT 5-6-0000"),
    ],
    ljspeech: [(None, None, 'He said "twelve'), (None, None, "Text b")],
    m_ailabs: [(None, "x", "Text one"), (None, "y", "Text one")],
    vctk: [(None, "p225", "Text p225_001"), (None, "p226", "Text p226_001")],
    aishell: [("train", "S0002", "而 对"), ("validation", "S0724", "广州"), ("test", "S0764", "甚至")],
    timit: [("train", "FCJF0", "She had your dark suit."), ("test", "MDAB0", "She had your dark suit.")],
    mls: [("train", "10", "text of one"), ("validation", "10", "text of one")],
    text_beside: [(None, None, "Text a"), (None, None, "Text deep/b")],
    kaldi_splits: [("train", "s", "text"), ("test", "s", "text")],
    semicolons: [(None, "s", "well, yes")],
}  # fmt: skip


@pytest.mark.parametrize("make", CORPORA, ids=lambda make: make.__name__)
def test_corpora_are_recognised(make: Callable[[Path], None], tmp_path):
    """A toy copy of each: its clips with their texts, speakers and splits, and audio that can be read."""
    make(tmp_path / "corpus")
    clips = list(read_clips(tmp_path / "corpus"))
    assert sorted((str(c.split), str(c.speaker), c.text) for c in clips) == sorted(
        (str(split), str(speaker), words) for split, speaker, words in CORPORA[make]
    )
    assert [measure_clip(clip)[1] for clip in clips] == [""] * len(clips)
    assert len({clip.name for clip in clips}) == len(clips)


MISSING = {  # maker, a file that is removed, what is then said of how many clips
    "Common Voice": (common_voice, "clips/a.mp3", "There is no audio file", 3),
    "LibriSpeech": (librispeech, "dev-clean/3/4/3-4-0000.flac", "There is no audio file 3-4-0000", 3),
    "LJSpeech": (ljspeech, "wavs/LJ00a.wav", "There is no audio file LJ00a", 2),
    "VCTK, audio": (vctk, "wav48_silence_trimmed/p225/p225_001_mic1.flac", "There is no audio of it", 2),
    "VCTK, text": (vctk, "txt/p225/p225_001.txt", "There is no transcript beside it", 2),
    "AISHELL": (aishell, "wav/train/S0002/BAC009S0002W0122.wav", "There is no audio file BAC009S0002W0122", 3),
    "TIMIT": (timit, "TRAIN/DR1/FCJF0/SA1.TXT", "There is no transcript beside it", 2),
    "MLS": (mls, "train/audio/10/20/10_20_000001.flac", "There is no audio file 10_20_000001", 2),
    "text beside, audio": (text_beside, "a.wav", "There is no audio beside this transcript", 2),
    "text beside, text": (text_beside, "a.txt", "There is no transcript beside it", 2),
    "Kaldi": (kaldi_splits, "train/a.wav", "There is no audio file", 2),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_named(case, tmp_path):
    """Rows in = rows kept + rows named."""
    make, gone, message, size = MISSING[case]
    make(tmp_path / "corpus")
    (tmp_path / "corpus" / gone).unlink()
    reasons = [measure_clip(clip)[1] for clip in read_clips(tmp_path / "corpus")]
    named = [reason for reason in reasons if reason]
    assert len(reasons) == size and len(named) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(named[0])


def test_kaldi_rows_that_do_not_match_are_named(tmp_path):
    kaldi_splits(tmp_path)
    with open(tmp_path / "train" / "segments", "a") as file:
        file.write("a-2 nothing 0 1\na-3 a zero one\na-4 a 0.1\na-6 a nan 0.1\n")
    with open(tmp_path / "train" / "text", "a") as file:
        file.write("a-2 two\na-3 three\na-4 four\na-5 five\na-6 six\n")
    reasons = [measure_clip(clip)[1] for clip in read_clips(tmp_path / "train")]
    assert reasons[0] == "" and all("`segments` must have" in reason for reason in reasons[1:]) and len(reasons) == 6


@pytest.mark.parametrize("command", ["sph2pipe -f wav a.sph |", "rm -rf / |", "cat a.wav|"])
def test_kaldi_commands_are_not_run(command, tmp_path):
    kaldi_splits(tmp_path)
    text(tmp_path / "train" / "wav.scp", f"a {command}\n")
    with pytest.raises(DataError, match="commands are not run"):
        list(read_clips(tmp_path))


def test_other_column_names(tmp_path):
    sound(tmp_path / "a.wav")
    text(tmp_path / "list.csv", "Datei,Satz,Wer\na.wav,Guten Tag,s\n")
    with pytest.raises(DataError, match="list.csv, line 2: expected .*file_name, .* but found Datei, Satz, Wer"):
        list(read_clips(tmp_path / "list.csv"))
    [clip] = read_clips(tmp_path / "list.csv", columns=ManifestColumns(("Datei",), ("Satz",), ("Wer",)))
    assert (clip.text, clip.speaker) == ("Guten Tag", "s")


@pytest.mark.parametrize(
    "folder, split",
    [("train-clean-100", "train_clean_100"), ("dev", "validation"), ("val", "validation"), ("valid", "validation"),
     ("Validation", "validation"), ("TEST", "test"), ("devotion", None), ("contest", None), ("training", None)],
)  # fmt: skip
def test_names_of_splits(folder, split):
    assert split_name(folder) == split


def test_corpora_can_be_built_too(tmp_path):
    """`build` reads what `prepare` reads."""
    librispeech(tmp_path)
    found = list(read_recordings(str(tmp_path), []))
    assert [one.lines[0].text for one in found] == ["TEXT 3-4-0000", "TEXT 5-6-0000", "TEXT 1-2-0000"]
