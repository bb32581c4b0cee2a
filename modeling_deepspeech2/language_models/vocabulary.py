"""Lines of text files, and which share of their characters a tokenizer covers (`deepspeech2 vocabulary`)."""

import gzip
import lzma
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..tokenization_deepspeech2 import DeepSpeech2CTCTokenizer


_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_NAMED_AT_MOST = 50


def read_lines(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of UTF-8 text files, plain or compressed (.gz, .xz), with or without a byte order mark.

    Raises:
        ValueError: for a file that is not UTF-8.
    """
    for path in paths:
        with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig") as lines:
            try:
                yield from lines
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: found bytes that are not UTF-8 ({error}), expected UTF-8 text.") from error


def coverage_report(tokenizer: DeepSpeech2CTCTokenizer, lines: Iterable[str]) -> str:
    """Say how many symbols there are, which share of the characters of `lines` they cover, and which are left out."""
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
