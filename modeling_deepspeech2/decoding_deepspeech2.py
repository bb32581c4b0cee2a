"""From logits to text: the public face of the decoders, with their settings, and how they are saved beside a model.

[`GreedyDecoder`] takes the best path, [`CTCBeamSearchDecoder`] searches with an n-gram language model (section 3.8 of the
paper). Both take logits of shape (frames, vocab_size) and return hypotheses with words and characters in time; neither reads
audio.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import PushToHubMixin

from .beam_search import Beam, BeamSearch
from .decoder_settings import DECODER_CONFIG, SETTINGS, check_setting, read_config
from .forked_processes import run_forked
from .greedy_decoder import GreedyDecoder
from .hotwords import Hotwords
from .hub_access import find_file, take
from .hypotheses import Decoder, Hypothesis, Span, check_alphabet, log_softmax
from .lm_scoring import Limits, make_scoring
from .ngram import LanguageModelError, NGramModel


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

LANGUAGE_MODEL = "language_model.safetensors"


class CTCBeamSearchDecoder(PushToHubMixin, BeamSearch):
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

    Raises:
        ValueError: a setting out of its range.
        LanguageModelError: the language model is not there, damaged, or of another alphabet.
    """

    def __init__(
        self,
        tokenizer: Any,
        language_model: str | Path | None = None,
        alpha: float = 0.5,
        beta: float = 1.5,
        beam_width: int = 100,
        cutoff_probability: float = 0.99,
        cutoff_top_n: int = 40,
        beam_threshold: float = 15.0,
        unknown_word_score: float = -10.0,
        unknown_letter_score: float = -1.0,
    ):
        given = locals()
        for name in SETTINGS:
            check_setting(name, given[name])
        self.language_model_file = None if language_model is None else Path(language_model)
        self.model = None if language_model is None else NGramModel.load(language_model)
        self.unknown_word_score, self.unknown_letter_score = float(unknown_word_score), float(unknown_letter_score)
        penalties = self.unknown_word_score, self.unknown_letter_score
        scoring = make_scoring(tokenizer, self.model, float(alpha), float(beta), *penalties)
        limits = Limits(int(beam_width), float(beam_threshold))
        super().__init__(tokenizer, scoring, limits, float(cutoff_probability), int(cutoff_top_n))
        self._hotwords: tuple[dict[str, float], Hotwords] | None = None  # those of the last call

    @property
    def alpha(self) -> float:
        return self.scoring.alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        check_setting("alpha", value)
        self.scoring.alpha = float(value)

    @property
    def beta(self) -> float:
        return self.scoring.beta

    @beta.setter
    def beta(self, value: float) -> None:
        check_setting("beta", value)
        self.scoring.beta = float(value)

    @property
    def beam_width(self) -> int:
        return self.limits.width

    @property
    def beam_threshold(self) -> float:
        return self.limits.threshold

    def decode(
        self,
        logits: Tensor | np.ndarray,
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
    ) -> list[Hypothesis]:
        """The best hypotheses of an utterance, best first, no two of them with the same text.

        Args:
            logits: shape (frames, vocab_size).
            seconds_per_frame: of the logits.
            n_best: how many, if the beam holds so many.
            hotwords: word or phrase -> what it adds to Q, e.g. 5.0; a partial match already influences the search.

        Raises:
            ValueError: logits of another shape or not finite, a negative weight, a hot word of another alphabet.
        """
        beam = self.step(self.start(hotwords), logits)
        return self.hypotheses(beam, seconds_per_frame, n_best)

    def decode_batch(
        self,
        logits: list[Tensor | np.ndarray],
        seconds_per_frame: float,
        n_best: int = 1,
        hotwords: dict[str, float] | None = None,
        num_processes: int | None = None,
    ) -> list[list[Hypothesis]]:
        """`decode` for each utterance of a list, on `num_processes` cores (None: all; one where the system is not Linux)."""
        self.start(hotwords)  # validated, and built, before forking
        logits = [one.detach().float().cpu().numpy() if isinstance(one, Tensor) else one for one in logits]
        jobs = [(one, seconds_per_frame, n_best, hotwords) for one in logits]
        return run_forked(self.decode, jobs, num_processes)

    def start(self, hotwords: dict[str, float] | None = None) -> Beam:
        """The state before the first frame; the automaton of the hot words is kept for the next call."""
        if not hotwords:
            return super().start()
        kept = self._hotwords
        if kept is None or kept[0] != hotwords:
            whole_words = getattr(self.tokenizer, "word_boundaries", "spaces") == "spaces"
            automaton = Hotwords(self.tokenizer, hotwords, whole_words)
            kept = self._hotwords = (dict(hotwords), automaton)
        return super().start(kept[1])

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """Writes `decoder_config.json` and the language model, if there is one, into the folder of a model.

        `kwargs` are ignored: `push_to_hub` passes some that concern models alone.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(self, name) for name in SETTINGS}
        if self.language_model_file is not None:
            kind = self.language_model_file.suffix
            name = LANGUAGE_MODEL if kind == ".safetensors" else "language_model.arpa" + kind * (kind in (".gz", ".xz"))
            settings["language_model"] = name
            if (folder / name).resolve() != self.language_model_file.resolve():
                shutil.copyfile(self.language_model_file, folder / name)
        (folder / DECODER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

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
        file = find_file(name, DECODER_CONFIG, **hub)
        if file is None:
            raise LanguageModelError(f"There is no decoder in {name}: it has no {DECODER_CONFIG}.")
        content = read_config(Path(file), name) | settings
        if content.get("language_model") is not None and "language_model" not in settings:
            model = find_file(name, content["language_model"], **hub)
            if model is None:
                raise LanguageModelError(
                    f"The decoder of {name} needs its language model {content['language_model']}, which is not there."
                )
            content["language_model"] = model
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(name, **hub)
        return cls(tokenizer, **content)


def has_decoder(name: str | Path, **hub: Any) -> bool:
    """Whether a folder or a repository holds what `save_pretrained` wrote; `hub`: see `from_pretrained`."""
    try:
        return find_file(name, DECODER_CONFIG, **hub) is not None
    except OSError as error:  # no connection and nothing in the cache, or a folder that is gone
        logger.warning("Could not look for a decoder in %s, so the best path is taken: %s", name, str(error).splitlines()[0])
        return False
