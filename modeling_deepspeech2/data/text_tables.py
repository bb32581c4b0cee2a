"""Reads tables in text files (CSV, TSV, JSON, JSON lines) as rows of strings, exactly as they were written.

No column is converted to numbers, no word means "missing", and an unreadable row affects no other: each line of the file
belongs to one row, which has either its fields or the reason why it has none.
"""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow

from .errors import DataError


TEXT_TABLES = (".jsonl", ".json", ".csv", ".tsv")
SEPARATORS = (",", ";", "\t", "|")
LONGEST_ROW = 100  # lines of a quoted field with line breaks in it
TABLE_ROWS = 256  # rows that are handed on at a time
COLUMN_ROWS = 1_000  # that columns are looked for in, at least: a row of JSON may lack some
PROBLEM = "problem in its row"  # the column that says why a row cannot be used


@dataclass
class Row:
    """One row of a table.

    Args:
        line: its first line, counted from 1; of a JSON array its place.
        lines: how many lines it has.
        fields: by the name of the column; text as it was written, or None; lists, objects and truth values of JSON as such.
        problem: why it cannot be used, if so.
    """

    line: int
    lines: int
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_rows(file: str | Path, known: tuple[str, ...] = ()) -> Iterator[Row]:
    """The rows of a text file, each with its fields or a problem.

    Args:
        file: path or URL; its ending tells its kind.
        known: names of columns, by which the separator of a CSV file is recognised.

    Raises:
        DataError: no such file, not UTF-8, two columns of one known name, or JSON that is neither lines of objects nor an
            array.
    """
    kind = Path(str(file)).suffix.lower()
    content = _read(file, kind)
    if kind == ".tsv":  # in which quotation marks are characters like others
        yield from _separated(file, content.split("\n"), "\t", False, known)
    elif kind == ".csv":
        lines = content.split("\n")
        yield from _separated(file, lines, _separator(lines[0], known), True, known)
    elif content.lstrip().startswith("["):
        try:
            items = json.loads(content, **_AS_WRITTEN)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{file}: expected an array of JSON objects, but {error}.") from error
        yield from (_json_row(item, number, 1) for number, item in enumerate(items, 1))
    else:
        yield from _json_lines(content)


def _read(file: str | Path, kind: str) -> str:
    try:
        with fsspec.open(str(file), "rb") as opened:
            content = opened.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, line {line}: expected UTF-8 {kind[1:].upper()}, but {error}.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return content.replace("\r\n", "\n") if "\n" in content else content.replace("\r", "\n")


def _separator(header: str, known: tuple[str, ...]) -> str:
    """The one that finds the most known columns in the header, or else the most columns."""

    def score(separator: str) -> tuple[int, int]:
        names = [name.strip().strip('"') for name in header.split(separator)]
        return len(set(names) & set(known)), len(names)

    return max(SEPARATORS, key=score)


def _separated(
    file: str | Path, lines: list[str], separator: str, has_quotes: bool, known: tuple[str, ...]
) -> Iterator[Row]:
    header = _fields(lines[0], separator, has_quotes) or _fields(lines[0], separator, False) or []
    header = [name.strip() for name in header]
    for name in known:
        if header.count(name) > 1:
            raise DataError(
                f"{file} has {header.count(name)} columns {name!r} in its header: keep one, or rename the others."
            )
    number = 1
    while number < len(lines):
        if not lines[number].strip():
            number += 1
            continue
        row = _one_row(lines, number, separator, has_quotes, header)
        yield row
        number += row.lines


def _one_row(lines: list[str], number: int, separator: str, has_quotes: bool, header: list[str]) -> Row:
    """The row that begins at a line; it continues in the next lines only if they are no rows by themselves."""

    def is_row(fields: list[str] | None) -> bool:
        return fields is not None and len(fields) == len(header)

    a_field = rf'"(?:[^"]|"")*"|[^"{re.escape(separator)}]*'
    a_row = re.compile(rf"(?:{a_field})(?:{re.escape(separator)}(?:{a_field})){{{len(header) - 1}}}")

    def is_well_formed(line: str) -> bool:
        return a_row.fullmatch(line) is not None

    found = _fields(lines[number], separator, has_quotes)
    size = 1
    if found is None:
        for more in range(2, min(LONGEST_ROW, len(lines) - number) + 1):
            if is_well_formed(lines[number + more - 1]):
                break
            joined = _fields("\n".join(lines[number : number + more]), separator, has_quotes)
            if is_row(joined):
                found, size = joined, more
                break
    if found is None:  # a quotation mark within a field is a character, one before it must have its partner
        found = _fields(lines[number], separator, False)
        if not is_row(found) or any(value.lstrip().startswith('"') and value.count('"') % 2 for value in found):
            return Row(number + 1, 1, problem="A quotation mark in its row is not closed.")
    if not is_row(found):
        hint = f"; a field that holds {separator!r} must stand in quotation marks" if has_quotes else ""
        return Row(number + 1, size, problem=f"Its row has {len(found)} fields, but the header has {len(header)}{hint}.")
    return Row(number + 1, size, dict(zip(header, found)))


