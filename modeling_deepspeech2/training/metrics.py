"""Word and character error rates, as an `evaluate` metric that works offline."""

from typing import Any

import datasets
import evaluate
import jiwer

from ..script import drop_spaces, split_words


class ErrorRates(evaluate.Metric):
    """`compute(predictions=…, references=…)` -> {"wer": …, "cer": …}, both as shares of the reference.

    A word is what it is to the tokenizer. Characters are code points, as in other tools; spaces beside characters of a
    script without spaces between words carry nothing, and a recogniser may write them or not.

    Args:
        word_boundaries (`str`, *optional*, defaults to `"characters"`):
            That of the tokenizer: `"spaces"`, or `"characters"`, where each grapheme cluster of a script without spaces
            is a word, so that in Mandarin the "word" error rate is the mixed error rate of code-switched text.
    """

    def __init__(self, word_boundaries: str = "characters", **kwargs: Any):
        self.word_boundaries = word_boundaries
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Word error rate and character error rate.",
            citation="",
            inputs_description="predictions, references: lists of normalised texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        words = [
            [" ".join(split_words(text, self.word_boundaries)) for text in texts] for texts in (references, predictions)
        ]
        characters = [references, predictions]
        if self.word_boundaries == "characters":
            characters = [list(map(drop_spaces, texts)) for texts in characters]
        return {"wer": jiwer.wer(*words), "cer": jiwer.cer(*characters)}
