"""Labels are what the file says: text stays text, and each row is used or named, whatever the file holds."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_deepspeech2.data.loader import Collator
from modeling_deepspeech2.data.sources import DataError, SpeechData
from modeling_deepspeech2.data.text_tables import read_rows


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tables")


def rows_of(file: Path) -> tuple[list[dict], list[str]]:
    """Fields of the rows that can be used, and problems of the others."""
    found = list(read_rows(file, ("file_name", "text")))
    return [row.fields for row in found if not row.problem], [row.problem for row in found if row.problem]


HEADER = "file_name,text\n"
TEXTS = {  # the text column of three rows in a CSV -> as it is learned
    "digits beside an empty row": (["5", "", "6"], ["5", "", "6"]),
    "digits": (["5", "05", "5.0"], ["5", "05", "5.0"]),
    "words that mean missing elsewhere": (["NA", "null", "None"], ["NA", "null", "None"]),
    "nan, inf, n/a": (["nan", "inf", "n/a"], ["nan", "inf", "n/a"]),
    "truth values": (["true", "FALSE", "yes"], ["true", "FALSE", "yes"]),
    "dates": (["2020-01-01", "1e5", "0x10"], ["2020-01-01", "1e5", "0x10"]),
    "spaces around": ([" a ", "b", "c"], [" a ", "b", "c"]),
    "quoted commas": (['"well, but I got lost."', "b", "c"], ["well, but I got lost.", "b", "c"]),
    "doubled quotation marks": (['"he said ""hi"""', "b", "c"], ['he said "hi"', "b", "c"]),
    "quotation marks within": (['he said "hi"', 'five " six', "c"], ['he said "hi"', 'five " six', "c"]),
    "a quoted beginning": (['"hi" he said', "b", "c"], ['"hi" he said', "b", "c"]),
    "line breaks": (['"first\nsecond"', "b", "c"], ["first\nsecond", "b", "c"]),
    "line separators of Unicode": (["a\u2028b", "a\x0bb", "a\x85b"], ["a\u2028b", "a\x0bb", "a\x85b"]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_of_a_csv_is_text(case, folder):
    """pandas and pyarrow guess at types: 5 beside an empty row was learned as five point zero."""
    written, expected = TEXTS[case]
    file = folder / "metadata.csv"
    file.write_text(HEADER + "".join(f"{i}.wav,{text}\n" for i, text in enumerate(written)), encoding="utf-8", newline="")
    rows, problems = rows_of(file)
    assert [row["text"] for row in rows] == expected and not problems


BAD_ROWS = {
    "an unquoted comma": ("b.wav,well, but I got lost.", "has 3 fields, but the header has 2.*quotation marks"),
    "no comma": ("b.wav", "has 1 fields"),
    "an unmatched quotation mark": ('b.wav,"well', "quotation mark in its row is not closed"),
    "an unmatched one in the first field": ('"b.wav,well', "quotation mark in its row is not closed"),
    "many commas": ("b.wav" + "," * 50, "has 51 fields"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_bad_row_of_a_csv_costs_no_other(case, place, folder):
    """An unmatched quotation mark swallowed 18 of 24 rows; an unquoted comma cut a sentence, in silence."""
    line, message = BAD_ROWS[case]
    lines = [f'{i}.wav,"text {i}"' if i % 2 else f"{i}.wav,text {i}" for i in range(5)]
    (folder / "a.csv").write_text(HEADER + "\n".join([*lines[:place], line, *lines[place:]]))
    rows, [problem] = rows_of(folder / "a.csv")
    assert [row["text"] for row in rows] == [f"text {i}" for i in range(5)]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problem)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_line_ends_and_marks(separator, line_end, mark, folder):
    lines = [separator.join(fields) for fields in (("file_name", "text"), ("a.wav", "one"), ("b.wav", "two"))]
    (folder / "a.csv").write_bytes((mark + line_end.join(lines)).encode())
    assert rows_of(folder / "a.csv") == ([{"file_name": "a.wav", "text": "one"}, {"file_name": "b.wav", "text": "two"}], [])


def test_quotation_marks_of_a_tsv_are_characters(folder):
    """Common Voice writes its tables so."""
    (folder / "a.tsv").write_text('path\tsentence\na.mp3\t"Hello\nb.mp3\the said "yes\nc.mp3\t""\n')
    assert [row["sentence"] for row in rows_of(folder / "a.tsv")[0]] == ['"Hello', 'he said "yes', '""']


JSON_VALUES = [  # as written -> as learned, or the problem
    ('"5"', "5", ""), ("5", "5", ""), ("5.0", "5.0", ""), ("05", None, "no JSON object"), ("1e400", "1e400", ""),
    ("NaN", "NaN", ""), ("null", None, ""), ('"\\ud800"', "?", ""), ("true", None, "must hold text, but holds true"),
    ('["a", "b"]', None, "must hold text, but holds"), ('{"en": "a"}', None, "must hold text, but holds"),
]  # fmt: skip


@pytest.mark.parametrize("written, expected, message", JSON_VALUES)
@pytest.mark.parametrize("kind", ["jsonl", "csv beside it"])
def test_values_of_json(written, expected, message, kind, tmp_path):
    """Numbers are text as they were written; lists and truth values are named, and not learned as Python's text."""
    audio = recording(tmp_path / "a.wav")
    lines = ['{"file_name": "a.wav", "text": "one"}', f'{{"file_name": "a.wav", "text": {written}}}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines[:: 1 if kind == "jsonl" else -1]))
    data = SpeechData(str(tmp_path), ["train"], show_progress=False)
    assert len(data.index) == 2 and audio.exists()
    found = data.read(np.arange(2))[int(kind == "jsonl")]
    assert (found.text if not found.problem else None, message in found.problem) == (expected, True)
    assert bool(message) == bool(found.problem)


def recording(file: Path, seconds: float = 0.2) -> Path:
    soundfile.write(file, np.sin(np.arange(round(seconds * 16_000)) * 0.1) * 0.1, 16_000)
    return file


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=20)


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), st.sampled_from(["csv", "jsonl", "json"]))
def test_what_is_written_well_comes_back(folder, pairs, kind):
    """Any text at all, quotation marks and line breaks included, as Python's own writers put it."""
    file = folder / f"well.{kind}"
    if kind == "csv":
        out = io.StringIO()
        csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("file_name", "text"), *pairs])
        file.write_text(out.getvalue(), encoding="utf-8", newline="")
    else:
        rows = [{"file_name": name, "text": text} for name, text in pairs]
        text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
        file.write_text(text, encoding="utf-8", newline="")
    rows, problems = rows_of(file)
    assert [(row["file_name"], row["text"]) for row in rows] == pairs and not problems