def _fields(text: str, separator: str, has_quotes: bool) -> list[str] | None:
    """The fields of a row, None where its quotation marks do not match."""
    if not has_quotes or '"' not in text:
        return text.split(separator)
    csv.field_size_limit(1 << 30)
    try:
        rows = list(csv.reader([text], delimiter=separator, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


# Numbers stay as they were written: 5 does not become 5.0, nor 5.0 five.
_AS_WRITTEN: dict[str, Any] = {"parse_float": str, "parse_int": str, "parse_constant": str}


def _json_lines(content: str) -> Iterator[Row]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                yield _json_row(json.loads(line, **_AS_WRITTEN), number, 1)
            except (json.JSONDecodeError, RecursionError) as error:
                yield Row(number, 1, problem=f"Its row is no JSON object: {error}.")


def _json_row(item: Any, line: int, lines: int) -> Row:
    if isinstance(item, dict):
        return Row(line, lines, item)
    return Row(line, lines, problem=f"Its row is no JSON object with fields, but {str(item)[:80]!r}.")


class TextTables:
    """Text files as the tables of a data set, one shard for each; all their columns are text.

    Args:
        files: paths or URLs.
        audio_column, text_column: of which a row must hold text.
    """

    def __init__(self, files: list[str], audio_column: str, text_column: str | None):
        self.files, self.audio_column, self.text_column = files, audio_column, text_column
        self.known = (audio_column, text_column or audio_column)
        names: dict[str, None] = {}
        for number, row in enumerate((row for file in files for row in read_rows(file, self.known)), 1):
            names |= dict.fromkeys(row.fields)
            if number >= COLUMN_ROWS and names.keys() >= set(self.known):
                break
        self.columns = [*names, PROBLEM]

    @property
    def num_shards(self) -> int:
        return len(self.files)

    def tables(self, shard: int, columns: list[str]) -> Iterator[pyarrow.Table]:
        """Rows of one file, some at a time; those that cannot be used have no audio, and say why in the column `PROBLEM`."""
        rows: list[dict] = []
        schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
        for row in read_rows(self.files[shard], self.known):
            rows.append(self._as_text(row))
            if len(rows) == TABLE_ROWS:
                yield pyarrow.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows], schema)
                rows = []
        if rows:
            yield pyarrow.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows], schema)

    def _as_text(self, row: Row) -> dict:
        fields = dict(row.fields)
        audio = fields.get(self.audio_column)
        if isinstance(audio, dict):  # as `datasets` writes it
            fields[self.audio_column] = audio = audio.get("path")
        problem = row.problem
        for name in (self.audio_column, self.text_column):
            if name and not problem and fields.get(name) is not None and not isinstance(fields[name], str):
                problem = f"Its column {name!r} must hold text, but holds {json.dumps(fields[name])[:80]}."
        if problem:
            fields[self.audio_column] = None
            problem = f"Line {row.line}: {problem}"
        written = {}
        for name, value in (fields | {PROBLEM: problem or None}).items():
            text = value if value is None or isinstance(value, str) else json.dumps(value)
            written[name] = text and writable(text, "replace" if name == self.text_column else "backslashreplace")
        return written


def writable(text: str, errors: str = "backslashreplace") -> str:
    """A text that UTF-8 can hold: JSON and file names may bring halves of surrogate pairs.

    Args:
        errors: what becomes of these: "backslashreplace" shows them in names, "replace" makes question marks, which
            transcripts lose like any punctuation.
    """
    return text.encode("utf-8", errors).decode("utf-8")
