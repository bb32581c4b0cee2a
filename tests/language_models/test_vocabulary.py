"""Text files: what is no text is refused in one sentence; what a word is can be said on the command line."""

import gzip
import lzma

import pytest

from modeling_deepspeech2 import DeepSpeech2CTCTokenizer
from modeling_deepspeech2.cli.main import main
from modeling_deepspeech2.errors import UserError
from modeling_deepspeech2.language_models.estimation import build, split_words
from modeling_deepspeech2.language_models.vocabulary import read_lines
from modeling_deepspeech2.ngram import UNKNOWN


TEXT = "one\ntwo\n" * 500
FILES = {  # name -> content, and what the sentence says
    "latin1.txt": ("é\n".encode("latin-1"), "not UTF-8"),
    "utf16.txt": ("one".encode("utf-16"), "not UTF-8"),
    "binary.txt": (b"one\n\0\0\0", "line 2 holds a zero byte"),
    "cut.txt.gz": (gzip.compress(TEXT.encode())[:-20], "compressed file is damaged"),
    "plain.txt.gz": (TEXT.encode(), "compressed file is damaged"),
    "changed.txt.gz": (gzip.compress(TEXT.encode())[:15] + b"\xff" * 40, "compressed file is damaged"),
    "cut.txt.xz": (lzma.compress(TEXT.encode())[:-20], "compressed file is damaged"),
    "plain.txt.xz": (TEXT.encode(), "compressed file is damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_text(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(read_lines([tmp_path / name]))
    assert name in str(error.value) and "expected UTF-8 text" in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        list(read_lines([tmp_path / "missing.txt"]))
    with pytest.raises(UserError, match="directory"):
        list(read_lines([tmp_path]))


def test_files_are_read_alike(tmp_path):
    """Plain or compressed, with or without a byte order mark."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "c.txt.xz").write_bytes(lzma.compress(TEXT.encode()))
    a, b, c = (list(read_lines([tmp_path / name])) for name in ("a.txt", "b.txt.gz", "c.txt.xz"))
    assert a == b == c == TEXT.splitlines(keepends=True)


def test_word_boundaries_on_the_command_line(tmp_path, capsys):
    """By language, and against it for a segmented text."""
    (tmp_path / "thai.txt").write_text("สวัสดี ครับ\n", encoding="utf-8")
    command = ["vocabulary", str(tmp_path / "thai.txt"), "--language", "th", "--output"]
    assert main([*command, str(tmp_path / "usual")]) == 0
    assert main([*command, str(tmp_path / "segmented"), "--word_boundaries", "spaces"]) == 0
    usual, segmented = (DeepSpeech2CTCTokenizer.from_pretrained(tmp_path / name) for name in ("usual", "segmented"))
    assert usual.normalize("สวัสดี ครับ") == "สวัสดีครับ"
    assert segmented.normalize("สวัสดี ครับ") == "สวัสดี ครับ"
    assert "100.0000% of the characters covered" in capsys.readouterr().out


def test_what_a_language_model_reads():
    """Words or symbols; what the tokenizer cannot spell is unknown, and joins nothing."""
    english = DeepSpeech2CTCTokenizer.from_texts(["abc"], language="en")
    assert split_words(english, "A b-c, x&a!", "word") == ["a", "b", "c", UNKNOWN, UNKNOWN, "a"]
    assert split_words(english, "ab c", "character") == ["a", "b", "|", "c"]
    japanese = DeepSpeech2CTCTokenizer.from_texts(["今日は"], language="ja")
    assert split_words(japanese, "今日、 は晴", "character") == ["今", "日", "は", UNKNOWN]
    with pytest.raises(UserError, match="no words"):
        build(["…", ""], english, "word")
