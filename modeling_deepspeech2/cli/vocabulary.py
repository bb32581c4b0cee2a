"""Makes a tokenizer from texts, and prints the share of their characters that it covers.

Every line goes through the text rules (lower case, no punctuation, one space between words). The characters that remain
become the symbols: id 0 is the CTC blank, 1 the word delimiter, followed by the characters in order of code point.
"""

import argparse
import logging
from collections.abc import Collection
from pathlib import Path

from ..errors import UserError
from ..language_models.vocabulary import coverage_report, read_lines
from ..script import WORD_BOUNDARIES
from ..tokenization_deepspeech2 import LABEL_UNITS, NUMERALS, DeepSpeech2CTCTokenizer
from .options import add_output, check_output_folder


EPILOG = """examples:
  the characters of a Russian corpus that occur at least three times, digits read as words:
    deepspeech2 vocabulary corpus.txt.xz --language ru --numerals spell --minimum_count 3 --output tokenizer/russian
  English, known beforehand, without any text:
    deepspeech2 vocabulary --language en --extra_characters "abcdefghijklmnopqrstuvwxyz'" --output tokenizer/english"""


def add_text_rules(parser: argparse.ArgumentParser, numerals: Collection[str], label_units: Collection[str]) -> None:
    """Options that determine the symbols; shared with `prepare`."""
    parser.add_argument(
        "--language",
        help="two or three letters (en, zh, ru, …): how to read numbers, upper and lower case, marks within words, and "
        "whether there are spaces between words; without it only the rules of all alphabets hold",
    )
    parser.add_argument(
        "--word_boundaries",
        choices=WORD_BOUNDARIES,
        help="what a word is: what stands between spaces, or each character of a script without (default: as the language "
        "is written)",
    )
    parser.add_argument(
        "--numerals",
        choices=numerals,
        default="keep",
        help="keep: a digit is a character like any other; spell: digits are read as words, by num2words, or by cn2an for "
        "Mandarin (%(default)s)",
    )
    parser.add_argument(
        "--label_unit",
        choices=label_units,
        default="character",
        help="bigram: non-overlapping pairs within a word, which halve the labels and so allow longer strides in time "
        "(%(default)s)",
    )
    parser.add_argument(
        "--minimum_count", type=int, default=1, metavar="N", help="leave out what occurs less often (%(default)s)"
    )
    parser.add_argument(
        "--extra_characters",
        default="",
        metavar="CHARACTERS",
        help="include these even if no text has them (with bigrams, all their pairs too); symbols such as $ or %% get in "
        "only here",
    )


def quiet_tokenizer() -> None:
    """Silences the tokenizer's log, because the reports of the commands already name what is left out."""
    logging.getLogger(DeepSpeech2CTCTokenizer.__module__).setLevel(logging.ERROR)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", type=Path, help="UTF-8 text, one sentence a line; plain, .gz or .xz"
    )
    add_output(parser, "folder for the tokenizer, made if need be")
    add_text_rules(parser, NUMERALS, LABEL_UNITS)


def run(settings: argparse.Namespace) -> int:
    quiet_tokenizer()
    check_output_folder(settings.output)
    if not settings.texts and not settings.extra_characters:
        raise UserError("nothing to build from: give at least one TEXT, or --extra_characters")
    for path in settings.texts:
        if not path.is_file():
            raise UserError(f"TEXT: found no file {path}, expected UTF-8 text, plain, .gz or .xz")
    tokenizer = DeepSpeech2CTCTokenizer.from_texts(
        read_lines(settings.texts),
        language=settings.language,
        label_unit=settings.label_unit,
        word_boundaries=settings.word_boundaries,
        extra_characters=settings.extra_characters,
        minimum_count=settings.minimum_count,
        numerals=settings.numerals,
    )
    tokenizer.save_pretrained(settings.output)
    print(coverage_report(tokenizer, read_lines(settings.texts)))
    print(f"The tokenizer is in {settings.output}.")
    return 0
