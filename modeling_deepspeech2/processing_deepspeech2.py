"""The processor: feature extractor and tokenizer in one, which make the model's inputs from audio and transcripts."""

from typing import Any

import numpy as np
from transformers import BatchFeature, ProcessorMixin

from .remote_code import travels_with_code
from .settings_files import check_settings_files


SETTINGS_FILES = (
    "processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip


@travels_with_code
class DeepSpeech2Processor(ProcessorMixin):
    """Wraps a [`DeepSpeech2FeatureExtractor`] and a [`DeepSpeech2CTCTokenizer`]."""

    def __init__(self, feature_extractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, with a check of the files; raises UserError where one is damaged."""
        check_settings_files(pretrained_model_name_or_path, SETTINGS_FILES, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def __call__(
        self, audio: np.ndarray | list | None = None, text: str | list[str] | None = None, **kwargs
    ) -> BatchFeature:
        """Features of `audio`, ids of `text`, or with both the features with the ids as `labels`.

        Args:
            audio: one waveform or several, see [`DeepSpeech2FeatureExtractor.__call__`].
            text: one transcript or several. Beside audio, or with `return_tensors`, they are padded with the blank, which
                the loss ignores.

        Raises:
            ValueError: neither audio nor text is given.
        """
        if audio is None and text is None:
            raise ValueError("The processor needs audio, text or both, but got neither.")
        settings = self._merge_kwargs(self.valid_processor_kwargs, self.tokenizer.init_kwargs, **kwargs)
        if audio is not None or settings["text_kwargs"].get("return_tensors"):
            settings["text_kwargs"].setdefault("padding", True)
        if audio is None:
            return self.tokenizer(text, **settings["text_kwargs"])
        inputs = self.feature_extractor(audio, **settings["audio_kwargs"])
        if text is not None:
            inputs["labels"] = self.tokenizer(text, **settings["text_kwargs"])["input_ids"]
        return inputs

    def pad(self, input_features: Any = None, labels: Any = None, **kwargs: Any) -> BatchFeature:
        """Pads a list of features, a list of labels, or both, as data collators ask for.

        Args:
            input_features: `[{"input_features": array of shape (frames, bins)}, …]`, see [`SequenceFeatureExtractor.pad`].
            labels: `[{"input_ids": [id, …]}, …]`, see [`PreTrainedTokenizerBase.pad`].
            kwargs: `padding`, `max_length`, `pad_to_multiple_of`, `return_tensors`, for both.

        Returns:
            The padded features with their mask; of labels alone `input_ids` with their mask; of both the features with
            the ids as `labels`.

        Raises:
            ValueError: neither features nor labels are given.
        """
        if input_features is None and labels is None:
            raise ValueError("There is nothing to pad: give input_features, labels or both.")
        if labels is not None:
            labels = self.tokenizer.pad(labels, **kwargs)
        if input_features is None:
            return labels
        inputs = self.feature_extractor.pad(input_features, **kwargs)
        if labels is not None:
            inputs["labels"] = labels["input_ids"]
        return inputs

    @property
    def model_input_names(self) -> list[str]:
        return self.feature_extractor.model_input_names + ["labels"]
