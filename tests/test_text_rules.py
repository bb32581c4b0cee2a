"""The text rules of the world's languages: one line each, one file a language in `tests/text_rules`.

Each file names the references that its lines follow. What cannot be seen is written as \\uXXXX.
"""

import hashlib
import json
import re
from pathlib import Path

import pyarrow.parquet
import pytest
from transformers import AutoTokenizer

from modeling_deepspeech2.script import usual_word_boundaries
from modeling_deepspeech2.text_rules import apply_text_rules


REPOSITORY = Path(__file__).parent.parent
FILES = sorted((Path(__file__).parent / "text_rules").glob("*.txt"))


def unescaped(text: str) -> str:
    return re.sub(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})", lambda match: chr(int(match[1] or match[2], 16)), text)


def lines() -> list[tuple[str, str, str, str]]:
    """Language, numerals, text and expected of each line."""
    found = []
    for file in FILES:
        rows = file.read_text(encoding="utf-8").splitlines()
        numerals = next(row.split()[-1] for row in rows if row.startswith("# numerals:"))
        for row in rows:
            if not row.startswith("#"):
                text, expected = map(unescaped, row.split("\t"))
                found.append((file.stem, numerals, text, expected))
    return found


@pytest.mark.parametrize("language, numerals, text, expected", lines())
def test_line(language, numerals, text, expected):
    """What is heard; and what the rules leave, they leave as it is."""
    rules = language, numerals, usual_word_boundaries(language)
    assert apply_text_rules(text, *rules) == expected
    assert apply_text_rules(expected, *rules) == expected


def test_every_file_names_its_references():
    """A rule that nobody can look up is an opinion."""
    for file in FILES:
        heads = [row for row in file.read_text(encoding="utf-8").splitlines() if row.startswith("# ")]
        assert len(heads) >= 2 and len(heads[0]) > 10, file
    assert len(FILES) >= 20 and len(lines()) >= 150


PUBLISHED = json.loads((Path(__file__).parent / "published_transcripts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("split", PUBLISHED["splits"])
def test_transcripts_of_the_published_models_stay_as_they_were(split):
    """The error rates of the checkpoints depend on it.

    The file holds, for each split, a hash of its transcripts under the rules with which the models were trained, and the
    few transcripts that are read in another way today, on purpose: years, an hour, and a sign that joined its neighbours.
    """
    root = REPOSITORY if split.startswith("demo/") else REPOSITORY.parent / "shared" / "data"
    files = sorted((root / split).parent.glob(f"{Path(split).name}-*.parquet"))
    if not files:
        pytest.skip(f"{root / split} is absent")
    language = "mandarin" if "mandarin" in split or "speech-zh" in split else "english"
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "checkpoints" / f"deepspeech2-{language}")
    before = hashlib.sha256()
    for number, text in enumerate(
        text for file in files for text in pyarrow.parquet.read_table(file, columns=["text"]).column("text").to_pylist()
    ):
        was, now = PUBLISHED["mended"].get(text, (None, None))
        normalized = tokenizer.normalize(text)
        assert now in (None, normalized)
        before.update(("\n" * (number > 0) + (normalized if was is None else was)).encode())
    assert before.hexdigest()[:16] == PUBLISHED["splits"][split]
