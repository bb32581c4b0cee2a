"""Recipes, tables, folders and texts as people have them: rows in = rows kept + rows named, and what is wrong is said."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from accelerate import Accelerator

from modeling_deepspeech2 import DeepSpeech2CTCTokenizer
from modeling_deepspeech2.corpus.clips import read_clips
from modeling_deepspeech2.corpus.prepare import measure_clip
from modeling_deepspeech2.corpus.segments import CuttingSettings
from modeling_deepspeech2.corpus.transcripts import read_recordings, read_transcript
from modeling_deepspeech2.data.sources import DataError, SpeechData, declared_seconds, open_source
from modeling_deepspeech2.data.text_tables import read_rows
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.training.arguments import DataArguments, parse_arguments
from modeling_deepspeech2.training.output_folder import claim
from modeling_deepspeech2.training.start import open_data


def parse(*argv: str):
    return parse_arguments(list(argv), "a run")


# Output folders.


def a_file(place: Path) -> None:
    place.write_text("mine")


def a_project(place: Path) -> None:
    place.mkdir()
    (place / "README.md").write_text("mine")


def a_hidden_file(place: Path) -> None:
    place.mkdir()
    (place / ".env").write_text("TOKEN=1")


def a_link_to_a_project(place: Path) -> None:
    a_project(place.with_name("project"))
    place.symlink_to(place.with_name("project"))


def a_link_in_a_circle(place: Path) -> None:
    place.symlink_to(place)


def a_link_to_nowhere_below_a_file(place: Path) -> None:
    place.with_name("file").write_text("")
    place.symlink_to(place.with_name("file") / "run")


def a_folder_of_folders(place: Path) -> None:
    (place / "checkpoints" / "step-00000100").mkdir(parents=True)


@pytest.mark.parametrize(
    "make",
    [a_file, a_project, a_hidden_file, a_link_to_a_project, a_link_in_a_circle, a_link_to_nowhere_below_a_file,
     a_folder_of_folders],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_folders_that_are_no_runs_are_left_alone(make, tmp_path):
    make(tmp_path / "run")
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        claim(tmp_path / "run", resume=False)
    assert "\n" not in str(caught.value)
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", [".", "./", "..", "../..", "here/..", "here/../../here"])
def test_the_working_folder_is_no_output(place, tmp_path, monkeypatch):
    (tmp_path / "here" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    if Path(place).resolve() == tmp_path / "here" / "here":
        return
    with pytest.raises(UserError, match="contains the working folder"):
        claim(Path(place), resume=False)


# Recipes.

RECIPES = {
    "a tab before a field": b"dataset: a\n\tlearning_rate: 1\n",
    "an object of Python": b"learning_rate: !!python/object/apply:os.system ['true']\n",
    "aliases without end": b"a: &a [x, x]\nb: &b [*a, *a]\ndataset: *b\n",
    "a number for a name": b"1: 2\n",
    "a list for a name": b"? [dataset]\n: a\n",
    "a field twice": b"learning_rate: 0.1\nepochs: 3\nlearning_rate: 0.2\n",
    "a list": b"- dataset: a\n",
    "a text": b"dataset = a\n",
    "two documents": b"dataset: a\n---\ndataset: b\n",
    "UTF-16": "dataset: a\n".encode("utf-16"),
    "Latin-1": "dataset: Wörter\n".encode("latin-1"),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a bell": b"dataset: a\x07\n",
    "brackets that do not close": b"train: [a, b\n",
    "a thousand brackets": b"train: " + b"[" * 1_000,
    "a table within a field": b"train: {a: b}\n",
    "null within a list": b"train: [a, null]\n",
    "a misspelled field": b"learning_rat: 0.1\n",
    "a field of another program": b"fp16_full_eval: true\n",
    "not a number": b"learning_rate: .nan\n",
    "infinity": b"max_grad_norm: .inf\n",
    "a negative number": b"batch_seconds: -5\n",
    "a word for a number": b"num_train_epochs: ten\n",
    "a comma for a point": b"learning_rate: 0,001\n",
    "a fraction of a step": b"save_steps: 0.5\n",
    "a truth value for a number": b"hidden_size: yes\n",
    "a momentum of nan": b"batch_norm_momentum: .nan\n",
    "a list for one value": b"learning_rate: [0.1, 0.2]\n",
    "a loud word": b"lr_scheduler_type: Cosine\n",
    "an empty folder": b"output_dir: '  '\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_that_are_none(name, tmp_path, capsys):
    """File and line, or the field, in one sentence, before any work."""
    (tmp_path / "recipe.yaml").write_bytes(RECIPES[name])
    with pytest.raises(SystemExit) as caught:
        parse(str(tmp_path / "recipe.yaml"))
    message = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 2 and "Traceback" not in "".join(message)
    assert "error: " in message[-1] and len(message[-1]) < 500


@pytest.mark.parametrize(
    "line, field, value",
    [
        ("learning_rate: 1e-3", "learning_rate", 1e-3),
        ("learning_rate: 1.0e-3", "learning_rate", 1e-3),
        ("learning_rate: '0.5'", "learning_rate", 0.5),
        ("model: null", "model", None),
        ("model: ~", "model", None),
        ("model:", "model", None),
        ("output_dir: 007", "output_dir", "007"),
        ("output_dir: yes", "output_dir", "yes"),
        ("output_dir: 2026-11-26", "output_dir", "2026-11-26"),
        ("output_dir: runs/日本", "output_dir", "runs/日本"),
        ("resume: no", "resume", False),
        ("seed: 0", "seed", 0),
    ],
)
def test_values_of_recipes_mean_what_they_say(line, field, value, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"dataset: a\ntrain: [b]\noutput_dir: c\n{line}\n".replace(
        "output_dir: c\n", "" if field == "output_dir" else "output_dir: c\n"), encoding="utf-8-sig")  # fmt: skip
    assert getattr(parse(str(tmp_path / "recipe.yaml")).run, field) == value


# Tables.

TABLES = {  # name, content -> the texts kept, and how many rows are named
    "digits beside an empty row": ("a.csv", "file_name,text\na.wav,5\nb.wav,\nc.wav,007\n", ["5", "", "007"], 0),
    "words for nothing": ("a.csv", "file_name,text\na.wav,NA\nb.wav,null\nc.wav,nan\n", ["NA", "null", "nan"], 0),
    "truth values": ("a.csv", "file_name,text\na.wav,TRUE\nb.wav,no\n", ["TRUE", "no"], 0),
    "long numbers": ("a.csv", "file_name,text\na.wav,12345678901234567890\nb.wav,1e5\n", ["12345678901234567890", "1e5"], 0),
    "dates": ("a.csv", "file_name,text\na.wav,2024-01-02\nb.wav,3/4\n", ["2024-01-02", "3/4"], 0),
    "spaces around": ("a.csv", "file_name,text\na.wav, spaced \n", [" spaced "], 0),
    "a comma in quotation marks": ("a.csv", 'file_name,text\na.wav,"well, yes"\n', ["well, yes"], 0),
    "a comma without": ("a.csv", "file_name,text\na.wav,well, yes\nb.wav,no\n", ["no"], 1),
    "an inch": ("a.csv", 'file_name,text\na.wav,5" nails\nb.wav,no\n', ['5" nails', "no"], 0),
    "a quotation mark that is not closed": ("a.csv", 'file_name,text\na.wav,"well\nb.wav,no\n', ["no"], 1),
    "a line break in quotation marks": ("a.csv", 'file_name,text\na.wav,"two\nlines"\nb.wav,no\n', ["two\nlines", "no"], 0),
    "doubled quotation marks": ("a.csv", 'file_name,text\na.wav,"she said ""no"""\n', ['she said "no"'], 0),
    "a row too short": ("a.csv", "file_name,text\na.wav\nb.wav,no\n", ["no"], 1),
    "empty lines": ("a.csv", "\n".join(["file_name,text", "", "a.wav,yes", "   ", "b.wav,no", ""]), ["yes", "no"], 0),
    "semicolons": ("a.csv", "file_name;text\na.wav;one, two\n", ["one, two"], 0),
    "bars": ("a.csv", "file_name|text\na.wav|one; two\n", ["one; two"], 0),
    "ends of lines of Windows": ("a.csv", "file_name,text\r\na.wav,one\r\nb.wav,two\r\n", ["one", "two"], 0),
    "ends of lines of old Macs": ("a.csv", "file_name,text\ra.wav,one\rb.wav,two\r", ["one", "two"], 0),
    "quotation marks of a TSV": ("a.tsv", 'path\ttext\na.mp3\t"Quote\nb.mp3\tno\n', ['"Quote', "no"], 0),
    "numbers of JSON": ("a.jsonl", '{"a": "x", "text": 5}\n{"a": "y", "text": 5.0}\n', ["5", "5.0"], 0),
    "lines that are no JSON": ("a.jsonl", '{"text": "a"}\n{"text": \n{"text": "b"}\n', ["a", "b"], 1),
    "NaN of JSON": ("a.jsonl", '{"text": NaN}\n', ["NaN"], 0),
    "half a character": ("a.jsonl", '{"text": "\\ud800 a"}\n', ["\ud800 a"], 0),
    "an array": ("a.json", '[{"text": "a"}, 5, {"text": "b"}]', ["a", "b"], 1),
    "lines in a file called json": ("a.json", '{"text": "a"}\n{"text": "b"}\n', ["a", "b"], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_as_they_were_written(name, tmp_path):
    file, content, texts, named = TABLES[name]
    (tmp_path / file).write_bytes(content.encode("utf-8", "surrogatepass"))
    rows = list(read_rows(tmp_path / file, ("file_name", "path", "text")))
    assert [row.fields["text"] for row in rows if not row.problem] == texts
    assert sum(bool(row.problem) for row in rows) == named


@pytest.mark.parametrize(
    "said",
    [None, "", "nan", "-nan", "inf", "-1", "0", "1,5", "one", "1e9", True, [1.0], {"s": 1}, "0x10", float("-inf"), 86_400],
)  # fmt: skip
def test_durations_that_are_none(said):
    assert declared_seconds(said) is None or said is True


VALUES = [True, 5.5, None, ["train"], {"name": "train"}]


@pytest.mark.parametrize("field", ["audio", "text", "split", "speaker", "id", "offset"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_manifests_with_values_of_other_kinds(field, value, tmp_path):
    """A row is used or named, whatever stands in its fields; the row beside it is used."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    good = {"id": "b", "audio": "a.wav", "text": "one", "split": "train", "speaker": "s", "offset": 0, "duration": 0.5}
    rows = [good | {"id": "a", field: value}, good]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    clips = list(read_clips(tmp_path / "a.json"))
    assert len(clips) == 2 and measure_clip(clips[1])[1] == ""
    assert all(isinstance(part, str) for clip in clips for part in (clip.name, clip.text))
    assert all(clip.split is None or isinstance(clip.split, str) for clip in clips)


NAMES = ["/dev/zero", "/etc", "../a.wav/..", "a b.wav", "ä.wav", "a\\b.wav", "gopher://x/a.wav", "file:///etc/passwd",
         "concat:a.wav|a.wav", "http://[::1/a.wav", "s3://none/a.wav", "a.wav\0", "x" * 300]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:24])
def test_rows_of_places_that_are_no_files(name, tmp_path):
    """Each is named; none hangs or ends the whole; the other row is used."""
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "good.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    rows = [{"audio": name, "text": "one"}, {"audio": "good.wav", "text": "two"}]
    (tmp_path / "speech" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reasons = [measure_clip(clip)[1] for clip in read_clips(tmp_path / "speech")]
    assert len(reasons) == 2 and reasons[0] and "\n" not in reasons[0] and reasons[1] == ""


def test_two_columns_of_one_name_are_refused(tmp_path):
    """One of them would be learned, and nobody be told which; two that are not read do no harm."""
    (tmp_path / "metadata.csv").write_text("file_name,text,text,note,note\na.wav,one,two,,\n")
    with pytest.raises(DataError, match="has 2 columns 'text'"):
        list(read_clips(tmp_path))
    with pytest.raises(DataError, match="has 2 columns 'text'"):
        open_source(str(tmp_path), "train")
    (tmp_path / "metadata.csv").write_text("file_name,text,note,note\na.wav,one,,\n")
    assert [clip.text for clip in read_clips(tmp_path)] == ["one"]


@pytest.mark.parametrize("lacks", ["text", "file_name"])
def test_a_row_that_lacks_a_column_costs_no_other(lacks, tmp_path):
    """It ended `prepare`; where it came first, training knew no such column."""
    rows = [{"file_name": "a.wav", "text": "one"}, {"file_name": "b.wav", "text": "two"}]
    del rows[0][lacks]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    bad, good = read_clips(tmp_path)
    assert lacks in bad.problem and (good.text, good.problem) == ("two", "")
    source = open_source(str(tmp_path), "train")
    [table] = source.tables(0, ["file_name", "text"])
    assert table.to_pylist()[1]["text"] == "two" and table["text"].to_pylist()[0] == (None if lacks == "text" else "one")


def test_halves_of_characters_can_be_written(tmp_path):
    """They come from JSON and from names of folders, and no file in UTF-8 can hold them; no label is made of them."""
    folder = tmp_path / os.fsdecode(b"gr\xfcn")
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"")
    (folder / "a.json").write_text('{"text": "hi \\ud83d", "speaker": "\\ud83d"}')
    (folder / "b.txt").write_text("alone")
    found = list(read_recordings(str(tmp_path), []))
    assert len(found) == 2 and found[0].lines[0].text == "hi ?"
    row = '{"audio": "a.wav", "text": "hi \\ud83d", "speaker": "\\ud83d", "split": "train"}\n'
    (tmp_path / "list.jsonl").write_text(row + '{"audio": 5, "id": "\\ud83d"}\n')
    clips = list(read_clips(tmp_path / "list.jsonl"))
    assert clips[0].text == "hi ?"
    parts = [part for clip in clips for part in (clip.name, clip.text, clip.speaker or "", clip.problem)]
    for recording in found:
        parts += [recording.name, recording.problem, *(line.text + (line.speaker or "") for line in recording.lines)]
    assert "".join(parts).encode()


@pytest.mark.parametrize("name", ["metadata.csv", "a.json", "list.json"])
def test_files_that_cannot_be_parsed_are_one_sentence(name, tmp_path):
    """LJSpeech in Latin-1; arrays within arrays."""
    (tmp_path / "wavs").mkdir()
    (tmp_path / name).write_bytes("a|größe|größe\n".encode("latin-1") if name == "metadata.csv" else b"[" * 100_000)
    with pytest.raises(DataError, match=f"{name}: expected"):
        list(read_transcript(tmp_path / name) if name == "a.json" else read_clips(tmp_path))


def test_weights_that_leave_nothing_to_train_on(tmp_path):
    """The run ended at once, well, with an untrained model."""
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000) + 0.1, 16_000)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,one\n")
    arguments = DataArguments(dataset=str(tmp_path), train=["train*0"], validation=["train"])
    with pytest.raises(DataError, match="hold no utterance to train on, or all weigh 0"):
        open_data(arguments, Accelerator(cpu=True))


@pytest.mark.parametrize("name", ["seconds", "max_seconds", "pause", "edge"])
def test_no_recording_is_cut_by_settings_that_are_no_numbers(name):
    with pytest.raises(UserError, match=name):
        CuttingSettings(**{name: float("nan")})


# Transcripts and subtitles.

TRANSCRIPTS = {
    "music": ("a.srt", "1\n00:00:00,000 --> 00:00:01,000\n[Music] (applause) Hello\n", "Hello"),
    "a voice": ("a.vtt", "WEBVTT\n\n00:00.000 --> 00:01.000\n<v Ann>Hello</v>\n", "Hello"),
    "a speaker": ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\nSPEAKER 1: there\n", "there"),
    "marks of style": ("a.srt", "1\n00:00:00,000 --> 00:00:01,000\n<i>So</i> {\\an8}be it\n", "So be it"),
    "notes of music": ("a.srt", "1\n00:00:00,000 --> 00:00:01,000\n♪ la la ♪\n", ""),
    "notes of older files": ("a.srt", "1\n00:00:00,000 --> 00:00:01,000\n# La la #\n", ""),
    "numbers that are no notes": ("a.srt", "1\n00:00:00,000 --> 00:00:01,000\nWe are #1 and #2.\n", "We are #1 and #2."),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_what_nobody_says_is_no_transcript(name, tmp_path):
    file, content, text = TRANSCRIPTS[name]
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert " ".join(" ".join(line.text for line in read_transcript(tmp_path / file)).split()) == text


# Text.

TEXTS = [
    ("en", "rock&roll", "rock and roll"),
    ("en", "cats🐈 and dogs️", "cats 🐈 and dogs"),
    ("en", "co\u00adoperate", "cooperate"),
    ("en", "ﬁve ﬂags", "five flags"),
    ("en", "zero\u200bwidth", "zerowidth"),
    ("tr", "IŞIK İYİ", "ışık iyi"),
    ("az", "İSTİ QIZ", "isti qız"),
    ("ca", "col·legi", "col·legi"),
    ("fi", "EU:n jäsen", "eu:n jäsen"),
    ("sv", "riksdagens ’ja’", "riksdagens ja"),
    ("el", "ΟΔΟΣ ΣΟΦΟΣ", "οδος σοφος"),
    ("de", "STRASSE Straße", "strasse straße"),
    ("nl", "’s avonds", "'s avonds"),
    ("he", 'צה״ל ג׳ירפה', "צה״ל ג׳ירפה"),
    ("th", "กำ นำ", "กำนำ"),
    ("ko", "한국어", "한국어"),
    ("ar", "كتـــاب", "كتاب"),
    ("fa", "می\u200cخواهم", "می\u200cخواهم"),
    ("hi", "क्\u200dष", "क्\u200dष"),
    ("mn", "ᠮᠣᠩᠭᠣᠯ", "ᠮᠣᠩᠭᠣᠯ"),
    ("ru", "Ещё ёлка", "ещё ёлка"),
    ("uk", "м’ята", "м'ята"),
    ("haw", "ʻOkina", "ʻokina"),
    ("zh", "你 好，世界！", "你好世界"),
    ("ja", "ﾃｽﾄ です。", "テストです"),
    (None, "\ufeffMark\x07 of\x00 order", "mark of order"),
]  # fmt: skip


@pytest.mark.parametrize("language, text, expected", TEXTS)
def test_texts_of_the_world(language, text, expected):
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(["a"], language=language)
    assert tokenizer.normalize(text) == expected
    assert tokenizer.normalize(expected) == expected


NUMERALS = [
    ("en", "In 1984", "in nineteen eighty four"),
    ("en", "5½ miles", "five and a half miles"),
    ("en", "$5.20 or 50,000", "five dollars and twenty cents or fifty thousand"),
    ("de", "50 000 Euro", "fünfzigtausend euro"),
    ("fr", "50 000 euros", "cinquante mille euros"),
    ("es", "el 3.er piso", "el tercer piso"),
    ("ru", "5-го мая", "5го мая"),
    ("tr", "%5", "yüzde beş"),
]


@pytest.mark.parametrize("language, text, expected", NUMERALS)
def test_numbers_of_the_world(language, text, expected):
    pytest.importorskip("num2words")
    found = DeepSpeech2CTCTokenizer.from_texts(["a"], language=language, numerals="spell").normalize(text)
    assert found.replace("-", " ") == expected


def test_a_data_set_of_devices_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        SpeechData("/dev/null", ["train"])
    assert "\n" not in str(caught.value)


def test_names_that_are_no_utf_8_are_used(tmp_path, caplog):
    """As bytes in the file system, and shown with escapes."""
    name = os.fsdecode(b"gr\xfcn.wav")
    soundfile.write(os.fsencode(tmp_path) + b"/gr\xfcn.wav", np.zeros(16_000) + 0.1, 16_000, format="WAV")
    (tmp_path / (name[:-4] + ".txt")).write_text("text")
    with caplog.at_level(logging.WARNING):
        [clip] = read_clips(tmp_path)
    assert measure_clip(clip) == (1.0, "")
