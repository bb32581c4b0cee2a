"""Build a tokenizer from texts: lines in; out come a folder for `AutoTokenizer.from_pretrained` and a coverage report.

    python -m modeling_deepspeech2.language_models.vocabulary transcripts.txt --language ru --output tokenizer/russian

It reads plain text; transcripts inside a dataset are first written to a file, one a line.
"""

import argparse
import gzip
import logging
import lzma
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..tokenization_deepspeech2 import LABEL_UNITS, NUMERALS, DeepSpeech2CTCTokenizer


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


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_deepspeech2.language_models.vocabulary",
        description="Build a DeepSpeech2CTCTokenizer from texts and save it.\n\n"
        "Every line goes through the text rules (lower case, punctuation gone, one space between words);\n"
        "what then occurs becomes a symbol: id 0 is the CTC blank, 1 the word delimiter, then characters\n"
        "by code point. The report says which share of the characters is covered and names the others.",
        epilog="examples:\n"
        "  the characters of a Russian corpus that occur at least three times, digits read as words:\n"
        "    %(prog)s corpus.txt.xz --language ru --numerals spell --minimum_count 3 --output tokenizer/russian\n"
        "  English, known beforehand, without any text:\n"
        '    %(prog)s --language en --extra_characters "abcdefghijklmnopqrstuvwxyz\'" --output tokenizer/english',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", type=Path, help="UTF-8 text, one sentence a line; plain, .gz or .xz"
    )
    parser.add_argument(
        "--language",
        help="en: accents are stripped; zh: no spaces beside ideographs; another code (ru, de, …) says how to read "
        "numbers; without it the alphabet is taken as it is",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the tokenizer, made if need be")
    parser.add_argument(
        "--extra_characters",
        default="",
        metavar="CHARACTERS",
        help="characters to include even if no text has them (with bigrams, all their pairs too); symbols such as $ "
        "or %% get in only here",
    )
    parser.add_argument(
        "--minimum_count", type=int, default=1, metavar="N", help="leave out what occurs less than N times (default 1)"
    )
    parser.add_argument(
        "--numerals",
        choices=NUMERALS,
        default="keep",
        help="keep (default): a digit is a character like any other; spell: digits are read as words "
        "(needs num2words, or cn2an for Mandarin)",
    )
    parser.add_argument(
        "--label_unit",
        choices=LABEL_UNITS,
        default="character",
        help="character (default), or bigram: non-overlapping pairs within a word, which halve the labels and so "
        "allow longer strides in time",
    )
    settings = parser.parse_args(arguments)
    if not settings.texts and not settings.extra_characters:
        parser.error("nothing to build from: give at least one TEXT, or --extra_characters")
    for path in settings.texts:
        if not path.is_file():
            parser.error(f"TEXT: found no file {path}, expected UTF-8 text, plain, .gz or .xz")
    return settings


def main(arguments: list[str] | None = None) -> None:
    settings = parse_arguments(arguments)
    try:
        tokenizer = DeepSpeech2CTCTokenizer.from_texts(
            read_lines(settings.texts),
            language=settings.language,
            label_unit=settings.label_unit,
            extra_characters=settings.extra_characters,
            minimum_count=settings.minimum_count,
            numerals=settings.numerals,
        )
    except (ValueError, ImportError) as error:
        sys.exit(str(error))
    tokenizer.save_pretrained(settings.output)
    print(coverage_report(tokenizer, read_lines(settings.texts)))
    print(f"saved in {settings.output}")


if __name__ == "__main__":
    # The report names what is left out, with counts; the tokenizer's own log lines would say it twice.
    logging.getLogger(DeepSpeech2CTCTokenizer.__module__).setLevel(logging.ERROR)
    main()
