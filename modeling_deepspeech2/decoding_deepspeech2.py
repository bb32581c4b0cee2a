"""Decoders from logits to text, with their settings, and how they are saved beside a model.

[`GreedyDecoder`] takes the best path; [`CTCBeamSearchDecoder`] searches with an n-gram language model (section 3.8 of the
paper). Both take logits of shape (frames, vocab_size) and return hypotheses with times for words and characters.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import PushToHubMixin

from .decoder_settings import DECODER_CONFIG
from .greedy_decoder import GreedyDecoder
from .hub_access import find_file, take
from .hypotheses import Decoder, Hypothesis, Span, check_alphabet, log_softmax
from .search_decoder import LANGUAGE_MODEL, SearchDecoder


__all__ = [
    "DECODER_CONFIG",
    "LANGUAGE_MODEL",
    "CTCBeamSearchDecoder",
    "Decoder",
    "GreedyDecoder",
    "Hypothesis",
    "Span",
    "check_alphabet",
    "has_decoder",
    "log_softmax",
]

logger = logging.getLogger(__name__)


class CTCBeamSearchDecoder(SearchDecoder, PushToHubMixin):
    """Prefix beam search for the labelling y with the best Q(y) = log p_ctc(y|x) + alpha · log p_lm(y) + beta · length(y).

    Length counts words, or characters where the language model is one of characters (Mandarin). p_lm includes the end of the
    sentence; without a language model both terms are 0. Every log is natural. While a word is not complete the search ranks
    it by the best unigram that begins so, which is taken back at its end, so that Q is what it says.

    Args:
        tokenizer: of the acoustic model.
        language_model: `.safetensors` (see `deepspeech2 language-model`) or ARPA, plain, `.gz` or `.xz`; None: none.
        alpha: weight of the language model.
        beta: bonus for each word (or character).
        beam_width: prefixes kept after each frame, at most.
        beam_threshold: of these, only those whose score is not further below the best than this; infinity: all.
        cutoff_probability, cutoff_top_n: of each frame, the search looks at the fewest symbols whose cumulative probability
            reaches the first, and at no more than the second (section 3.8); 1.0 and the size of the alphabet: at all.
        unknown_word_score, unknown_letter_score: added to log p_lm of every word that the language model does not know, and
            for each of its letters (not where characters are modelled): else several badly recognised words would be
            cheaper as one.
        confidence_scale, confidence_offset: see [`Calibration`].

    Raises:
        ValueError: a setting out of its range.
        LanguageModelError: the language model is not there, damaged, or of another alphabet.
    """

    @classmethod
    def from_pretrained(cls, name: str | Path, tokenizer: Any = None, **settings: Any) -> CTCBeamSearchDecoder:
        """Reads what `save_pretrained` wrote.

        Args:
            name: a folder, or a model repository on the Hub.
            tokenizer: of the acoustic model; None: the one that is saved there.
            settings: change what was saved, e.g. `beam_width=200`; `revision`, `token`, `cache_dir`, `local_files_only`
                and `subfolder` are those of every download from the Hub.

        Raises:
            LanguageModelError: there is no decoder, a setting is out of its range, or the language model is missing.
        """
        hub = take(settings)
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(name, **hub)
        return cls.from_files(name, lambda file: find_file(name, file, **hub), tokenizer, **settings)


def has_decoder(name: str | Path, **hub: Any) -> bool:
    """Whether a folder or a repository holds what `save_pretrained` wrote; `hub`: see `from_pretrained`."""
    try:
        return find_file(name, DECODER_CONFIG, **hub) is not None
    except OSError as error:  # no connection and nothing in the cache, or a folder that is gone
        logger.warning("Could not look for a decoder in %s, so the best path is taken: %s", name, str(error).splitlines()[0])
        return False