RAW = st.text(st.sampled_from('ab,;"\t|{}[]:15.wav \u2028\\'), max_size=25)


@settings(max_examples=150)
@given(st.lists(RAW, max_size=12), st.sampled_from(["csv", "tsv", "jsonl"]))
def test_every_line_of_a_random_file_belongs_to_one_row(folder, lines, kind):
    """Rows in = rows kept + rows named: no line is lost, none counts twice."""
    header = [] if kind == "jsonl" else [HEADER.strip().replace(",", "\t" if kind == "tsv" else ",")]
    lines = [line for line in lines if not line.lstrip().startswith("[")] if kind == "jsonl" else lines
    file = folder / f"random.{kind}"
    file.write_text("\n".join(header + lines), encoding="utf-8", newline="")
    covered = [number for row in read_rows(file, ("file_name", "text")) for number in range(row.line, row.line + row.lines)]
    not_blank = [number for number, line in enumerate(header + lines, 1) if line.strip() and number > len(header)]
    assert len(covered) == len(set(covered)) and set(not_blank) <= set(covered)


def test_rows_that_cannot_be_used_are_named_in_training(tmp_path, processor, make_tiny_model):
    """The training reader keeps a place for each row; the collator says why it is left out."""
    recording(tmp_path / "a.wav", 1.0)
    (tmp_path / "metadata.csv").write_text('file_name,text\na.wav,one\na.wav,well, no\na.wav,"two\na.wav,three\n')
    data = SpeechData(str(tmp_path), ["train"], show_progress=False)
    batch = Collator(processor, make_tiny_model().config)(list(data.read(np.arange(4)).values()))
    assert batch["texts"] == ["one", "three"] and len(batch["skipped"]) == 2
    assert ["Line 3: " in reason or "Line 4: " in reason for _, reason in batch["skipped"]] == [True, True]
    assert len({name for name, _ in batch["skipped"]}) == 2


@pytest.mark.parametrize("content", ["a\xfcb".encode("latin-1"), HEADER.encode("utf-16"), b"\xff\xfe\x00"])
def test_other_encodings_are_refused(content, folder):
    (folder / "metadata.csv").write_bytes(content)
    with pytest.raises(DataError, match="metadata.csv, line 1: expected UTF-8 CSV"):
        list(read_rows(folder / "metadata.csv"))
