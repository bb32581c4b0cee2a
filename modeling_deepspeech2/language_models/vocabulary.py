"""Reads lines of text files, and counts the share of their characters that a tokenizer covers (`deepspeech2 vocabulary`)."""

import gzip
import lzma
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import UserError
from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer


_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_NAMED_AT_MOST = 50


def read_lines(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of UTF-8 text files, plain or compressed (.gz, .xz), with or without a byte order mark.

    Raises:
        UserError: for a file that cannot be read, or is not UTF-8 text.
    """
    expected = "expected UTF-8 text, plain, .gz or .xz"
    for path in paths:
        try:
            with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, 1):
                    if "\0" in line:
                        raise UserError(f"{path}: line {number} holds a zero byte, as no text does; {expected}.")
                    yield line
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: found bytes that are not UTF-8 ({error}), {expected}; convert it, for example by iconv."
            ) from error
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: the compressed file is damaged ({error}), {expected}.") from error
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; {expected}.") from error


def coverage_report(tokenizer: DeepSpeech2CTCTokenizer, lines: Iterable[str]) -> str:
    """How many symbols there are, what share of the characters of `lines` they cover, and which characters are left out."""
    characters, unknown = 0, Counter()
    for line in lines:
        characters += len(tokenizer.normalize(line).replace(" ", ""))
        unknown.update(tokenizer.unknown_characters(line))
    report = [f"{len(tokenizer)} symbols"]
    if characters:
        covered = characters - unknown.total()
        report.append(f"{covered / characters:.4%} of the characters covered ({covered} of {characters})")
    if unknown:
        report.append(f"{len(unknown)} characters left out, {unknown.total()} occurrences:")
        for character, count in unknown.most_common(_NAMED_AT_MOST):
            name = unicodedata.name(character, "unnamed")
            report.append(f"  {count:7d}  {character!r}  U+{ord(character):04X} {name}")
        rest = [character for character, _ in unknown.most_common()[_NAMED_AT_MOST:]]
        if rest:
            report.append(f"  and {len(rest)} rarer ones: {' '.join(rest)}")
    return "\n".join(report)
