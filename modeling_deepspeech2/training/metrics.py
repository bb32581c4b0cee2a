"""Word and character error rates, as an `evaluate` metric that works offline."""

import re

import datasets
import evaluate
import jiwer


# A Chinese character is a word by itself: in Mandarin the "word" error rate is the mixed error rate of code-switched text.
_IDEOGRAPH = re.compile(r"([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")


class ErrorRates(evaluate.Metric):
    """`compute(predictions=…, references=…)` -> {"wer": …, "cer": …}, both as shares of the reference."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Word error rate and character error rate; Chinese characters count as words.",
            citation="",
            inputs_description="predictions, references: lists of normalised texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        words = [[" ".join(_IDEOGRAPH.sub(r" \1 ", text).split()) for text in texts] for texts in (references, predictions)]
        # Spaces between Chinese characters carry nothing, and a recogniser may put them or not.
        characters = [
            [re.sub(rf"\s*{_IDEOGRAPH.pattern}\s*", r"\1", text) for text in texts] for texts in (references, predictions)
        ]
        return {"wer": jiwer.wer(*words), "cer": jiwer.cer(*characters)}
