"""The beam search with its settings, hot words and language model, independent of transformers and the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .beam_search import Beam, BeamSearch
from .decoder_settings import DECODER_CONFIG, SETTINGS, check_setting, read_config
from .forked_processes import run_forked
from .hotwords import Hotwords
from .hypotheses import Calibration, Hypothesis
from .lm_scoring import Limits, make_scoring
from .ngram import LanguageModelError, NGramModel
from .settings_files import replacing


if TYPE_CHECKING:
    from torch import Tensor

LANGUAGE_MODEL = "language_model.safetensors"


class SearchDecoder(BeamSearch):
    """What [`CTCBeamSearchDecoder`] describes, but for repositories of the Hub."""

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
        confidence_scale: float = 1.0,
        confidence_offset: float = 0.0,
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
        self.calibration = Calibration(float(confidence_scale), float(confidence_offset))
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
    def confidence_scale(self) -> float:
        return self.calibration.scale

    @property
    def confidence_offset(self) -> float:
        return self.calibration.offset

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
        logits = [one.detach().float().cpu().numpy() if hasattr(one, "detach") else one for one in logits]
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
                with replacing(folder / name) as new:
                    shutil.copyfile(self.language_model_file, new)
        with replacing(folder / DECODER_CONFIG) as new:
            new.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_files(
        cls, name: str | Path, find: Callable[[str], str | Path | None], tokenizer: Any, **settings: Any
    ) -> SearchDecoder:
        """Reads what `save_pretrained` wrote, wherever that is.

        Args:
            name: what messages call the place.
            find: name of a file -> its path, None where there is no such file.
            settings: change what was saved.

        Raises:
            LanguageModelError: there is no decoder, a setting is out of its range, or the language model is missing.
        """
        file = find(DECODER_CONFIG)
        if file is None:
            raise LanguageModelError(f"There is no decoder in {name}: it has no {DECODER_CONFIG}.")
        content = read_config(Path(file), name) | settings
        if content.get("language_model") is not None and "language_model" not in settings:
            model = find(content["language_model"])
            if model is None:
                raise LanguageModelError(
                    f"The decoder of {name} needs its language model {content['language_model']}, which is not there."
                )
            content["language_model"] = model
        return cls(tokenizer, **content)
