"""The settings of the beam search, their valid ranges, and the file beside a model that stores them."""

from __future__ import annotations

import json
from numbers import Real
from pathlib import Path
from typing import Any

from .errors import UserError
from .ngram import LanguageModelError


DECODER_CONFIG = "decoder_config.json"
_WEIGHT = (lambda value: 0 <= value <= 1000, "a number of at least 0 and at most 1,000")
_PENALTY = (lambda value: -1000 <= value <= 0, "a number of at most 0 and at least -1,000")
_COUNT = (lambda value: 1 <= value <= 100_000 and value % 1 == 0, "an integer of at least 1 and at most 100,000")
SETTINGS = {  # name -> whether a number is right, and what is
    "alpha": _WEIGHT,
    "beta": _WEIGHT,
    "beam_width": _COUNT,
    "cutoff_probability": (lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "cutoff_top_n": _COUNT,
    "beam_threshold": (lambda value: value > 0, "a number above 0"),
    "unknown_word_score": _PENALTY,
    "unknown_letter_score": _PENALTY,
    "confidence_scale": (lambda value: 0 < value <= 1000, "a number above 0 and at most 1,000"),
    "confidence_offset": (lambda value: -1000 <= value <= 1000, "a number from -1,000 to 1,000"),
}


def check_setting(name: str, value: Any) -> None:
    """Raises UserError for a value out of its range."""
    is_right, expected = SETTINGS[name]
    if not isinstance(value, Real) or isinstance(value, bool) or not is_right(value):
        raise UserError(f"{name}: found {value!r}, expected {expected}.")


def read_config(file: Path, name: str | Path) -> dict[str, Any]:
    """The settings in a decoder's file, each of them checked."""
    try:
        content = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise LanguageModelError(f"{DECODER_CONFIG} of {name} is damaged ({error}): tune the decoder again.") from error
    unknown = content.keys() - SETTINGS.keys() - {"language_model"}
    if unknown:
        raise LanguageModelError(
            f"{DECODER_CONFIG} of {name} has no setting {min(unknown)!r}; there are {', '.join(SETTINGS)}."
        )
    for setting in content.keys() & SETTINGS.keys():
        try:
            check_setting(setting, content[setting])
        except UserError as error:
            raise LanguageModelError(f"{DECODER_CONFIG} of {name}: {error}") from error
    model = content.get("language_model")
    if model is not None and (not isinstance(model, str) or Path(model).name != model):
        raise LanguageModelError(
            f"{DECODER_CONFIG} of {name}: language_model: found {model!r}, expected the name of a file beside it."
        )
    return content
